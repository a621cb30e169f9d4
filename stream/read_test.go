package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTail(t *testing.T) {
	c := testClient(t)
	topic := testTopic(t, c, "tail", 2)
	if err := c.Produce(testContext(t), numbered(topic, 0, 10)); err != nil {
		t.Fatal(err)
	}
	type tail struct {
		fromStart bool
		want      []string
		got       chan string
		done      chan error
	}
	tails := []*tail{{fromStart: true, want: numbers(20)}, {}}
	for i := 10; i < 20; i++ {
		tails[1].want = append(tails[1].want, fmt.Sprint(i))
	}
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	follows := make(chan struct{})
	var probed sync.Once
	for _, w := range tails {
		w.got, w.done = make(chan string, 100), make(chan error, 1)
		go func() {
			w.done <- c.Tail(ctx, topic, w.fromStart, func(r Record) error {
				if string(r.Key) != "probe" {
					w.got <- string(r.Value)
				} else if !w.fromStart {
					probed.Do(func() { close(follows) })
				}
				return nil
			})
		}()
	}
	for waits := true; waits; { // until the reader that began at the end sees new records of both partitions
		for partition := range int32(2) {
			if err := c.Produce(ctx, []Output{{Topic: topic, Partition: partition, Key: []byte("probe")}}); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-follows:
			waits = false
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err := c.Produce(ctx, numbered(topic, 10, 10)); err != nil {
		t.Fatal(err)
	}
	for _, w := range tails {
		var got []string
		for range w.want {
			select {
			case v := <-w.got:
				got = append(got, v)
			case <-time.After(time.Minute):
				t.Fatalf("only %d of %d", len(got), len(w.want))
			}
		}
		if d := diff(w.want, got); d != "" {
			t.Errorf("from start %v: %s", w.fromStart, d)
		}
	}
	cancel()
	for _, w := range tails {
		if err := <-w.done; err != nil {
			t.Errorf("after the context ended: %v", err)
		}
	}
	stop := errors.New("enough")
	if err := c.Tail(testContext(t), topic, true, func(Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error of f: %v", err)
	}
}

// On a compacted topic the last batches lose their last records, or all of them. The reader must still get
// past them.
func TestCompactedTopicDoesNotHang(t *testing.T) {
	if !onRealKafka() {
		t.Skip("needs a broker that compacts by itself: set HARDNEG_TEST_KAFKA; TestDecode has the same with batches made by hand")
	}
	c := testClient(t)
	ctx := testContext(t)
	topic := unique("compact")
	if err := c.EnsureTopics(ctx, Topic{Name: topic, Partitions: 1, ReplicationFactor: 1, Config: map[string]string{
		"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001", "delete.retention.ms": "1",
	}}); err != nil {
		t.Fatal(err)
	}
	write := func(key, value string, n int) {
		var out []Output
		for range n {
			out = append(out, Output{Topic: topic, Key: []byte(key), Value: []byte(value)})
		}
		if err := c.Produce(ctx, out); err != nil {
			t.Fatal(err)
		}
		time.Sleep(150 * time.Millisecond) // long enough for the segment to end
	}
	write("a", "old", 50)
	write("b", "old", 50)
	eventually(t, "the log is compacted", func() bool {
		write("a", "new", 1)
		write("b", "new", 1)
		return len(readAll(t, topic, true)) < 50
	})
	if got := fetchAll(t, c, topic); len(got) >= 50 || len(got) == 0 {
		t.Errorf("%d records", len(got))
	}
	ends, err := c.Offsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	for offset := int64(0); offset < ends[0].LastStable; { // some of these offsets are within a batch
		f, err := c.Fetch(ctx, topic, 0, offset, FetchOptions{MaxBytes: 1})
		if err != nil || f.Next <= offset {
			t.Fatalf("at %d: next %d, %v", offset, f.Next, err)
		}
		offset = min(f.Next, offset+7)
	}
}

// TestAwaitStable: AwaitStable waits for transactions that were open before the call, and not for later ones.
func TestAwaitStable(t *testing.T) {
	c := testClient(t)
	topic := testTopic(t, c, "stable", 2)
	p := testProducer(t, c, unique("stable"))
	p.open(t, []Output{{Topic: topic, Partition: 1, Value: []byte("a")}})
	if _, err := c.AwaitStable(testContext(t), topic, time.Millisecond); !errors.Is(err, ErrOpenTransaction) || !strings.Contains(err.Error(), topic+"/1 since offset 0") {
		t.Errorf("under an open transaction: %v", err)
	}
	done := make(chan []Offsets, 1)
	go func() {
		bounds, err := c.AwaitStable(testContext(t), topic, time.Minute)
		if err != nil {
			t.Error(err)
		}
		done <- bounds
	}()
	time.Sleep(100 * time.Millisecond)
	if len(done) > 0 {
		t.Error("it did not wait")
	}
	p.close(t, true)
	bounds := <-done
	var values []string
	to := map[int32]int64{}
	for _, o := range bounds {
		to[o.Partition] = o.HighWatermark
	}
	p.open(t, []Output{{Topic: topic, Partition: 1, Value: []byte("b")}})
	defer p.close(t, false)
	for range 2 { // the second time, a later transaction is open
		if err := c.ReadRange(testContext(t), topic, map[int32]int64{1: 0}, to, func(r Record) error { values = append(values, string(r.Value)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if len(bounds) != 2 || !slices.Equal(values, []string{"a", "a"}) {
		t.Errorf("%+v, read %q", bounds, values)
	}
}
