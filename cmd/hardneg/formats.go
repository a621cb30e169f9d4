package main

import (
	"fmt"
	"io"
	"slices"

	"hardneg/internal/records"
)

// formatNames lists the formats of export. The default comes first.
var formatNames = []string{"hardneg", "sentence-transformers", "flag-embedding"}

var formats = map[string]func(io.Writer, view) error{
	"hardneg":               writeRecords,
	"sentence-transformers": writeSentenceTransformers,
	"flag-embedding":        writeFlagEmbedding,
}

func writeRecords(w io.Writer, v view) error {
	for _, entry := range v {
		if _, err := w.Write(append(entry.value, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// writeSentenceTransformers writes the columns in the order in which the triplet losses of that library
// take them.
func writeSentenceTransformers(w io.Writer, v view) error {
	encoder := newEncoder(w)
	for _, entry := range v {
		t, err := entry.triplet()
		if err != nil {
			return err
		}
		err = encoder.Encode(struct {
			Anchor   string `json:"anchor"`
			Positive string `json:"positive"`
			Negative string `json:"negative"`
		}{t.Query.Text, documentText(t.Positive), documentText(t.Negative)})
		if err != nil {
			return err
		}
	}
	return nil
}

// writeFlagEmbedding writes one line for each query. A document that is a positive of a query is a negative
// of none of the query's pairs, so the lists can be joined.
func writeFlagEmbedding(w io.Writer, v view) error {
	encoder := newEncoder(w)
	for len(v) > 0 {
		n := 1
		for n < len(v) && v[n].query == v[0].query {
			n++
		}
		var line struct {
			Query string   `json:"query"`
			Pos   []string `json:"pos"`
			Neg   []string `json:"neg"`
		}
		var positives, negatives []string // ids
		for _, entry := range v[:n] {
			t, err := entry.triplet()
			if err != nil {
				return err
			}
			line.Query = t.Query.Text
			if !slices.Contains(positives, t.Positive.ID) {
				positives = append(positives, t.Positive.ID)
				line.Pos = append(line.Pos, documentText(t.Positive))
			}
			if !slices.Contains(negatives, t.Negative.ID) {
				negatives = append(negatives, t.Negative.ID)
				line.Neg = append(line.Neg, documentText(t.Negative))
			}
		}
		if err := encoder.Encode(line); err != nil {
			return err
		}
		v = v[n:]
	}
	return nil
}

func (e viewed) triplet() (records.Triplet, error) {
	t, err := records.ParseTriplet(e.value)
	if err != nil {
		return t, fmt.Errorf("triplet [%q,%q,%d]: %w", e.query, e.positive, e.rank, err)
	}
	return t, nil
}

func documentText(d records.TripletDocument) string { return records.EmbeddedText(d.Title, d.Text) }
