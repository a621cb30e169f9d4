package embed

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// TestGate tries requests with any outcomes in any order. The limit stays between one and the maximum. A
// request begins only while the gate is open and fewer requests run than allowed. In the end the gate opens.
func TestGate(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		most := rapid.IntRange(1, 9).Draw(r, "most")
		type step struct {
			after, lasts time.Duration
			fault        *fault
		}
		faults := []*fault{nil, nil, {outcome: Busy}, {outcome: Busy, after: 3 * time.Second}, {outcome: Failed}, {outcome: TimedOut},
			{outcome: Refused}, {outcome: Denied}, {outcome: Invalid}, {outcome: cancelled}}
		steps := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) step {
			return step{
				time.Duration(rapid.IntRange(0, 900).Draw(r, "after")) * time.Millisecond,
				time.Duration(rapid.IntRange(1, 2000).Draw(r, "lasts")) * time.Millisecond,
				rapid.SampledFrom(faults).Draw(r, "fault"),
			}
		}), 1, 60).Draw(r, "steps")
		synctest.Test(t, func(t *testing.T) {
			g := newGate(most)
			var requests sync.WaitGroup
			for _, s := range steps {
				time.Sleep(s.after)
				requests.Go(func() {
					if _, why, err := g.enter(t.Context(), time.Hour); why != nil || err != nil {
						t.Errorf("%v, %v", why, err)
						return
					}
					g.mu.Lock()
					if g.running > most || time.Now().Before(g.closedUntil) {
						t.Errorf("%d of %d under way, %v before it opens", g.running, most, time.Until(g.closedUntil))
					}
					g.mu.Unlock()
					began := time.Now()
					time.Sleep(s.lasts)
					if limit := g.leave(began, s.fault); limit < 1 || limit > most {
						t.Errorf("limit %d of %d", limit, most)
					}
				})
			}
			requests.Wait()
			if g.running != 0 || time.Until(g.closedUntil) > longestPause {
				t.Errorf("%d under way in the end, opens in %v", g.running, time.Until(g.closedUntil))
			}
		})
		if t.Failed() {
			r.Fatal("see above")
		}
	})
}
