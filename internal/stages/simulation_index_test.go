package stages

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"hardneg/index"
	"hardneg/internal/embed"
	"hardneg/mining"
)

// simIndex is the content of the two collections. It shares no memory with the tasks.
type simIndex struct {
	documents map[string]index.Document
	states    map[string]index.State
	ids       []string // of documents, sorted
	queries   []string // of states, sorted
}

func newSimIndex() *simIndex {
	return &simIndex{documents: map[string]index.Document{}, states: map[string]index.State{}}
}

// simStore is the index, the broker and the model as one task sees them. An operation on several points takes
// effect point by point: between two points another task may run.
type simStore struct {
	t     *simTask
	w     *simWorld
	stale map[string]any // answers that a mutation gives again until the next batch
}

// forget drops the stale answers. It is called before each batch.
func (s *simStore) forget() { clear(s.stale) }

func (s *simStore) WriteDocuments(_ context.Context, docs []index.Document, partition int32, highest int64) error {
	if s.w.mutation == simLookUpFirst {
		if err := s.lookUpFirst(docs); err != nil {
			return err
		}
	}
	lost, err := s.t.begin("WriteDocuments", "")
	if err != nil {
		return err
	}
	for i, d := range docs {
		if i > 0 {
			if err := s.t.between("WriteDocuments, going on at", d.ID); err != nil {
				return err
			}
		}
		if d.Partition != partition || d.Offset > highest {
			return fmt.Errorf("document %s of %d/%d in a batch of %d up to %d", d.ID, d.Partition, d.Offset, partition, highest)
		}
		old, ok := s.w.index.documents[d.ID]
		if ok && old.Partition == partition && old.Offset > highest && s.w.mutation != simNoOffsetGuard {
			s.t.say("the index keeps %s of offset %d, not %d", d.ID, old.Offset, d.Offset)
			continue
		}
		if !ok {
			at, _ := slices.BinarySearch(s.w.index.ids, d.ID)
			s.w.index.ids = slices.Insert(s.w.index.ids, at, d.ID)
		}
		d.Vector, d.MinHash = slices.Clone(d.Vector), slices.Clone(d.MinHash)
		s.w.index.documents[d.ID] = d
		s.t.say("wrote %s of offset %d, deleted: %v", d.ID, d.Offset, d.Deleted)
	}
	return lost
}

func (s *simStore) Documents(_ context.Context, ids []string, want index.Fields) (map[string]index.Document, error) {
	return simStale(s, simNoConfirm, want&index.WithVector != 0, "documents"+strings.Join(ids, ","), func() (map[string]index.Document, error) {
		lost, err := s.t.begin("Documents", "")
		if err != nil {
			return nil, err
		}
		found := make(map[string]index.Document, len(ids))
		for i, id := range ids {
			if i > 0 {
				if err := s.t.between("Documents, going on at", id); err != nil {
					return nil, err
				}
			}
			d, ok := s.w.index.documents[id]
			if !ok {
				continue
			}
			if want&index.WithVector == 0 {
				d.Vector = nil
			}
			if want&index.WithMinHash == 0 {
				d.MinHash = nil
			}
			if want&index.WithText == 0 {
				d.Title, d.Text = "", ""
			}
			if want&index.WithMetadata == 0 {
				d.Metadata, d.UpdatedAt = nil, ""
			}
			found[id] = d
		}
		return found, lost
	})
}

// DocumentsAt is Documents: in the simulation a point has the id of its document.
func (s *simStore) DocumentsAt(ctx context.Context, points []string, want index.Fields) (map[string]index.Document, error) {
	return s.Documents(ctx, points, want)
}

// Search is exact. Like a search engine it may add up in another order than package mining. It returns fewer
// documents than asked for, so that searches must be repeated although there are few documents.
func (s *simStore) Search(_ context.Context, queries [][]float32, limit int) ([]index.Hits, error) {
	key := fmt.Sprint("search", limit)
	if s.w.mutation == simNoConfirm {
		key += fmt.Sprint(queries)
	}
	return simStale(s, simNoConfirm, true, key, func() ([]index.Hits, error) {
		lost, err := s.t.begin("Search", "")
		if err != nil {
			return nil, err
		}
		limit = max(1, limit/s.w.setup.Scale)
		all := make([]index.Hits, len(queries))
		for i, q := range queries {
			if all[i], err = s.search(q, limit); err != nil {
				return nil, err
			}
		}
		return all, lost
	})
}

func (s *simStore) Rank(_ context.Context, queries [][]float32, limit int) ([]index.Ranking, error) {
	key := fmt.Sprint("rank", limit)
	if s.w.mutation == simNoConfirm {
		key += fmt.Sprint(queries)
	}
	return simStale(s, simNoConfirm, true, key, func() ([]index.Ranking, error) {
		lost, err := s.t.begin("Rank", "")
		if err != nil {
			return nil, err
		}
		rankings := make([]index.Ranking, len(queries))
		for i, q := range queries {
			hits, err := s.search(q, max(1, limit/s.w.setup.Scale))
			if err != nil {
				return nil, err
			}
			rankings[i].Exhausted = hits.Exhausted
			for _, d := range hits.Documents {
				rankings[i].Hits = append(rankings[i].Hits, index.Ranked{Point: d.ID, Score: simScore(q, d.Vector)})
			}
		}
		return rankings, lost
	})
}

func (s *simStore) search(query []float32, limit int) (index.Hits, error) {
	type hit struct {
		score float32
		doc   mining.Document
	}
	hits := make([]hit, 0, len(s.w.index.ids))
	for next := ""; ; {
		at, _ := slices.BinarySearch(s.w.index.ids, next)
		if at == len(s.w.index.ids) {
			break
		}
		id := s.w.index.ids[at]
		if err := s.t.between("Search, going on at", id); err != nil {
			return index.Hits{}, err
		}
		if d := s.w.index.documents[id]; !d.Deleted {
			hits = append(hits, hit{simScore(query, d.Vector), d.Document})
		}
		next = id + "\x00"
	}
	slices.SortFunc(hits, func(a, b hit) int {
		if c := cmp.Compare(b.score, a.score); c != 0 {
			return c
		}
		return strings.Compare(b.doc.ID, a.doc.ID)
	})
	found := index.Hits{Exhausted: len(hits) < limit}
	for _, h := range hits[:min(limit, len(hits))] {
		found.Documents = append(found.Documents, h.doc)
	}
	return found, nil
}

// simScore returns a dot product as a search engine computes it.
func simScore(a, b []float32) float32 {
	var sum float32
	for i, v := range slices.Backward(a) {
		sum += v * b[i]
	}
	return sum
}

func (s *simStore) Watching(_ context.Context, ids []string) ([]string, error) {
	return simStale(s, simLookUpFirst, true, "watching", func() ([]string, error) {
		lost, err := s.t.begin("Watching", "")
		if err != nil {
			return nil, err
		}
		var found []string
		err = s.eachState("Watching, going on at", func(state index.State) {
			watch := state.Watch
			if s.w.mutation == simWatchSlots {
				watch = simSlotsAndPositives(state)
			}
			if slices.ContainsFunc(ids, func(id string) bool { return slices.Contains(watch, id) }) {
				found = append(found, state.QueryID)
			}
		})
		if err != nil {
			return nil, err
		}
		s.t.say("%v are watched by %v", ids, found)
		return found, lost
	})
}

func simSlotsAndPositives(state index.State) []string {
	var ids []string
	for _, p := range state.Positives {
		ids = append(ids, p.Document)
		for _, slot := range p.Slots {
			ids = append(ids, slot.Document)
		}
	}
	return ids
}

func (s *simStore) Entering(_ context.Context, vectors [][]float32) ([][]string, error) {
	return simStale(s, simLookUpFirst, true, "entering", func() ([][]string, error) {
		found := make([][]string, len(vectors))
		if s.w.mutation == simNoEntry {
			return found, nil
		}
		lost, err := s.t.begin("Entering", "")
		if err != nil {
			return nil, err
		}
		for i, vector := range vectors {
			err := s.eachState("Entering, going on at", func(state index.State) {
				if state.Vector == nil {
					return
				}
				score := simScore(state.Vector, vector)
				in := func(e mining.Interval) bool {
					return score >= e.Low-2*mining.Slack && score <= e.High+2*mining.Slack
				}
				if slices.ContainsFunc(state.Entry, in) {
					found[i] = append(found[i], state.QueryID)
				}
			})
			if err != nil {
				return nil, err
			}
		}
		s.t.say("entering: %v", found)
		return found, lost
	})
}

// eachState calls f with the states in the order of their ids. Like a scroll it misses states that are
// written behind it meanwhile.
func (s *simStore) eachState(what string, f func(index.State)) error {
	for next := ""; ; {
		at, _ := slices.BinarySearch(s.w.index.queries, next)
		if at == len(s.w.index.queries) {
			return nil
		}
		id := s.w.index.queries[at]
		if err := s.t.between(what, id); err != nil {
			return err
		}
		f(s.w.index.states[id])
		next = id + "\x00"
	}
}

func (s *simStore) States(_ context.Context, ids []string) (map[string]index.State, error) {
	lost, err := s.t.begin("States", "")
	if err != nil {
		return nil, err
	}
	found := make(map[string]index.State, len(ids))
	for i, id := range ids {
		if i > 0 {
			if err := s.t.between("States, going on at", id); err != nil {
				return nil, err
			}
		}
		if state, ok := s.w.index.states[id]; ok {
			found[id] = s.w.mutation.read(simCopy(state), s.t)
		}
	}
	return found, lost
}

func (s *simStore) WriteStates(_ context.Context, states []index.State, token int64) error {
	lost, err := s.t.begin("WriteStates", "")
	if err != nil {
		return err
	}
	for i, state := range states {
		if i > 0 {
			if err := s.t.between("WriteStates, going on at", state.QueryID); err != nil {
				return err
			}
		}
		old, ok := s.w.index.states[state.QueryID]
		if ok && old.Token > token && s.w.mutation != simNoTokenGuard {
			s.t.say("the index keeps the state of %s under token %d", state.QueryID, old.Token-simEpoch)
			continue
		}
		if !ok {
			at, _ := slices.BinarySearch(s.w.index.queries, state.QueryID)
			s.w.index.queries = slices.Insert(s.w.index.queries, at, state.QueryID)
		}
		s.w.index.states[state.QueryID] = simCopy(s.w.mutation.write(old, state))
		if s.w.trace != nil {
			s.t.say("stored %s", simShow(state))
		}
	}
	return lost
}

func simShow(s index.State) string {
	var pairs []string
	for _, p := range s.Positives {
		var slots []string
		for _, slot := range p.Slots {
			slots = append(slots, slot.Document)
		}
		pairs = append(pairs, fmt.Sprintf("%s(%d): %v", p.Document, p.Weight, slots))
	}
	return fmt.Sprintf("%s %q %v, watch %v, applied %v, token %d", s.QueryID, s.Text, pairs, s.Watch, s.Applied, s.Token-simEpoch)
}

func (s *simStore) Counts(context.Context) (documents, queries uint64, err error) {
	return uint64(len(s.w.index.ids)), uint64(len(s.w.index.queries)), nil
}

// simCopy returns a copy of a state, as after a round trip through Qdrant: empty slices and maps become nil.
func simCopy(s index.State) index.State {
	s.Positives = simClone(s.Positives)
	for i := range s.Positives {
		p := &s.Positives[i]
		p.Log, p.Slots = simClone(p.Log), simClone(p.Slots)
	}
	s.Published, s.Applied, s.Carried = simCloneMap(s.Published), simCloneMap(s.Applied), simCloneMap(s.Carried)
	s.Watch, s.Entry, s.Vector = simClone(s.Watch), simClone(s.Entry), simClone(s.Vector)
	if s.Forgotten != nil {
		place := *s.Forgotten
		s.Forgotten = &place
	}
	return s
}

func simClone[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return slices.Clone(s)
}

func simCloneMap[K comparable, V any](m map[K]V) map[K]V {
	if len(m) == 0 {
		return nil
	}
	return maps.Clone(m)
}

// Vectors makes a simStore a model. It returns the vector that a record carries, or one that follows from the
// text.
func (s *simStore) Vectors(_ context.Context, _ embed.Kind, items []embed.Item) ([][]float32, []error, error) {
	lost, err := s.t.begin("Vectors", "")
	if err != nil {
		return nil, nil, err
	}
	vectors, refusals := make([][]float32, len(items)), make([]error, len(items))
	for i, item := range items {
		switch {
		case strings.Contains(item.Text, simRefused):
			refusals[i] = fmt.Errorf("the model refuses %q", item.Text)
		case item.Carried != nil:
			vectors[i] = item.Carried[simEmbedder]
		default:
			vectors[i] = simTextVector(item.Text, s.w.setup.Dimensions)
		}
	}
	return vectors, refusals, lost
}

const (
	simEmbedder = "v"
	simRefused  = "unacceptable" // a text with this word is refused by the model
)

// simTextVector returns the vector of a text.
func simTextVector(text string, dimensions int) []float32 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	return simUnit(rand.New(rand.NewPCG(h.Sum64(), 3)), dimensions)
}

// simUnit draws a unit vector.
func simUnit(rng *rand.Rand, dimensions int) []float32 {
	v := make([]float64, dimensions)
	for i := range v {
		v[i] = rng.NormFloat64()
	}
	return simNormal(v)
}

func simNormal(v []float64) []float32 {
	var squares float64
	for _, x := range v {
		squares += x * x
	}
	out := make([]float32, len(v))
	for i, x := range v {
		out[i] = float32(x / math.Sqrt(squares))
	}
	return out
}
