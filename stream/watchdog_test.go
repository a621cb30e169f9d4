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

// told collects what a watchdog says.
type told struct {
	mu     sync.Mutex
	events []Event
}

func (t *told) add(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, e)
}

func (t *told) all() []Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Event(nil), t.events...)
}

func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said told
		ctx, dog := watched(t.Context(), time.Minute, 3*time.Minute, said.add)
		dog.begin("the Processor")
		after := func(d time.Duration, events int, cancelled bool) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := said.all(); len(got) != events || (ctx.Err() != nil) != cancelled {
				t.Fatalf("%d events, want %d; context: %v; %+v", len(got), events, context.Cause(ctx), got)
			}
		}
		after(59*time.Second, 0, false)
		after(2*time.Second, 1, false)
		if e := said.all()[0]; e.Kind != Stalled || e.Took != time.Minute || !errors.Is(e.Err, ErrStalled) || e.Err.Error() != "stalled: no progress for 1m0s in the Processor" {
			t.Errorf("%+v", e)
		}
		after(time.Minute, 2, false)
		after(time.Minute, 3, true)
		if got := said.all()[2].Err.Error(); got != "stalled: no progress for 3m0s in the Processor: it is cancelled" {
			t.Error(got)
		}
		after(time.Minute, 4, true)
		if got := said.all()[3].Err.Error(); !strings.Contains(got, "goes on nevertheless: restart this instance") {
			t.Error(got)
		}
		if !dog.end() {
			t.Error("it was given up, and does not say so")
		}
		after(time.Hour, 4, true)
	})
}

// To wait for something that is down, and to go from step to step, is no stall.
func TestWatchdogSeesSignsOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said told
		ctx, dog := watched(t.Context(), time.Minute, 3*time.Minute, said.add)
		derived, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		for range 10 {
			time.Sleep(50 * time.Second)
			Waiting(derived)
			time.Sleep(50 * time.Second)
			dog.begin("the commit")
		}
		Waiting(context.Background()) // nobody's
		synctest.Wait()
		if len(said.all()) > 0 || ctx.Err() != nil {
			t.Errorf("%+v, %v", said.all(), ctx.Err())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := said.all(); len(got) != 1 || !strings.Contains(got[0].Err.Error(), "in the commit") {
			t.Errorf("%+v", got)
		}
		if dog.end() {
			t.Error("it was not given up")
		}
	})
}

// A Processor hangs. The stage says where, gives the batch up, and does it again; all comes out once.
func TestHangingProcessor(t *testing.T) {
	c := testClient(t)
	in, out := testTopic(t, c, "in", 1), testTopic(t, c, "out", 1)
	if err := c.Produce(testContext(t), numbered(in, 0, 40)); err != nil {
		t.Fatal(err)
	}
	w := &watch{t: t}
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
	// A busy broker may take its time for a commit, too.
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

// Kafka refuses for longer than a batch may hang, and that is no stall.
func TestRetriesAreSignsOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said told
		ctx, dog := watched(t.Context(), 5*time.Second, time.Minute, said.add)
		start := time.Now()
		err := again(ctx, refused, func() error {
			if time.Since(start) < 20*time.Second {
				return kafka.NotCoordinatorForGroup
			}
			return nil
		})
		synctest.Wait()
		if err != nil || len(said.all()) > 0 || dog.end() {
			t.Errorf("%v, %+v", err, said.all())
		}
	})
}
