package stages

import (
	"context"
	"testing"
	"time"

	"hardneg/index"
)

// simMutation breaks one rule of the stages from outside: the index answers something else, or does something
// else.
type simMutation string

const (
	simIntact        simMutation = ""
	simNoConfirm     simMutation = "confirmation left out"
	simWatchSlots    simMutation = "watch set reduced to slots and positives"
	simNoForce       simMutation = "foreign tokens ignored"
	simNoTokenGuard  simMutation = "token guard removed"
	simNoOffsetGuard simMutation = "document offset guard removed"
	simNoApplied     simMutation = "applied ignored for evidence"
	simNoEntry       simMutation = "entry look-up left out"
	simLookUpFirst   simMutation = "look-up before write"
	simNoRetired     simMutation = "published ranks not nulled"
	simDropAtOnce    simMutation = "published ranks dropped before they are nulled"
)

var simMutations = []simMutation{
	simNoConfirm, simWatchSlots, simNoForce, simNoTokenGuard, simNoOffsetGuard, simNoApplied, simNoEntry, simLookUpFirst,
	simNoRetired, simDropAtOnce,
}

// read changes a state on its way from the index to a miner.
func (m simMutation) read(s index.State, t *simTask) index.State {
	switch m {
	case simNoForce: // the state of an earlier owner looks like one of this owner
		s.Token = max(s.Token, t.token)
	case simNoApplied: // evidence that an earlier owner applied looks as if it were not
		if s.Token < t.token {
			s.Applied = nil
		}
	case simNoRetired: // only ranks that are in use now count as published
		s.Published = nil
		for _, p := range s.Positives {
			if n := len(p.Slots); n > 0 {
				if s.Published == nil {
					s.Published = map[string]int{}
				}
				s.Published[p.Document] = n
			}
		}
	}
	return s
}

// write changes a state on its way from a miner to the index, where it replaces an old one.
func (m simMutation) write(old, s index.State) index.State {
	if m == simDropAtOnce { // by the stored state, even if that state was never published
		s.Published = stillPublished(old, s)
	}
	return s
}

// simStale reads and returns the answer to a question. If the mutation is in force and the same question came
// before in this batch, it returns the old answer.
func simStale[T any](s *simStore, mutation simMutation, applies bool, key string, read func() (T, error)) (T, error) {
	if s.w.mutation != mutation || !applies {
		return read()
	}
	if old, ok := s.stale[key]; ok {
		return old.(T), nil
	}
	answer, err := read()
	if err == nil {
		if s.stale == nil {
			s.stale = map[string]any{}
		}
		s.stale[key] = answer
	}
	return answer, err
}

// lookUpFirst asks which queries are affected by documents, before these are written.
func (s *simStore) lookUpFirst(docs []index.Document) error {
	ids := make([]string, len(docs))
	var vectors [][]float32
	for i, d := range docs {
		ids[i] = d.ID
		if !d.Deleted {
			vectors = append(vectors, d.Vector)
		}
	}
	if _, err := s.Watching(context.Background(), ids); err != nil {
		return err
	}
	_, err := s.Entering(context.Background(), vectors)
	return err
}

// TestMutationsAreCaught breaks one rule at a time. Of 20,000 histories at least one must fail. It does so
// within seconds. The seeds are fixed, so the test takes the same time in each run.
func TestMutationsAreCaught(t *testing.T) {
	for _, mutation := range simMutations {
		t.Run(string(mutation), func(t *testing.T) {
			began := time.Now()
			var s simSearch
			seed, found := s.run(1, 20_000, 0, mutation)
			if !found {
				t.Fatalf("%d histories notice nothing", s.done.Load())
			}
			h := simGenerate(seed)
			t.Logf("seed %d notices, after %d others and %v: %s", seed, s.done.Load(), time.Since(began).Round(time.Millisecond),
				h.run(mutation, nil).problems[0])
			if problems := h.run(simIntact, nil).problems; len(problems) > 0 {
				t.Fatalf("seed %d fails without the mutation, too: %v", seed, problems)
			}
		})
	}
}
