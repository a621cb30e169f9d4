package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"hardneg/internal/dataset"
)

// text is the content of a document.
type text struct{ title, text string }

// logged is the content of the query log for a query.
type logged struct {
	text     string
	evidence map[string]float64 // weight by document
}

// world is everything that the test has produced, and so what the view must show in the end.
type world struct {
	topics
	rules
	documents map[string]text
	queries   map[string]*logged
	clock     time.Time // time of the last record of the query log: within a test, timestamps never go back
}

func newWorld(names topics) *world {
	return &world{topics: names, rules: defaultRules, documents: map[string]text{}, queries: map[string]*logged{}}
}

// tick returns the timestamp of the next record of the query log.
func (w *world) tick() time.Time {
	w.clock = time.UnixMilli(max(time.Now().UnixMilli(), w.clock.UnixMilli()+1))
	return w.clock
}

// loaded adds the records that `hardneg load beir` produces.
func (w *world) loaded(t testing.TB, dir string, splits ...string) {
	t.Helper()
	set, err := dataset.OpenBEIR(dir, splits...)
	if err != nil {
		t.Fatal(err)
	}
	for d, err := range set.Documents() {
		if err != nil {
			t.Fatal(err)
		}
		w.documents[d.ID] = text{d.Title, d.Text}
	}
	for q, err := range set.Queries() {
		if err != nil {
			t.Fatal(err)
		}
		w.noteQuery(q.QueryID, q.Query, q.Positives)
	}
	w.tick()
}

func (w *world) noteQuery(id, query string, positives []string) *logged {
	q := w.queries[id]
	if q == nil {
		q = &logged{evidence: map[string]float64{}}
		w.queries[id] = q
	}
	q.text = strings.TrimSpace(query)
	for _, p := range positives {
		q.evidence[p]++
	}
	return q
}

// put returns a record that writes a document.
func (w *world) put(id string, d text) *kgo.Record {
	w.documents[id] = d
	value := map[string]any{"id": id, "text": d.text}
	if d.title != "" {
		value["title"] = d.title
	}
	return &kgo.Record{Topic: w.topics.documents, Key: []byte(id), Value: mustJSON(value)}
}

// remove returns a record that deletes a document.
func (w *world) remove(id string) *kgo.Record {
	delete(w.documents, id)
	return &kgo.Record{Topic: w.topics.documents, Key: []byte(id)}
}

// judge returns a record that logs a query with positives.
func (w *world) judge(id, query string, positives ...string) *kgo.Record {
	w.noteQuery(id, query, positives)
	return w.log(id, map[string]any{"query": query, "query_id": id, "positives": positives})
}

// click returns a record that logs a click with a weight.
func (w *world) click(id, query, document string, weight float64) *kgo.Record {
	w.noteQuery(id, query, nil).evidence[document] += weight
	return w.log(id, map[string]any{"query": query, "query_id": id, "clicks": []any{map[string]any{"doc_id": document, "weight": weight, "dwell_ms": 1500}}})
}

// forget returns a record that deletes a query.
func (w *world) forget(id string) *kgo.Record {
	delete(w.queries, id)
	return &kgo.Record{Topic: w.topics.queries, Key: []byte(id), Timestamp: w.tick()}
}

func (w *world) log(id string, value map[string]any) *kgo.Record {
	return &kgo.Record{Topic: w.topics.queries, Key: []byte(id), Value: mustJSON(value), Timestamp: w.tick()}
}

// positive reports whether the weight of a document for a query reaches the default minimum of 1. It compares
// millionths, so that a rounding error in a sum does not matter.
func positive(weight float64) bool { return math.Round(weight*1e6) >= 1e6 }

func mustJSON(value any) []byte {
	raw, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return raw
}

func uuid5(name string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(name)).String()
}

func (w *world) String() string {
	pairs := 0
	for _, q := range w.queries {
		pairs += len(q.evidence)
	}
	return fmt.Sprintf("%d documents, %d queries, %d pieces of evidence", len(w.documents), len(w.queries), pairs)
}
