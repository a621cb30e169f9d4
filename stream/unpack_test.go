package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/segmentio/kafka-go/compress"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
	"pgregory.net/rapid"

	"hardneg/stream/decompress"
	"hardneg/stream/wire"
)

var codecNames = []string{"none", "gzip", "snappy", "lz4", "zstd"}

// appendRecord appends a record in Kafka's form.
func appendRecord(dst []byte, delta int32, key, value []byte, headers ...kmsg.Header) []byte {
	r := kmsg.Record{OffsetDelta: delta, Key: key, Value: value, Headers: headers}
	body := r.AppendTo(nil)[1:] // of length 0
	return append(binary.AppendVarint(dst, int64(len(body))), body...)
}

// packed returns a batch whose records are written to w, so that no test holds what it compresses.
func packed(t testing.TB, codec int, offset int64, count int, write func(w func([]byte))) []byte {
	t.Helper()
	var b bytes.Buffer
	if codec == decompress.None {
		write(func(p []byte) { b.Write(p) })
	} else {
		w := compress.Compression(codec).Codec().NewWriter(&b)
		write(func(p []byte) {
			if _, err := w.Write(p); err != nil {
				t.Fatal(err)
			}
		})
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return framed(codec, offset, count, b.Bytes())
}

func framed(codec int, offset int64, count int, records []byte) []byte {
	b := kmsg.NewRecordBatch()
	b.FirstOffset, b.Magic, b.Attributes, b.ProducerID = offset, 2, int16(codec), -1
	b.NumRecords, b.LastOffsetDelta, b.Records = int32(count), int32(count-1), records
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[atLength:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[atCRC:], crc32.Checksum(raw[atAttribute:], castagnoli))
	return raw
}

// bomb returns a batch of a small record, one of size bytes and another small one.
func bomb(t testing.TB, codec int, size int, last bool) []byte {
	count := 3
	if last {
		count = 2
	}
	return packed(t, codec, 10, count, func(w func([]byte)) {
		w(appendRecord(nil, 0, []byte("before"), []byte("small")))
		head := append([]byte{0, 0}, binary.AppendVarint(nil, 1)...) // attributes, time; offset
		head = append(binary.AppendVarint(head, 3), "big"...)
		head = binary.AppendVarint(head, int64(size))
		w(append(binary.AppendVarint(nil, int64(len(head)+size+1)), head...))
		zeros := make([]byte, 1<<20)
		for left := size; left > 0; left -= len(zeros) {
			w(zeros[:min(left, len(zeros))])
		}
		w([]byte{0}) // no headers
		if !last {
			w(appendRecord(nil, 2, []byte("after"), []byte("small")))
		}
	})
}

// peak runs f and returns by how much the heap grew at most.
func peak(f func()) uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, most := m.HeapAlloc, uint64(0)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	f()
	close(stop)
	<-done
	return most - min(most, before)
}

// A record that is larger than a fetch may be is refused, in little memory and time. The records around it are
// read.
func TestBomb(t *testing.T) {
	const size = 512 << 20
	for codec := decompress.Gzip; codec <= decompress.Zstd; codec++ {
		for _, last := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, last %v", codecNames[codec], last), func(t *testing.T) {
				raw := bomb(t, codec, size, last)
				f := Fetched{Next: 10}
				var err error
				began := time.Now()
				grown := peak(func() { err = f.decode(raw, &unpacker{topic: "t", most: DefaultMaxFetched}, nil) })
				t.Logf("%d KiB, %v, heap grew by %d MiB", len(raw)>>10, time.Since(began), grown>>20)
				if err != nil || grown > 200<<20 {
					t.Fatalf("%v, heap grew by %d MiB", err, grown>>20)
				}
				want := []string{"before", "after"}
				if last {
					want = want[:1]
				}
				if keys := keysOf(f.Records); !slices.Equal(keys, want) || f.Next != 10+int64(len(want))+1 {
					t.Errorf("read %q, next %d", keys, f.Next)
				}
				if len(f.Refused) != 1 {
					t.Fatalf("refused %+v", f.Refused)
				}
				r := f.Refused[0]
				if r.Record.Offset != 11 || string(r.Record.Key) != "big" || r.Record.Value == nil || len(r.Record.Value) != 0 || r.Record.Topic != "t" {
					t.Errorf("%+v", r.Record)
				}
				if !errors.Is(r.Reason, ErrRefused) || !contains(r.Reason, "536870") || !contains(r.Reason, "at most 67108864 are read") {
					t.Errorf("reason %v", r.Reason)
				}
			})
		}
	}
}

func keysOf(records []Record) (keys []string) {
	for _, r := range records {
		keys = append(keys, string(r.Key))
	}
	return keys
}

// A batch that does not fit into one fetch is read in several. Nothing is lost or doubled, and no fetch takes more
// memory than it may.
func TestBatchInPieces(t *testing.T) {
	const most = 4 << 20
	value := make([]byte, 1<<20)
	for codec := range codecNames {
		t.Run(codecNames[codec], func(t *testing.T) {
			var raw []byte
			for i := range 3 {
				raw = append(raw, packed(t, codec, int64(10*i), 10, func(w func([]byte)) {
					for j := range 10 {
						w(appendRecord(nil, int32(j), fmt.Append(nil, 10*i+j), value))
					}
				})...)
			}
			f, fetches := Fetched{}, 0
			var keys, want []string
			for i := range 30 {
				want = append(want, fmt.Sprint(i))
			}
			for f.Next < 30 {
				next := f.Next
				f = Fetched{Next: next}
				if err := f.decode(raw[batchAt(raw, next):], &unpacker{topic: "t", most: most}, nil); err != nil {
					t.Fatal(err)
				}
				if f.Next <= next || len(f.Refused) > 0 || len(f.Records) > most>>20 {
					t.Fatalf("from %d to %d, %d records, refused %v", next, f.Next, len(f.Records), f.Refused)
				}
				for _, r := range f.Records {
					if !bytes.Equal(r.Value, value) {
						t.Errorf("record %d has %d bytes", r.Offset, len(r.Value))
					}
				}
				keys = append(keys, keysOf(f.Records)...)
				fetches++
			}
			if !slices.Equal(keys, want) || fetches < 8 {
				t.Errorf("%d fetches: %q", fetches, keys)
			}
		})
	}
}

// batchAt returns where the batch with an offset begins, as a broker finds it.
func batchAt(raw []byte, offset int64) int {
	at := 0
	for {
		b, rest, _ := cutBatch(raw[at:])
		if b == nil || b.lastOffset() >= offset {
			return at
		}
		at = len(raw) - len(rest)
	}
}

// What never can be read is refused up to where reading can go on.
func TestRefused(t *testing.T) {
	a, b := appendRecord(nil, 0, []byte("a"), []byte("1")), appendRecord(nil, 1, []byte("b"), []byte("2"))
	many := make([]kmsg.Header, 200_000)
	more := framed(0, 10, 2, slices.Concat(a, b))
	binary.BigEndian.PutUint32(more[atCount:], 3)
	binary.BigEndian.PutUint32(more[atCRC:], crc32.Checksum(more[atAttribute:], castagnoli))
	for _, c := range []struct {
		name    string
		raw     []byte
		from    int64
		want    string
		refused []int64
		reason  string
	}{
		{name: "all is well", raw: framed(0, 10, 2, slices.Concat(a, b)), want: "ab"},
		{name: "a record is missing", raw: framed(0, 10, 3, slices.Concat(a, b)), want: "ab", refused: []int64{12}, reason: "unexpected EOF"},
		{name: "not compressed at all", raw: framed(decompress.Zstd, 10, 2, slices.Concat(a, b)), refused: []int64{10}, reason: "with all up to offset 11"},
		{name: "not compressed, from the middle", from: 11, raw: framed(decompress.Gzip, 10, 2, slices.Concat(a, b)), refused: []int64{11}, reason: "record is refused: "},
		{name: "more records than offsets", raw: more, want: "ab"},
		{name: "a length that is none", raw: framed(0, 10, 2, append(bytes.Clone(a), 0xff)), want: "a", refused: []int64{11}},
		{name: "a negative length", raw: framed(0, 10, 2, append(bytes.Clone(a), 1)), want: "a", refused: []int64{11}, reason: "a record of -1 bytes"},
		{name: "bytes in a record are left over", raw: framed(0, 10, 2, slices.Concat([]byte{a[0] + 2}, a[1:], []byte{0}, b)), want: "b", refused: []int64{10}, reason: "1 bytes after its headers"},
		{name: "offsets that go back", raw: framed(0, 10, 3, slices.Concat(a, b, a)), want: "ab", refused: []int64{12}, reason: "a record has offset 10"},
		{name: "an offset behind the batch", raw: framed(0, 10, 2, slices.Concat(a, appendRecord(nil, 7, nil, nil))), want: "a", refused: []int64{11}, reason: "a record has offset 17"},
		{name: "too many headers", raw: framed(0, 10, 2, slices.Concat(appendRecord(nil, 0, []byte("h"), nil, many...), b)), want: "b", refused: []int64{10}, reason: "it has 200000 headers"},
		{name: "a block of snappy that is too large", raw: framed(decompress.Snappy, 10, 2, snappy.Encode(nil, make([]byte, 2<<20))), refused: []int64{10}, reason: "takes too much memory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := Fetched{Next: max(10, c.from)}
			raw := slices.Concat(c.raw, framed(0, recordBatch(c.raw).lastOffset()+1, 1, appendRecord(nil, 0, []byte("!"), nil)))
			if err := f.decode(raw, &unpacker{topic: "t", most: 1 << 20}, nil); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(keysOf(f.Records), ""); got != c.want+"!" {
				t.Errorf("read %q, want %q and the next batch", got, c.want)
			}
			var at []int64
			for _, r := range f.Refused {
				at = append(at, r.Record.Offset)
				if !contains(r.Reason, c.reason) || !errors.Is(r.Reason, ErrRefused) {
					t.Errorf("reason %v, want %q", r.Reason, c.reason)
				}
			}
			if !slices.Equal(at, c.refused) {
				t.Errorf("refused %v, want %v", at, c.refused)
			}
		})
	}
}

// A batch that would have to be fetched more than 16 times is cut there.
func TestEndlessBatch(t *testing.T) {
	const most, count = 1 << 20, 64
	value := make([]byte, most/2)
	raw := packed(t, decompress.Zstd, 0, count, func(w func([]byte)) {
		for i := range count {
			w(appendRecord(nil, int32(i), fmt.Append(nil, i), value))
		}
	})
	fetches, read := 0, 0
	var refused []Refused
	for next := int64(0); next < count; fetches++ {
		f := Fetched{Next: next}
		if err := f.decode(raw, &unpacker{topic: "t", most: most}, nil); err != nil || f.Next <= next {
			t.Fatal(err, f.Next)
		}
		next, read, refused = f.Next, read+len(f.Records), append(refused, f.Refused...)
	}
	if len(refused) != 1 || read < 30 || refused[0].Record.Offset != int64(read) || !contains(refused[0].Reason, "with all up to offset 63") {
		t.Errorf("%d fetches read %d records and refused %v", fetches, read, refused)
	}
}

// Whatever the batches are and however small a fetch is, the pieces together are what one large fetch brings.
func TestPieces(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var raw []byte
		offset := int64(0)
		for range rapid.IntRange(1, 4).Draw(r, "batches") {
			count := rapid.IntRange(1, 12).Draw(r, "records")
			raw = append(raw, packed(t, rapid.IntRange(0, 4).Draw(r, "codec"), offset, count, func(w func([]byte)) {
				for i := range count {
					w(appendRecord(nil, int32(i), fmt.Append(nil, offset+int64(i)), make([]byte, rapid.IntRange(0, 5000).Draw(r, "size"))))
				}
			})...)
			offset += int64(count)
		}
		most := rapid.Int64Range(1, 20_000).Draw(r, "most")
		var at []int64
		for next := int64(0); next < offset; {
			f := Fetched{Next: next}
			if err := f.decode(raw[batchAt(raw, next):], &unpacker{topic: "t", most: most}, nil); err != nil || f.Next <= next {
				r.Fatal(err, f.Next)
			}
			for _, record := range f.Records {
				at = append(at, record.Offset)
			}
			for _, refused := range f.Refused {
				for o := refused.Record.Offset; o <= refused.Last; o++ {
					at = append(at, o)
				}
			}
			slices.Sort(at)
			next = f.Next
		}
		for i, o := range at {
			if o != int64(i) {
				r.Fatalf("offsets %v", at)
			}
		}
		if int64(len(at)) != offset {
			r.Fatalf("%d of %d records", len(at), offset)
		}
	})
}

// A stage goes on past a record that is too large, and makes a dead letter of it.
func TestStagePastBomb(t *testing.T) {
	c := testClient(t)
	in, dead := testTopic(t, c, "in", 1), testTopic(t, c, "dead", 1)
	kc, err := kgo.NewClient(kgo.SeedBrokers(brokerAddr), kgo.MaxVersions(kversion.V3_0_0())) // later versions name topics by ids
	if err != nil {
		t.Fatal(err)
	}
	defer kc.Close()
	produce := func(raw []byte) error {
		binary.BigEndian.PutUint64(raw, 0)    // the broker gives the offset
		now := uint64(time.Now().UnixMilli()) // or Kafka's retention takes the records
		binary.BigEndian.PutUint64(raw[atFirstTime:], now)
		binary.BigEndian.PutUint64(raw[atMaxTime:], now)
		binary.BigEndian.PutUint32(raw[atCRC:], crc32.Checksum(raw[atAttribute:], castagnoli))
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis = -1, 10_000
		topic, partition := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
		topic.Topic, partition.Records = in, raw
		topic.Partitions = append(topic.Partitions, partition)
		req.Topics = append(req.Topics, topic)
		res, err := req.RequestWith(testContext(t), kc)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(res.Topics[0].Partitions[0].ErrorCode)
	}
	if err := produce(bomb(t, decompress.Zstd, 100<<20, false)); err != nil {
		t.Fatal(err)
	}
	want := []int64{1, 3}
	// Kafka looks into batches and takes no nonsense; the embedded one takes it.
	if err := produce(framed(decompress.LZ4, 0, 2, []byte("nonsense"))); errors.Is(err, kerr.UnknownServerError) && onRealKafka() {
		want = want[:1]
	} else if err != nil {
		t.Fatal(err)
	}
	if err := c.Produce(testContext(t), numbered(in, 0, 3)); err != nil {
		t.Fatal(err)
	}
	var processed atomic.Int32
	s := stageOf(in, &recorder{t: t}, func(Assignment) Processor {
		return processFunc(func(_ context.Context, batch []Record) ([]Output, error) {
			processed.Add(int32(len(batch)))
			return nil, nil
		})
	})
	s.MaxRecords = 1
	s.Refused = func(r Record, err error) []Output { return []Output{NewDeadLetter(dead, "stage", r, err)} }
	runStage(t, c, s)
	for deadline := time.Now().Add(time.Minute); !noLag(t, c, s.Group, in); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the stage does not get past the record")
		}
	}
	if n := processed.Load(); n != 5 {
		t.Errorf("%d records were processed, want 5", n)
	}
	var at []int64
	for _, r := range fetchAll(t, c, dead) {
		l, err := ParseDeadLetter(r)
		if err != nil || r.Value == nil || !strings.HasPrefix(l.Reason, ErrRefused.Error()) {
			t.Errorf("%+v %v", l, err)
		}
		at = append(at, l.Record.Offset)
	}
	if !slices.Equal(at, want) {
		t.Errorf("dead letters of offsets %v, want %v", at, want)
	}
	// Readers that are no stage pass over such records, too.
	var values []string
	if err := c.ReadToEnd(testContext(t), in, func(r Record) error { values = append(values, string(r.Value)); return nil }); err != nil || len(values) != 5 {
		t.Errorf("%q %v", values, err)
	}
}

// FuzzDecode: whatever a broker sends, decoding neither panics nor goes backwards nor takes much memory.
func FuzzDecode(f *testing.F) {
	f.Add(frameBatch(10, []string{"a", "b"}, 1, 7, 0x10), int64(7), 1000)
	for codec := range codecNames {
		f.Add(packed(f, codec, 10, 2, func(w func([]byte)) {
			w(appendRecord(nil, 0, []byte("a"), []byte("1"), kmsg.Header{Key: "h"}))
			w(appendRecord(nil, 1, nil, make([]byte, 3000)))
		}), int64(-1), 100)
	}
	f.Add(bomb(f, decompress.Zstd, 2<<20, true), int64(-1), 1<<20)
	f.Fuzz(func(t *testing.T, raw []byte, producer int64, most int) {
		if len(raw) >= atRecords { // let it get past the checksum
			if size := 12 + int64(int32(binary.BigEndian.Uint32(raw[8:]))); size >= atRecords && size <= int64(len(raw)) {
				binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:size], castagnoli))
			}
		}
		got, u := Fetched{Next: 10}, &unpacker{topic: "t", most: min(max(int64(most), 1), 1<<20)}
		_ = got.decode(raw, u, []abortedTransaction{{producer, 10}})
		if got.Next < 10 {
			t.Fatalf("next is %d", got.Next)
		}
		for _, r := range got.Records {
			if r.Offset < 10 || r.Offset >= got.Next {
				t.Fatalf("a record at %d, next is %d", r.Offset, got.Next)
			}
		}
		for _, r := range got.Refused {
			if r.Record.Offset < 10 || r.Record.Offset >= got.Next || !errors.Is(r.Reason, ErrRefused) {
				t.Fatalf("refused %d, next is %d: %v", r.Record.Offset, got.Next, r.Reason)
			}
		}
	})
}

// FuzzFetchAnswer: no answer to a fetch makes a panic or takes much more memory than it has bytes.
func FuzzFetchAnswer(f *testing.F) {
	answer := func(raw []byte, aborted ...int64) []byte {
		var b []byte
		for _, v := range []uint32{0, 0, 0, 1} { // throttle, code and session in ten bytes, topics
			b = binary.BigEndian.AppendUint32(b, v)
		}
		b = append(b[:10], 0, 0, 0, 1)
		b = wire.AppendString(b, "t")
		b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
		for _, v := range []uint64{20, 20, 0} {
			b = binary.BigEndian.AppendUint64(b, v)
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(aborted)/2))
		for _, v := range aborted {
			b = binary.BigEndian.AppendUint64(b, uint64(v))
		}
		b = binary.BigEndian.AppendUint32(b, ^uint32(0))
		return append(binary.BigEndian.AppendUint32(b, uint32(len(raw))), raw...)
	}
	raw := frameBatch(10, []string{"a", "b"}, 1, 7, 0x10)
	f.Add(answer(raw), int64(10))
	f.Add(answer(raw, 7, 10), int64(10))
	f.Add(answer(bomb(f, decompress.Zstd, 2<<20, true)), int64(0))
	for _, seed := range [][]byte{answer(raw), answer(raw, 7, 10)} {
		if got, err := decodeFetch(wire.NewCursor(seed), "t", 0, 10, 1<<20); err != nil || got.Next != 13 {
			f.Fatalf("the seed is no answer: %+v, %v", got, err)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, offset int64) {
		got, err := decodeFetch(wire.NewCursor(raw), "t", 0, offset, 1<<20)
		if err == nil && got.Next < offset {
			t.Fatalf("next is %d after %d", got.Next, offset)
		}
	})
}

// FuzzCommitted: no answer with committed offsets, and no note beside one, makes a panic.
func FuzzCommitted(f *testing.F) {
	answer := func(metadata string) []byte {
		b := []byte{0, 0, 0, 0, 2} // throttle; one topic
		b = append(wire.AppendCompact(b, "t"), 2, 0, 0, 0, 0)
		b = binary.BigEndian.AppendUint64(b, 42)
		b = append(b, 0, 0, 0, 0) // leader epoch
		return append(wire.AppendCompact(b, metadata), 0, 0, 0, 0, 0, 0, 0)
	}
	f.Add(answer("1700000000000"))
	f.Add(answer(""))
	f.Add(answer("another program's note"))
	if found, err := decodeCommitted(wire.NewCursor(answer("17"))); err != nil || found[0] != (committed{42, "17"}) {
		f.Fatalf("the seed is no answer: %v, %v", found, err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		found, err := decodeCommitted(wire.NewCursor(raw))
		if err != nil {
			return
		}
		for _, at := range found {
			token, err := parseToken(at.metadata)
			if at.offset < 0 || err != nil && !errors.Is(err, errForeignGroup) || err == nil && at.metadata == "" && token != 0 {
				t.Fatalf("%+v: %d, %v", at, token, err)
			}
		}
	})
}
