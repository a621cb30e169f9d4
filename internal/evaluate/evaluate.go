// Package evaluate measures how good the stored lists are as training data, and how well the vectors of a
// generation rank. Only packages of hardneg import it.
package evaluate

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/mining"
)

// Options says what to evaluate. An evaluation uses the rules that the miners published, not the rules of
// Config.
type Options struct {
	catalog.Conn
	Sample   int                   // queries to evaluate; 0: all
	Seed     uint64                // of the sample
	Progress func(done, total int) // may be nil
}

// Evaluation says how good the lists of a sample of queries are as training data, and how well their vectors
// rank.
type Evaluation struct {
	Generation  string  `json:"generation"`
	Fingerprint string  `json:"fingerprint"` // of the rules
	Known       int     `json:"known_queries"`
	Queries     int     `json:"queries"` // queries of the sample that have a list
	Seed        *uint64 `json:"seed,omitempty"`

	Lists     ListQuality     `json:"lists"`
	Negatives NegativeQuality `json:"negatives"`
	Ranking   RankingQuality  `json:"ranking"`
}

// ListQuality describes the lists: one for each pair of a query and a positive.
type ListQuality struct {
	Pairs   int            `json:"pairs"`
	Full    int            `json:"full"`    // pairs with mining.negatives negatives
	Empty   int            `json:"empty"`   // pairs without negatives
	Covered map[string]int `json:"covered"` // by policy: pairs that have a negative of it
	Short   map[string]int `json:"short"`   // by reason: pairs with empty slots

	Similarity []float64  `json:"query_positive"`    // quantiles of the cosine of query and positive. A positive with a very low one has no hard negatives
	Missing    []PairName `json:"missing,omitempty"` // the first few pairs whose positive is not indexed: deleted, refused, or with another id
}

// PairName names a pair.
type PairName struct {
	Query    string `json:"query_id"`
	Positive string `json:"positive"`
}

// NegativeQuality describes the negatives of the lists.
type NegativeQuality struct {
	Slots     int                      `json:"slots"`
	Documents int                      `json:"documents"` // different documents in the slots
	MostUsed  []DocumentUse            `json:"most_used"` // the documents in most slots: they may be hubs of the vectors rather than hard
	Policies  map[string]PolicyQuality `json:"policies"`  // by policy
}

// PolicyQuality describes the negatives that a policy has chosen. The quantiles are at the shares in
// QuantilesAt.
type PolicyQuality struct {
	Slots         int       `json:"slots"`
	AbovePositive int       `json:"above_positive"`    // negatives that are nearer to the query than the positive
	Verbatim      int       `json:"verbatim"`          // negatives whose title or text contains the query, ignoring case, as tables of contents do
	Margin        []float64 `json:"margin"`            // quantiles of cos(query, positive) − cos(query, negative)
	ToPositive    []float64 `json:"positive_negative"` // quantiles of cos(positive, negative). Negatives with a very high one may be right answers
}

// QuantilesAt lists the shares at which an Evaluation has quantiles.
var QuantilesAt = []float64{0.05, 0.25, 0.5, 0.75, 0.95}

// DocumentUse says how many slots a document fills.
type DocumentUse struct {
	Document string `json:"doc_id"`
	Slots    int    `json:"slots"`
}

// RankingQuality describes how the queries rank all documents by cosine. The indexed positives count as
// relevant. nDCG, MRR and recall are means over the queries; package mining has the formulas.
type RankingQuality struct {
	Queries int     `json:"queries"` // queries with an indexed positive
	NDCG    float64 `json:"ndcg_10"`
	MRR     float64 `json:"mrr_10"`
	Recall  float64 `json:"recall_100"`
	Pairs   int     `json:"pairs"` // pairs whose positive is indexed
	First   int     `json:"first"` // of these, pairs whose positive is nearer to the query than every document that the log does not name for it
}

const (
	cut         = 10  // nDCG and MRR look at this many documents
	depth       = 100 // recall looks at this many documents
	together    = 64  // queries that share the round trips of their reads
	mostUsed    = 10  // entries of NegativeQuality.MostUsed
	mostMissing = 10  // entries of ListQuality.Missing
)

// Run evaluates the stored lists of a sample of queries, and how these queries rank the documents.
func Run(ctx context.Context, o Options) (*Evaluation, error) {
	view, err := o.Open(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := mining.New(view.Rules.Mining); err != nil { // rules of another version
		return nil, err
	}
	known, err := view.KnownQueries(ctx)
	if err != nil {
		return nil, err
	}
	sample := catalog.Sample(known, o.Sample, o.Seed)
	v := &evaluator{view: view, exact: view.Collections.Exact(), uses: map[string]int{}, policies: map[string]*policySums{}}
	v.Evaluation = Evaluation{
		Generation: view.Generation, Fingerprint: view.Rules.Fingerprint, Known: len(known),
		Lists: ListQuality{Covered: map[string]int{}, Short: map[string]int{}},
	}
	if o.Sample > 0 {
		v.Seed = &o.Seed
	}
	done := 0
	for ids := range slices.Chunk(sample, together) {
		if err := v.add(ctx, ids); err != nil {
			return nil, err
		}
		if done += len(ids); o.Progress != nil {
			o.Progress(done, len(sample))
		}
	}
	v.finish()
	return &v.Evaluation, view.StillLive(ctx, "evaluation")
}

// evaluator carries out one evaluation. The figures in Evaluation are sums until finish turns them into
// means.
type evaluator struct {
	Evaluation
	view  *catalog.View
	exact *index.Index   // view.Collections with exact searches
	uses  map[string]int // slots by document

	similarities []float64 // of query and positive
	policies     map[string]*policySums
}

// policySums collects the counts and values of a PolicyQuality.
type policySums struct {
	PolicyQuality
	margins, toPositive []float64
}

// add evaluates a few queries.
func (v *evaluator) add(ctx context.Context, ids []string) error {
	states, err := v.view.Collections.States(ctx, ids)
	if err != nil {
		return err
	}
	var listed []index.State // of queries that have a list
	negatives := map[string]bool{}
	for _, id := range ids {
		state := states[id]
		if state.Vector == nil || !slices.ContainsFunc(state.Positives, func(p index.Positive) bool { return p.Paired }) {
			continue
		}
		listed = append(listed, state)
		for _, p := range state.Positives {
			for _, slot := range p.Slots {
				negatives[slot.Document] = true
			}
		}
	}
	if len(listed) == 0 {
		return nil
	}
	documents, err := v.view.Collections.Documents(ctx, slices.Sorted(maps.Keys(negatives)), index.WithText)
	if err != nil {
		return err
	}
	queries := make([][]float32, len(listed))
	for i, state := range listed {
		queries[i] = state.Vector
	}
	rankings, err := v.exact.Rank(ctx, queries, depth)
	if err != nil {
		return err
	}
	for i, state := range listed {
		v.Queries++
		v.addLists(state, documents)
		v.addRanking(state, rankings[i].Hits)
	}
	return nil
}

// addLists adds the lists of a query.
func (v *evaluator) addLists(state index.State, documents map[string]index.Document) {
	text := plain(state.Text)
	for _, p := range state.Positives {
		if !p.Paired {
			continue
		}
		v.Lists.Pairs++
		switch len(p.Slots) {
		case v.view.Rules.Mining.Negatives:
			v.Lists.Full++
		case 0:
			v.Lists.Empty++
		}
		if p.Reason != "" {
			v.Lists.Short[string(p.Reason)]++
		}
		if p.Reason != mining.ReasonPositiveMissing {
			v.similarities = append(v.similarities, float64(p.Similarity))
		} else if len(v.Lists.Missing) < mostMissing {
			v.Lists.Missing = append(v.Lists.Missing, PairName{state.QueryID, p.Document})
		}
		policies := map[string]bool{}
		for _, slot := range p.Slots {
			policies[slot.Policy] = true
			v.uses[slot.Document]++
			v.Negatives.Slots++
			sums := v.policies[slot.Policy]
			if sums == nil {
				sums = &policySums{}
				v.policies[slot.Policy] = sums
			}
			sums.Slots++
			sums.margins = append(sums.margins, float64(p.Similarity)-float64(slot.QueryNegative))
			sums.toPositive = append(sums.toPositive, float64(slot.PositiveNegative))
			if slot.QueryNegative > p.Similarity {
				sums.AbovePositive++
			}
			if d := documents[slot.Document]; strings.Contains(plain(d.Title), text) || strings.Contains(plain(d.Text), text) {
				sums.Verbatim++
			}
		}
		for policy := range policies {
			v.Lists.Covered[policy]++
		}
	}
}

// plain returns a text in lower case, with single spaces.
func plain(text string) string { return strings.Join(strings.Fields(strings.ToLower(text)), " ") }

// addRanking adds how well a query's positives rank.
func (v *evaluator) addRanking(state index.State, hits []index.Ranked) {
	named, relevant := map[string]bool{}, map[string]float64{}
	for _, p := range state.Positives {
		point := index.DocumentPointID(p.Document)
		if named[point] = true; p.Paired && p.Reason != mining.ReasonPositiveMissing {
			relevant[point] = 1
		}
	}
	if len(relevant) == 0 {
		return
	}
	ranked := make([]string, len(hits))
	ahead := true // the log names all documents so far
	for i, hit := range hits {
		ranked[i] = hit.Point
		ahead = ahead && named[hit.Point]
		if ahead && relevant[hit.Point] > 0 {
			v.Ranking.First++
		}
	}
	v.Ranking.Queries++
	v.Ranking.Pairs += len(relevant)
	v.Ranking.NDCG += mining.NDCG(ranked, relevant, cut)
	v.Ranking.MRR += mining.ReciprocalRank(ranked, relevant, cut)
	v.Ranking.Recall += mining.Recall(ranked, relevant, depth)
}

// finish turns sums into means, and collected values into quantiles.
func (v *evaluator) finish() {
	n := float64(max(1, v.Ranking.Queries))
	v.Ranking.NDCG, v.Ranking.MRR, v.Ranking.Recall = v.Ranking.NDCG/n, v.Ranking.MRR/n, v.Ranking.Recall/n
	v.Negatives.Documents = len(v.uses)
	v.Negatives.MostUsed = []DocumentUse{}
	for id, n := range v.uses {
		v.Negatives.MostUsed = append(v.Negatives.MostUsed, DocumentUse{id, n})
	}
	slices.SortFunc(v.Negatives.MostUsed, func(a, b DocumentUse) int {
		return cmp.Or(cmp.Compare(b.Slots, a.Slots), strings.Compare(a.Document, b.Document))
	})
	v.Negatives.MostUsed = v.Negatives.MostUsed[:min(mostUsed, len(v.Negatives.MostUsed))]
	v.Lists.Similarity = quantiles(v.similarities)
	v.Negatives.Policies = map[string]PolicyQuality{}
	for policy, sums := range v.policies {
		sums.Margin, sums.ToPositive = quantiles(sums.margins), quantiles(sums.toPositive)
		v.Negatives.Policies[policy] = sums.PolicyQuality
	}
}

// quantiles returns the quantiles at QuantilesAt, or none for no values. It sorts the values.
func quantiles(values []float64) []float64 {
	out := []float64{}
	slices.Sort(values)
	for _, share := range QuantilesAt {
		if len(values) > 0 {
			out = append(out, values[int(share*float64(len(values)-1)+0.5)])
		}
	}
	return out
}
