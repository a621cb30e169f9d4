package stream

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// closer checks in which order the Processors of a partition begin and are closed.
type closer struct {
	processFunc
	end func() error
}

func (c closer) Close() error { return c.end() }

// A Processor that is an io.Closer is closed once, after an error and at the end of the stage, and before the
// next Processor of the partition begins.
func TestProcessorIsClosed(t *testing.T) {
	c := testClient(t)
	in, out := testTopic(t, c, "in", 2), testTopic(t, c, "out", 1)
	var mu sync.Mutex
	opened := map[int32]int{} // by partition, the number of Processors that are not closed
	made, failed := 0, 0
	w := &recorder{t: t}
	s := stageOf(in, w, func(a Assignment) Processor {
		mu.Lock()
		defer mu.Unlock()
		made++
		if opened[a.Partition]++; opened[a.Partition] > 1 {
			t.Errorf("partition %d has two Processors", a.Partition)
		}
		return closer{
			processFunc(func(_ context.Context, batch []Record) (outputs []Output, err error) {
				mu.Lock()
				defer mu.Unlock()
				if failed++; failed <= 2 {
					return nil, errors.New("not yet")
				}
				for _, r := range batch {
					outputs = append(outputs, Output{Topic: out, Value: r.Value})
				}
				return outputs, nil
			}),
			func() error {
				mu.Lock()
				defer mu.Unlock()
				opened[a.Partition]--
				return nil
			},
		}
	})
	stop := runStage(t, c, s)
	if err := c.Produce(testContext(t), numbered(in, 0, 10)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no lag", func() bool { return noLag(t, c, s.Group, in) })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	exactlyOnce(t, out, 10)
	for partition, n := range opened {
		if n != 0 {
			t.Errorf("partition %d: %d Processors are not closed", partition, n)
		}
	}
	if made < 4 {
		t.Errorf("%d Processors were made, want two for each failure", made)
	}
}
