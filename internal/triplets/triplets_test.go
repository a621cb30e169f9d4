package triplets_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"hardneg/internal/records"
	"hardneg/internal/testenv"
	"hardneg/internal/triplets"
	"hardneg/stream"
)

// value returns the value of a triplet, encoded as the miner does it.
func value(query, positive string, rank int, negative string) []byte {
	return records.Triplet{
		Schema: 1, ID: "id", Query: records.TripletQuery{ID: query, Text: "what is " + query + "?"},
		Positive: records.TripletDocument{ID: positive, Title: "Title of " + positive, Text: "text <of> " + positive, Version: "v"},
		Negative: records.TripletDocument{ID: negative, Text: "text of " + negative, Version: "w"},
		Rank:     rank, Policy: "semantic", Generation: "g", Revision: 1, MinedAt: "2026-01-02T03:04:05Z",
	}.Encode(1 << 16)
}

func entry(query, positive string, rank int, negative string) triplets.Entry {
	return triplets.Entry{Slot: triplets.Slot{Query: query, Positive: positive, Rank: rank}, Value: value(query, positive, rank, negative)}
}

func TestSlotCompare(t *testing.T) {
	want := []triplets.Slot{
		{Query: "a", Positive: "p", Rank: 2}, {Query: "a", Positive: "p", Rank: 10}, {Query: "a", Positive: "q", Rank: 1},
		{Query: "aa", Positive: "a", Rank: 1}, {Query: "b", Positive: "", Rank: 1},
	}
	for i, a := range want {
		for k, b := range want {
			if got := a.Compare(b); (got < 0) != (i < k) || (got > 0) != (i > k) {
				t.Errorf("%v compared with %v gives %d", a, b, got)
			}
		}
	}
}

func TestParseSlot(t *testing.T) {
	want := triplets.Slot{Query: "q\n\"1\"", Positive: "päß", Rank: 12}
	got, err := triplets.ParseSlot(records.TripletKey(want.Query, want.Positive, want.Rank))
	if err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, key := range []string{"", "q", `["q","p"]`, `["q","p",0]`, `["q","p","1"]`, `["","p",1]`, `["q", "p", 1]`} {
		if slot, err := triplets.ParseSlot([]byte(key)); err == nil {
			t.Errorf("key %q names slot %+v", key, slot)
		}
	}
}

// TestFormats compares each format with lines written by hand.
func TestFormats(t *testing.T) {
	view := triplets.View{
		entry("q1", "p1", 1, "n1"), entry("q1", "p1", 2, "n2"), entry("q1", "p2", 1, "n2"), entry("q1", "p2", 2, "n3"), entry("q2", "p1", 1, "n1"),
	}
	want := map[string]string{
		"sentence-transformers": `{"anchor":"what is q1?","positive":"Title of p1\ntext <of> p1","negative":"text of n1"}
{"anchor":"what is q1?","positive":"Title of p1\ntext <of> p1","negative":"text of n2"}
{"anchor":"what is q1?","positive":"Title of p2\ntext <of> p2","negative":"text of n2"}
{"anchor":"what is q1?","positive":"Title of p2\ntext <of> p2","negative":"text of n3"}
{"anchor":"what is q2?","positive":"Title of p1\ntext <of> p1","negative":"text of n1"}
`,
		"flag-embedding": `{"query":"what is q1?","pos":["Title of p1\ntext <of> p1","Title of p2\ntext <of> p2"],"neg":["text of n1","text of n2","text of n3"]}
{"query":"what is q2?","pos":["Title of p1\ntext <of> p1"],"neg":["text of n1"]}
`,
	}
	var values strings.Builder
	for _, e := range view {
		fmt.Fprintf(&values, "%s\n", e.Value)
	}
	want["hardneg"] = values.String()
	if len(triplets.Formats) != len(want) || triplets.FormatNames[0] != "hardneg" {
		t.Errorf("%d formats, the default is %s", len(triplets.Formats), triplets.FormatNames[0])
	}
	for _, name := range triplets.FormatNames {
		var got strings.Builder
		if err := triplets.Formats[name](&got, view); err != nil || got.String() != want[name] {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, got.String(), want[name])
		}
		got.Reset()
		if err := triplets.Formats[name](&got, nil); err != nil || got.Len() > 0 {
			t.Errorf("%s of an empty view: %q, %v", name, got.String(), err)
		}
		if err := triplets.Formats[name](full{}, view); !errors.Is(err, errFull) {
			t.Errorf("%s into a full file: %v", name, err)
		}
		if name == "hardneg" { // it does not decode the values
			continue
		}
		broken := triplets.View{{Slot: triplets.Slot{Query: "q", Positive: "p", Rank: 3}, Value: []byte(`{"schema":2}`)}}
		if err := triplets.Formats[name](io.Discard, broken); err == nil || !strings.HasPrefix(err.Error(), `triplet ["q","p",3]: `) {
			t.Errorf("%s of a triplet of another schema: %v", name, err)
		}
	}
}

var errFull = errors.New("no space left")

// full is a file on a full disk.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestOf(t *testing.T) {
	a, b := entry("q", "p", 2, "n"), entry("q", "p", 1, "m")
	output := func(e triplets.Entry) stream.Output {
		return stream.Output{Key: records.TripletKey(e.Query, e.Positive, e.Rank), Value: e.Value}
	}
	view, err := triplets.Of([]stream.Output{output(a), {Key: records.TripletKey("q", "p", 3)}, output(b)})
	if err != nil || len(view) != 2 || view[0].Slot != a.Slot || view[1].Slot != b.Slot {
		t.Errorf("%v, %v: want both triplets in the order of the outputs", view, err)
	}
	if _, err := triplets.Of([]stream.Output{{Key: []byte("q"), Value: a.Value}}); err == nil {
		t.Error("an output whose key names no slot is taken for a triplet")
	}
}

const topic = "triplets"

// newTopic returns a client of a broker with an empty topic of two partitions.
func newTopic(t *testing.T) *stream.Client {
	t.Helper()
	kafka, _ := testenv.Kafka(t, zerolog.Nop(), nil)
	if err := kafka.EnsureTopics(t.Context(), stream.Topic{Name: topic, Partitions: 2, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	return kafka
}

func produce(t *testing.T, kafka *stream.Client, partition int32, key string, value []byte) {
	t.Helper()
	out := stream.Output{Topic: topic, Partition: partition, Key: []byte(key), Value: value}
	if err := kafka.Produce(t.Context(), []stream.Output{out}); err != nil {
		t.Fatal(err)
	}
}

// TestRead writes triplets, replaces one and retracts one. The view must have the rest in order.
func TestRead(t *testing.T) {
	kafka := newTopic(t)
	write := func(partition int32, e triplets.Entry) {
		produce(t, kafka, partition, string(records.TripletKey(e.Query, e.Positive, e.Rank)), e.Value)
	}
	write(1, entry("q2", "p", 1, "n"))
	write(0, entry("q1", "p", 10, "n"))
	write(0, entry("q1", "p", 2, "old"))
	write(0, entry("q1", "p", 2, "new"))
	write(0, entry("q3", "p", 1, "n"))
	write(0, triplets.Entry{Slot: triplets.Slot{Query: "q3", Positive: "p", Rank: 1}})
	view, err := triplets.Read(t.Context(), kafka, topic)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range view {
		parsed, err := e.Triplet()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %s %d %s", e.Query, e.Positive, e.Rank, parsed.Negative.ID))
	}
	if want := []string{"q1 p 2 new", "q1 p 10 n", "q2 p 1 n"}; !slices.Equal(got, want) {
		t.Errorf("the view has %q, want %q", got, want)
	}
	produce(t, kafka, 1, "q4", []byte("{}"))
	if _, err := triplets.Read(t.Context(), kafka, topic); err == nil || !strings.HasPrefix(err.Error(), `triplets/1 at offset 1: triplet key "q4"`) {
		t.Errorf("with a key that names no slot: %v", err)
	}
	if _, err := triplets.Read(t.Context(), kafka, "another"); !errors.Is(err, stream.ErrUnknownTopic) {
		t.Errorf("of a topic that does not exist: %v", err)
	}
}

// TestReader reads a topic several times. Each time the reader must go on where it stopped, and pass over
// records that were deleted meanwhile. It hands on records whose keys name no slot.
func TestReader(t *testing.T) {
	kafka := newTopic(t)
	produce(t, kafka, 0, "a", nil)
	produce(t, kafka, 1, "b", nil)
	reader, err := triplets.NewReader(t.Context(), kafka, topic)
	if err != nil || reader.Partitions != 2 {
		t.Fatalf("%+v, %v", reader, err)
	}
	read := func(want ...string) {
		t.Helper()
		var got []string
		err := reader.Read(t.Context(), func(r stream.Record) error {
			got = append(got, string(r.Key))
			return nil
		})
		if slices.Sort(got); err != nil || !slices.Equal(got, want) {
			t.Errorf("read %q, %v, want %q", got, err, want)
		}
	}
	produce(t, kafka, 0, "c", nil)
	read("a", "b", "c")
	read()
	produce(t, kafka, 0, "deleted", nil)
	produce(t, kafka, 0, "d", nil)
	produce(t, kafka, 1, "e", nil)
	if err := kafka.DeleteRecords(t.Context(), topic, 0, 3); err != nil {
		t.Fatal(err)
	}
	read("d", "e")
	stop := errors.New("stop")
	produce(t, kafka, 1, "f", nil)
	if err := reader.Read(t.Context(), func(stream.Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a callback that fails: %v", err)
	}
	read("f")
	read()
}

// TestReaderStopsAtTheStableEnd writes into a later partition while an earlier one is read. These records belong to the next
// Read: half of a transaction would be a list that never existed.
func TestReaderStopsAtTheStableEnd(t *testing.T) {
	kafka, _ := testenv.Kafka(t, zerolog.Nop(), nil)
	const topic = "triplets"
	if err := kafka.EnsureTopics(t.Context(), stream.Topic{Name: topic, Partitions: 2, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	produce := func(partition int32, value string) {
		var outputs []stream.Output
		for rank := range 8 {
			outputs = append(outputs, stream.Output{Topic: topic, Partition: partition, Key: records.TripletKey("q", "p", rank+1), Value: []byte(value)})
		}
		if err := kafka.Produce(t.Context(), outputs); err != nil {
			t.Fatal(err)
		}
	}
	produce(0, "other")
	produce(1, "old")
	reader, err := triplets.NewReader(t.Context(), kafka, topic)
	if err != nil {
		t.Fatal(err)
	}
	read := func(meanwhile func()) (values []string) {
		err := reader.Read(t.Context(), func(r stream.Record) error {
			if meanwhile != nil {
				meanwhile()
				meanwhile = nil
			}
			values = append(values, string(r.Value))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return values
	}
	if got := read(func() { produce(1, "new") }); len(got) != 16 || slices.Contains(got, "new") {
		t.Errorf("the first Read gives %q", got)
	}
	if got := read(nil); len(got) != 8 || got[0] != "new" {
		t.Errorf("the second Read gives %q", got)
	}
}
