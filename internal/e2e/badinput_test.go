package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"hardneg/internal/dataset"
)

// refused is a record that must become a dead letter.
type refused struct {
	name       string
	topic      string // documents or queries
	key, value []byte
	stage      string // the stage that refuses it
	reason     string // part of the error
}

func floats(values ...float64) string {
	var raw []byte
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(v)))
	}
	return base64.StdEncoding.EncodeToString(raw)
}

func document(name, key, value, reason string) refused {
	return refused{name, "documents", []byte(key), []byte(value), "indexer", reason}
}

func query(name, value, reason string) refused {
	return refused{name, "queries", []byte("any key"), []byte(value), "intake", reason}
}

// badRecords returns all ways in which input can be wrong. The test's embedder is named words and has 256
// dimensions.
func badRecords() []refused {
	zeros := floats(make([]float64, 256)...)
	huge := `{"text":"` + strings.Repeat("x", 1_000_000)
	return []refused{
		document("invalid JSON", "bad-1", `{"id":"bad-1","text":`, "invalid JSON at byte 20"),
		document("missing id", "", `{"text":"t"}`, `field "id" is missing`),
		document("empty id", "", `{"id":"","text":"t"}`, `field "id" is empty`),
		document("missing text", "bad-2", `{"id":"bad-2"}`, `field "text" is missing`),
		document("empty text", "bad-3", `{"id":"bad-3","text":""}`, `field "text" is empty`),
		document("blank text", "bad-4", `{"id":"bad-4","text":" \n"}`, `field "text" is empty`),
		document("key contradicts id", "bad-5", `{"id":"other","text":"t"}`, `contradicts the id "other"`),
		document("text of another type", "bad-6", `{"text":["t"]}`, `field "text" must be a string, not an array`),
		document("metadata of another type", "bad-7", `{"text":"t","metadata":"m"}`, `field "metadata" must be an object, not a string`),
		document("no object", "bad-8", `[1,2]`, "must be a JSON object, not an array"),
		document("invalid UTF-8", "bad-9", "{\"text\":\"t\xff\"}", "not valid UTF-8 at byte 10"),
		document("invalid UTF-8 in the key", "bad-\xff", `{"text":"t"}`, "the key is not valid UTF-8 at byte 4"),
		document("NaN", "bad-10", `{"text":"t","embeddings":{"words":"`+floats(math.NaN())+`"}}`, `embedder "words" has the value NaN`),
		document("infinity", "bad-11", `{"text":"t","embeddings":{"words":[1e39]}}`, `embedder "words" has the value 1e+39`),
		document("wrong length", "bad-12", `{"text":"t","embeddings":{"words":[1,2,3]}}`, "has 3 numbers, want 256"),
		document("zero vector", "bad-13", `{"text":"t","embeddings":{"words":"`+zeros+`"}}`, "all zeros"),
		document("1 MB of nonsense", "bad-14", huge, "invalid JSON"),
		document("replaces a good document", "victim", `{"text":5}`, `field "text" must be a string, not a number`),
		query("invalid JSON", `{"query"}`, "invalid JSON at byte 8"),
		query("missing query", `{"positives":["a"]}`, `field "query" is missing`),
		query("empty query", `{"query":" "}`, `field "query" is empty`),
		query("query of another type", `{"query":1}`, `field "query" must be a string, not a number`),
		query("positives of another type", `{"query":"q","positives":"a"}`, `field "positives" must be an array, not a string`),
		query("click without document", `{"query":"q","clicks":[{}]}`, `field "clicks[0].doc_id" is missing`),
		query("weight of nothing", `{"query":"q","clicks":[{"doc_id":"a","weight":0}]}`, `field "clicks[0].weight"`),
		query("invalid UTF-8", "{\"query\":\"\xc3\"}", "not valid UTF-8 at byte 10"),
		query("NaN", `{"query":"q","embeddings":{"words":"`+floats(math.NaN())+`"}}`, `embedder "words" has the value NaN`),
		{"forgetting without a key", "queries", nil, nil, "intake", "needs its query_id as the key"},
		// Without any key, a broker refuses it for a compacted topic.
		{"deleting with an empty key", "documents", []byte{}, nil, "indexer", "needs the document's id as its key"},
	}
}

// TestBadInput sends every kind of bad record between good ones. Each becomes one dead letter with its bytes,
// headers and reason, and all other records are processed.
func TestBadInput(t *testing.T) {
	s := newService(t, "--embedded", "--set", "embedders=[{name: words, type: lexical-word, dimensions: 256}]",
		"--set", "reduce.max_dimensions=64", "--set", "fit.minimum=100", "--set", "fit.sample=300", "--set", "topics.purge_refresh=0s")
	s.spawn()
	names := namedTopics("hardneg", "")
	k, w := newKafka(t, s.Kafka, names), newWorld(names)
	records := goRecords(t, w, 300)
	records = append(records,
		w.put("victim", text{"", "A document that a bad record will replace."}),
		w.put("large", text{"A large one", strings.Repeat("The quick brown fox jumps over the lazy dog again and \"again\". ", 15_000)}),
		w.judge("large", "quick brown fox", "large"),
		w.judge("unknown", "a positive that nobody has seen", "nobody", "strings.Split"),
		w.judge("later", "a positive that comes later", "late"),
		w.remove("never-was"),
		w.put("late", text{"", "It comes later than the query that names it."}),
	)
	records = append(records, carriedNearCopies(w)...)
	once := w.put("twice", text{"Twice", "The same record comes two times."})
	again := *once
	k.produce(append(records, once, &again)...)
	s.ready(patience)

	sent := map[string]refused{} // by topic, partition and offset
	for _, bad := range badRecords() {
		r := &kgo.Record{Topic: bad.topic, Key: bad.key, Value: bad.value, Headers: []kgo.RecordHeader{{Key: "traceparent", Value: []byte("00-" + bad.name)}, {Key: "empty", Value: []byte{}}}}
		k.produce(r)
		sent[recordPlace(r.Topic, r.Partition, r.Offset)] = bad
	}
	delete(w.documents, "victim")
	k.produce(w.put("last", text{"", "A good document after all the bad records."}),
		&kgo.Record{Topic: names.queries, Key: []byte("zero"), Value: []byte(`{"query":"no direction","query_id":"zero","embeddings":{"words":"` + floats(make([]float64, 256)...) + `"}}`), Timestamp: w.tick()},
		&kgo.Record{Topic: names.queries, Key: []byte("short"), Value: []byte(`{"query":"too short","query_id":"short","embeddings":{"words":[1]}}`), Timestamp: w.tick()})
	k.quiet(patience)
	t.Log(compare(t, s, k, w, ""))
	checkDeadLetters(t, k, sent)
	checkLarge(t, k)
	checkTrace(t, k, w)
	checkReplayedLetters(t, s, k)
	checkSchemas(t, k)
	s.stop()
}

// carriedNearCopies returns a positive, and a document with other words and nearly the same carried vector.
// The query's vector is on the document's side, so that only the guard prevents it from being the hardest
// negative.
func carriedNearCopies(w *world) []*kgo.Record {
	r := rand.New(rand.NewPCG(1, 2))
	vector := func(add float64, to []float64) []float64 {
		out := make([]float64, 256)
		for i := range out {
			out[i] = add * r.NormFloat64()
			if to != nil {
				out[i] += to[i]
			}
		}
		return out
	}
	anchor := vector(1, nil)
	near := vector(0.05, anchor)
	query := make([]float64, len(near))
	for i := range query {
		query[i] = anchor[i] + 1.4*(near[i]-anchor[i])
	}
	carry := func(record *kgo.Record, v []float64) *kgo.Record {
		carried := fmt.Sprintf(`,"embeddings":{"words":"%s"}}`, floats(v...))
		record.Value = append(bytes.TrimSuffix(record.Value, []byte("}")), carried...)
		return record
	}
	return []*kgo.Record{
		carry(w.put("anchor", text{"", "An anchor holds a ship."}), anchor),
		carry(w.put("near", text{"", "Completely different words about gardening."}), near),
		carry(w.judge("anchored", "what holds a ship", "anchor"), query),
	}
}

func recordPlace(topic string, partition int32, offset int64) string {
	return topic + "/" + strconv.Itoa(int(partition)) + "/" + strconv.FormatInt(offset, 10)
}

// checkDeadLetters expects one dead letter for each of the sent records, and two of the miner: their vectors
// are errors that only an embedder can find.
func checkDeadLetters(t *testing.T, k *kafka, sent map[string]refused) {
	t.Helper()
	fromMiner := map[string]string{"zero": "all zeros", "short": "has 1 numbers, want 256"}
	for _, r := range k.readCommitted(k.deadLetters) {
		headers := map[string]string{}
		for _, h := range r.Headers {
			headers[h.Key] = string(h.Value)
		}
		if reason, ok := fromMiner[string(r.Key)]; ok && headers["hardneg-stage"] == "miner" {
			if !strings.Contains(headers["hardneg-error"], reason) {
				t.Errorf("dead letter of query %s: %q, want one with %q", r.Key, headers["hardneg-error"], reason)
			}
			delete(fromMiner, string(r.Key))
			continue
		}
		at := headers["hardneg-topic"] + "/" + headers["hardneg-partition"] + "/" + headers["hardneg-offset"]
		bad, ok := sent[at]
		if !ok {
			t.Errorf("a dead letter that was not expected, or comes twice: key %.60q, headers %v", r.Key, headers)
			continue
		}
		delete(sent, at)
		if _, err := time.Parse(time.RFC3339, headers["hardneg-timestamp"]); err != nil {
			t.Errorf("%s: timestamp: %v", bad.name, err)
		}
		switch {
		case !bytes.Equal(r.Key, bad.key) || (r.Key == nil) != (bad.key == nil) || !bytes.Equal(r.Value, bad.value) || (r.Value == nil) != (bad.value == nil):
			t.Errorf("%s: key %.60q and value %.60q, want %.60q and %.60q", bad.name, r.Key, r.Value, bad.key, bad.value)
		case headers["hardneg-stage"] != bad.stage || !strings.Contains(headers["hardneg-error"], bad.reason):
			t.Errorf("%s: stage %q, error %q, want %q, %q", bad.name, headers["hardneg-stage"], headers["hardneg-error"], bad.stage, bad.reason)
		case headers["traceparent"] != "00-"+bad.name || len(r.Headers) != 8 || r.Headers[1].Key != "empty":
			t.Errorf("%s: headers %v lost one of the record's own", bad.name, headers)
		}
	}
	for at, bad := range sent {
		t.Errorf("%s %s at %s has no dead letter", bad.topic, bad.name, at)
	}
	for id := range fromMiner {
		t.Errorf("the vector of query %q has no dead letter", id)
	}
}

// checkReplayedLetters replays all dead letters. Malformed records are left out. Records that the embedder
// refuses are sent, and each comes back as one dead letter.
func checkReplayedLetters(t *testing.T, s *service, k *kafka) {
	t.Helper()
	before := len(k.readCommitted(k.deadLetters))
	listed := hardneg(t, patience, "dlq", "list", "-o", "json", "--data-dir", s.dir)
	if got := strings.Count(listed.stdout, "\n"); listed.code != 0 || got != before {
		t.Errorf("dlq list: %d of %d dead letters, exit code %d: %s", got, before, listed.code, listed.stderr)
	}
	for range 2 { // the second time, what came back the first time
		out := hardneg(t, patience, "dlq", "replay", "--all", "--data-dir", s.dir)
		if end := fmt.Sprintf("\n4 sent again, %d left; ", before-4); out.code != 0 || !strings.Contains(out.stdout, end) {
			t.Errorf("dlq replay: exit code %d, %s\n%s, want at the end %s", out.code, out.stderr, out.stdout, end)
		}
		k.quiet(patience)
	}
	back := map[string]int{}
	for _, r := range k.readCommitted(k.deadLetters) {
		back[string(r.Key)]++
	}
	for _, key := range []string{"zero", "short", "bad-12", "bad-13"} {
		if back[key] != 3 {
			t.Errorf("%s, which was refused three times, has %d dead letters", key, back[key])
		}
	}
	if after := len(k.readCommitted(k.deadLetters)); after != before+2*(4+4) { // each with a note
		t.Errorf("%d records in the topic, of %d before", after, before)
	}
}

// checkLarge expects the text of a large document to be cut in its triplets.
func checkLarge(t *testing.T, k *kafka) {
	t.Helper()
	found := false
	for at, x := range readView(t, k).live {
		if at.positive == "large" {
			found = true
			if !x.Positive.Truncated {
				t.Errorf("the positive of %v, of 1 MB, is not marked as truncated", at)
			}
		}
	}
	if !found {
		t.Error("the query whose positive has 1 MB has no triplets")
	}
}

// checkTrace expects the traceparent of a change on all triplets that it caused.
func checkTrace(t *testing.T, k *kafka, w *world) {
	t.Helper()
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	cause := w.put("late", text{"", "It has come, and is about something else by now."})
	cause.Headers = []kgo.RecordHeader{{Key: "traceparent", Value: []byte(trace)}}
	k.produce(cause)
	k.quiet(patience)
	caused := 0
	for _, r := range k.readCommitted(k.triplets) {
		headers := map[string]string{}
		for _, h := range r.Headers {
			headers[h.Key] = string(h.Value)
		}
		if headers["hardneg-source"] != recordPlace(cause.Topic, cause.Partition, cause.Offset) {
			continue
		}
		if caused++; headers["traceparent"] != trace {
			t.Errorf("triplet %s has traceparent %q, want that of its cause", r.Key, headers["traceparent"])
		}
	}
	if caused == 0 {
		t.Error("an edit of a positive caused no triplets")
	}
}

// goRecords makes documents and queries from Go's documentation.
func goRecords(t testing.TB, w *world, n int) []*kgo.Record {
	t.Helper()
	root, err := dataset.FindGOROOT(t.Context())
	if err != nil {
		t.Skip(err)
	}
	var records []*kgo.Record
	for e, err := range dataset.GoDoc(root, "strings", "net/http", "os", "io", "bufio") {
		if err != nil {
			t.Fatal(err)
		}
		if n--; n < 0 {
			break
		}
		records = append(records, w.put(e.Document.ID, text{e.Document.Title, e.Document.Text}))
		if n%3 == 0 {
			records = append(records, w.judge(e.Query.QueryID, e.Query.Query, e.Document.ID))
		}
	}
	return records
}
