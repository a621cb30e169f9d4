package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// history contains what was produced, record by record: the versions of each document and each query, and
// where in the topics each version begins.
type history struct {
	topics
	documents map[string][]edition[string] // content hash, or "" if it was deleted
	queries   map[string][]edition[*logged]
	read      int
}

// edition is the state of a document or a query after a record.
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

// logged returns the state of a query after a record, or nil if the record deletes it.
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

// since returns the possible states of a document or a query for a reader that has read every partition at
// least up to the given offset. The first value is the state at these offsets, or the zero value if there is
// none yet. The others are later states.
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
