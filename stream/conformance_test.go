package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The tests of this file, of topics_test.go and of read_test.go check what the package relies on in a broker.
// They run on the embedded broker, or on the broker at HARDNEG_TEST_KAFKA=host:port.

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
