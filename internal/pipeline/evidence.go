package pipeline

import (
	"maps"
	"slices"
	"strings"

	"hardneg/index"
	"hardneg/internal/records"
)

// mergeEvidenceAfter bounds the pieces of evidence that a state keeps apart for one document. Beyond it the oldest
// two become one with the younger timestamp: the weight stays exact, and only a forget that arrives later than
// that many younger records of the same document, with a timestamp between the two, keeps more than it should.
const mergeEvidenceAfter = 64

// advance applies evidence and forgets to a copy of a state, each once: what Applied covers is passed over. The
// result does not depend on the order in which records of different partitions arrive.
func advance(state index.State, refreshes []records.Refresh) index.State {
	next := state
	next.Positives = slices.Clone(state.Positives)
	next.Applied = maps.Clone(state.Applied)
	if next.Applied == nil {
		next.Applied = map[int32]int64{}
	}
	var at map[string]int // places in next.Positives, by document; nil: not known
	for _, r := range refreshes {
		if r.Kind == records.KindRefresh {
			addPublished(&next, r.Published)
			continue
		}
		if last, ok := next.Applied[r.Source.Partition]; ok && r.Source.Offset <= last {
			continue
		}
		next.Applied[r.Source.Partition] = r.Source.Offset
		place := placeOf(r)
		if r.Kind == records.KindForget {
			if next.Forgotten == nil || before(*next.Forgotten, place) {
				next.Forgotten = &place
				forget(&next)
				at = nil
			}
			continue
		}
		// A record that is forgotten already must not take the place of a text that stays: of several within one
		// millisecond the newest need not be the one that the forget leaves.
		if next.Forgotten != nil && covers(*next.Forgotten, place) {
			continue
		}
		if next.Text == "" || before(next.Newest, place) {
			next.Text, next.Newest, next.Carried = r.Text, place, r.Embeddings
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
			addEvidence(&next.Positives[i], e.Weight, place)
		}
	}
	slices.SortFunc(next.Positives, func(a, b index.Positive) int { return strings.Compare(a.Document, b.Document) })
	return next
}

// addPublished notes what was found in the triplets topic, so that it is retracted where it does not belong.
func addPublished(s *index.State, found map[string]int) {
	if len(found) == 0 {
		return
	}
	if s.Published = maps.Clone(s.Published); s.Published == nil {
		s.Published = map[string]int{}
	}
	for id, rank := range found {
		s.Published[id] = max(s.Published[id], rank)
	}
}

func placeOf(r records.Refresh) index.Place {
	return index.Place{Timestamp: r.Source.Timestamp, Partition: r.Source.Partition, Offset: r.Source.Offset}
}

// before orders places by timestamp, then partition, then offset.
func before(a, b index.Place) bool {
	if a.Timestamp != b.Timestamp {
		return a.Timestamp < b.Timestamp
	}
	if a.Partition != b.Partition {
		return a.Partition < b.Partition
	}
	return a.Offset < b.Offset
}

func addEvidence(p *index.Positive, weight int64, at index.Place) {
	p.Log = append(slices.Clone(p.Log), index.Logged{Timestamp: at.Timestamp, Partition: at.Partition, Offset: at.Offset, Weight: weight})
	slices.SortFunc(p.Log, func(a, b index.Logged) int {
		if before(loggedAt(a), loggedAt(b)) {
			return -1
		}
		return 1
	})
	for len(p.Log) > mergeEvidenceAfter {
		p.Log[1].Weight += p.Log[0].Weight
		p.Log = p.Log[1:]
	}
	p.Weight += weight
}

func loggedAt(l index.Logged) index.Place {
	return index.Place{Timestamp: l.Timestamp, Partition: l.Partition, Offset: l.Offset}
}

// forget drops what the newest forget covers.
func forget(s *index.State) {
	if covers(*s.Forgotten, s.Newest) {
		s.Text, s.Newest, s.Carried, s.Vector = "", index.Place{}, nil, nil
	}
	kept := s.Positives[:0]
	for _, p := range s.Positives {
		log := make([]index.Logged, 0, len(p.Log))
		p.Weight = 0
		for _, l := range p.Log {
			if !covers(*s.Forgotten, loggedAt(l)) {
				log = append(log, l)
				p.Weight += l.Weight
			}
		}
		if p.Log = log; len(log) > 0 {
			kept = append(kept, p)
		}
	}
	s.Positives = kept
}

// covers tells whether a forget removes what was logged at a place: all that is not younger. Within the same
// millisecond the offset decides where both are of one partition, so that "forget, then log again" keeps the new.
func covers(forget, at index.Place) bool {
	if at.Timestamp != forget.Timestamp {
		return at.Timestamp < forget.Timestamp
	}
	return at.Partition != forget.Partition || at.Offset < forget.Offset
}
