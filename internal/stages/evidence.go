package stages

import (
	"maps"
	"slices"
	"strings"

	"hardneg/index"
	"hardneg/internal/records"
)

// mergeEvidenceAfter is the number of pieces of evidence that a state keeps apart for one document. If there
// are more, the two oldest pieces become one, with the younger timestamp. The weight stays exact, up to the
// bound of records.AddMillionths. Only one case is inexact: a forget with a timestamp between the two, which
// arrives after that many younger records of the document, keeps more than it should.
const mergeEvidenceAfter = 64

// Advance applies evidence and forgets to a copy of a state. It applies each record once: it passes over
// records that state.Applied covers. The result does not depend on the order in which records of different
// partitions arrive.
func Advance(state index.State, refreshes []records.Refresh) index.State {
	next := state
	next.Positives = slices.Clone(state.Positives)
	next.Applied = maps.Clone(state.Applied)
	if next.Applied == nil {
		next.Applied = map[int32]int64{}
	}
	var at map[string]int // index in next.Positives, by document; nil: not computed since the last forget
	for _, r := range refreshes {
		if r.Kind == records.KindRefresh {
			addPublished(&next, r.Published)
			continue
		}
		if last, ok := next.Applied[r.Source.Partition]; ok && r.Source.Offset <= last {
			continue
		}
		next.Applied[r.Source.Partition] = r.Source.Offset
		position := PositionOf(r.Source)
		if r.Kind == records.KindForget {
			if next.Forgotten == nil || next.Forgotten.Compare(position) < 0 {
				next.Forgotten = &position
				forget(&next)
				at = nil
			}
			continue
		}
		// A record that is forgotten already must not replace a text that stays. Of several records of one
		// millisecond the forget may cover the newest one, and leave an older one.
		if next.Forgotten != nil && next.Forgotten.Covers(position) {
			continue
		}
		if next.Text == "" || next.Newest.Compare(position) < 0 {
			next.Text, next.Newest, next.Carried = r.Text, position, r.Embeddings
		}
		if at == nil {
			at = make(map[string]int, len(next.Positives))
			for i, p := range next.Positives {
				at[p.Document] = i
			}
		}
		for _, e := range r.Evidence {
			i, ok := at[e.Document]
			if !ok {
				i = len(next.Positives)
				at[e.Document] = i
				next.Positives = append(next.Positives, index.Positive{Document: e.Document})
			}
			addEvidence(&next.Positives[i], e.Weight, position)
		}
	}
	slices.SortFunc(next.Positives, func(a, b index.Positive) int { return strings.Compare(a.Document, b.Document) })
	return next
}

// addPublished notes ranks that an audit or the previous generation has seen in the triplets topic, so that
// the miner can retract them.
func addPublished(s *index.State, ranks map[string]int) {
	if len(ranks) == 0 {
		return
	}
	if s.Published = maps.Clone(s.Published); s.Published == nil {
		s.Published = map[string]int{}
	}
	for id, rank := range ranks {
		s.Published[id] = max(s.Published[id], rank)
	}
}

// addEvidence adds a piece of evidence, and merges the oldest pieces if there are too many.
func addEvidence(p *index.Positive, weight int64, at index.Position) {
	p.Log = append(slices.Clone(p.Log), index.Logged{Position: at, Weight: weight})
	slices.SortFunc(p.Log, func(a, b index.Logged) int { return a.Compare(b.Position) })
	for len(p.Log) > mergeEvidenceAfter {
		p.Log[1].Weight = records.AddMillionths(p.Log[1].Weight, p.Log[0].Weight)
		p.Log = p.Log[1:]
	}
	p.Weight = records.AddMillionths(p.Weight, weight)
}

// forget drops the text and the evidence that s.Forgotten covers.
func forget(s *index.State) {
	if s.Forgotten.Covers(s.Newest) {
		s.Text, s.Newest, s.Carried, s.Vector = "", index.Position{}, nil, nil
	}
	kept := s.Positives[:0]
	for _, p := range s.Positives {
		log := make([]index.Logged, 0, len(p.Log))
		p.Weight = 0
		for _, l := range p.Log {
			if !s.Forgotten.Covers(l.Position) {
				log = append(log, l)
				p.Weight = records.AddMillionths(p.Weight, l.Weight)
			}
		}
		if p.Log = log; len(log) > 0 {
			kept = append(kept, p)
		}
	}
	s.Positives = kept
}
