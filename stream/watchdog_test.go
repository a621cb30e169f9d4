package stream

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
)

// stallEvents keeps the events of a watchdog.
type stallEvents struct {
	mu     sync.Mutex
	events []Event
}

func (s *stallEvents) add(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

func (s *stallEvents) all() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Event(nil), s.events...)
}

func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stalls stallEvents
		ctx, dog := watched(t.Context(), time.Minute, 3*time.Minute, stalls.add)
		dog.begin("the Processor")
		after := func(d time.Duration, events int, cancelled bool) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := stalls.all(); len(got) != events || (ctx.Err() != nil) != cancelled {
				t.Fatalf("%d events, want %d; context: %v; %+v", len(got), events, context.Cause(ctx), got)
			}
		}
		after(59*time.Second, 0, false)
		after(2*time.Second, 1, false)
		if e := stalls.all()[0]; e.Kind != Stalled || e.Took != time.Minute || !errors.Is(e.Err, ErrStalled) || e.Err.Error() != "stalled: no progress for 1m0s in the Processor" {
			t.Errorf("%+v", e)
		}
		after(time.Minute, 2, false)
		after(time.Minute, 3, true)
		if got := stalls.all()[2].Err.Error(); got != "stalled: no progress for 3m0s in the Processor: it is cancelled" {
			t.Error(got)
		}
		after(time.Minute, 4, true)
		if got := stalls.all()[3].Err.Error(); !strings.Contains(got, "goes on nevertheless: restart this instance") {
			t.Error(got)
		}
		if !dog.end() {
			t.Error("it was given up, and does not say so")
		}
		after(time.Hour, 4, true)
	})
}

// Neither waiting for a server that is down nor a change of the step is a stall.
func TestWatchdogSeesSignsOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stalls stallEvents
		ctx, dog := watched(t.Context(), time.Minute, 3*time.Minute, stalls.add)
		derived, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		for range 10 {
			time.Sleep(50 * time.Second)
			Waiting(derived)
			time.Sleep(50 * time.Second)
			dog.begin("the commit")
		}
		Waiting(context.Background()) // not the context of a batch: no effect
		synctest.Wait()
		if len(stalls.all()) > 0 || ctx.Err() != nil {
			t.Errorf("%+v, %v", stalls.all(), ctx.Err())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := stalls.all(); len(got) != 1 || !strings.Contains(got[0].Err.Error(), "in the commit") {
			t.Errorf("%+v", got)
		}
		if dog.end() {
			t.Error("it was not given up")
		}
	})
}

// A Processor hangs. The stage reports where, gives the batch up and repeats it. Each output comes out once.
func TestHangingProcessor(t *testing.T) {
	c := testClient(t)
	in, out := testTopic(t, c, "in", 1), testTopic(t, c, "out", 1)
	if err := c.Produce(testContext(t), numbered(in, 0, 40)); err != nil {
		t.Fatal(err)
	}
	w := &recorder{t: t}
	var hung atomic.Int64
	s := stageOf(in, w, func(a Assignment) Processor {
		return processFunc(func(ctx context.Context, batch []Record) ([]Output, error) {
			if batch[0].Offset == 20 && hung.Add(1) <= 2 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return passOn(out)(a).Process(ctx, batch)
		})
	})
	s.MaxRecords, s.StallAfter, s.AbandonAfter = 10, 100*time.Millisecond, 300*time.Millisecond
	runStage(t, c, s)
	eventually(t, "all is consumed", func() bool { return noLag(t, c, s.Group, in) })
	exactlyOnce(t, out, 40)
	tokensGrow(t, w)
	// A busy broker may need long for a commit, too.
	stalls := slices.DeleteFunc(w.all(Stalled), func(e Event) bool { return strings.Contains(e.Err.Error(), "in the commit") })
	failed := slices.DeleteFunc(w.all(Failed), func(e Event) bool { return !strings.Contains(e.Err.Error(), "from offset 20") })
	if len(stalls) < 2 || len(failed) != 2 {
		t.Fatalf("%d stalls, failures %+v", len(stalls), w.all(Failed))
	}
	for _, e := range stalls {
		if e.Topic != in || e.Partition != 0 || e.Offset != 20 || e.Records != 10 || !strings.Contains(e.Err.Error(), "in the Processor") {
			t.Errorf("%+v", e)
		}
	}
	var longest time.Duration
	for _, e := range stalls {
		longest = max(longest, e.Took)
	}
	if longest < 600*time.Millisecond {
		t.Errorf("the second time it was given up after %v, want twice as long as at first", longest)
	}
	if e := failed[0]; !strings.Contains(e.Err.Error(), "given up after ") || actionFor(e.Err) != restart {
		t.Errorf("%v", e.Err)
	}
}

// Kafka refuses requests for longer than a batch may hang. That is not a stall.
func TestRetriesAreSignsOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stalls stallEvents
		ctx, dog := watched(t.Context(), 5*time.Second, time.Minute, stalls.add)
		start := time.Now()
		err := retryWhile(ctx, retriable, func() error {
			if time.Since(start) < 20*time.Second {
				return kafka.NotCoordinatorForGroup
			}
			return nil
		})
		synctest.Wait()
		if err != nil || len(stalls.all()) > 0 || dog.end() {
			t.Errorf("%v, %+v", err, stalls.all())
		}
	})
}
