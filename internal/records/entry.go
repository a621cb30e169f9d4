package records

import (
	"errors"
	"fmt"
	"strings"
)

// Entry is a line of corpus.jsonl or queries.jsonl in the layout of the BEIR benchmark. It follows the rules of the
// documents and queries topics, with two differences: the id is in the field "_id", and it may be a number.
type Entry struct {
	ID     string
	fields object
}

// ParseEntry reads a line up to its id. A number is the id exactly as it is written: a float64 would change large
// ones, and two ids could become equal.
func ParseEntry(line []byte) (Entry, error) {
	o, err := parseObject(line)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{fields: o}
	switch raw, ok := o.field("_id"); {
	case !ok:
		return e, errors.New(`field "_id" is missing`)
	case kind(raw) == "a number":
		if e.ID = string(raw); len(e.ID) > MaxID {
			return e, fmt.Errorf("field %q %w", "_id", checkID(e.ID))
		}
	default:
		e.ID, err = idOf("_id", raw)
	}
	return e, err
}

// Document reads the entry as a document. It refuses what ParseDocument refuses.
func (e Entry) Document() (Document, error) {
	d := Document{ID: e.ID}
	err := e.fields.content(&d)
	return d, err
}

// Query reads the entry as a query with these positives. It refuses what ParseQuery refuses.
func (e Entry) Query(positives []string) (Query, error) {
	if n := len(positives); n > MaxNamed {
		return Query{}, fmt.Errorf("the query has %d positives, at most %d are allowed in one record", n, MaxNamed)
	}
	text, err := e.fields.required("text")
	return Query{Query: strings.TrimSpace(text), QueryID: e.ID, Positives: positives}, err
}
