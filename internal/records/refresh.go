package records

import (
	"encoding/json"
	"fmt"
)

// Kinds of refresh records.
const (
	KindEvidence = "evidence" // a record of the query log names documents for the query
	KindRefresh  = "refresh"  // something that the query's lists depend on has changed
	KindForget   = "forget"   // the query must be deleted
)

// Evidence is the weight that one record of the query log adds to a document of a query.
type Evidence struct {
	Document string `json:"doc_id"`
	Weight   int64  `json:"weight"` // millionths
}

// Topics of sources that are no records, for work that the service or a command starts by itself.
const (
	SourceSweep   = "sweep"   // the background sweep
	SourceAudit   = "audit"   // hardneg audit --repair
	SourceRebuild = "rebuild" // a new generation is filled or published
)

// Source names the record that caused another one. A forget by the sweep has partition -1, which no topic
// has, and its timestamp as offset. So it differs from all records of the query log, and like them it counts
// once.
type Source struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Timestamp int64  `json:"timestamp"` // Unix milliseconds of the Kafka record
}

// None reports whether no record caused this one.
func (s Source) None() bool {
	return s.Topic == SourceSweep || s.Topic == SourceAudit || s.Topic == SourceRebuild
}

// Refresh is a record of the internal topic. Intake and indexer write it, the miner reads it. Its key is the
// query id.
type Refresh struct {
	Kind       string               // evidence, refresh or forget
	QueryID    string               // also the record's key
	Text       string               // evidence: the query's trimmed text
	Evidence   []Evidence           // evidence: in the order of the record; a document may appear more than once
	Embeddings map[string][]float32 // evidence: vectors that the record carried
	Force      bool                 // refresh: store the state again and publish all slots, changed or not
	Published  map[string]int       // with Force: positives found in the triplets topic, with their highest rank there
	Revision   int64                // with Force: a revision that was published
	Source     Source               // the record of the queries or documents topic that caused this one, or one of the sources above
}

// refreshJSON is the JSON form of a refresh record.
type refreshJSON struct {
	Kind       string            `json:"kind"`
	QueryID    string            `json:"query_id"`
	Text       string            `json:"text,omitempty"`
	Evidence   []Evidence        `json:"evidence,omitempty"`
	Embeddings map[string]vector `json:"embeddings,omitempty"`
	Force      bool              `json:"force,omitempty"`
	Published  map[string]int    `json:"published,omitempty"`
	Revision   int64             `json:"revision,omitempty"`
	Source     Source            `json:"source"`
}

// Encode returns the record's value.
func (r Refresh) Encode() []byte {
	return encode(refreshJSON{r.Kind, r.QueryID, r.Text, r.Evidence, vectors(r.Embeddings), r.Force, r.Published, r.Revision, r.Source})
}

// ParseRefresh reads a refresh record.
func ParseRefresh(key, value []byte) (Refresh, error) {
	o, err := parseObject(value)
	if err != nil {
		return Refresh{}, err
	}
	if err := pairedSurrogates(value); err != nil {
		return Refresh{}, fmt.Errorf("the value %w", err)
	}
	embeddings, err := o.embeddings("embeddings")
	if err != nil {
		return Refresh{}, err
	}
	var in struct {
		refreshJSON
		Embeddings json.RawMessage `json:"embeddings"`
	}
	if err := json.Unmarshal(withoutMark(value), &in); err != nil {
		return Refresh{}, err
	}
	r := Refresh{in.Kind, in.QueryID, in.Text, in.Evidence, embeddings, in.Force, in.Published, in.Revision, in.Source}
	return r, r.check(string(key))
}

func (r Refresh) check(key string) error {
	if r.QueryID == "" || r.QueryID != key {
		return fmt.Errorf("the key %q and the query_id %q must be the same id", clip([]byte(key)), r.QueryID)
	}
	switch r.Kind {
	case KindEvidence:
		if r.Text == "" {
			return fmt.Errorf("field %q is empty in a record of kind evidence", "text")
		}
	case KindRefresh, KindForget:
	default:
		return fmt.Errorf("field %q must be evidence, refresh or forget, not %q", "kind", r.Kind)
	}
	forced := len(r.Published) > 0 || r.Revision != 0
	if (r.Force || forced) && r.Kind != KindRefresh || forced && !r.Force {
		return fmt.Errorf("fields %q, %q and %q belong to a record of kind refresh, the last two to one with the first", "force", "published", "revision")
	}
	for id, rank := range r.Published {
		if id == "" || rank < 1 {
			return fmt.Errorf("field %q must hold ids of documents and ranks from 1", "published")
		}
	}
	for i, e := range r.Evidence {
		if e.Document == "" || e.Weight < 1 {
			return fmt.Errorf("field \"evidence[%d]\" must have a doc_id and a weight of at least 1 millionth", i)
		}
	}
	return nil
}
