package audit

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"hardneg/index"
	"hardneg/internal/triplets"
	"hardneg/mining"
)

// Kinds of differences. In the first six the state of a query is wrong, in the other ones the triplets topic.
const (
	KindPositive     = "positive"  // whether a document has a list, its version or similarity, or why the list is short
	KindStored       = "stored"    // a slot of a list
	KindWatch        = "watch"     // the documents that the query watches: it will miss a change
	KindEntry        = "entry"     // the ranges in which new documents reach it: it will miss one
	KindInconsistent = "astray"    // fields for look-ups do not follow from the rest of the state: it will miss a change
	KindRank         = "rank"      // a slot is published above the ranks that the state knows, so it cannot be retracted
	KindMissing      = "missing"   // a slot is not published
	KindExtra        = "extra"     // a slot is published that should be empty
	KindPublished    = "published" // a slot is published with other content
	KindUnknown      = "unknown"   // a slot is published of a query that has no state
	KindStray        = "stray"     // a record in the triplets topic that no miner writes there
)

// Difference is one place where a computation from scratch gives another result. Stored, Published and
// Recomputed are texts for people; an empty text means that nothing is there.
type Difference struct {
	Kind       string `json:"kind"`
	Query      string `json:"query"`
	Positive   string `json:"positive,omitempty"`
	Rank       int    `json:"rank,omitempty"`
	Stored     string `json:"stored,omitempty"`
	Published  string `json:"published,omitempty"`
	Recomputed string `json:"recomputed,omitempty"`
}

// compare orders differences by query, positive, rank and kind.
func (a Difference) compare(b Difference) int {
	return cmp.Or(strings.Compare(a.Query, b.Query), strings.Compare(a.Positive, b.Positive), cmp.Compare(a.Rank, b.Rank), strings.Compare(a.Kind, b.Kind))
}

// compare returns the differences between the state and the triplets of a query and the recomputed lists.
func (a *auditor) compare(query string, r recomputed) []Difference {
	differences := compareState(r.state, r.outcome)
	slots := a.published.queries[query]
	stored := map[triplets.Slot]string{}
	for _, p := range r.state.Positives {
		for i, slot := range p.Slots {
			stored[triplets.Slot{Query: query, Positive: p.Document, Rank: i + 1}] = slotText(slot, p.Similarity)
		}
	}
	expected := map[triplets.Slot]bool{}
	for _, pair := range r.outcome.Pairs {
		for i, slot := range pair.Slots {
			at := triplets.Slot{Query: query, Positive: pair.Positive, Rank: i + 1}
			expected[at] = true
			d := Difference{
				Query: query, Positive: at.Positive, Rank: at.Rank, Stored: stored[at], Recomputed: slotText(slot, pair.Similarity),
			}
			got, ok := slots[at]
			if ok {
				d.Published, d.Kind = got.text(), KindPublished
				if problem := a.problem(got, r.state, pair, slot); problem != "" {
					d.Published += ": " + problem
					differences = append(differences, d)
				}
				continue
			}
			d.Kind = KindMissing
			differences = append(differences, d)
		}
	}
	for _, at := range a.published.slots(query) {
		if r.known && at.Rank > r.state.Published[at.Positive] {
			differences = append(differences, Difference{
				Kind: KindRank, Query: query, Positive: at.Positive, Rank: at.Rank, Published: slots[at].text(),
				Stored: fmt.Sprintf("up to %d", r.state.Published[at.Positive]),
			})
		}
		if expected[at] {
			continue
		}
		d := Difference{Kind: KindExtra, Query: query, Positive: at.Positive, Rank: at.Rank, Stored: stored[at], Published: slots[at].text()}
		if !r.known {
			d.Kind = KindUnknown
		}
		differences = append(differences, d)
	}
	return differences
}

// problem returns what is wrong with a published triplet; empty if nothing is.
func (a *auditor) problem(got published, state index.State, pair mining.Pair, slot mining.Slot) string {
	t := got.triplet
	sameText := state.Text == t.Query.Text
	if t.Query.Truncated {
		sameText = strings.HasPrefix(state.Text, t.Query.Text)
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
	case !sameText:
		return "another text of the query"
	case t.Generation != a.Generation:
		return "of generation " + t.Generation
	}
	return ""
}

// compareState returns the differences between a state and the recomputed lists.
func compareState(state index.State, want mining.Outcome) []Difference {
	var differences []Difference
	pairs := map[string]mining.Pair{}
	for _, pair := range want.Pairs {
		pairs[pair.Positive] = pair
	}
	for _, p := range state.Positives {
		pair, paired := pairs[p.Document]
		had, should := p.Pair(), pair
		had.Slots, should.Slots, should.Positive = nil, nil, p.Document
		if p.Paired != paired || !mining.SamePair(had, should) {
			differences = append(differences, Difference{
				Kind: KindPositive, Query: state.QueryID, Positive: p.Document,
				Stored: pairText(p.Paired, p.Pair()), Recomputed: pairText(paired, pair),
			})
		}
		for i := range max(len(p.Slots), len(pair.Slots)) {
			had, should := p.Slots[min(i, len(p.Slots)):min(i+1, len(p.Slots))], pair.Slots[min(i, len(pair.Slots)):min(i+1, len(pair.Slots))]
			if mining.SameSlots(had, should) {
				continue
			}
			d := Difference{Kind: KindStored, Query: state.QueryID, Positive: p.Document, Rank: i + 1}
			if len(had) > 0 {
				d.Stored = slotText(had[0], p.Similarity)
			}
			if len(should) > 0 {
				d.Recomputed = slotText(should[0], pair.Similarity)
			}
			differences = append(differences, d)
		}
	}
	if !slices.Equal(state.Watch, want.Watch) {
		differences = append(differences, Difference{Kind: KindWatch, Query: state.QueryID, Stored: without(state.Watch, want.Watch), Recomputed: without(want.Watch, state.Watch)})
	}
	if state.Inconsistent != "" {
		differences = append(differences, Difference{Kind: KindInconsistent, Query: state.QueryID, Stored: state.Inconsistent})
	}
	if !mining.SameEntry(state.Entry, want.Entry) {
		differences = append(differences, Difference{Kind: KindEntry, Query: state.QueryID, Stored: entryText(state.Entry), Recomputed: entryText(want.Entry)})
	}
	return differences
}

// slotText describes a slot. positive is the cosine of query and positive.
func slotText(s mining.Slot, positive float32) string {
	return fmt.Sprintf("%s@%.8s %s %.5f %.5f %.5f", s.Document, s.Hash, s.Policy, positive, s.QueryNegative, s.PositiveNegative)
}

// text describes a published triplet as slotText does.
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

// pairText describes a list without its slots.
func pairText(paired bool, p mining.Pair) string {
	switch {
	case !paired:
		return "no list"
	case p.Reason == mining.ReasonPositiveMissing:
		return string(p.Reason)
	}
	return strings.TrimSpace(fmt.Sprintf("@%.8s %.5f %s", p.Hash, p.Similarity, p.Reason))
}

// entryText describes entry ranges.
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

// without returns, as text, the ids of a that b does not have.
func without(a, b []string) string {
	var only []string
	for _, id := range a {
		if !slices.Contains(b, id) {
			only = append(only, id)
		}
	}
	return strings.Join(only, " ")
}

// strays returns the records of the triplets topic that no miner would write, as differences.
func (a *auditor) strays() []Difference {
	var differences []Difference
	for at, p := range a.published.strays {
		query := p.triplet.Query.ID
		if query == "" {
			query = fmt.Sprintf("key %q", at.key)
		}
		differences = append(differences, Difference{Kind: KindStray, Query: query, Positive: p.triplet.Positive.ID, Rank: p.triplet.Rank, Published: p.problem})
	}
	slices.SortFunc(differences, Difference.compare)
	return differences
}
