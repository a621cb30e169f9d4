package records

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// TripletSchema is the version of the triplet's format, also in the header hardneg-schema.
const TripletSchema = 1

// Triplet is one slot in the list of a query and a positive.
type Triplet struct {
	Schema     int             `json:"schema"`
	ID         string          `json:"triplet_id"`
	Query      TripletQuery    `json:"query"`
	Positive   TripletDocument `json:"positive"`
	Negative   TripletDocument `json:"negative"`
	Rank       int             `json:"rank"` // from 1
	Policy     string          `json:"policy"`
	Similarity Similarity      `json:"similarity"`
	Generation string          `json:"generation"` // id of the fitted model
	Revision   int64           `json:"revision"`
	MinedAt    string          `json:"mined_at"` // RFC 3339
}

// TripletQuery is the query of a triplet.
type TripletQuery struct {
	ID        string `json:"id"`
	Text      string `json:"text"`
	Truncated bool   `json:"truncated,omitempty"` // the text was cut
}

// TripletDocument is a document of a triplet.
type TripletDocument struct {
	ID        string `json:"id"`
	Title     string `json:"title"`
	Text      string `json:"text"`
	Version   string `json:"version"`             // content hash of the whole document
	Truncated bool   `json:"truncated,omitempty"` // title or text was cut
}

// Similarity holds the three cosines of a triplet.
type Similarity struct {
	QueryPositive    float32 `json:"query_positive"`
	QueryNegative    float32 `json:"query_negative"`
	PositiveNegative float32 `json:"positive_negative"`
}

// Encode returns the triplet's value. It cuts every text and title between characters, to at most maxText
// bytes in JSON form without quotes. It fills in Schema and ID.
func (t Triplet) Encode(maxText int) []byte {
	t.Schema = TripletSchema
	t.ID = TripletID(t.Query.ID, t.Positive.ID, t.Negative.ID, t.Revision)
	t.Query.Text, t.Query.Truncated = cut(t.Query.Text, maxText)
	t.Positive = t.Positive.cut(maxText)
	t.Negative = t.Negative.cut(maxText)
	return encode(t)
}

func (d TripletDocument) cut(most int) TripletDocument {
	var title, text bool
	d.Title, title = cut(d.Title, most)
	d.Text, text = cut(d.Text, most)
	d.Truncated = title || text
	return d
}

// cut returns the longest prefix of whole runes whose JSON form has at most `most` bytes, and whether it has
// cut anything.
func cut(text string, most int) (string, bool) {
	size := 0
	for at, r := range text {
		if size += encodedSize(r); size > most {
			return text[:at], true
		}
	}
	return text, false
}

// encodedSize returns the number of bytes that encode writes for a rune.
func encodedSize(r rune) int {
	switch {
	case r == '"', r == '\\', r == '\b', r == '\f', r == '\n', r == '\r', r == '\t':
		return len(`\n`)
	case r < ' ', r == '\u2028', r == '\u2029', r == utf8.RuneError: // RuneError may stand for a broken byte
		return len(`\u2028`)
	}
	return utf8.RuneLen(r)
}

// ParseTriplet reads a triplet's value.
func ParseTriplet(value []byte) (Triplet, error) {
	var t Triplet
	if value == nil {
		return t, errors.New("a null value retracts a triplet and holds none")
	}
	if _, err := parseObject(value); err != nil {
		return t, err
	}
	if err := pairedSurrogates(value); err != nil {
		return t, fmt.Errorf("the value %w", err)
	}
	if err := json.Unmarshal(withoutMark(value), &t); err != nil {
		return t, fmt.Errorf("not a triplet: %w", err)
	}
	if t.Schema != TripletSchema {
		return t, fmt.Errorf("triplet of schema %d, this program reads %d", t.Schema, TripletSchema)
	}
	if t.Query.ID == "" || t.Positive.ID == "" || t.Negative.ID == "" || t.Rank < 1 {
		return t, errors.New("a triplet needs the ids of query, positive and negative, and a rank from 1")
	}
	return t, nil
}
