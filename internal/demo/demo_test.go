package demo

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"hardneg/internal/records"
	"hardneg/stream"
)

func triplet(query, positive, negative string, rank int) stream.Record {
	t := records.Triplet{
		Query: records.TripletQuery{ID: query, Text: "the text of " + query}, Positive: records.TripletDocument{ID: positive},
		Negative: records.TripletDocument{ID: negative}, Rank: rank, Policy: "semantic", Generation: "g", Revision: 1, MinedAt: "2026-01-02T03:04:05Z",
	}
	return stream.Record{Key: records.TripletKey(query, positive, rank), Value: t.Encode(1000)}
}

func apply(t *testing.T, v *view, list ...stream.Record) {
	t.Helper()
	for i, r := range list {
		r.Offset = int64(i)
		if err := v.apply(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMeasure(t *testing.T) {
	v := newView()
	apply(t, v, triplet("a", "p", "old", 1), triplet("a", "p", "same", 2), triplet("b", "p", "going", 1))
	v.watch()
	start := time.Now()
	apply(t, v,
		triplet("a", "p", "new", 1), triplet("a", "p", "same", 2), triplet("c", "p", "more", 1),
		stream.Record{Key: records.TripletKey("b", "p", 1)}, stream.Record{Key: records.TripletKey("d", "p", 4)})
	e := measure(v.eventsSinceWatch(), start)
	if e.queries != 3 || e.replaced != 1 || e.kept != 1 || e.mined != 1 || e.retracted != 1 || e.last <= 0 {
		t.Errorf("%+v", e)
	}
	want := "“the text of a”  #1  old → new|“the text of c”  #1  mined: more|“the text of b”  #1  retracted, it was going"
	if got := strings.Join(e.examples, "|"); got != want {
		t.Errorf("examples %s\nwant %s", got, want)
	}
	if v.size() != 3 {
		t.Errorf("%d triplets are left, want 3", v.size())
	}
	if !v.has(stream.Offsets{LastStable: 6}) || v.has(stream.Offsets{LastStable: 7}) {
		t.Error("the view does not know how far it has read")
	}
	if err := v.apply(stream.Record{Key: []byte("no key")}); err == nil {
		t.Error("a broken key passed")
	}
}

func TestTell(t *testing.T) {
	var out bytes.Buffer
	d := &demo{printer: printer{&out, false, time.Now()}, view: newView()}
	d.printEffect(step{verb: "edit", what: "x"}, effect{})
	d.printEffect(step{verb: "edit", what: "y"}, effect{queries: 1, replaced: 1200, retracted: 2, last: 31 * time.Millisecond})
	d.effects = []effect{{}, {queries: 2, replaced: 1, last: 20 * time.Millisecond}, {queries: 1, last: 40 * time.Millisecond}}
	apply(t, d.view, triplet("q", "p", "n", 1))
	d.showTriplets()
	d.summarise(true)
	for _, want := range []string{"no query is affected", "1 query affected, triplets: 1,200 replaced, 2 retracted, at the reader within 31 ms",
		"negative  n", "3 changes of documents affected 3 queries", "median 40 ms, at most 40 ms"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("colours without a terminal")
	}
}

func TestText(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := count(n); got != want {
			t.Errorf("count(%d) = %s, want %s", n, got, want)
		}
	}
	for text, want := range map[string]string{" a\nb ": "“a b”", "ääääää": "“äää…”", "abcd": "“abcd”"} {
		if got := quote(text, 4); got != want {
			t.Errorf("quote(%q) = %s, want %s", text, got, want)
		}
	}
}
