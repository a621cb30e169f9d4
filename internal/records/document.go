package records

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Document is a record of the documents topic. Title or Text is not blank.
type Document struct {
	ID         string
	Title      string
	Text       string
	URL        string          // "" if absent, or if it is not a string: nothing uses it
	UpdatedAt  string          // RFC 3339, see readTime; "" if absent
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
		return d, fmt.Errorf("the key %q contradicts the id %q%s", clip([]byte(key)), clip([]byte(id)), contradiction(key, id))
	case key == "":
		d.ID = id
	}
	if err := o.content(&d); err != nil {
		return d, err
	}
	d.URL = o.unused("url")
	if d.UpdatedAt, err = o.time("updated_at"); err != nil {
		return d, err
	}
	if d.Metadata, err = o.metadata("metadata"); err != nil {
		return d, err
	}
	d.Embeddings, err = o.embeddings("embeddings")
	return d, err
}

// content reads the fields that are embedded. An empty text is fine if there is a title. But the field must be
// there: where it is missing, its name may be misspelt, and nobody would notice that the titles alone are embedded.
func (o object) content(d *Document) (err error) {
	if d.Title, err = o.text("title"); err != nil {
		return err
	}
	if d.Text, err = o.text("text"); err != nil {
		return err
	}
	switch _, there := o.fields["text"]; {
	case !there:
		return fmt.Errorf("field %q is missing", o.path+"text")
	case strings.TrimSpace(d.Text) == "" && strings.TrimSpace(d.Title) == "":
		return fmt.Errorf("field %q is empty, and so is %q: there is nothing to embed", o.path+"text", o.path+"title")
	}
	return nil
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
