package stream

import (
	"errors"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
)

func starts(t *testing.T, c *Client, topic string) map[int32]int64 {
	t.Helper()
	all, err := c.Offsets(testContext(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	at := map[int32]int64{}
	for _, o := range all {
		at[o.Partition] = o.Start
	}
	return at
}

func TestDeleteRecords(t *testing.T) {
	c := testClient(t)
	ctx := testContext(t)
	topic := testTopic(t, c, "delete", 2)
	for p := range int32(2) {
		outputs := numbered(topic, 0, 20)
		for i := range outputs {
			outputs[i].Partition = p
		}
		if err := c.Produce(ctx, outputs); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time there is nothing to delete, which is no error
		if err := c.DeleteRecords(ctx, topic, 1, 13); err != nil {
			t.Fatal(err)
		}
	}
	if at := starts(t, c, topic); at[0] != 0 || at[1] != 13 {
		t.Errorf("the partitions start at %v, want 0 and 13", at)
	}
	if f, err := c.Fetch(ctx, topic, 1, 12, FetchOptions{}); !errors.Is(err, ErrOffsetOutOfRange) || f.Start != 13 {
		t.Errorf("what is deleted: %+v, %v", f, err)
	}
	if got := fetchAll(t, c, topic); len(got) != 27 {
		t.Errorf("%d records are left, want 27", len(got))
	}
	if err := c.DeleteRecords(ctx, topic, 1, 21); !errors.Is(err, kafka.OffsetOutOfRange) || !contains(err, topic+"/1 before offset 21") {
		t.Errorf("past the end: %v", err)
	}
}

// The owner of a partition deletes what it has committed, and no more. The next owner goes on where it
// stopped.
func TestPurge(t *testing.T) {
	c := testClient(t)
	in, out := testTopic(t, c, "in", 2), testTopic(t, c, "out", 1)
	w := &recorder{t: t}
	s := stageOf(in, w, passOn(out))
	s.MaxRecords, s.PurgeEvery = 7, 20*time.Millisecond
	n := 0
	for range 2 {
		stop := runStage(t, c, s)
		for range 5 {
			if err := c.Produce(testContext(t), numbered(in, n, 40)); err != nil {
				t.Fatal(err)
			}
			n += 40
			at := starts(t, c, in) // read before the committed offset, which only grows
			committed, err := c.Committed(testContext(t), s.Group, in)
			if err != nil {
				t.Fatal(err)
			}
			for p, start := range at {
				if start > committed[p] {
					t.Fatalf("partition %d starts at %d and is committed up to %d", p, start, committed[p])
				}
			}
		}
		eventually(t, "all is committed, and deleted", func() bool {
			committed, err := c.Committed(testContext(t), s.Group, in)
			if err != nil {
				t.Fatal(err)
			}
			at, ends := starts(t, c, in), int64(0)
			for p, offset := range committed {
				if at[p] != offset {
					return false
				}
				ends += offset
			}
			return ends >= int64(n)
		})
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	exactlyOnce(t, out, n)
	if failed := w.all(Failed); len(failed) > 0 {
		t.Errorf("%+v", failed)
	}
}
