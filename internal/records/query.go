package records

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
)

const (
	MaxWeight = 1e6 // of one click

	// MaxNamed is the maximum number of documents in one record, positives and clicks together, with
	// repetitions. The result of a record must fit into one Kafka record again, and into one point of the
	// index.
	MaxNamed = 10_000
)

// Click is a document that a user opened from the results of a query.
type Click struct {
	DocID   string
	DwellMS int64    // milliseconds on the document; 0 if the log does not say
	Weight  *float64 // weight of the click; nil means 1
}

// Query is a record of the queries topic.
type Query struct {
	Query      string // trimmed
	QueryID    string
	Positives  []string // judged documents
	Clicks     []Click
	SessionID  string // a string or a number as text; "" for all else: nothing uses it
	Timestamp  string // RFC 3339, see readTime; "" if absent or no time: nothing uses it
	Embeddings map[string][]float32
}

// ParseQuery reads a record of the queries topic. A nil value deletes the query whose id is the key: then
// only QueryID is set, and the second result is true. Other records may have any key.
func ParseQuery(key, value []byte) (Query, bool, error) {
	if value == nil {
		id, err := keyID(key)
		if err == nil && id == "" {
			err = errors.New("forgetting a query (null value) needs its query_id as the key")
		}
		return Query{QueryID: id}, err == nil, err
	}
	q, err := parseQuery(value)
	if err != nil {
		return Query{}, false, err
	}
	return q, false, nil
}

func parseQuery(value []byte) (Query, error) {
	var q Query
	o, err := parseObject(value)
	if err != nil {
		return q, err
	}
	if q.Query, err = o.required("query"); err != nil {
		return q, err
	}
	q.Query = strings.TrimSpace(q.Query)
	if q.QueryID, err = o.id("query_id"); err != nil {
		return q, err
	}
	if q.QueryID == "" {
		q.QueryID = QueryID(q.Query)
	}
	if err := o.countNamed(); err != nil {
		return q, err
	}
	if q.Positives, err = o.ids("positives"); err != nil {
		return q, err
	}
	if q.Clicks, err = o.clicks("clicks"); err != nil {
		return q, err
	}
	// Nothing uses these two, so a click must not be lost for what they hold.
	q.SessionID = o.unused("session_id")
	q.Timestamp, _ = o.time("timestamp")
	q.Embeddings, err = o.embeddings("embeddings")
	return q, err
}

// countNamed limits the number of positives and clicks before it reads any of them.
func (o object) countNamed() error {
	positives, err := o.list("positives")
	if err != nil {
		return err
	}
	clicks, err := o.list("clicks")
	if err != nil {
		return err
	}
	if n := len(positives) + len(clicks); n > MaxNamed {
		return fmt.Errorf("fields %q and %q name %d documents, at most %d are allowed in one record: log the rest in further records",
			o.path+"positives", o.path+"clicks", n, MaxNamed)
	}
	return nil
}

// ids returns an optional array of ids.
func (o object) ids(name string) ([]string, error) {
	return parseList(o, name, idOf)
}

// clicks returns an optional array of clicks.
func (o object) clicks(name string) ([]Click, error) {
	return parseList(o, name, parseClick)
}

func parseClick(path string, raw json.RawMessage) (Click, error) {
	var c Click
	o, err := newObject(path+".", raw)
	if err != nil {
		return c, err
	}
	if c.DocID, err = o.id("doc_id"); err != nil {
		return c, err
	}
	if c.DocID == "" {
		return c, fmt.Errorf("field %q is missing", o.path+"doc_id")
	}
	if c.DwellMS, err = o.integer("dwell_ms"); err != nil {
		return c, err
	}
	weight, ok, err := o.number("weight")
	if err != nil || !ok {
		return c, err
	}
	if weight > MaxWeight || Millionths(weight) < 1 {
		return c, fmt.Errorf("field %q must be from 0.000001 to %d, not %v", o.path+"weight", int(MaxWeight), weight)
	}
	c.Weight = &weight
	return c, nil
}

// Millionths converts a weight to a whole number of millionths, so that sums do not depend on their order.
// Weights are at most MaxWeight.
func Millionths(weight float64) int64 { return int64(math.Round(weight * 1e6)) }

// AddMillionths returns the sum of two weights in millionths, or math.MaxInt64 if that is less. Weights are not
// negative. So a sum of many does not depend on their order, and not on which of them were summed before: it is
// always the smaller of the true sum and math.MaxInt64.
func AddMillionths(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// Encode returns the record's value. Its key may be anything. The query_id as key keeps a query's records in
// order.
func (q Query) Encode() []byte {
	type click struct {
		DocID   string   `json:"doc_id"`
		DwellMS int64    `json:"dwell_ms,omitempty"`
		Weight  *float64 `json:"weight,omitempty"`
	}
	clicks := make([]click, len(q.Clicks))
	for i, c := range q.Clicks {
		clicks[i] = click(c)
	}
	return encode(struct {
		Query      string            `json:"query"`
		QueryID    string            `json:"query_id,omitempty"`
		Positives  []string          `json:"positives,omitempty"`
		Clicks     []click           `json:"clicks,omitempty"`
		SessionID  string            `json:"session_id,omitempty"`
		Timestamp  string            `json:"timestamp,omitempty"`
		Embeddings map[string]vector `json:"embeddings,omitempty"`
	}{q.Query, q.QueryID, q.Positives, clicks, q.SessionID, q.Timestamp, vectors(q.Embeddings)})
}
