package stages

import (
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hardneg/internal/testenv"
)

var (
	simCount = flag.Int("histories", 0, "run this many simulated histories, whatever time they take (or HARDNEG_TEST_HISTORIES)")
	simFor   = flag.Duration("histories-for", 10*time.Second, "run simulated histories for this long")
)

// simSearch runs histories in parallel, and counts what happens in them.
type simSearch struct {
	done, empty, ops, steps, triplets atomic.Int64
}

// run runs histories of consecutive seeds until one fails, n are done, or the time is up. For n and limit 0
// means no limit. It returns the seed of the history that failed.
func (s *simSearch) run(seed uint64, n int, limit time.Duration, mutation simMutation) (failing uint64, found bool) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // histories make much garbage and keep little memory
	deadline := time.Now().Add(limit)
	var next atomic.Uint64
	var mu sync.Mutex
	var stop atomic.Bool
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for !stop.Load() && (limit == 0 || time.Now().Before(deadline)) {
				i := next.Add(1) - 1
				if n > 0 && i >= uint64(n) {
					return
				}
				h := simGenerate(seed + i)
				result := h.run(mutation, nil)
				if len(result.problems) > 0 {
					mu.Lock()
					if !found || seed+i < failing {
						failing, found = seed+i, true
					}
					mu.Unlock()
					stop.Store(true)
					return
				}
				s.done.Add(1)
				s.ops.Add(int64(len(h.ops)))
				s.steps.Add(int64(result.steps))
				s.triplets.Add(int64(result.triplets))
				if result.triplets == 0 {
					s.empty.Add(1)
				}
			}
		})
	}
	workers.Wait()
	return failing, found
}

// TestHistories runs random histories of all stages: see simulation_test.go. HARDNEG_TEST_SEED with
// HARDNEG_TEST_HISTORIES=1 runs one history again.
func TestHistories(t *testing.T) {
	seed, n, limit := testenv.Seed(t), *simCount, *simFor
	if s := os.Getenv("HARDNEG_TEST_HISTORIES"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	if n > 0 {
		limit = 0
	}
	var s simSearch
	began := time.Now()
	if failing, found := s.run(seed, n, limit, simIntact); found {
		h := simGenerate(failing)
		smallest := h.shrink(simIntact, time.Now().Add(20*time.Second))
		t.Fatalf("a history fails; again with HARDNEG_TEST_SEED=%d HARDNEG_TEST_HISTORIES=1. Of its %d operations these will do:\n%s",
			failing, len(h.ops), smallest.show(simIntact))
	}
	done := s.done.Load()
	if done == 0 {
		t.Fatalf("no history ended within %v", limit)
	}
	t.Logf("%d histories in %v: on average %d operations, %d steps, %d triplets at the end; %d ended empty", done,
		time.Since(began).Round(time.Millisecond), s.ops.Load()/done, s.steps.Load()/done, s.triplets.Load()/done, s.empty.Load())
	if most := 0.1*float64(done) + 3*math.Sqrt(0.09*float64(done)); done >= 100 && float64(s.empty.Load()) > most { // about a tenth end empty: three standard deviations above
		t.Errorf("%d of %d histories ended without a triplet: they test too little", s.empty.Load(), done)
	}
}

// TestHistoriesReplay checks that a history takes the same course when it is run again.
func TestHistoriesReplay(t *testing.T) {
	seed := testenv.Seed(t)
	for i := range uint64(20) {
		var courses [2]string
		for k := range courses {
			result := simGenerate(seed+i).run(simIntact, func(format string, args ...any) {
				courses[k] += fmt.Sprintf(format, args...) + "\n"
			})
			courses[k] += fmt.Sprint(result)
		}
		if courses[0] != courses[1] {
			t.Fatalf("seed %d took two courses:\n%s\n\nand\n%s", seed+i, courses[0], courses[1])
		}
	}
}
