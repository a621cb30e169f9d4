package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrStalled is wrapped by the error of a Stalled event. It is also the cause (see context.Cause) with which
// the context of a batch is cancelled that made no progress for Stage.AbandonAfter.
var ErrStalled = errors.New("stalled")

// watchdog watches one batch from the call of Process to the commit. It is needed because the heartbeats of
// the group go on whatever a Processor does, so the group would never notice one that hangs.
//
// A failed attempt that will be repeated counts as progress: a stage has to wait for a server that is down.
// This package's own calls to Kafka count, and so does every call of Waiting.
type watchdog struct {
	stall, abandon time.Duration // without progress: time until the first report, and until the batch is given up
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

// watched starts a watchdog. It returns the context for the work on the batch, which the watchdog may cancel.
// report gets Events of kind Stalled with Took and Err.
func watched(ctx context.Context, stall, abandon time.Duration, report func(Event)) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{stall: stall, abandon: abandon, report: report, cancel: cancel, lastProgress: time.Now()}
	w.timer = time.AfterFunc(stall, w.check)
	return context.WithValue(ctx, watchdogKey{}, w), w
}

// Waiting counts as progress of a batch. A Processor, or a client that it uses, calls it before it repeats a
// failed request: waiting for a server that is down is not a stall. ctx must be the context of Process or be
// derived from it; with any other context Waiting does nothing.
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

// end stops the watchdog and reports whether the batch was given up.
func (w *watchdog) end() (abandoned bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
	w.cancel(nil)
	return w.abandoned
}

// check runs when the time without progress may have passed one of the bounds.
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
