package triplets

import (
	"encoding/json"
	"io"
	"slices"

	"hardneg/internal/records"
)

// Format writes a view as JSON lines in a certain form, such as the one that a training library reads.
type Format func(io.Writer, View) error

// FormatNames lists the names of the formats. The first one is the default.
var FormatNames = []string{"hardneg", "sentence-transformers", "flag-embedding"}

// Formats holds the formats by name.
var Formats = map[string]Format{
	"hardneg":               writeRecords,
	"sentence-transformers": writeSentenceTransformers,
	"flag-embedding":        writeFlagEmbedding,
}

// writeRecords writes the values of the records, unchanged.
func writeRecords(w io.Writer, v View) error {
	for _, entry := range v {
		if _, err := w.Write(append(entry.Value, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// writeSentenceTransformers writes one line for each triplet. The triplet losses of the library take these
// columns in this order.
func writeSentenceTransformers(w io.Writer, v View) error {
	encoder := newEncoder(w)
	for _, entry := range v {
		t, err := entry.Triplet()
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

// writeFlagEmbedding writes one line for each query, with the positives and negatives of all its pairs. It
// can join the pairs, because a negative of one pair is never a positive of another pair.
func writeFlagEmbedding(w io.Writer, v View) error {
	encoder := newEncoder(w)
	for len(v) > 0 {
		n := 1
		for n < len(v) && v[n].Query == v[0].Query {
			n++
		}
		var line struct {
			Query string   `json:"query"`
			Pos   []string `json:"pos"`
			Neg   []string `json:"neg"`
		}
		var positives, negatives []string // ids
		for _, entry := range v[:n] {
			t, err := entry.Triplet()
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

// documentText returns the text of a document as the embedders see it.
func documentText(d records.TripletDocument) string { return records.EmbeddedText(d.Title, d.Text) }

func newEncoder(w io.Writer) *json.Encoder {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder
}
