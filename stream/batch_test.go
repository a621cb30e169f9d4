package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

func contains(err error, s string) bool { return err != nil && strings.Contains(err.Error(), s) }

// optional generates bytes that may be null or empty, which are different things in Kafka.
func optional() *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			return nil
		case 1:
			return []byte{}
		}
		return rapid.SliceOfN(rapid.Byte(), 1, 600).Draw(t, "bytes")
	})
}

func same(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

func TestBatchRoundTrip(t *testing.T) {
	now := time.UnixMilli(1700000000123)
	rapid.Check(t, func(t *rapid.T) {
		outputs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Output {
			o := Output{Key: optional().Draw(t, "key"), Value: optional().Draw(t, "value")}
			if ms := rapid.Int64Range(0, 2_000_000_000_000).Draw(t, "time"); ms > 0 { // in any order
				o.Time = time.UnixMilli(ms)
			}
			for range rapid.IntRange(0, 3).Draw(t, "headers") {
				o.Headers = append(o.Headers, Header{rapid.StringN(0, 5, 10).Draw(t, "name"), optional().Draw(t, "header")})
			}
			return o
		}), 1, 20).Draw(t, "outputs")
		encoded, err := encodeBatch(outputs, now)
		if err != nil {
			t.Fatal(err)
		}
		if int(binary.BigEndian.Uint32(encoded)) != len(encoded)-4 {
			t.Fatal("wrong size in front")
		}
		setProducer(encoded, 77, 3, 12345, true)
		b, rest, err := cutBatch(encoded[4:])
		if err != nil || len(rest) != 0 {
			t.Fatalf("cut: %v, %d left", err, len(rest))
		}
		if b.producer() != 77 || !b.transactional() || b.control() || b.lastOffset() != int64(len(outputs)-1) {
			t.Fatalf("batch head of %d records: producer %d, last offset %d", len(outputs), b.producer(), b.lastOffset())
		}
		if got := binary.BigEndian.Uint32(b[atSequence:]); got != 12345 {
			t.Fatalf("sequence %d", got)
		}
		var f Fetched
		u := unpacker{topic: "t", partition: 5, most: DefaultMaxFetched}
		whole, err := u.unpack(b, &f)
		records := f.Records
		if err != nil || !whole || len(records) != len(outputs) || len(f.Refused) != 0 {
			t.Fatalf("%d of %d records: %v, %v", len(records), len(outputs), err, f.Refused)
		}
		for i, r := range records {
			o, at := outputs[i], now
			if !o.Time.IsZero() {
				at = o.Time
			}
			if !same(r.Key, o.Key) || !same(r.Value, o.Value) || r.Offset != int64(i) || !r.Time.Equal(at) || r.Topic != "t" || r.Partition != 5 {
				t.Fatalf("record %d: %+v of %+v", i, r, o)
			}
			if !slices.EqualFunc(r.Headers, o.Headers, func(a, b Header) bool { return a.Key == b.Key && same(a.Value, b.Value) }) {
				t.Fatalf("headers %q of %q", r.Headers, o.Headers)
			}
		}
	})
}

// frameBatch encodes a batch with franz-go's code. tail is the number of records at its end that compaction
// has removed.
func frameBatch(offset int64, values []string, tail int32, producer int64, attributes int16) []byte {
	var records []byte
	for i, v := range values {
		r := kmsg.NewRecord()
		r.OffsetDelta, r.Key, r.Value = int32(i), []byte("k"), []byte(v)
		r.Length = int32(len(r.AppendTo(nil)) - 1) // its own length takes one byte, being small
		records = r.AppendTo(records)
	}
	b := kmsg.NewRecordBatch()
	b.FirstOffset, b.Magic, b.Attributes = offset, 2, attributes
	b.ProducerID, b.NumRecords, b.Records = producer, int32(len(values)), records
	b.LastOffsetDelta = int32(len(values)) - 1 + tail
	b.Length = int32(49 + len(records))
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

func TestDecode(t *testing.T) {
	const transactional, control = 0x10, 0x20
	join := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	marker := func(offset, producer int64) []byte {
		return frameBatch(offset, []string{"\x00\x00\x00\x00\x00\x00"}, 0, producer, transactional|control)
	}
	damaged := frameBatch(10, []string{"a"}, 0, -1, 0)
	damaged[len(damaged)-1] ^= 1
	old := frameBatch(10, []string{"a"}, 0, -1, 0)
	old[16] = 1

	for _, c := range []struct {
		name    string
		raw     []byte
		aborted []abortedTransaction
		want    string
		next    int64
		err     string
	}{
		{name: "nothing", next: 10},
		{name: "two batches", raw: join(frameBatch(10, []string{"a", "b"}, 0, -1, 0), frameBatch(12, []string{"c"}, 0, -1, 0)), want: "abc", next: 13},
		{name: "from the middle", raw: frameBatch(8, []string{"a", "b", "c"}, 0, -1, 0), want: "c", next: 11},
		{name: "tail compacted away", raw: frameBatch(10, []string{"a"}, 4, -1, 0), want: "a", next: 15},
		{name: "all compacted away", raw: frameBatch(10, nil, 5, -1, 0), next: 15},
		{name: "last batch cut by the broker", raw: join(frameBatch(10, []string{"a"}, 0, -1, 0), frameBatch(11, []string{"b"}, 0, -1, 0)[:30]), want: "a", next: 11},
		{name: "cut within its length", raw: join(frameBatch(10, []string{"a"}, 0, -1, 0), []byte{0, 0, 0}), want: "a", next: 11},
		{name: "not one whole batch", raw: frameBatch(10, []string{"a"}, 0, -1, 0)[:40], next: 10, err: "not even one batch"},
		{name: "checksum", raw: damaged, next: 10, err: "checksum"},
		{name: "checksum of the second", raw: join(frameBatch(9, []string{"z"}, 0, -1, 0), damaged), next: 10, err: "after offset 9"},
		{name: "old format", raw: old, next: 10, err: "format 1"},
		{name: "aborted, marker, then committed by the same producer", raw: join(
			frameBatch(10, []string{"a", "b"}, 0, 7, transactional), marker(12, 7),
			frameBatch(13, []string{"c"}, 0, 7, transactional), marker(14, 7)),
			aborted: []abortedTransaction{{7, 10}}, want: "c", next: 15},
		{name: "two producers interleaved, the list unsorted", raw: join(
			frameBatch(10, []string{"a"}, 0, 7, transactional), frameBatch(11, []string{"b"}, 0, 8, transactional),
			frameBatch(12, []string{"c"}, 0, 9, transactional), frameBatch(13, []string{"d"}, 0, -1, 0),
			marker(14, 7), marker(15, 8), marker(16, 9)),
			aborted: []abortedTransaction{{9, 12}, {7, 10}}, want: "bd", next: 17},
		{name: "aborted, with records before the fetch", raw: join(frameBatch(11, []string{"b"}, 0, 7, transactional), marker(12, 7)),
			aborted: []abortedTransaction{{7, 5}}, want: "", next: 13},
		{name: "aborted later only", raw: join(
			frameBatch(10, []string{"a"}, 0, 7, transactional), marker(11, 7),
			frameBatch(12, []string{"b"}, 0, 7, transactional), marker(13, 7)),
			aborted: []abortedTransaction{{7, 12}}, want: "a", next: 14},
		{name: "outside of transactions by a producer that aborts", raw: frameBatch(10, []string{"a"}, 0, 7, 0), aborted: []abortedTransaction{{7, 10}}, want: "a", next: 11},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := Fetched{Next: 10}
			err := f.decode(c.raw, &unpacker{topic: "t", most: DefaultMaxFetched}, c.aborted)
			if c.err != "" || err != nil {
				if !contains(err, c.err) || c.err == "" || !errors.Is(err, ErrCorrupt) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
			}
			got := ""
			for _, r := range f.Records {
				got += string(r.Value)
			}
			if c.err == "" && got != c.want || f.Next != c.next {
				t.Errorf("%q, next %d; want %q, next %d", got, f.Next, c.want, c.next)
			}
		})
	}
}

func TestSequences(t *testing.T) {
	for _, c := range []struct {
		from int32
		n    int
		want int32
	}{{0, 3, 3}, {math.MaxInt32, 1, 0}, {math.MaxInt32 - 1, 5, 3}} {
		if got := addSequence(c.from, c.n); got != c.want {
			t.Errorf("%d + %d = %d, want %d", c.from, c.n, got, c.want)
		}
	}
}

func TestPartitionFor(t *testing.T) {
	// The values of Kafka's own UtilsTest.testMurmur2, made positive and taken modulo 1000.
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		if got, want := PartitionFor([]byte(key), 1000), (hash&0x7fffffff)%1000; got != want {
			t.Errorf("%q: %d, want %d", key, got, want)
		}
	}
}

func TestDeadLetter(t *testing.T) {
	at := time.UnixMilli(1700000000123)
	r := Record{Topic: "in", Partition: 3, Offset: 42, Time: at, Key: nil, Value: []byte{0xff, 0, '{'}, Headers: []Header{{"h", nil}, {"h", []byte{0xfe}}}}
	o := NewDeadLetter("dead", "indexer", r, errors.New("not JSON: \xff"+strings.Repeat("é", 3000)))
	if o.Topic != "dead" || o.Partition != ByKey || o.Key != nil || !bytes.Equal(o.Value, r.Value) || len(o.Hash) == 0 {
		t.Errorf("%+v", o)
	}
	if len(o.Headers) != 8 || o.Headers[0].Value != nil || o.Headers[1].Value[0] != 0xfe {
		t.Errorf("headers %q", o.Headers)
	}
	want := map[string]string{
		"hardneg-stage": "indexer", "hardneg-topic": "in", "hardneg-partition": "3", "hardneg-offset": "42",
		"hardneg-timestamp": "2023-11-14T22:13:20.123Z",
	}
	for _, h := range o.Headers[2:] {
		if h.Key == "hardneg-error" {
			if s := string(h.Value); len(s) > 4096 || !strings.HasPrefix(s, "not JSON: \uFFFDé") || strings.ToValidUTF8(s, "?") != s {
				t.Errorf("error header of %d bytes: %.40q", len(s), s)
			}
		} else if want[h.Key] != string(h.Value) {
			t.Errorf("%s: %q, want %q", h.Key, h.Value, want[h.Key])
		}
	}
	if len(r.Headers) != 2 || cap(r.Headers) != 2 {
		t.Error("the record's headers changed")
	}

	written := Record{Topic: "dead", Partition: 1, Offset: 7, Time: at.Add(time.Second), Key: o.Key, Value: o.Value, Headers: o.Headers}
	l, err := ParseDeadLetter(written)
	if err != nil || l.At() != "1/7" || !l.Time.Equal(written.Time) || l.Stage != "indexer" || !strings.HasPrefix(l.Reason, "not JSON: ") {
		t.Errorf("%+v %v", l, err)
	}
	l.Record.Time = l.Record.Time.Local()
	if !reflect.DeepEqual(l.Record, r) {
		t.Errorf("the record came back as %+v", l.Record)
	}
	// A dead letter of a dead letter: somebody sent the first one back unchanged, and it was refused again.
	second := NewDeadLetter("dead", "indexer", Record{Topic: "in", Offset: 43, Time: at, Key: o.Key, Value: o.Value, Headers: o.Headers}, errors.New("again"))
	l, err = ParseDeadLetter(Record{Headers: second.Headers})
	if err != nil || l.Reason != "again" || l.Record.Offset != 43 || len(l.Record.Headers) != 8 {
		t.Errorf("%+v %v", l, err)
	}
	for _, ms := range []int64{-1, 0, 1 << 43, 1 << 50} { // a producer may send any number
		far := NewDeadLetter("dead", "indexer", Record{Topic: "in", Time: time.UnixMilli(ms)}, errors.New("e"))
		if l, err := ParseDeadLetter(Record{Headers: far.Headers}); err != nil || l.Record.Time.UnixMilli() != ms {
			t.Errorf("%d ms came back as %v, %v", ms, l.Record.Time, err)
		}
	}
	for i := range o.Headers[2:] {
		broken := slices.Clone(o.Headers)
		broken[2+i].Key = "other"
		if l, err := ParseDeadLetter(Record{Topic: "dead", Partition: 1, Offset: 7, Headers: broken}); err == nil {
			t.Errorf("without %s: %+v", o.Headers[2+i].Key, l)
		}
	}
	if l, err := ParseDeadLetter(Record{Headers: o.Headers[3:]}); err == nil {
		t.Errorf("of five headers: %+v", l)
	}
}
