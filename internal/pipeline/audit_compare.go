package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"hardneg/index"
	"hardneg/mining"
)

// Kinds of differences. In the first six the state of a query is not what it should be, in the others the triplets topic.
const (
	DiffPositive  = "positive"  // whether a document has a list, its version, its similarity, or why the list is short
	DiffStored    = "stored"    // a slot
	DiffWatch     = "watch"     // the documents that the query watches: a future miss
	DiffEntry     = "entry"     // the ranges in which new documents reach it: a future miss
	DiffAstray    = "astray"    // what look-ups and filters go by does not follow from the state: a future miss
	DiffRank      = "rank"      // a slot is published above the ranks that the state knows of: it could not be retracted
	DiffMissing   = "missing"   // a slot is not published
	DiffExtra     = "extra"     // a slot is published that should be empty
	DiffPublished = "published" // a slot is published with other content
	DiffUnknown   = "unknown"   // a slot is published of a query that has no state
	DiffStray     = "stray"     // a record in the triplets topic that no miner writes there
)

// Difference is one thing that is not what a computation from scratch gives. What is compared is written for its
// reader; an empty string is nothing.
type Difference struct {
	Kind       string `json:"kind"`
	Query      string `json:"query"`
	Positive   string `json:"positive,omitempty"`
	Rank       int    `json:"rank,omitempty"`
	Stored     string `json:"stored,omitempty"`
	Published  string `json:"published,omitempty"`
	Recomputed string `json:"recomputed,omitempty"`
}

func (a Difference) compare(b Difference) int {
	return cmp.Or(strings.Compare(a.Query, b.Query), strings.Compare(a.Positive, b.Positive), cmp.Compare(a.Rank, b.Rank), strings.Compare(a.Kind, b.Kind))
}

const (
	auditTogether   = 64      // queries whose reads share a round trip
	auditFirstLimit = 64      // candidates of a first search; each further one asks for four times as many
	auditDocuments  = 1 << 14 // candidates held at a time; a query that needs more is compared with all documents
)

// recomputed is a query with what is stored of it and what should be.
type recomputed struct {
	state   index.State
	known   bool
	outcome mining.Outcome
}

// recompute mines queries from scratch: their evidence is what is stored, all else is read and decided anew, by
// exact search over all documents.
func (a *auditor) recompute(ctx context.Context, ids []string) (map[string]recomputed, error) {
	states, err := a.index.States(ctx, ids)
	if err != nil {
		return nil, err
	}
	var evidence []string
	for _, s := range states {
		for _, p := range s.Positives {
			evidence = append(evidence, p.Document)
		}
	}
	slices.Sort(evidence)
	documents, err := a.index.Documents(ctx, slices.Compact(evidence), index.WithVector|index.WithMinHash)
	if err != nil {
		return nil, err
	}
	all := make(map[string]recomputed, len(ids))
	var open []mining.Input
	for _, id := range ids {
		state, known := states[id]
		all[id] = recomputed{state: state, known: known}
		in := mining.Input{QueryID: id, Query: state.Vector}
		search := false
		for _, p := range state.Positives {
			e := mining.Evidence{ID: p.Document, Positive: p.Weight >= a.rules.MinWeight && state.Vector != nil}
			if d, ok := documents[p.Document]; ok && !d.Deleted {
				e.Document = &d.Document
			}
			search = search || e.Positive && e.Document != nil
			in.Evidence = append(in.Evidence, e)
		}
		if search {
			open = append(open, in)
			continue
		}
		in.Exhausted = true
		all[id] = recomputed{state, known, a.mine(in)}
	}
	for limit := auditFirstLimit; len(open) > 0; limit *= 4 {
		// One pass over all documents costs less than searches that bring as many.
		if limit > a.searchable || limit > auditFirstLimit && uint64(limit*len(open)) > a.documents {
			return all, a.scan(ctx, open, all)
		}
		var more []mining.Input
		for some := range slices.Chunk(open, max(1, auditDocuments/limit)) {
			undecided, err := a.search(ctx, some, limit, all)
			if err != nil {
				return nil, err
			}
			more = append(more, undecided...)
		}
		open = more
	}
	return all, nil
}

// search decides what it can with so many candidates, and returns the rest.
func (a *auditor) search(ctx context.Context, inputs []mining.Input, limit int, all map[string]recomputed) (undecided []mining.Input, err error) {
	queries := make([][]float32, len(inputs))
	for i, in := range inputs {
		queries[i] = in.Query
	}
	hits, err := a.index.SearchExactly(ctx, queries, limit)
	if err != nil {
		return nil, err
	}
	for i, in := range inputs {
		full := in
		full.Candidates, full.Exhausted = hits[i].Documents, hits[i].Exhausted
		outcome := a.mine(full)
		if outcome.More {
			undecided = append(undecided, in)
			continue
		}
		r := all[in.QueryID]
		r.outcome = outcome
		all[in.QueryID] = r
	}
	return undecided, nil
}

// compare lists where the state and the triplets of a query differ from what was recomputed.
func (a *auditor) compare(query string, r recomputed) []Difference {
	found := compareState(r.state, r.outcome)
	slots := a.view.queries[query]
	stored := map[slotKey]string{}
	for _, p := range r.state.Positives {
		for i, slot := range p.Slots {
			stored[slotKey{p.Document, i + 1}] = slotText(slot, p.Similarity)
		}
	}
	wanted := map[slotKey]bool{}
	for _, pair := range r.outcome.Pairs {
		for i, slot := range pair.Slots {
			at := slotKey{pair.Positive, i + 1}
			wanted[at] = true
			d := Difference{
				Query: query, Positive: at.positive, Rank: at.rank, Stored: stored[at], Recomputed: slotText(slot, pair.Similarity),
			}
			got, ok := slots[at]
			if ok {
				d.Published, d.Kind = got.text(), DiffPublished
				if problem := a.problem(got, r.state, pair, slot); problem != "" {
					d.Published += ": " + problem
					found = append(found, d)
				}
				continue
			}
			d.Kind = DiffMissing
			found = append(found, d)
		}
	}
	for _, at := range a.view.slots(query) {
		if r.known && at.rank > r.state.Published[at.positive] {
			found = append(found, Difference{
				Kind: DiffRank, Query: query, Positive: at.positive, Rank: at.rank, Published: slots[at].text(),
				Stored: fmt.Sprintf("up to %d", r.state.Published[at.positive]),
			})
		}
		if wanted[at] {
			continue
		}
		d := Difference{Kind: DiffExtra, Query: query, Positive: at.positive, Rank: at.rank, Stored: stored[at], Published: slots[at].text()}
		if !r.known {
			d.Kind = DiffUnknown
		}
		found = append(found, d)
	}
	return found
}

// problem says what is wrong with a published triplet; empty: nothing.
func (a *auditor) problem(got published, state index.State, pair mining.Pair, slot mining.Slot) string {
	t := got.triplet
	text := state.Text == t.Query.Text
	if t.Query.Truncated {
		text = strings.HasPrefix(state.Text, t.Query.Text)
	}
	was := mining.Pair{Positive: pair.Positive, Hash: t.Positive.Version, Similarity: t.Similarity.QueryPositive, Slots: []mining.Slot{{
		Document: t.Negative.ID, Hash: t.Negative.Version, Policy: t.Policy,
		QueryNegative: t.Similarity.QueryNegative, PositiveNegative: t.Similarity.PositiveNegative,
	}}}
	want := mining.Pair{Positive: pair.Positive, Hash: pair.Hash, Similarity: pair.Similarity, Slots: []mining.Slot{slot}}
	switch {
	case got.problem != "":
		return got.problem
	case t.Negative.ID != slot.Document:
		return "another negative"
	case !mining.SamePair(was, want):
		return "another version, policy or similarity"
	case !text:
		return "another text of the query"
	case t.Generation != a.index.Generation():
		return "of generation " + t.Generation
	}
	return ""
}

// compareState lists where a state differs from what was recomputed.
func compareState(state index.State, want mining.Outcome) []Difference {
	var found []Difference
	pairs := map[string]mining.Pair{}
	for _, pair := range want.Pairs {
		pairs[pair.Positive] = pair
	}
	for _, p := range state.Positives {
		pair, paired := pairs[p.Document]
		had, should := p.Pair(), pair
		had.Slots, should.Slots, should.Positive = nil, nil, p.Document
		if p.Paired != paired || !mining.SamePair(had, should) {
			found = append(found, Difference{
				Kind: DiffPositive, Query: state.QueryID, Positive: p.Document,
				Stored: pairText(p.Paired, p.Pair()), Recomputed: pairText(paired, pair),
			})
		}
		for i := range max(len(p.Slots), len(pair.Slots)) {
			had, should := p.Slots[min(i, len(p.Slots)):min(i+1, len(p.Slots))], pair.Slots[min(i, len(pair.Slots)):min(i+1, len(pair.Slots))]
			if mining.SameSlots(had, should) {
				continue
			}
			d := Difference{Kind: DiffStored, Query: state.QueryID, Positive: p.Document, Rank: i + 1}
			if len(had) > 0 {
				d.Stored = slotText(had[0], p.Similarity)
			}
			if len(should) > 0 {
				d.Recomputed = slotText(should[0], pair.Similarity)
			}
			found = append(found, d)
		}
	}
	if !slices.Equal(state.Watch, want.Watch) {
		found = append(found, Difference{Kind: DiffWatch, Query: state.QueryID, Stored: without(state.Watch, want.Watch), Recomputed: without(want.Watch, state.Watch)})
	}
	if state.Astray != "" {
		found = append(found, Difference{Kind: DiffAstray, Query: state.QueryID, Stored: state.Astray})
	}
	if !mining.SameEntry(state.Entry, want.Entry) {
		found = append(found, Difference{Kind: DiffEntry, Query: state.QueryID, Stored: entryText(state.Entry), Recomputed: entryText(want.Entry)})
	}
	return found
}

func slotText(s mining.Slot, positive float32) string {
	return fmt.Sprintf("%s@%.8s %s %.5f %.5f %.5f", s.Document, s.Hash, s.Policy, positive, s.QueryNegative, s.PositiveNegative)
}

func (p published) text() string {
	t := p.triplet
	if t.Negative.ID == "" {
		return "?"
	}
	return slotText(mining.Slot{
		Document: t.Negative.ID, Hash: t.Negative.Version, Policy: t.Policy,
		QueryNegative: t.Similarity.QueryNegative, PositiveNegative: t.Similarity.PositiveNegative,
	}, t.Similarity.QueryPositive)
}

func pairText(paired bool, p mining.Pair) string {
	switch {
	case !paired:
		return "no list"
	case p.Reason == mining.ReasonPositiveMissing:
		return string(p.Reason)
	}
	return strings.TrimSpace(fmt.Sprintf("@%.8s %.5f %s", p.Hash, p.Similarity, p.Reason))
}

func entryText(entry []mining.Interval) string {
	parts := make([]string, len(entry))
	for i, e := range entry {
		parts[i] = fmt.Sprintf("[%.5f, %.5f]", e.Low, math.Min(float64(e.High), 1))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, " ")
}

// without lists what only the first has.
func without(a, b []string) string {
	var only []string
	for _, id := range a {
		if !slices.Contains(b, id) {
			only = append(only, id)
		}
	}
	return strings.Join(only, " ")
}

// strays lists the records of the triplets topic that no miner writes.
func (a *auditor) strays() []Difference {
	var found []Difference
	for at, p := range a.view.strays {
		query := p.triplet.Query.ID
		if query == "" {
			query = fmt.Sprintf("key %q", at.key)
		}
		found = append(found, Difference{Kind: DiffStray, Query: query, Positive: p.triplet.Positive.ID, Rank: p.triplet.Rank, Published: p.problem})
	}
	slices.SortFunc(found, Difference.compare)
	return found
}
