package embed

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	firstPause        = 500 * time.Millisecond // after the first failure; each further failure in a row doubles it
	longestPause      = 5 * time.Second
	longestRetryAfter = 2 * time.Minute // the longest Retry-After of a server that is obeyed
)

// gate decides when a request to a server may begin. It limits how many requests run at the same time, and
// lets none begin for a while after a failure. The limit is halved when the server is too busy, and grows by
// one for each full round of successes (additive increase, multiplicative decrease, as in TCP). All callers
// of an embedder share one gate.
type gate struct {
	maxConcurrent int

	mu            sync.Mutex
	limit         float64
	running       int
	slotFreed     chan struct{} // closed when a request ends
	failuresInRow int
	lastFailure   time.Time // time of the last failure that counted
	closedUntil   time.Time
	closedBy      *fault // the failure that closed the gate
}

func newGate(maxConcurrent int) *gate {
	return &gate{maxConcurrent: maxConcurrent, limit: float64(maxConcurrent), slotFreed: make(chan struct{})}
}

// enter waits until a request may begin. If the gate stays closed for longer than patience, enter returns at
// once, with the time it stays closed and the failure that closed it. err is the context's error.
func (g *gate) enter(ctx context.Context, patience time.Duration) (closed time.Duration, closedBy *fault, err error) {
	until := time.Now().Add(patience)
	for ctx.Err() == nil {
		g.mu.Lock()
		wait, slotFreed := time.Until(g.closedUntil), g.slotFreed
		closedBy = g.closedBy
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
			case <-slotFreed:
			}
		case time.Now().Add(wait).After(until):
			return wait, closedBy, nil
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

// leave records the end of a request and its outcome, and returns the limit that is now in force. If the
// request began before the last failure, its own failure does not count: requests that run at the same time
// fail together.
func (g *gate) leave(began time.Time, f *fault) (limit int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	switch {
	case f == nil:
		g.failuresInRow = 0
		g.limit = min(g.limit+1/g.limit, float64(g.maxConcurrent))
	case f.outcome == Refused:
		g.failuresInRow = 0 // the server works
	case f.outcome == cancelled:
	default:
		now := time.Now()
		if began.After(g.lastFailure) || g.lastFailure.IsZero() {
			g.failuresInRow, g.lastFailure = g.failuresInRow+1, now
			if f.outcome == Busy || f.outcome == TimedOut {
				g.limit = max(g.limit/2, 1)
			}
		}
		pause := min(firstPause<<min(max(g.failuresInRow-1, 0), 10), longestPause) // a success may have reset the count meanwhile
		pause = max(pause/2+rand.N(pause/2+1), f.after)
		if closedUntil := now.Add(pause); closedUntil.After(g.closedUntil) {
			g.closedUntil, g.closedBy = closedUntil, f
		}
	}
	close(g.slotFreed)
	g.slotFreed = make(chan struct{})
	return int(g.limit)
}
