package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"testing"

	"github.com/rs/zerolog"
	"github.com/segmentio/kafka-go/compress"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// batchOf returns a batch of records with these keys; nil is a record without one.
func batchOf(t testing.TB, codec int, keys ...[]byte) []byte {
	t.Helper()
	var records []byte
	for i, key := range keys {
		r := kmsg.Record{OffsetDelta: int32(i), TimestampDelta64: int64(i) << 40, Key: key, Value: []byte("value")}
		for range 2 { // the length does not count itself
			r.Length = int32(len(r.AppendTo(nil)) - len(binary.AppendVarint(nil, int64(r.Length))))
		}
		records = r.AppendTo(records)
	}
	if codec > 0 {
		var b bytes.Buffer
		w := compress.Compression(codec).Codec().NewWriter(&b)
		_, err := w.Write(records)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		records = b.Bytes()
	}
	b := kmsg.NewRecordBatch()
	b.Magic, b.Attributes, b.ProducerID, b.ProducerEpoch, b.FirstSequence = 2, int16(codec), -1, -1, -1
	b.NumRecords, b.LastOffsetDelta, b.Records = int32(len(keys)), int32(len(keys)-1), records
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], castagnoli))
	return raw
}

func TestWithoutKey(t *testing.T) {
	a, long := []byte("a"), bytes.Repeat([]byte("key "), 5000)
	for codec := range 5 {
		for _, c := range []struct {
			keys [][]byte
			want []int
		}{
			{keys: [][]byte{a}},
			{keys: [][]byte{nil}, want: []int{0}},
			{keys: [][]byte{{}}}, // an empty key is one
			{keys: [][]byte{a, nil, long, {}, nil, a}, want: []int{1, 4}},
		} {
			raw := batchOf(t, codec, c.keys...)
			if got := withoutKey(raw); !slices.Equal(got, c.want) {
				t.Errorf("codec %d, keys %.20q: %v, want %v", codec, c.keys, got, c.want)
			}
			for n := range min(len(raw), 200) { // whatever is cut off, nothing is worse than what kfake makes of it
				withoutKey(raw[:n])
			}
		}
	}
}

// A batch for a compacted topic that holds a record without a key is refused as a whole, as by Kafka: with the
// error of the partition and one for each such record. Batches for other partitions and topics are taken.
func TestRecordWithoutKey(t *testing.T) {
	s, err := Start(Config{Address: "127.0.0.1:0", Dir: t.TempDir(), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cl := connect(t, s.Addr(), kgo.MaxVersions(kversion.V3_0_0()))
	makeTopic(t, cl, "compacted", 2, "cleanup.policy", "compact,delete")
	makeTopic(t, cl, "plain", 1)
	produce := func(acks int16, batches map[string][][]byte) *kmsg.ProduceResponse {
		t.Helper()
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis = acks, 10_000
		for topic, partitions := range batches {
			rt := kmsg.NewProduceRequestTopic()
			rt.Topic = topic
			for p, raw := range partitions {
				rp := kmsg.NewProduceRequestTopicPartition()
				rp.Partition, rp.Records = int32(p), raw
				rt.Partitions = append(rt.Partitions, rp)
			}
			req.Topics = append(req.Topics, rt)
		}
		res, err := cl.Broker(node).Request(testContext(t), req)
		if err != nil {
			t.Fatal(err)
		}
		return res.(*kmsg.ProduceResponse)
	}
	good, bad := batchOf(t, 0, []byte("a"), []byte("b")), batchOf(t, 4, []byte("a"), nil, []byte("b"), nil)
	ends := func(want ...int64) {
		t.Helper()
		for i, at := range []partition{{"compacted", 0}, {"compacted", 1}, {"plain", 0}} {
			if _, next := logBounds(t, cl, at.topic, at.number); next != want[i] {
				t.Errorf("%v ends at %d, want %d", at, next, want[i])
			}
		}
	}

	res := produce(-1, map[string][][]byte{"compacted": {bad}})
	p := res.Topics[0].Partitions[0]
	if p.ErrorCode != kerr.InvalidRecord.Code || p.ErrorMessage == nil || len(p.ErrorRecords) != 2 ||
		p.ErrorRecords[0].RelativeOffset != 1 || p.ErrorRecords[1].RelativeOffset != 3 {
		t.Errorf("%+v", p)
	}
	if text := *p.ErrorRecords[0].ErrorMessage; text != "Compacted topic cannot accept message without key in topic partition compacted-0." {
		t.Error(text)
	}
	ends(0, 0, 0)

	res = produce(-1, map[string][][]byte{"compacted": {bad, good}, "plain": {bad}})
	for _, topic := range res.Topics {
		for _, p := range topic.Partitions {
			want := int16(0)
			if topic.Topic == "compacted" && p.Partition == 0 {
				want = kerr.InvalidRecord.Code
			}
			if p.ErrorCode != want {
				t.Errorf("%s/%d: code %d, want %d", topic.Topic, p.Partition, p.ErrorCode, want)
			}
		}
	}
	ends(0, 2, 4)

	produce(0, map[string][][]byte{"compacted": {bad}, "plain": {good}}) // nobody is told, and the connection lives
	produce(-1, map[string][][]byte{"compacted": {good}})
	ends(2, 2, 6)

	for _, opts := range [][]kgo.Opt{nil, {kgo.MaxVersions(kversion.V3_0_0())}, {kgo.TransactionalID("tx")}} {
		other := connect(t, s.Addr(), opts...)
		if len(opts) > 0 && other.OptValue(kgo.TransactionalID) != nil && fmt.Sprint(other.OptValue(kgo.TransactionalID)) == "tx" {
			if err := other.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
		}
		err := other.ProduceSync(testContext(t),
			&kgo.Record{Topic: "compacted", Key: []byte("a"), Value: []byte("v")}, &kgo.Record{Topic: "compacted", Value: []byte("v")}).FirstErr()
		if !errors.Is(err, kerr.InvalidRecord) {
			t.Errorf("%d options: %v", len(opts), err)
		}
	}
	ends(2, 2, 6)
}

func FuzzWithoutKey(f *testing.F) {
	for codec := range 5 {
		f.Add(batchOf(f, codec, []byte("a"), nil))
	}
	f.Fuzz(func(_ *testing.T, raw []byte) { withoutKey(raw) })
}
