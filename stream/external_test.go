package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hardneg/stream"
)

// The tests of this file use the package as another program does, by its exported names alone. Like the
// conformance suite they run on the embedded broker, or on the Kafka at HARDNEG_TEST_KAFKA.

// process is a Processor made from a function.
type process func(context.Context, []stream.Record) ([]stream.Output, error)

func (f process) Process(ctx context.Context, batch []stream.Record) ([]stream.Output, error) {
	return f(ctx, batch)
}

// copyTo returns one output for each record of a batch.
func copyTo(topic string, batch []stream.Record) []stream.Output {
	outputs := make([]stream.Output, len(batch))
	for i, r := range batch {
		outputs[i] = stream.Output{Topic: topic, Partition: stream.ByKey, Key: r.Key, Value: r.Value, Headers: r.Headers}
	}
	return outputs
}

// transform is the stage that the instances of TestTransformSurvivesAKill run. Its group has the shortest
// session that a broker allows by default, so that a killed instance is missed soon.
func transform(group, in string, work func(stream.Assignment) stream.Processor) stream.Stage {
	return stream.Stage{
		Name: "transform", Group: group, Topic: in, TransactionalPrefix: group, New: work,
		MaxRecords: 10, SessionTimeout: 6 * time.Second, TransactionTimeout: 10 * time.Second,
	}
}

// produceNumbers writes the numbers from up to, not including, to.
func produceNumbers(t *testing.T, c *stream.Client, topic string, from, to int) {
	t.Helper()
	var outputs []stream.Output
	for i := from; i < to; i++ {
		n := []byte(fmt.Sprint(i))
		outputs = append(outputs, stream.Output{Topic: topic, Partition: stream.ByKey, Key: n, Value: n})
	}
	if err := c.Produce(t.Context(), outputs); err != nil {
		t.Fatal(err)
	}
}

// committedReader is a read_committed reader that counts how often it has seen each value.
type committedReader struct {
	mu    sync.Mutex
	times map[string]int
}

// follow starts a reader of a topic. It ends with the test.
func follow(t *testing.T, c *stream.Client, topic string) *committedReader {
	r := &committedReader{times: map[string]int{}}
	ctx, stop := context.WithCancel(context.Background())
	var reading sync.WaitGroup
	reading.Go(func() {
		err := c.Tail(ctx, topic, true, func(record stream.Record) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.times[string(record.Value)]++
			return nil
		})
		if err != nil {
			t.Errorf("reading %s: %v", topic, err)
		}
	})
	t.Cleanup(func() { stop(); reading.Wait() })
	return r
}

// values returns how many different values the reader has seen.
func (r *committedReader) values() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.times)
}

// eachOnce fails the test unless the reader has seen each number below n once, and nothing else.
func (r *committedReader) eachOnce(t *testing.T, n int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range n {
		if times := r.times[fmt.Sprint(i)]; times != 1 {
			t.Errorf("output %d was seen %d times", i, times)
		}
	}
	if len(r.times) != n {
		t.Errorf("%d different outputs, want %d", len(r.times), n)
	}
}

const (
	instanceVariable = "STREAM_TEST_INSTANCE" // "GROUP IN OUT" for the instance that is killed
	killableRecords  = 1000                   // after this many records that instance stops working, so that it is never done
)

// TestInstance is the process that TestTransformSurvivesAKill starts and kills. In any other run it does
// nothing.
func TestInstance(t *testing.T) {
	names := strings.Fields(os.Getenv(instanceVariable))
	if len(names) != 3 {
		return
	}
	var mu sync.Mutex
	done := 0
	work := func(stream.Assignment) stream.Processor {
		return process(func(ctx context.Context, batch []stream.Record) ([]stream.Output, error) {
			mu.Lock()
			done += len(batch)
			full := done > killableRecords
			mu.Unlock()
			if full {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return copyTo(names[2], batch), nil
		})
	}
	if err := stream.NewTestClient(t).Run(context.Background(), transform(names[0], names[1], work)); err != nil {
		t.Fatal(err)
	}
}

// TestTransformSurvivesAKill: a process is killed with SIGKILL while it works on transactions. Another
// instance takes its partitions over, and its Processors fail once on each partition. A read_committed reader
// that has followed the output all the time sees the output of each record once.
func TestTransformSurvivesAKill(t *testing.T) {
	c := stream.NewTestClient(t)
	in, out, group := stream.NewTestTopic(t, c, "in", 2), stream.NewTestTopic(t, c, "out", 3), stream.Unique("group")
	const n = 3000
	produceNumbers(t, c, in, 0, n)
	reader := follow(t, c, out)

	var output bytes.Buffer
	instance := exec.Command(os.Args[0], "-test.run=^TestInstance$", "-test.timeout=2m")
	instance.Env = append(os.Environ(), "HARDNEG_TEST_KAFKA="+stream.BrokerAddr(), instanceVariable+"="+strings.Join([]string{group, in, out}, " "))
	instance.Stdout, instance.Stderr = &output, &output
	if err := instance.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = instance.Process.Kill() // again, in case the test ended before
		_ = instance.Wait()
		if t.Failed() {
			t.Logf("the killed instance said:\n%s", &output)
		}
	})
	stream.Eventually(t, "the first instance commits", func() bool { return reader.values() >= 100 })
	if err := instance.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	t.Logf("killed after %d of %d outputs", reader.values(), n)

	var mu sync.Mutex
	tokens := map[int32][]int64{} // of the assignments of each partition, in order
	work := func(a stream.Assignment) stream.Processor {
		mu.Lock()
		tokens[a.Partition] = append(tokens[a.Partition], a.Token)
		first := len(tokens[a.Partition]) == 1
		mu.Unlock()
		batches := 0
		return process(func(_ context.Context, batch []stream.Record) ([]stream.Output, error) {
			if batches++; first && batches == 3 {
				return nil, errors.New("a dependency is down")
			}
			return copyTo(out, batch), nil
		})
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, transform(group, in, work)) }()
	t.Cleanup(stop)
	stream.Eventually(t, "every record is processed", func() bool { return reader.values() == n })
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if len(tokens) != 2 {
		t.Errorf("partitions of the second instance: %v", slices.Sorted(maps.Keys(tokens)))
	}
	for partition, taken := range tokens {
		if len(taken) < 2 || !slices.IsSorted(taken) {
			t.Errorf("partition %d: tokens %v, want an ascending one for each assignment", partition, taken)
		}
	}
	ends, err := c.Offsets(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	committed, err := c.Committed(t.Context(), group, in)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range ends {
		if committed[o.Partition] != o.LastStable {
			t.Errorf("partition %d is committed up to %d of %d", o.Partition, committed[o.Partition], o.LastStable)
		}
	}
	reader.eachOnce(t, n)
}

// TestLedgerFromOutside: a job publishes pages of numbers, and a new owner takes over after each page. Each
// one goes on where the mark says, the one before is fenced, and a read_committed reader sees each number
// once.
func TestLedgerFromOutside(t *testing.T) {
	c := stream.NewTestClient(t)
	topic, id := stream.NewTestTopic(t, c, "numbers", 2), stream.Unique("ledger")
	reader := follow(t, c, topic)
	const n, page = 50, 10
	publish := func(l *stream.Ledger, from int64) error {
		var outputs []stream.Output
		for i := from; i < from+page; i++ {
			outputs = append(outputs, stream.Output{Topic: topic, Partition: int32(i % 2), Value: []byte(fmt.Sprint(i))})
		}
		return l.Commit(t.Context(), map[int32]stream.Mark{1: {Offset: from + page, Note: fmt.Sprintf("up to %d", from+page)}}, outputs)
	}
	var former *stream.Ledger
	for next := int64(0); next < n; next += page {
		ledger, marks, err := c.OpenLedger(t.Context(), id, id, topic, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		want := map[int32]stream.Mark{}
		if next > 0 {
			want[1] = stream.Mark{Offset: next, Note: fmt.Sprintf("up to %d", next)}
		}
		if !maps.Equal(marks, want) {
			t.Fatalf("marks %v, want %v", marks, want)
		}
		if former != nil {
			if err := publish(former, next); !errors.Is(err, stream.ErrFenced) {
				t.Errorf("commit of the former owner at %d: %v", next, err)
			}
		}
		if err := publish(ledger, next); err != nil {
			t.Fatal(err)
		}
		former = ledger
	}
	stream.Eventually(t, "all numbers are published", func() bool { return reader.values() == n })
	reader.eachOnce(t, n)
}

// TestDeadLetterFromOutside: records that a stage refuses go to the dead letters with every byte and header,
// and can be sent again from there.
func TestDeadLetterFromOutside(t *testing.T) {
	c := stream.NewTestClient(t)
	in, out, letters := stream.NewTestTopic(t, c, "in", 1), stream.NewTestTopic(t, c, "out", 1), stream.NewTestTopic(t, c, "letters", 2)
	at := time.Now().Add(-time.Minute).Truncate(time.Millisecond) // recent, or a real broker deletes it by its retention
	records := []stream.Output{
		{Key: []byte("good"), Value: []byte("1")},
		{Key: nil, Value: []byte{0xff, 0}, Headers: []stream.Header{{Key: "source", Value: nil}, {Key: "source", Value: []byte("b")}}},
		{Key: []byte("k"), Value: nil},
		{Key: []byte{}, Value: []byte{}, Headers: []stream.Header{{Key: stream.HeaderError, Value: []byte("of somebody else")}}},
		{Key: []byte("good"), Value: []byte("2")},
	}
	for i := range records {
		records[i].Topic, records[i].Partition, records[i].Time = in, 0, at.Add(time.Duration(i)*time.Second)
	}
	if err := c.Produce(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	work := func(stream.Assignment) stream.Processor {
		return process(func(_ context.Context, batch []stream.Record) (outputs []stream.Output, err error) {
			for _, r := range batch {
				if string(r.Key) == "good" {
					outputs = append(outputs, copyTo(out, []stream.Record{r})...)
				} else {
					outputs = append(outputs, stream.NewDeadLetter(letters, "refuser", r, fmt.Errorf("record %d is bad", r.Offset)))
				}
			}
			return outputs, nil
		})
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	stage := transform(stream.Unique("group"), in, work)
	stage.Observe = func(e stream.Event) {
		if e.Kind == stream.Committed && e.Offset == e.End {
			stop()
		}
	}
	if err := c.Run(ctx, stage); err != nil {
		t.Fatal(err)
	}

	found := map[int64]stream.DeadLetter{}
	err := c.ReadToEnd(t.Context(), letters, func(r stream.Record) error {
		l, err := stream.ParseDeadLetter(r)
		found[l.Record.Offset] = l
		return err
	})
	if err != nil || len(found) != 3 {
		t.Fatalf("%d dead letters: %v", len(found), err)
	}
	var replay []stream.Output
	for offset := int64(1); offset <= 3; offset++ {
		l, sent := found[offset], records[offset]
		r := l.Record
		if l.Stage != "refuser" || l.Reason != fmt.Sprintf("record %d is bad", offset) || l.At() != fmt.Sprintf("%d/%d", l.Partition, l.Offset) {
			t.Errorf("dead letter %+v", l)
		}
		if r.Topic != in || r.Partition != 0 || !r.Time.Equal(sent.Time) {
			t.Errorf("record of %s/%d at %v, want %s/0 at %v", r.Topic, r.Partition, r.Time, in, sent.Time)
		}
		if !equal(r.Key, sent.Key) || !equal(r.Value, sent.Value) || !slices.EqualFunc(r.Headers, sent.Headers, func(a, b stream.Header) bool {
			return a.Key == b.Key && equal(a.Value, b.Value)
		}) {
			t.Errorf("record %q %q %q, want %q %q %q", r.Key, r.Value, r.Headers, sent.Key, sent.Value, sent.Headers)
		}
		replay = append(replay, stream.Output{Topic: out, Partition: 0, Key: r.Key, Value: r.Value, Headers: r.Headers, Time: r.Time})
	}
	if err := c.Produce(t.Context(), replay); err != nil {
		t.Fatal(err)
	}
	var values []string
	err = c.ReadToEnd(t.Context(), out, func(r stream.Record) error {
		values = append(values, string(r.Value))
		return nil
	})
	if want := []string{"1", "2", "\xff\x00", "", ""}; err != nil || !slices.Equal(values, want) {
		t.Errorf("output %q, want %q: %v", values, want, err)
	}
}

// equal compares bytes, where null and empty differ.
func equal(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }
