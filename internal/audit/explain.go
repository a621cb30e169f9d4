package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/mining"
)

// ExplainOptions says which lists to explain, by the rules that the miners published, not the rules of
// Config.
type ExplainOptions struct {
	catalog.Conn
	Query    string
	Positive string // explain only the list of this positive; empty: all lists of the query
	Document string // also say what the rules did with this document; empty: with none
}

// Explanation shows how the lists of a query came about. It is computed from the stored evidence, by exact
// search.
type Explanation struct {
	Generation  string              `json:"generation"`
	Fingerprint string              `json:"fingerprint"` // of the rules
	Query       string              `json:"query_id"`
	Text        string              `json:"text"` // empty: the query is forgotten
	Evidence    []ExplainedEvidence `json:"evidence"`
	Pairs       []ExplainedPair     `json:"pairs"`
	Titles      map[string]string   `json:"titles"` // by document id: the title, or the beginning of the text if there is none
}

// ExplainedEvidence is a document that the query log names for the query.
type ExplainedEvidence struct {
	Document string  `json:"doc_id"`
	Weight   float64 `json:"weight"`
	Positive bool    `json:"positive"` // the weight reaches queries.min_weight
	Indexed  bool    `json:"indexed"`
}

// ExplainedPair is the list of one positive.
type ExplainedPair struct {
	mining.PairLog
	Similarity float32            `json:"similarity"` // cosine of query and positive
	Negatives  []string           `json:"negatives"`
	Reason     mining.Reason      `json:"reason,omitempty"` // why the list is short
	Stored     []Difference       `json:"stored,omitempty"` // where the stored list differs from this one
	Document   *ExplainedDocument `json:"document,omitempty"`
}

// ExplainedDocument says what the rules did with the document that the user asked for.
type ExplainedDocument struct {
	ID               string   `json:"doc_id"`
	Indexed          bool     `json:"indexed"`
	QueryDocument    float32  `json:"query_document"`    // cosine
	PositiveDocument float32  `json:"positive_document"` // cosine
	Tiers            []string `json:"tiers"`             // for each tier a verdict of package mining, or OutOfRange or Behind
}

// Reasons why a tier did not come to a document.
const (
	OutOfRange = "out_of_range" // its cosine to the query is not in the tier's range
	Behind     = "behind"       // the tier ended before it came to it
)

// ErrUnknownQuery means that a query has no state.
var ErrUnknownQuery = errors.New("nothing is known of the query")

// Explain computes the lists of a query. For each document that the rules looked at it says why the document
// is in the list or not. It returns ErrUnknownQuery if the query has no state.
func Explain(ctx context.Context, o ExplainOptions) (*Explanation, error) {
	view, err := o.Open(ctx)
	if err != nil {
		return nil, err
	}
	a, err := newRecomputer(ctx, view)
	if err != nil {
		return nil, err
	}
	var log []mining.PairLog
	a.mine = func(in mining.Input) (out mining.Outcome) {
		out, log = a.mining.Explain(in)
		return out
	}
	outcomes, err := a.recompute(ctx, []string{o.Query})
	if err != nil {
		return nil, err
	}
	r := outcomes[o.Query]
	if !r.known {
		return nil, fmt.Errorf("%w %q: no record of the query log has had this query_id, the stages have not come to it, or its records were refused (hardneg dlq list)", ErrUnknownQuery, o.Query)
	}
	e := &Explanation{
		Generation: a.Generation, Fingerprint: a.Rules.Fingerprint, Query: o.Query, Text: r.state.Text,
		Evidence: []ExplainedEvidence{}, Pairs: []ExplainedPair{}, Titles: map[string]string{},
	}
	for _, pair := range r.outcome.Pairs {
		if o.Positive != "" && o.Positive != pair.Positive {
			continue
		}
		p := ExplainedPair{PairLog: mining.PairLog{Positive: pair.Positive, Tiers: []mining.TierLog{}}, Similarity: pair.Similarity, Negatives: []string{}, Reason: pair.Reason}
		for _, l := range log {
			if l.Positive == pair.Positive {
				p.PairLog = l
			}
		}
		for _, slot := range pair.Slots {
			p.Negatives = append(p.Negatives, slot.Document)
		}
		for _, d := range compareState(r.state, r.outcome) {
			if d.Positive == pair.Positive {
				p.Stored = append(p.Stored, d)
			}
		}
		e.Pairs = append(e.Pairs, p)
	}
	if err := e.read(ctx, a, o, r.state); err != nil {
		return nil, err
	}
	return e, nil
}

// read reads the documents. It fills in the titles, the evidence, and what each tier did with the document
// that the user asked for.
func (e *Explanation) read(ctx context.Context, a *recomputer, o ExplainOptions, state index.State) error {
	ids := map[string]bool{}
	for _, p := range state.Positives {
		ids[p.Document] = true
	}
	if o.Document != "" {
		ids[o.Document] = true
	}
	for _, p := range e.Pairs {
		for _, tier := range p.Tiers {
			for _, d := range tier.Decisions {
				ids[d.Document] = true
			}
		}
	}
	documents, err := a.Collections.Documents(ctx, slices.Sorted(maps.Keys(ids)), index.WithText|index.WithVector)
	if err != nil {
		return err
	}
	for id, d := range documents {
		if d.Deleted {
			continue
		}
		if e.Titles[id] = d.Title; d.Title == "" {
			e.Titles[id] = beginning(d.Text)
		}
	}
	for _, p := range state.Positives {
		_, indexed := e.Titles[p.Document]
		e.Evidence = append(e.Evidence, ExplainedEvidence{p.Document, float64(p.Weight) / 1e6, p.Weight >= a.Rules.MinWeight, indexed})
	}
	if o.Document == "" {
		return nil
	}
	named := slices.ContainsFunc(state.Positives, func(p index.Positive) bool { return p.Document == o.Document })
	for i := range e.Pairs {
		p := &e.Pairs[i]
		p.Document = &ExplainedDocument{ID: o.Document, Tiers: []string{}}
		document, positive := documents[o.Document], documents[p.Positive]
		if document.Vector == nil || positive.Vector == nil || state.Vector == nil {
			continue
		}
		p.Document.Indexed = true
		p.Document.QueryDocument, p.Document.PositiveDocument = mining.Cosine(state.Vector, document.Vector), mining.Cosine(positive.Vector, document.Vector)
		for _, tier := range p.Tiers {
			verdict := verdictOf(tier, o.Document, p.Document.QueryDocument)
			if named {
				verdict = mining.IsEvidence.String() // the tier may not have come to it
			}
			p.Document.Tiers = append(p.Document.Tiers, verdict)
		}
	}
	return nil
}

// verdictOf returns what a tier did with a document.
func verdictOf(tier mining.TierLog, id string, cosine float32) string {
	for _, d := range tier.Decisions {
		if d.Document == id {
			return d.Verdict.String()
		}
	}
	c := float64(cosine)
	switch {
	case tier.End == mining.EndNot:
		return mining.EndNot
	case c < tier.Low || c > tier.High || c == tier.Low && tier.Policy == mining.PolicySemantic:
		return OutOfRange
	}
	return Behind
}

// beginning returns the first 200 bytes of a text, and the rest of the last character.
func beginning(text string) string {
	const most = 200
	for i := range text {
		if i >= most {
			return text[:i]
		}
	}
	return text
}
