package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// history is what was produced, record by record: which versions each document and each query had, and where in the
// topics they begin.
type history struct {
	topics
	documents map[string][]edition[string] // content hash, or "" where it was deleted
	queries   map[string][]edition[*logged]
	read      int
}

// edition is what a record makes of a document or a query.
type edition[V any] struct {
	partition int32
	offset    int64
	value     V
}

func newHistory(names topics) *history {
	return &history{topics: names, documents: map[string][]edition[string]{}, queries: map[string][]edition[*logged]{}}
}

// extend reads the records that a feed has produced since the last call.
func (h *history) extend(t testing.TB, f *feed) {
	t.Helper()
	f.pause()
	defer f.resume()
	for _, r := range f.sent[h.read:] {
		bad := f.bad[recordPlace(r.Topic, r.Partition, r.Offset)]
		id := string(r.Key)
		switch {
		case r.Topic == h.topics.documents:
			h.documents[id] = append(h.documents[id], edition[string]{r.Partition, r.Offset, hashOf(t, r, bad)})
		case !bad:
			h.queries[id] = append(h.queries[id], edition[*logged]{r.Partition, r.Offset, h.logged(t, r)})
		}
	}
	h.read = len(f.sent)
}

func hashOf(t testing.TB, r *kgo.Record, bad bool) string {
	t.Helper()
	if bad || r.Value == nil {
		return ""
	}
	var d struct{ Title, Text string }
	if err := json.Unmarshal(r.Value, &d); err != nil {
		t.Fatal(err)
	}
	return contentHash(text{d.Title, d.Text})
}

// logged is a query after a record of it; nil: forgotten.
func (h *history) logged(t testing.TB, r *kgo.Record) *logged {
	t.Helper()
	if r.Value == nil {
		return nil
	}
	var x struct {
		Query     string
		Positives []string
		Clicks    []struct {
			Document string `json:"doc_id"`
			Weight   float64
		}
	}
	if err := json.Unmarshal(r.Value, &x); err != nil {
		t.Fatal(err)
	}
	after := &logged{text: strings.TrimSpace(x.Query), evidence: map[string]float64{}}
	if all := h.queries[string(r.Key)]; len(all) > 0 && all[len(all)-1].value != nil {
		for document, weight := range all[len(all)-1].value.evidence {
			after.evidence[document] = weight
		}
	}
	for _, document := range x.Positives {
		after.evidence[document]++
	}
	for _, click := range x.Clicks {
		after.evidence[click.Document] += click.Weight
	}
	return after
}

// since returns what a document or a query may be for a reader of whom only this is known: it has read every partition up
// to an offset at least. The first value is what it is there at the latest, or the zero value where it is nothing yet.
func since[V comparable](editions []edition[V], offsets map[int32]int64) []V {
	var at V
	values := []V{at}
	for _, e := range editions {
		if e.offset < offsets[e.partition] {
			values[0] = e.value
		} else {
			values = append(values, e.value)
		}
	}
	return values
}
