package records

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParseQuery(t *testing.T) {
	two := 2.5
	tests := []struct {
		name, key, value string // value "-" stands for null
		want             Query
		forget           bool
		err              string
	}{
		{name: "smallest", key: "\xff any", value: `{"query":" How do  I reset it? "}`, want: Query{Query: "How do  I reset it?", QueryID: "717f704f-5f00-53ee-a701-e33206e76408"}},
		{name: "all", value: `{"query":"q","query_id":"7","positives":["a","b","a"],"clicks":[{"doc_id":"c","dwell_ms":1200.0,"weight":2.5},{"doc_id":"d","x":1}],"session_id":"s","timestamp":"2026-01-02T03:04:05Z","embeddings":{"e":[1]}}`,
			want: Query{Query: "q", QueryID: "7", Positives: []string{"a", "b", "a"}, Clicks: []Click{{DocID: "c", DwellMS: 1200, Weight: &two}, {DocID: "d"}}, SessionID: "s", Timestamp: "2026-01-02T03:04:05Z", Embeddings: map[string][]float32{"e": {1}}}},
		{name: "nulls are absent", value: `{"query":"q","query_id":"7","positives":null,"clicks":[{"doc_id":"d","dwell_ms":null,"weight":null}],"session_id":null,"timestamp":null,"embeddings":null}`, want: Query{Query: "q", QueryID: "7", Clicks: []Click{{DocID: "d"}}}},
		{name: "forget", key: "7", value: "-", want: Query{QueryID: "7"}, forget: true},
		{name: "forget without key", value: "-", err: "needs its query_id as the key"},
		{name: "forget with a broken key", key: "\xff", value: "-", err: "not valid UTF-8"},
		{name: "no query", value: `{"positives":["a"]}`, err: `field "query" is missing`},
		{name: "blank query", value: `{"query":" \t"}`, err: `field "query" is empty`},
		{name: "empty id", value: `{"query":"q","query_id":""}`, err: `field "query_id" is empty`},
		{name: "query of another type", value: `{"query":5}`, err: `field "query" must be a string, not a number`},
		{name: "positives of another type", value: `{"query":"q","positives":"a"}`, err: `field "positives" must be an array, not a string`},
		{name: "a number among the positives", value: `{"query":"q","positives":["a",3]}`, err: `field "positives[1]" must be a string, not a number`},
		{name: "an empty positive", value: `{"query":"q","positives":[""]}`, err: `field "positives[0]" is empty`},
		{name: "clicks of another type", value: `{"query":"q","clicks":{}}`, err: `field "clicks" must be an array, not an object`},
		{name: "a click of another type", value: `{"query":"q","clicks":["a"]}`, err: `field "clicks[0]" must be an object, not a string`},
		{name: "a click without document", value: `{"query":"q","clicks":[{"doc_id":"a"},{}]}`, err: `field "clicks[1].doc_id" is missing`},
		{name: "negative dwell", value: `{"query":"q","clicks":[{"doc_id":"a","dwell_ms":-1}]}`, err: `field "clicks[0].dwell_ms" must be a whole number`},
		{name: "fraction of a millisecond", value: `{"query":"q","clicks":[{"doc_id":"a","dwell_ms":0.5}]}`, err: `field "clicks[0].dwell_ms" must be a whole number`},
		{name: "dwell of another type", value: `{"query":"q","clicks":[{"doc_id":"a","dwell_ms":"1"}]}`, err: `field "clicks[0].dwell_ms" must be a number, not a string`},
		{name: "no weight at all", value: `{"query":"q","clicks":[{"doc_id":"a","weight":0}]}`, err: `field "clicks[0].weight" must be from 0.000001 to 1000000, not 0`},
		{name: "negative weight", value: `{"query":"q","clicks":[{"doc_id":"a","weight":-1}]}`, err: `field "clicks[0].weight" must be from`},
		{name: "huge weight", value: `{"query":"q","clicks":[{"doc_id":"a","weight":1000001}]}`, err: `field "clicks[0].weight" must be from`},
		{name: "infinite weight", value: `{"query":"q","clicks":[{"doc_id":"a","weight":1e999}]}`, err: `field "clicks[0].weight" is out of range`},
		{name: "as many positives as allowed", value: `{"query":"q","query_id":"7","positives":["a"` + strings.Repeat(`,"a"`, MaxNamed-1) + `]}`, want: Query{Query: "q", QueryID: "7", Positives: slices.Repeat([]string{"a"}, MaxNamed)}},
		{name: "too many positives", value: `{"query":"q","positives":["a"` + strings.Repeat(`,"a"`, MaxNamed) + `]}`, err: `name 10001 documents, at most 10000 are allowed in one record`},
		{name: "94,540 positives", value: `{"query":"q","positives":["a"` + strings.Repeat(`,"a"`, 94_539) + `]}`, err: `fields "positives" and "clicks" name 94540 documents`},
		{name: "too many clicks", value: `{"query":"q","clicks":[{"doc_id":"a"}` + strings.Repeat(`,{"doc_id":"a"}`, MaxNamed) + `]}`, err: `name 10001 documents`},
		{name: "too many together", value: `{"query":"q","positives":["a"` + strings.Repeat(`,"a"`, MaxNamed/2) + `],"clicks":[{"doc_id":"a"}` + strings.Repeat(`,{"doc_id":"a"}`, MaxNamed/2-1) + `]}`, err: `name 10001 documents`},
		{name: "a session that is a number", value: `{"query":"q","query_id":"7","session_id":8123}`, want: Query{Query: "q", QueryID: "7", SessionID: "8123"}},
		{name: "a session of another type", value: `{"query":"q","query_id":"7","session_id":{"a":1},"timestamp":false}`, want: Query{Query: "q", QueryID: "7"}},
		{name: "a session of broken text", value: `{"query":"q","query_id":"7","session_id":"\ud800"}`, want: Query{Query: "q", QueryID: "7"}},
		{name: "no time", value: `{"query":"q","query_id":"7","timestamp":"yesterday"}`, want: Query{Query: "q", QueryID: "7"}},
		{name: "a time in milliseconds", value: `{"query":"q","query_id":"7","timestamp":1790000000123}`, want: Query{Query: "q", QueryID: "7", Timestamp: "2026-09-21T14:13:20.123Z"}},
		{name: "a time without a zone", value: `{"query":"q","query_id":"7","timestamp":"2026-01-02T03:04:05"}`, want: Query{Query: "q", QueryID: "7", Timestamp: "2026-01-02T03:04:05Z"}},
		{name: "forget by a key of Schema Registry", key: "\x00\x00\x00\x00\x017", value: "-", err: "the key begins with Schema Registry's magic byte"},
		{name: "byte order mark", value: "\ufeff" + `{"query":"q","query_id":"7"}`, want: Query{Query: "q", QueryID: "7"}},
		{name: "an unpaired surrogate among the positives", value: `{"query":"q","positives":["a","\udc00"]}`, err: `field "positives[1]" holds an unpaired surrogate escape, \udc00 at its byte 1`},
		{name: "twice in a click", value: `{"query":"q","clicks":[{"doc_id":"a","doc_id":"b"}]}`, err: `field "clicks[0].doc_id" comes twice`},
		{name: "not JSON", value: `query`, err: "invalid JSON at byte 0"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			value := []byte(test.value)
			if test.value == "-" {
				value = nil
			}
			got, forget, err := ParseQuery([]byte(test.key), value)
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Fatalf("error %v, want one with %q", err, test.err)
			}
			if err == nil && (!reflect.DeepEqual(got, test.want) || forget != test.forget) {
				t.Errorf("got %+v forget %v\nwant %+v forget %v", got, forget, test.want, test.forget)
			}
		})
	}
}

func FuzzParseQuery(f *testing.F) {
	f.Add([]byte("k"), []byte(`{"query":"q","query_id":"7","positives":["a"],"clicks":[{"doc_id":"c","dwell_ms":1,"weight":2.5}],"timestamp":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte{}, []byte(`{"query":"\u00a0İ","embeddings":{"e":[1e-40]}}`))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		q, forget, err := ParseQuery(key, value)
		if err != nil || forget {
			return
		}
		again, _, err := ParseQuery(nil, q.Encode())
		if err != nil || !reflect.DeepEqual(q, again) {
			t.Fatalf("%+v became %+v, %v", q, again, err)
		}
	})
}

func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{
		"  How\tdo\n\nI  Reset IT? ": "how do i reset it?",
		"ÄÖÜ\u00a0ß":                 "äöü ß",
		" ":                          "",
	} {
		if got := Normalize(in); got != want {
			t.Errorf("Normalize(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestMillionths(t *testing.T) {
	for in, want := range map[float64]int64{1: 1e6, 0.1: 100000, 0.0000005: 1, 0.0000004: 0, 1e6: 1e12, 0.3333333: 333333} {
		if got := Millionths(in); got != want {
			t.Errorf("Millionths(%v) = %d, want %d", in, got, want)
		}
	}
}

func TestAddMillionths(t *testing.T) {
	for _, test := range []struct{ a, b, want int64 }{
		{1, 2, 3}, {math.MaxInt64, 0, math.MaxInt64}, {math.MaxInt64, 1, math.MaxInt64}, {math.MaxInt64 - 1, 1, math.MaxInt64}, {math.MaxInt64, math.MaxInt64, math.MaxInt64},
	} {
		if got := AddMillionths(test.a, test.b); got != test.want {
			t.Errorf("AddMillionths(%d, %d) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}
