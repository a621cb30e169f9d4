package embed

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	firstPause   = 500 * time.Millisecond // after a first failure; each further one on end doubles it
	longestPause = 5 * time.Second
	longestAsked = 2 * time.Minute // that a server's Retry-After is followed
)

// gate decides when a request to a server may begin: how many are under way at a time, and how long none begins after
// one that failed. The number is halved where the server is too busy and grows by one for each full round of
// successes (additive increase, multiplicative decrease, as TCP has it). It is shared by all callers of an embedder.
type gate struct {
	most int

	mu      sync.Mutex
	limit   float64
	running int
	freed   chan struct{} // closed when a place is freed
	streak  int           // failures since the last success
	failure time.Time     // of the last one that counted
	opens   time.Time
	why     *fault // it is closed until then
}

func newGate(most int) *gate {
	return &gate{most: most, limit: float64(most), freed: make(chan struct{})}
}

// enter waits for a place. Where the gate stays closed for longer than patience it tells at once for how long, and the
// failure that closed it. The error is the context's.
func (g *gate) enter(ctx context.Context, patience time.Duration) (closed time.Duration, why *fault, err error) {
	until := time.Now().Add(patience)
	for ctx.Err() == nil {
		g.mu.Lock()
		wait, freed := time.Until(g.opens), g.freed
		why = g.why
		if wait <= 0 && g.running < int(g.limit) {
			g.running++
			g.mu.Unlock()
			return 0, nil, nil
		}
		g.mu.Unlock()
		switch {
		case wait <= 0:
			select {
			case <-ctx.Done():
			case <-freed:
			}
		case time.Now().Add(wait).After(until):
			return wait, why, nil
		default:
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
			timer.Stop()
		}
	}
	return 0, nil, ctx.Err()
}

// leave frees the place of a request, says how it went, and returns the limit now in force. A failure of a request
// that began before the last failure tells nothing new: requests under way fail together.
func (g *gate) leave(began time.Time, f *fault) (limit int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	switch {
	case f == nil:
		g.streak = 0
		g.limit = min(g.limit+1/g.limit, float64(g.most))
	case f.outcome == Refused:
		g.streak = 0 // the server works
	case f.outcome == cancelled:
	default:
		now := time.Now()
		if began.After(g.failure) || g.failure.IsZero() {
			g.streak, g.failure = g.streak+1, now
			if f.outcome == Busy || f.outcome == TimedOut {
				g.limit = max(g.limit/2, 1)
			}
		}
		pause := min(firstPause<<min(max(g.streak-1, 0), 10), longestPause) // the streak may have been ended meanwhile
		pause = max(pause/2+rand.N(pause/2+1), f.after)
		if opens := now.Add(pause); opens.After(g.opens) {
			g.opens, g.why = opens, f
		}
	}
	close(g.freed)
	g.freed = make(chan struct{})
	return int(g.limit)
}
