package mining

import (
	"context"
	"fmt"
)

// Corpus holds documents in memory and searches them exactly. A search compares each query with each
// document: this is meant for up to some hundred thousand documents. It is safe for concurrent use.
type Corpus struct {
	documents []Document
	places    map[string]int // by id
}

// NewCorpus checks the documents. It keeps the slice, which must not change any more. An error names a
// document without an id, one with the id of another document, or one with a vector or a MinHash that
// Input.Validate refuses. All vectors must have as many dimensions as the first.
func NewCorpus(documents []Document) (*Corpus, error) {
	c := &Corpus{documents: documents, places: make(map[string]int, len(documents))}
	seen := make(map[string]bool, len(documents))
	for i := range documents {
		d := &documents[i]
		if err := checkID(d.ID, seen); err != nil {
			return nil, fmt.Errorf("mining: document %d: %w", i, err)
		}
		if err := d.check(len(documents[0].Vector)); err != nil {
			return nil, fmt.Errorf("mining: document %q: %w", d.ID, err)
		}
		c.places[d.ID] = i
	}
	return c, nil
}

// Document finds a document by its id. It is nil if there is none.
func (c *Corpus) Document(id string) *Document {
	i, ok := c.places[id]
	if !ok {
		return nil
	}
	return &c.documents[i]
}

// Input makes the input of one query: its embedding, of unit length, and the ids of its positives. A positive
// that the corpus lacks gets an empty list with ReasonPositiveMissing.
func (c *Corpus) Input(queryID string, query []float32, positives ...string) Input {
	in := Input{QueryID: queryID, Query: query}
	for _, id := range positives {
		in.Evidence = append(in.Evidence, Evidence{ID: id, Positive: true, Document: c.Document(id)})
	}
	return in
}

// Search is for Batch.Search: it sets Candidates and Exhausted of the inputs at the given places. It looks
// through the documents once for each input.
func (c *Corpus) Search(ctx context.Context, inputs []Input, places []int, limit int) error {
	for _, i := range places {
		if err := ctx.Err(); err != nil {
			return err
		}
		in := &inputs[i]
		if len(c.documents) > 0 && len(in.Query) != len(c.documents[0].Vector) {
			return fmt.Errorf("mining: query %q: the vector has %d dimensions, the documents' have %d", in.QueryID, len(in.Query), len(c.documents[0].Vector))
		}
		if in.Exhausted = limit >= len(c.documents); in.Exhausted {
			in.Candidates = c.documents
			continue
		}
		nearest := top{most: limit}
		for _, d := range c.documents {
			nearest.add(d, Cosine(in.Query, d.Vector))
		}
		for _, r := range nearest.first() {
			in.Candidates = append(in.Candidates, r.Document)
		}
	}
	return nil
}
