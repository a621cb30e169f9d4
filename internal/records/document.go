package records

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Document is a record of the documents topic.
type Document struct {
	ID         string
	Title      string
	Text       string
	URL        string
	UpdatedAt  string          // RFC 3339, as written; "" if absent
	Metadata   json.RawMessage // a JSON object, or nil
	Embeddings map[string][]float32
}

// ParseDocument reads a record of the documents topic. A nil value deletes the document with the id in the
// key. An empty key counts as no key. The second result reports a delete.
//
// After an error, the returned document still has its ID if the record says which document it means: by a
// usable key, or, without a key, by a usable id. Such a record counts as a delete, because its new content
// replaces the old one.
func ParseDocument(key, value []byte) (Document, bool, error) {
	id, err := keyID(key)
	if err != nil {
		return Document{}, false, err
	}
	if value == nil {
		if id == "" {
			return Document{}, false, errors.New("a delete (null value) needs the document's id as its key")
		}
		return Document{ID: id}, true, nil
	}
	d, err := parseDocument(id, value)
	if err != nil {
		return Document{ID: d.ID}, false, err
	}
	return d, false, nil
}

// DocumentID returns the id of the document that ParseDocument finds in a record, or "".
func DocumentID(key, value []byte) string {
	if id, err := keyID(key); id != "" || err != nil {
		return id
	}
	d, _, _ := ParseDocument(key, value) // if there is no key, the value may contain the id
	return d.ID
}

func parseDocument(key string, value []byte) (Document, error) {
	d := Document{ID: key}
	o, err := parseObject(value)
	if err != nil {
		return d, err
	}
	id, err := o.id("id")
	switch {
	case err != nil:
		return d, err
	case id == "" && key == "":
		return d, errors.New(`field "id" is missing, and so is the key`)
	case id != "" && key != "" && id != key:
		return d, fmt.Errorf("the key %q contradicts the id %q", key, id)
	case key == "":
		d.ID = id
	}
	if d.Text, err = o.required("text"); err != nil {
		return d, err
	}
	if d.Title, err = o.text("title"); err != nil {
		return d, err
	}
	if d.URL, err = o.text("url"); err != nil {
		return d, err
	}
	if d.UpdatedAt, err = o.time("updated_at"); err != nil {
		return d, err
	}
	if d.Metadata, err = o.metadata("metadata"); err != nil {
		return d, err
	}
	d.Embeddings, err = o.embeddings("embeddings")
	return d, err
}

// Hash returns the document's version, see ContentHash.
func (d Document) Hash() string { return ContentHash(d.Title, d.Text) }

// Encode returns the record's key and value.
func (d Document) Encode() (key, value []byte) {
	return []byte(d.ID), encode(struct {
		ID         string            `json:"id"`
		Title      string            `json:"title,omitempty"`
		Text       string            `json:"text"`
		URL        string            `json:"url,omitempty"`
		UpdatedAt  string            `json:"updated_at,omitempty"`
		Metadata   json.RawMessage   `json:"metadata,omitempty"`
		Embeddings map[string]vector `json:"embeddings,omitempty"`
	}{d.ID, d.Title, d.Text, d.URL, d.UpdatedAt, d.Metadata, vectors(d.Embeddings)})
}
