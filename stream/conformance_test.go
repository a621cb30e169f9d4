package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The tests of this file check what the package relies on in a broker. They run on the embedded broker, or on
// the broker at HARDNEG_TEST_KAFKA=host:port.

// testProducer makes a transactional producer.
func testProducer(t testing.TB, c *Client, id string) *producer {
	t.Helper()
	p, err := c.newProducer(testContext(t), id, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *producer) open(t testing.TB, outputs []Output) {
	t.Helper()
	ctx := testContext(t)
	all, err := p.client.groupByPartition(ctx, outputs)
	if err != nil {
		t.Fatal(err)
	}
	if err := retryWhile(ctx, retriable, func() error { return p.addPartitions(ctx, all) }); err != nil {
		t.Fatal(err)
	}
	if err := p.send(ctx, all, retriable); err != nil {
		t.Fatal(err)
	}
}

func (p *producer) close(t testing.TB, commit bool) {
	t.Helper()
	if err := p.end(testContext(t), commit); err != nil {
		t.Fatal(err)
	}
}

func fetchAll(t testing.TB, c *Client, topic string) (all []Record) {
	t.Helper()
	if err := c.ReadToEnd(testContext(t), topic, func(r Record) error { all = append(all, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestFetchIsReadCommitted(t *testing.T) {
	c := testClient(t)
	topic := testTopic(t, c, "committed", 1)
	a, b := testProducer(t, c, unique("a")), testProducer(t, c, unique("b"))
	a.open(t, numbered(topic, 0, 3))
	b.open(t, numbered(topic, 10, 3))
	if err := c.Produce(testContext(t), numbered(topic, 20, 2)); err != nil {
		t.Fatal(err)
	}
	a.close(t, false)
	a.open(t, numbered(topic, 30, 2)) // sequence numbers go on after an abort
	b.close(t, true)
	a.close(t, true)
	b.open(t, numbered(topic, 40, 2)) // stays open and hides even the record without a transaction behind it
	if err := c.Produce(testContext(t), numbered(topic, 50, 1)); err != nil {
		t.Fatal(err)
	}

	var want []string
	eventually(t, "markers are written", func() bool {
		want = values(readAll(t, topic, true))
		return len(want) == 7
	})
	var got []string
	for _, r := range fetchAll(t, c, topic) {
		got = append(got, string(r.Value))
	}
	if !slices.Equal(got, want) || !slices.Equal(want, []string{"10", "11", "12", "20", "21", "30", "31"}) {
		t.Errorf("got %v, another reader %v", got, want)
	}
	f, err := c.Fetch(testContext(t), topic, 0, 0, FetchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if f.LastStable >= f.HighWatermark || f.Next != f.LastStable || f.Start != 0 {
		t.Errorf("next %d, last stable %d, high watermark %d, start %d", f.Next, f.LastStable, f.HighWatermark, f.Start)
	}
	atEnd, err := c.Fetch(testContext(t), topic, 0, f.Next, FetchOptions{MaxWait: 10 * time.Millisecond})
	if err != nil || len(atEnd.Records) != 0 || atEnd.Next != f.Next {
		t.Errorf("at the end: %d records, next %d, %v", len(atEnd.Records), atEnd.Next, err)
	}
	b.close(t, false)
}

func TestFetchKeepsRecords(t *testing.T) {
	c := testClient(t)
	topic := testTopic(t, c, "records", 1)
	big := make([]byte, 900_000)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(big) // noise, which no codec compresses
	outputs := []Output{
		{Key: nil, Value: nil}, {Key: []byte{}, Value: []byte{}}, {Key: []byte("k"), Value: nil}, {Key: nil, Value: []byte("v")},
		{Key: []byte("h"), Headers: []Header{{"a", nil}, {"a", []byte{}}, {"", []byte{0xff}}}},
		{Key: []byte("big"), Value: big}, {Key: []byte("after"), Value: []byte("big")},
	}
	for i := range outputs {
		outputs[i].Topic, outputs[i].Partition = topic, 0
	}
	before := time.Now().Add(-time.Second)
	if err := c.Produce(testContext(t), outputs); err != nil {
		t.Fatal(err)
	}
	var got []Record
	for offset := int64(0); offset < int64(len(outputs)); {
		f, err := c.Fetch(testContext(t), topic, 0, offset, FetchOptions{MaxBytes: 1000}) // less than the big record
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Records) == 0 {
			t.Fatalf("stuck at %d", offset)
		}
		got, offset = append(got, f.Records...), f.Next
	}
	other := readAll(t, topic, true)
	if len(got) != len(outputs) || len(other) != len(outputs) {
		t.Fatalf("%d of %d records, another reader %d", len(got), len(outputs), len(other))
	}
	for i, r := range got {
		o, k := outputs[i], other[i].record
		if !same(r.Key, o.Key) || !same(r.Value, o.Value) || !same(k.Key, o.Key) || !same(k.Value, o.Value) {
			t.Errorf("record %d: key %v value of %d; another reader: key %v, value of %d", i, r.Key, len(r.Value), k.Key, len(k.Value))
		}
		if r.Offset != int64(i) || r.Time.Before(before) || r.Time.After(time.Now().Add(time.Second)) || !r.Time.Equal(k.Timestamp) {
			t.Errorf("record %d: offset %d, time %v", i, r.Offset, r.Time)
		}
		if len(r.Headers) != len(o.Headers) || len(k.Headers) != len(o.Headers) {
			t.Fatalf("record %d: headers %q", i, r.Headers)
		}
		for j, h := range r.Headers {
			if h.Key != o.Headers[j].Key || !same(h.Value, o.Headers[j].Value) {
				t.Errorf("header %+v, want %+v", h, o.Headers[j])
			}
		}
	}
	middle, err := c.Fetch(testContext(t), topic, 0, 2, FetchOptions{})
	if err != nil || middle.Records[0].Offset != 2 {
		t.Errorf("from the middle of a batch: %v, %v", middle.Records, err)
	}
}

func TestFetchReadsAllCodecs(t *testing.T) {
	c := testClient(t)
	topic := testTopic(t, c, "codecs", 1)
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokerAddr), kgo.DefaultProduceTopic(topic))
	if err != nil {
		t.Fatal(err)
	}
	cl.Close()
	var want []string
	for i, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		cl, err := kgo.NewClient(kgo.SeedBrokers(brokerAddr), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(codec))
		if err != nil {
			t.Fatal(err)
		}
		var records []*kgo.Record
		for j := range 50 {
			v := fmt.Sprintf("%d-%d %s", i, j, strings.Repeat("x", 200))
			want = append(want, v)
			records = append(records, kgo.StringRecord(v))
		}
		if err := cl.ProduceSync(testContext(t), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		cl.Close()
	}
	var got []string
	for _, r := range fetchAll(t, c, topic) {
		got = append(got, string(r.Value))
	}
	if d := diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestFetchOutOfRange(t *testing.T) {
	c := testClient(t)
	topic := testTopic(t, c, "range", 1)
	if err := c.Produce(testContext(t), numbered(topic, 0, 5)); err != nil {
		t.Fatal(err)
	}
	f, err := c.Fetch(testContext(t), topic, 0, 99, FetchOptions{})
	if !errors.Is(err, ErrOffsetOutOfRange) || !contains(err, "from 0 up to, not including, 5; 99 was asked for") || f.HighWatermark != 5 {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := c.Fetch(testContext(t), unique("none"), 0, 0, FetchOptions{}); !errors.Is(err, ErrUnknownTopic) {
		t.Errorf("a topic that does not exist: %v", err)
	}
}

// A zombie is fenced at every step of a transaction at which its successor may begin.
func TestFencing(t *testing.T) {
	c := testClient(t)
	topic, in := testTopic(t, c, "fence", 1), testTopic(t, c, "fence-in", 1)
	m := membership{group: unique("group"), generation: -1}
	out := numbered(topic, 0, 1)
	steps := []struct {
		name string
		do   func(ctx context.Context, p *producer) error
	}{
		{"AddPartitionsToTxn", func(ctx context.Context, p *producer) error {
			all, _ := c.groupByPartition(ctx, out)
			return p.addPartitions(ctx, all)
		}},
		{"Produce", func(ctx context.Context, p *producer) error {
			all, _ := c.groupByPartition(ctx, out)
			return p.send(ctx, all, func(error) bool { return false })
		}},
		{"AddOffsetsToTxn", func(ctx context.Context, p *producer) error { return p.addOffsets(ctx, m.group) }},
		{"TxnOffsetCommit", func(ctx context.Context, p *producer) error {
			return p.commitOffsets(ctx, m, in, map[int32]committed{0: {1, ""}})
		}},
		{"EndTxn", func(ctx context.Context, p *producer) error { return p.end(ctx, true) }},
	}
	for i, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			ctx := testContext(t)
			id := unique("fence")
			zombie := testProducer(t, c, id)
			for _, before := range steps[:i] {
				if err := retryWhile(ctx, retriable, func() error { return before.do(ctx, zombie) }); err != nil {
					t.Fatalf("%s: %v", before.name, err)
				}
			}
			successor := testProducer(t, c, id)
			for _, s := range steps[i:] {
				began := time.Now()
				// kfake checks the state of the transaction first and answers 48, which means restart. The
				// zombie then finds out in InitProducerId.
				err := s.do(ctx, zombie)
				if a := actionFor(err); err == nil || a != fenced && (onRealKafka() || a != restart) {
					t.Errorf("%s of the zombie: %v", s.name, err)
				}
				t.Logf("%s: %v after %v", s.name, err, time.Since(began).Round(time.Millisecond))
			}
			successor.open(t, numbered(topic, 100+i, 1))
			successor.close(t, true)
		})
	}
	eventually(t, "successors' records", func() bool {
		return slices.Equal(values(readAll(t, topic, true)), []string{"100", "101", "102", "103", "104"})
	})
}

func TestOffsetsAndOutputsTogether(t *testing.T) {
	c := testClient(t)
	ctx := testContext(t)
	in, x, y := testTopic(t, c, "in", 1), testTopic(t, c, "x", 3), testTopic(t, c, "y", 1)
	m := membership{group: unique("group"), generation: -1}
	if at, err := c.Committed(ctx, m.group, in); err != nil || len(at) != 0 {
		t.Fatalf("a group that never was: %v, %v", at, err)
	}
	p := testProducer(t, c, unique("id"))
	if err := p.commit(ctx, m, topicPartition{in, 0}, 5, "77", slices.Concat(numbered(x, 0, 20), numbered(y, 0, 10))); err != nil {
		t.Fatal(err)
	}
	found, err := c.committed(ctx, m.group, in, []int32{0})
	if err != nil || found[0] != (committed{5, "77"}) {
		t.Fatalf("right after the commit: %v, %v", found, err)
	}

	p.open(t, slices.Concat(numbered(x, 20, 20), numbered(y, 10, 10)))
	if err := retryWhile(ctx, retriable, func() error { return p.addOffsets(ctx, m.group) }); err != nil {
		t.Fatal(err)
	}
	if err := retryWhile(ctx, retriable, func() error { return p.commitOffsets(ctx, m, in, map[int32]committed{0: {9, "78"}}) }); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if found, err := c.committed(short, m.group, in, []int32{0}); err == nil {
		t.Errorf("while a transaction with offsets is open: %v", found)
	}
	p.close(t, false)
	if found, err = c.committed(ctx, m.group, in, []int32{0}); err != nil || found[0] != (committed{5, "77"}) {
		t.Errorf("after the abort: %v, %v", found, err)
	}
	eventually(t, "outputs of the first transaction alone", func() bool {
		return diff(numbers(20), values(readAll(t, x, true))) == "" && diff(numbers(10), values(readAll(t, y, true))) == ""
	})
	if n := len(readAll(t, x, false)); n != 40 {
		t.Errorf("the log holds %d records, aborted ones included", n)
	}
}

func TestLargeBatchesAreSplit(t *testing.T) {
	c := testClient(t)
	ctx := testContext(t)
	topic := unique("small")
	if err := c.EnsureTopics(ctx, Topic{Name: topic, Partitions: 1, ReplicationFactor: 1, Config: map[string]string{"max.message.bytes": "5000"}}); err != nil {
		t.Fatal(err)
	}
	in := testTopic(t, c, "in", 1)
	var outputs []Output
	noise := rand.NewChaCha8([32]byte{1}) // noise, which no codec compresses
	for i := range 100 {
		v := be32(i, 1000)
		_, _ = noise.Read(v[4:])
		outputs = append(outputs, Output{Topic: topic, Key: be32(i, 4), Value: v})
	}
	p := testProducer(t, c, unique("id"))
	m := membership{group: unique("group"), generation: -1}
	if err := p.commit(ctx, m, topicPartition{in, 0}, 1, "1", outputs); err != nil {
		t.Fatal(err)
	}
	p.open(t, outputs[:10]) // the sequence numbers are still in order
	p.close(t, true)
	eventually(t, "all records in order", func() bool {
		all := readAll(t, topic, true)
		for i, s := range all {
			if !bytes.Equal(s.record.Value, outputs[i%100].Value) {
				t.Fatalf("record %d is another", i)
			}
		}
		return len(all) == 110
	})

	outputs[3].Value = slices.Concat(outputs[3].Value, outputs[4].Value, outputs[5].Value, outputs[6].Value, outputs[7].Value, outputs[8].Value)
	err := p.commit(ctx, m, topicPartition{in, 0}, 2, "1", outputs)
	if !errors.Is(err, ErrTooLarge) || !contains(err, topic) || !contains(err, `"\x00\x00\x00\x03"`) || !contains(err, "6004 bytes") {
		t.Errorf("error %v", err)
	}
	p.abort(ctx)
	if n := len(readAll(t, topic, true)); n != 110 {
		t.Errorf("%d records are visible", n)
	}
}

func TestEnsureTopics(t *testing.T) {
	c, other := testClient(t), testClient(t)
	ctx := testContext(t)
	name := unique("compacted")
	topic := Topic{Name: name, Partitions: 3, ReplicationFactor: 1, Config: map[string]string{"cleanup.policy": "compact"}}
	if _, err := c.Partitions(ctx, name); !errors.Is(err, ErrUnknownTopic) {
		t.Errorf("before: %v", err)
	}
	both := make(chan error)
	go func() { both <- other.EnsureTopics(ctx, topic) }()
	if err := errors.Join(c.EnsureTopics(ctx, topic), <-both); err != nil {
		t.Fatalf("two at a time: %v", err)
	}
	for _, client := range []*Client{c, other} {
		if n, err := client.Partitions(ctx, name); n != 3 || err != nil {
			t.Errorf("%d partitions, %v", n, err)
		}
	}
	if err := c.EnsureTopics(ctx, topic, Topic{Name: unique("default")}); err != nil {
		t.Errorf("again: %v", err)
	}
	topic.Config["cleanup.policy"] = "delete"
	if err := c.EnsureTopics(ctx, topic); !contains(err, name+" has cleanup.policy=compact, where delete is needed") {
		t.Errorf("another policy: %v", err)
	}
	if err := c.EnsureTopics(ctx, topic); !contains(err, "kafka-configs --bootstrap-server "+strings.Join(c.brokers, ",")+
		" --alter --entity-type topics --entity-name "+name+" --add-config cleanup.policy=delete") {
		t.Errorf("another policy, the command: %v", err)
	}
	topic.Shared = true
	if err := c.EnsureTopics(ctx, topic); err != nil {
		t.Errorf("another policy of a shared topic: %v", err)
	}
	if err := c.EnsureTopics(ctx, Topic{Name: "not a name!"}); onRealKafka() && !contains(err, "not a name!") {
		t.Errorf("bad name: %v", err)
	}
}

func TestMaxMessageBytes(t *testing.T) {
	c := testClient(t)
	ctx := testContext(t)
	small := Topic{Name: unique("small"), Partitions: 1, ReplicationFactor: 1, Config: map[string]string{"max.message.bytes": "5000"}}
	plain := Topic{Name: unique("plain"), Partitions: 1, ReplicationFactor: 1}
	if err := c.EnsureTopics(ctx, small, plain); err != nil {
		t.Fatal(err)
	}
	if limits, err := c.MaxMessageBytes(ctx, small.Name, plain.Name); err != nil || limits[small.Name] != 5000 || limits[plain.Name] != 1048588 {
		t.Errorf("limits %v, %v", limits, err)
	}
	if limits, err := c.MaxMessageBytes(ctx); err != nil || len(limits) > 0 {
		t.Errorf("limits of no topics: %v, %v", limits, err)
	}
	small.MaxMessageBytes, plain.MaxMessageBytes = 5000, 1048588
	if err := c.EnsureTopics(ctx, small, plain); err != nil {
		t.Errorf("as much as they take: %v", err)
	}
	small.MaxMessageBytes, small.Shared = 5001, true
	if err := c.EnsureTopics(ctx, plain, small); !contains(err, "topic "+small.Name+" has max.message.bytes=5000, where at least 5001 is needed") ||
		!contains(err, "--entity-name "+small.Name+" --add-config max.message.bytes=5001") || strings.Contains(err.Error(), plain.Name) {
		t.Errorf("more than one of them takes: %v", err)
	}
	small.Shared = false
	if err := c.EnsureTopics(ctx, small); err != nil {
		t.Errorf("one's own topic is not raised: %v", err)
	}
	if limits, err := c.MaxMessageBytes(ctx, small.Name); err != nil || limits[small.Name] != 5001 {
		t.Errorf("raised to %v, %v", limits, err)
	}
	made := Topic{Name: unique("made"), MaxMessageBytes: 1 << 30, Shared: true} // a limit that new topics do not have, either
	if err := c.EnsureTopics(ctx, made); !contains(err, "where at least 1073741824 is needed") {
		t.Errorf("a new topic: %v", err)
	}
}

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
