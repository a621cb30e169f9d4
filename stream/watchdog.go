package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrStalled says that a batch made no progress for so long that it was given up.
var ErrStalled = errors.New("stalled")

// watchdog watches one batch from the Processor to the commit. The heartbeats of the group go on whatever a Processor
// does, so that nobody else would notice one that hangs.
//
// A sign of life is any attempt that failed and is made again: to wait for a server that is down is what a stage has to
// do. Its own calls to Kafka give signs, and so does whoever calls Waiting.
type watchdog struct {
	stall, abandon time.Duration // without a sign: it is told, and given up
	report         func(Event)
	cancel         context.CancelCauseFunc

	mu           sync.Mutex
	ended        bool
	step         string // what is under way
	lastProgress time.Time
	abandoned    bool
	timer        *time.Timer
}

type watchdogKey struct{}

// watched returns a context for the work on a batch, which the watchdog may cancel, and the watchdog. tell is given an
// Event with Took and Err.
func watched(ctx context.Context, stall, abandon time.Duration, report func(Event)) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{stall: stall, abandon: abandon, report: report, cancel: cancel, lastProgress: time.Now()}
	w.timer = time.AfterFunc(stall, w.check)
	return context.WithValue(ctx, watchdogKey{}, w), w
}

// Waiting tells the stage whose Process was given ctx, or one derived from it, that an attempt failed and is made again:
// what waits for a server that is down has not stalled. Anywhere else it does nothing.
func Waiting(ctx context.Context) {
	if w, ok := ctx.Value(watchdogKey{}).(*watchdog); ok {
		w.mu.Lock()
		w.lastProgress = time.Now()
		w.mu.Unlock()
	}
}

// begin names the step that is under way.
func (w *watchdog) begin(step string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.step, w.lastProgress = step, time.Now()
}

// end ends the watch, and tells whether the batch was given up.
func (w *watchdog) end() (abandoned bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
	w.cancel(nil)
	return w.abandoned
}

// check is called when a bound may have passed.
func (w *watchdog) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	idle := time.Since(w.lastProgress)
	if idle < w.stall {
		w.timer.Reset(w.stall - idle)
		return
	}
	err := fmt.Errorf("%w: no progress for %v in %s", ErrStalled, idle.Round(time.Millisecond), w.step)
	switch {
	case w.abandoned:
		err = fmt.Errorf("%w, which was cancelled and goes on nevertheless: restart this instance", err)
	case idle >= w.abandon:
		w.abandoned = true
		w.cancel(err)
		err = fmt.Errorf("%w: it is cancelled", err)
	}
	next := w.stall
	if !w.abandoned {
		next = min(next, w.abandon-idle)
	}
	w.timer.Reset(next)
	w.report(Event{Kind: Stalled, Took: idle, Err: err})
}
