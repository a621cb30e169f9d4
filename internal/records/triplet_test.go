package records

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func someTriplet() Triplet {
	return Triplet{
		Query:    TripletQuery{ID: "q<1>", Text: "how & why"},
		Positive: TripletDocument{ID: "p", Title: "P", Text: "positive", Version: ContentHash("P", "positive")},
		Negative: TripletDocument{ID: "n", Text: "negative", Version: ContentHash("", "negative")},
		Rank:     2, Policy: "semantic", Similarity: Similarity{0.1, 0.25, -1},
		Generation: "g", Revision: 1790000000000, MinedAt: "2026-01-02T03:04:05Z",
	}
}

func TestTripletEncode(t *testing.T) {
	want := `{"schema":1,"triplet_id":"` + TripletID("q<1>", "p", "n", 1790000000000) + `",` +
		`"query":{"id":"q<1>","text":"how & why"},` +
		`"positive":{"id":"p","title":"P","text":"positive","version":"` + ContentHash("P", "positive") + `"},` +
		`"negative":{"id":"n","title":"","text":"negative","version":"` + ContentHash("", "negative") + `"},` +
		`"rank":2,"policy":"semantic","similarity":{"query_positive":0.1,"query_negative":0.25,"positive_negative":-1},` +
		`"generation":"g","revision":1790000000000,"mined_at":"2026-01-02T03:04:05Z"}`
	got := someTriplet().Encode(1 << 16)
	if string(got) != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	if _, err := ParseTriplet([]byte(strings.Replace(string(got), `"text":"positive"`, `"text":"\ud800"`, 1))); err == nil || !strings.Contains(err.Error(), "unpaired surrogate") {
		t.Errorf("an unpaired surrogate: %v", err)
	}
	parsed, err := ParseTriplet(append([]byte(ByteOrderMark), got...))
	if err != nil {
		t.Fatal(err)
	}
	if parsed.ID == "" || parsed.Similarity.QueryPositive != 0.1 || parsed.Query.ID != "q<1>" {
		t.Errorf("parsed as %+v", parsed)
	}
}

func TestTripletTextsAreCut(t *testing.T) {
	for _, test := range []struct {
		text string
		most int
		want string
	}{
		{"abcd", 4, "abcd"}, {"abcde", 4, "abcd"}, {"aüü", 4, "aü"}, {"aü", 3, "aü"}, {`a"b`, 3, `a"`}, {`a"b`, 2, `a`},
		{"\x01b", 6, "\x01"}, {"\u2028b", 6, "\u2028"}, {"\n\n\n", 5, "\n\n"}, {"😀", 3, ""}, {"", 0, ""}, {"<&>", 3, "<&>"},
	} {
		triplet := someTriplet()
		triplet.Query.Text, triplet.Positive.Title, triplet.Negative.Text = test.text, test.text, test.text
		var got struct {
			Query, Positive, Negative struct {
				Title, Text string
				Truncated   bool
			}
		}
		if err := json.Unmarshal(triplet.Encode(test.most), &got); err != nil {
			t.Fatal(err)
		}
		cut := test.want != test.text
		if got.Query.Text != test.want || got.Positive.Title != test.want || got.Negative.Text != test.want || got.Query.Truncated != cut || got.Negative.Truncated != cut {
			t.Errorf("%q at %d became %+v, want %q", test.text, test.most, got, test.want)
		}
	}
}

func FuzzTripletEncode(f *testing.F) {
	f.Add("q", "a \"text\"\u2028", "\xff\x00", 7)
	f.Add("<&>", "😀😀😀", "\n\t\\", 5)
	f.Fuzz(func(t *testing.T, query, title, text string, most int) {
		triplet := someTriplet()
		triplet.Query.Text, triplet.Positive.Title, triplet.Negative.Text = query, title, text
		var got struct {
			Query, Positive, Negative map[string]json.RawMessage
		}
		value := triplet.Encode(most)
		if err := json.Unmarshal(value, &got); err != nil {
			t.Fatal(err)
		}
		for _, field := range []json.RawMessage{got.Query["text"], got.Positive["title"], got.Positive["text"], got.Negative["text"]} {
			if len(field)-len(`""`) > max(most, 0) {
				t.Fatalf("%s is longer than %d", field, most)
			}
		}
		if !utf8.ValidString(query + title + text) {
			return
		}
		first, err := ParseTriplet(value)
		if err != nil {
			t.Fatal(err)
		}
		if most > 1<<20 && first.Negative.Text != text {
			t.Fatalf("%q became %q", text, first.Negative.Text)
		}
		again := first.Encode(max(most, 0))
		first.Query.Truncated, first.Positive.Truncated, first.Negative.Truncated = false, false, false
		second, err := ParseTriplet(again)
		if err != nil || !reflect.DeepEqual(first, second) {
			t.Fatalf("%+v became %+v, %v", first, second, err)
		}
	})
}

func TestParseTripletRefuses(t *testing.T) {
	for _, value := range []string{"", "null", "[]", `{"schema":2}`, `{"schema":1}`, `{"schema":"1"}`, "{\"schema\":1,\"x\":\"\xff\"}"} {
		if _, err := ParseTriplet([]byte(value)); err == nil {
			t.Errorf("%q passed", value)
		}
	}
	if _, err := ParseTriplet(nil); err == nil || !strings.Contains(err.Error(), "retracts") {
		t.Errorf("a null value: %v", err)
	}
}

func TestTripletKey(t *testing.T) {
	for _, test := range []struct {
		query, positive string
		rank            int
		want            string
	}{
		{"q", "net/http.Client.Do", 1, `["q","net/http.Client.Do",1]`},
		{`"\`, "<&>", 12, `["\"\\","<&>",12]`},
		{"\x00\x1f\b\f\n\r\t\x7f", "é\u2028😀", 3, "[\"\\u0000\\u001f\\b\\f\\n\\r\\t\x7f\",\"é\u2028😀\",3]"},
	} {
		got := TripletKey(test.query, test.positive, test.rank)
		if string(got) != test.want {
			t.Errorf("TripletKey(%q, %q, %d) = %s, want %s", test.query, test.positive, test.rank, got, test.want)
		}
		query, positive, rank, err := ParseTripletKey(got)
		if err != nil || query != test.query || positive != test.positive || rank != test.rank {
			t.Errorf("%s parsed as %q %q %d %v", got, query, positive, rank, err)
		}
	}
	for _, key := range []string{"", "q", `["q","p"]`, `["q","p",0]`, `["q","p",1.5]`, `["q", "p",1]`, `["","p",1]`, `["q","p","1"]`, `["q","\u0070",1]`, `["q","p",1,2]`} {
		if _, _, _, err := ParseTripletKey([]byte(key)); err == nil {
			t.Errorf("key %q passed", key)
		}
	}
}

func FuzzTripletKey(f *testing.F) {
	f.Add("q", "p", 1)
	f.Add("\u2028\"", "\ufffd\x7f", 1<<30)
	f.Fuzz(func(t *testing.T, query, positive string, rank int) {
		if query == "" || positive == "" || rank < 1 || rank > 1<<50 || !utf8.ValidString(query) || !utf8.ValidString(positive) {
			return
		}
		q, p, r, err := ParseTripletKey(TripletKey(query, positive, rank))
		if err != nil || q != query || p != positive || r != rank {
			t.Fatalf("%q %q %d became %q %q %d, %v", query, positive, rank, q, p, r, err)
		}
	})
}

// The ids were computed by Python's uuid.uuid5(uuid.NAMESPACE_URL, name).
func TestIDs(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{QueryID(" How do I  reset IT? "), "717f704f-5f00-53ee-a701-e33206e76408"},
		{TripletID("q", "p", "n\"\u2028", 7), "52ec3eb8-80e0-5f8c-982d-b2c5199aa2f2"},
	} {
		if test.got != test.want {
			t.Errorf("got %s, want %s", test.got, test.want)
		}
	}
}

func TestRefreshRoundTrip(t *testing.T) {
	source := Source{Topic: "queries", Partition: 3, Offset: 1 << 40, Timestamp: 1790000000000}
	for _, want := range []Refresh{
		{Kind: KindEvidence, QueryID: "q", Text: "<q>", Evidence: []Evidence{{"a", 1}, {"b", 1 << 50}}, Embeddings: map[string][]float32{"e": {1, -0.1}}, Source: source},
		{Kind: KindRefresh, QueryID: "q", Source: source},
		{Kind: KindRefresh, QueryID: "q", Source: Source{Topic: SourceSweep}},
		{Kind: KindRefresh, QueryID: "q", Force: true, Published: map[string]int{"p": 3}, Source: Source{Topic: SourceAudit}},
		{Kind: KindForget, QueryID: "q", Source: Source{Topic: SourceSweep, Partition: -1, Offset: 1790000000000, Timestamp: 1790000000000}},
		{Kind: KindForget, QueryID: "q", Source: source},
	} {
		got, err := ParseRefresh([]byte("q"), want.Encode())
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v became %+v, %v", want, got, err)
		}
	}
	for _, value := range []string{
		"", "{}", `{"kind":"refresh","query_id":"other"}`, `{"kind":"other","query_id":"q"}`, `{"kind":"evidence","query_id":"q"}`,
		`{"kind":"evidence","query_id":"q","text":"t","evidence":[{"doc_id":"a"}]}`, `{"kind":"refresh","query_id":"q","source":5}`,
		`{"kind":"refresh","query_id":"q","embeddings":{"e":"AAA="}}`, `{"kind":"forget","query_id":"q","force":true}`,
		`{"kind":"evidence","query_id":"q","text":"\ud800"}`, `{"kind":"evidence","query_id":"q","text":"t","evidence":[{"doc_id":"\udc00","weight":1}]}`,
		`{"kind":"refresh","query_id":"q","published":{"p":1}}`, `{"kind":"refresh","query_id":"q","force":true,"published":{"p":0}}`,
	} {
		if _, err := ParseRefresh([]byte("q"), []byte(value)); err == nil {
			t.Errorf("%s passed", value)
		}
	}
}

// A record that is accepted stays the same if it is written and read again.
func FuzzParseTriplet(f *testing.F) {
	f.Add(someTriplet().Encode(1 << 16))
	f.Add([]byte(`{"schema":1,"query":{"id":"q","text":"\u0000"},"positive":{"id":"p"},"negative":{"id":"n","truncated":true},"rank":1,"RANK":2}`))
	f.Add([]byte(`{"schema":1,"query":{"id":"\ud800"},"positive":{"id":"p"},"negative":{"id":"n"},"rank":1,"similarity":{"query_positive":1e-50}}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		once, err := ParseTriplet(value)
		if err != nil {
			return
		}
		once.ID = TripletID(once.Query.ID, once.Positive.ID, once.Negative.ID, once.Revision)
		once.Query.Truncated, once.Positive.Truncated, once.Negative.Truncated = false, false, false // Encode decides it anew
		again, err := ParseTriplet(once.Encode(1 << 30))
		if err != nil || !reflect.DeepEqual(once, again) {
			t.Fatalf("%+v became %+v, %v", once, again, err)
		}
	})
}

func FuzzParseRefresh(f *testing.F) {
	source := Source{Topic: "queries", Partition: 3, Offset: 1 << 40, Timestamp: 1790000000000}
	f.Add("q", Refresh{Kind: KindEvidence, QueryID: "q", Text: "<q>", Evidence: []Evidence{{"a", 1}, {"b", 1 << 50}}, Embeddings: map[string][]float32{"e": {1, -0.1}}, Source: source}.Encode())
	f.Add("q", Refresh{Kind: KindRefresh, QueryID: "q", Force: true, Published: map[string]int{"p": 3}, Revision: 5, Source: Source{Topic: SourceAudit}}.Encode())
	f.Add("\ufffd", []byte(`{"kind":"forget","query_id":"\ud800","source":{}}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		once, err := ParseRefresh([]byte(key), value)
		if err != nil {
			return
		}
		if len(once.Evidence) == 0 {
			once.Evidence = nil // an empty list is the same as none
		}
		if len(once.Published) == 0 {
			once.Published = nil
		}
		again, err := ParseRefresh([]byte(key), once.Encode())
		if err != nil || !reflect.DeepEqual(once, again) {
			t.Fatalf("%+v became %+v, %v", once, again, err)
		}
	})
}

func compact(raw []byte) []byte {
	if raw == nil {
		return nil
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		panic(err)
	}
	return b.Bytes()
}
