package triplets

import (
	"encoding/json"
	"io"
	"slices"

	"hardneg/internal/records"
)

// Format writes a view as JSON lines, in the form that one training library reads.
type Format func(io.Writer, View) error

// FormatNames are the names of the formats, the default first.
var FormatNames = []string{"hardneg", "sentence-transformers", "flag-embedding"}

// Formats are the formats by name.
var Formats = map[string]Format{
	"hardneg":               writeRecords,
	"sentence-transformers": writeSentenceTransformers,
	"flag-embedding":        writeFlagEmbedding,
}

// writeRecords writes the records as they are.
func writeRecords(w io.Writer, v View) error {
	for _, entry := range v {
		if _, err := w.Write(append(entry.Value, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// writeSentenceTransformers writes one line for each triplet. Its columns are those of the library's triplet losses, in
// their order.
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

// writeFlagEmbedding writes one line for each query. A negative of one of its pairs is never a positive of another pair.
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

func documentText(d records.TripletDocument) string { return records.EmbeddedText(d.Title, d.Text) }

func newEncoder(w io.Writer) *json.Encoder {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder
}
