package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
)

// noFailures fails the test if a partition failed or was fenced.
func (w *recorder) noFailures() {
	w.t.Helper()
	for _, e := range slices.Concat(w.all(Failed), w.all(Fenced)) {
		if e.Partition >= 0 { // joining may take several tries on a fresh cluster
			w.t.Errorf("event %+v", e)
		}
	}
}

// tokensGrow checks that each owner of a partition has a greater token than the owner before.
func tokensGrow(t *testing.T, watches ...*recorder) {
	t.Helper()
	last := map[int32][]int64{}
	for _, w := range watches {
		for _, e := range w.all(Assigned) {
			last[e.Partition] = append(last[e.Partition], e.Token)
		}
	}
	for p, tokens := range last {
		if s := slices.Clone(tokens); len(slices.Compact(sortedTokens(s))) != len(tokens) {
			t.Errorf("partition %d: a token was given twice: %v", p, tokens)
		}
	}
	for _, w := range watches {
		at := map[int32]int64{}
		for _, e := range w.all(Assigned) {
			if e.Token <= at[e.Partition] {
				t.Errorf("partition %d: token %d after %d", e.Partition, e.Token, at[e.Partition])
			}
			at[e.Partition] = e.Token
		}
	}
}

func sortedTokens(s []int64) []int64 { slices.Sort(s); return s }

func exactlyOnce(t *testing.T, topic string, n int) {
	t.Helper()
	if d := diff(numbers(n), values(readAll(t, topic, true))); d != "" {
		t.Errorf("%s: %s", topic, d)
	}
}

func TestPassThrough(t *testing.T) {
	c := testClient(t)
	in, out := testTopic(t, c, "in", 3), testTopic(t, c, "out", 2)
	const n = 2000
	if err := c.Produce(testContext(t), numbered(in, 0, n)); err != nil {
		t.Fatal(err)
	}
	w := &recorder{t: t}
	s := stageOf(in, w, passOn(out))
	stop := runStage(t, c, s)
	eventually(t, "no lag", func() bool { return noLag(t, c, s.Group, in) })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	exactlyOnce(t, out, n)
	w.noFailures()
	if len(w.all(Assigned)) != 3 || len(w.all(Revoked)) != 3 {
		t.Errorf("%d assigned, %d revoked", len(w.all(Assigned)), len(w.all(Revoked)))
	}
	for _, e := range w.all(Committed) {
		if e.Records > 500 || e.Records != e.Outputs || e.Offset > e.End || e.Took <= 0 {
			t.Errorf("event %+v", e)
		}
	}
}

// TestUntil: all records below the bound of Until are processed, and none from the bound on, however records
// are distributed over fetches.
func TestUntil(t *testing.T) {
	c := testClient(t)
	in, out := testTopic(t, c, "until-in", 1), testTopic(t, c, "until-out", 1)
	if err := c.Produce(testContext(t), numbered(in, 0, 10)); err != nil {
		t.Fatal(err)
	}
	var bound atomic.Int64
	bound.Store(4)
	w := &recorder{t: t}
	s := stageOf(in, w, passOn(out))
	s.Until = func(ctx context.Context, _ int32, committed int64) (int64, error) {
		for bound.Load() <= committed {
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return 0, err
			}
		}
		return bound.Load(), nil
	}
	stop := runStage(t, c, s)
	for _, next := range []int64{7, 100} {
		last := bound.Load()
		eventually(t, fmt.Sprintf("the records before offset %d", last), func() bool {
			at, err := c.Committed(testContext(t), s.Group, in)
			return err == nil && at[0] == last
		})
		exactlyOnce(t, out, int(last))
		bound.Store(next)
	}
	eventually(t, "the rest", func() bool { return len(readAll(t, out, true)) == 10 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	exactlyOnce(t, out, 10)
	w.noFailures()
}

// The input is itself written in transactions. The Processor must not see aborted records, and markers at the
// end of the log must not remain as lag.
func TestTransactionalInput(t *testing.T) {
	c := testClient(t)
	in, out := testTopic(t, c, "in", 1), testTopic(t, c, "out", 1)
	p := testProducer(t, c, unique("id"))
	for i := range 20 {
		p.open(t, numbered(in, 10*i, 10))
		p.close(t, true)
		p.open(t, numbered(in, 1000, 5))
		p.close(t, false)
	}
	w := &recorder{t: t}
	s := stageOf(in, w, passOn(out))
	s.MaxRecords = 7
	runStage(t, c, s)
	eventually(t, "no lag", func() bool { return noLag(t, c, s.Group, in) })
	p.open(t, numbered(in, 1000, 5))
	p.close(t, false)
	eventually(t, "no lag after an abort", func() bool { return noLag(t, c, s.Group, in) })
	exactlyOnce(t, out, 200)
	w.noFailures()
}

func TestNoOutputsAndManyOutputs(t *testing.T) {
	c := testClient(t)
	in, a, b, dead := testTopic(t, c, "in", 2), testTopic(t, c, "a", 3), testTopic(t, c, "b", 1), testTopic(t, c, "dead", 2)
	const n = 300
	if err := c.Produce(testContext(t), numbered(in, 0, n)); err != nil {
		t.Fatal(err)
	}
	w := &recorder{t: t}
	s := stageOf(in, w, func(Assignment) Processor {
		return processFunc(func(_ context.Context, batch []Record) (out []Output, err error) {
			for _, r := range batch {
				switch r.Offset % 4 {
				case 1:
					out = append(out, Output{Topic: a, Partition: 2, Key: r.Key, Value: r.Value})
				case 2:
					out = append(out, Output{Topic: b, Partition: ByKey, Hash: []byte("h"), Key: r.Key}, Output{Topic: a, Partition: 0, Value: r.Value})
				case 3:
					out = append(out, NewDeadLetter(dead, "test", r, errors.New("bad")))
				}
			}
			return out, nil
		})
	})
	s.MaxRecords = 1 // so that some batches have no output
	runStage(t, c, s)
	eventually(t, "no lag", func() bool { return noLag(t, c, s.Group, in) })
	w.noFailures()
	na, nb, nd := readAll(t, a, true), readAll(t, b, true), readAll(t, dead, true)
	if len(na) != 2*len(nb) && len(na)-2*len(nb) > 2 || len(nb) < n/4-2 || len(nd) < n/4-2 {
		t.Errorf("%d, %d and %d outputs", len(na), len(nb), len(nd))
	}
	for _, s := range na {
		if s.partition == 1 {
			t.Error("an output went to another partition than it named")
		}
	}
	for _, s := range nb {
		if s.record.Value != nil || s.record.Key == nil {
			t.Error("a tombstone did not stay one")
		}
	}
	for _, s := range nd {
		if len(s.record.Headers) != 6 || s.partition != PartitionFor(s.record.Key, 2) {
			t.Errorf("dead letter %+v", s.record)
		}
	}
}

// After an error of a Processor the same records come again, to another Processor with a greater token.
func TestProcessorErrors(t *testing.T) {
	c := testClient(t)
	in, out := testTopic(t, c, "in", 2), testTopic(t, c, "out", 2)
	const n = 400
	if err := c.Produce(testContext(t), numbered(in, 0, n)); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	w := &recorder{t: t}
	s := stageOf(in, w, func(Assignment) Processor {
		failed := false
		return processFunc(func(ctx context.Context, batch []Record) ([]Output, error) {
			if failed {
				t.Error("a Processor was used after its error")
			}
			if calls.Add(1)%5 == 0 {
				failed = true
				return numbered(out, 5000, 3), errors.New("the index is down")
			}
			return passOn(out)(Assignment{}).Process(ctx, batch)
		})
	})
	s.MaxRecords = 20
	runStage(t, c, s)
	eventually(t, "no lag", func() bool { return noLag(t, c, s.Group, in) })
	exactlyOnce(t, out, n)
	failed := slices.DeleteFunc(w.all(Failed), func(e Event) bool { return e.Partition < 0 }) // without failed joins
	if got, want := len(w.all(Assigned)), 2+len(failed); got != want || want < 5 {
		t.Errorf("%d assignments, want %d", got, want)
	}
	tokensGrow(t, w)
	for _, e := range w.all(Failed) {
		if !contains(e.Err, "the index is down") || !contains(e.Err, in) {
			t.Errorf("event %+v", e)
		}
	}
}

func TestFencedByAProcessor(t *testing.T) {
	c := testClient(t)
	in, out := testTopic(t, c, "in", 1), testTopic(t, c, "out", 1)
	if err := c.Produce(testContext(t), numbered(in, 0, 10)); err != nil {
		t.Fatal(err)
	}
	newer := time.Now().Add(time.Hour).UnixMilli()
	w := &recorder{t: t}
	s := stageOf(in, w, func(a Assignment) Processor {
		return processFunc(func(ctx context.Context, batch []Record) ([]Output, error) {
			if a.Token <= newer {
				return nil, fmt.Errorf("state of q1: %w", &FencedError{Token: newer})
			}
			return passOn(out)(a).Process(ctx, batch)
		})
	})
	runStage(t, c, s)
	eventually(t, "no lag", func() bool { return noLag(t, c, s.Group, in) })
	exactlyOnce(t, out, 10)
	if len(w.all(Fenced)) != 1 || len(w.all(Joined)) < 2 {
		t.Errorf("%d times fenced, %d times joined", len(w.all(Fenced)), len(w.all(Joined)))
	}
	tokensGrow(t, w)
}

// Instances start and stop while records are written.
func TestRebalances(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	c := testClient(t)
	in, out := testTopic(t, c, "in", 4), testTopic(t, c, "out", 2)
	s := stageOf(in, &recorder{t: t}, passOn(out))
	s.MaxRecords, s.SessionTimeout = 10, 12*time.Second // a member sends a heartbeat every tenth of it
	const n = 3000
	go func() {
		for i := 0; i < n; i += 50 {
			if err := c.Produce(context.Background(), numbered(in, i, 50)); err != nil {
				t.Error(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	var all, watches []*recorder // all instances so far, and the instances that run
	var stops []func() error
	startAs := func(w *recorder) {
		all, watches = append(all, w), append(watches, w)
		s.Observe = w.observe
		stops = append(stops, runStage(t, clientOf(t, brokerAddr), s))
	}
	start := func() { startAs(&recorder{t: t}) }
	// rebalanced waits until one of some instances has got a partition that it did not have before.
	rebalanced := func(some []*recorder, what string, change func()) {
		count := func() (n int) {
			for _, w := range some {
				n += len(w.all(Assigned))
			}
			return n
		}
		before := count()
		change()
		eventually(t, what, func() bool { return count() > before })
		time.Sleep(time.Duration(rng.IntN(600)) * time.Millisecond)
	}
	start()
	start()
	for range 3 {
		w := &recorder{t: t}
		rebalanced([]*recorder{w}, "a new instance gets a partition", func() { startAs(w) })
		rebalanced(watches[1:], "another gets those of one that ends", func() {
			if err := stops[0](); err != nil {
				t.Error(err)
			}
			stops, watches = stops[1:], watches[1:]
		})
	}
	eventually(t, "all is produced and consumed", func() bool {
		ends, err := c.Offsets(testContext(t), in)
		total := int64(0)
		for _, e := range ends {
			total += e.LastStable
		}
		return err == nil && total == n && noLag(t, c, s.Group, in)
	})
	exactlyOnce(t, out, n)
	tokensGrow(t, all...)
	for _, w := range all {
		w.noFailures()
	}
}

// When the context of Run ends, the batch under way is finished.
func TestDrain(t *testing.T) {
	c := testClient(t)
	in, out := testTopic(t, c, "in", 1), testTopic(t, c, "out", 1)
	if err := c.Produce(testContext(t), numbered(in, 0, 100)); err != nil {
		t.Fatal(err)
	}
	for _, slow := range []bool{false, true} {
		t.Run(fmt.Sprintf("longer than the time-out %v", slow), func(t *testing.T) {
			entered := make(chan struct{})
			var once sync.Once
			w := &recorder{t: t}
			s := stageOf(in, w, func(Assignment) Processor {
				return processFunc(func(ctx context.Context, batch []Record) ([]Output, error) {
					once.Do(func() { close(entered) })
					if !slow {
						time.Sleep(500 * time.Millisecond)
						return passOn(out)(Assignment{}).Process(ctx, batch)
					}
					<-ctx.Done()
					return nil, ctx.Err()
				})
			})
			s.MaxRecords = 30
			if !slow {
				s.SessionTimeout, s.DrainTimeout = 2*time.Minute, time.Minute
			}
			stop := runStage(t, c, s)
			<-entered
			began := time.Now()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			took := time.Since(began)
			want := 30
			if slow {
				want = 0
			}
			at, err := c.Committed(testContext(t), s.Group, in)
			if err != nil || at[0] != int64(want) {
				t.Errorf("committed %v, %v", at, err)
			}
			if slow != (took > s.DrainTimeout) || took > s.DrainTimeout+20*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	if all := readAll(t, out, true); len(all) != 30 {
		t.Errorf("%d outputs", len(all))
	}
}

func TestFatalErrors(t *testing.T) {
	c := testClient(t)
	in := testTopic(t, c, "in", 1)
	if err := c.Produce(testContext(t), numbered(in, 0, 10)); err != nil {
		t.Fatal(err)
	}
	small := unique("small")
	if err := c.EnsureTopics(testContext(t), Topic{Name: small, Partitions: 1, ReplicationFactor: 1, Config: map[string]string{"max.message.bytes": "500"}}); err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 1000)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(noise)
	tooLarge := func(Assignment) Processor {
		return processFunc(func(context.Context, []Record) ([]Output, error) {
			return []Output{{Topic: small, Key: []byte("the key"), Value: noise}}, nil
		})
	}
	letterTooLarge := func(Assignment) Processor {
		return processFunc(func(_ context.Context, batch []Record) ([]Output, error) {
			r := batch[4]
			r.Value = noise
			return []Output{NewDeadLetter(small, "test", r, errors.New("refused"))}, nil
		})
	}
	w := &recorder{t: t}
	for _, test := range []struct {
		name   string
		change func(*Stage)
		want   string
	}{
		{"missing topic", func(s *Stage) { s.Topic = "no-such-topic" }, "stage test: topic does not exist: no-such-topic"},
		{"record too large", func(s *Stage) { s.New = tooLarge }, `larger than the topic's max.message.bytes: ` + small + `/0, key "the key"`},
		{"dead letter too large", func(s *Stage) { s.New = letterTooLarge }, "dead letter of " + in + "/0, offset 4, key and value of 1001 bytes"},
		{"dead letter too large, offsets", func(s *Stage) { s.New = letterTooLarge }, in + "/0: what comes of offsets 0 to 9: "},
		{"dead letter too large, command", func(s *Stage) { s.New = letterTooLarge },
			"kafka-configs --bootstrap-server " + c.brokers[0] + " --alter --entity-type topics --entity-name " + small + " --add-config max.message.bytes="},
		{"foreign metadata", func(s *Stage) { commitAt(t, c, s.Group, in, 3, "somebody's note") }, `the note beside the committed offset is "somebody's note"`},
		{"beyond the end", func(s *Stage) { commitAt(t, c, s.Group, in, 99, "5") }, "was the topic deleted and made anew?"},
		{"time-out above the broker's", func(s *Stage) { s.TransactionTimeout = time.Hour }, "[50]"},
		{"no group", func(s *Stage) { s.Group = "" }, "are needed"},
		{"drain longer than session", func(s *Stage) { s.DrainTimeout = time.Minute }, "session time-out of at least twice that"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := stageOf(in, w, passOn(in))
			test.change(&s)
			done := make(chan error, 1)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go func() { done <- c.Run(ctx, s) }()
			select {
			case err := <-done:
				if !contains(err, test.want) {
					t.Errorf("error %v", err)
				}
			case <-time.After(time.Minute):
				t.Errorf("no error within a minute; failures: %+v", w.all(Failed))
				cancel()
				<-done
			}
		})
	}
}

// commitAt commits an offset as a tool would, without being a member of the group.
func commitAt(t *testing.T, c *Client, group, topic string, offset int64, metadata string) {
	t.Helper()
	eventually(t, "offset is committed", func() bool {
		res, err := c.api.OffsetCommit(testContext(t), &kafka.OffsetCommitRequest{
			GroupID: group, GenerationID: -1,
			Topics: map[string][]kafka.OffsetCommit{topic: {{Partition: 0, Offset: offset, Metadata: metadata}}},
		})
		return err == nil && res.Topics[topic][0].Error == nil
	})
}

func TestOutOfRangePolicies(t *testing.T) {
	c := testClient(t)
	for policy, want := range map[string]int{"earliest": 10, "latest": 0} {
		t.Run(policy, func(t *testing.T) {
			in, out := testTopic(t, c, "in", 1), testTopic(t, c, "out", 1)
			if err := c.Produce(testContext(t), numbered(in, 0, 10)); err != nil {
				t.Fatal(err)
			}
			w := &recorder{t: t}
			s := stageOf(in, w, passOn(out))
			s.OutOfRange = policy
			commitAt(t, c, s.Group, in, 99, "")
			runStage(t, c, s)
			eventually(t, "assigned", func() bool { return len(w.all(Assigned)) == 1 })
			eventually(t, "no lag", func() bool { return noLag(t, c, s.Group, in) })
			if n := len(readAll(t, out, true)); n != want {
				t.Errorf("%d records", n)
			}
			if skipped := w.all(Skipped); len(skipped) != 1 || !errors.Is(skipped[0].Err, ErrOffsetOutOfRange) {
				t.Errorf("events %+v", skipped)
			}
		})
	}
}

// A stage also consumes partitions that are added while it runs.
func TestAddedPartitions(t *testing.T) {
	c := testClient(t)
	in, out := testTopic(t, c, "in", 1), testTopic(t, c, "out", 1)
	w := &recorder{t: t}
	s := stageOf(in, w, passOn(out))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("events %+v", w.events)
		}
	})
	runStage(t, c, s)
	if err := c.Produce(testContext(t), numbered(in, 0, 10)); err != nil {
		t.Fatal(err)
	}
	res, err := c.api.CreatePartitions(testContext(t), &kafka.CreatePartitionsRequest{Topics: []kafka.TopicPartitionsConfig{{Name: in, Count: 3}}})
	if err != nil || res.Errors[in] != nil {
		t.Fatal(err, res)
	}
	eventually(t, "the client sees them", func() bool { n, err := c.Partitions(testContext(t), in); return err == nil && n == 3 })
	if err := c.Produce(testContext(t), numbered(in, 10, 90)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no lag", func() bool { return noLag(t, c, s.Group, in) })
	exactlyOnce(t, out, 100)
}
