// Package records defines the records that hardneg reads and writes: strict parsing, encoding, ids, content
// hashes, and their JSON Schemas. It does no I/O. cmd/hardneg and the packages of internal use it.
//
// Input is one JSON object in UTF-8, with or without a byte order mark. Unknown fields are ignored, an optional
// field that is null counts as absent, and names must match exactly. A record that breaks a rule is refused with
// an error that names the field or the byte. The stages turn such a record into a dead letter.
package records

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/gowebpki/jcs"

	"hardneg/mining"
)

// MaxID is the maximum length of a document's or query's id, in bytes. Ids become keys, payload values and
// parts of other keys, and all of these have a maximum length.
const MaxID = 1024

// Prefixes of the names whose UUIDv5 (RFC 9562, URL namespace) serve as ids.
const (
	queryName   = "hardneg:query:"
	tripletName = "hardneg:triplet:"
)

// CheckID returns an error if s is not a legal id of a document or query. The error is a predicate, such as "is
// empty".
func CheckID(s string) error {
	if at := InvalidUTF8([]byte(s)); at >= 0 {
		return fmt.Errorf("is not valid UTF-8 at its byte %d", at)
	}
	return checkID(s)
}

// checkID is CheckID for valid UTF-8.
func checkID(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	if len(s) > MaxID {
		return fmt.Errorf("is an id of %d bytes, at most %d are allowed", len(s), MaxID)
	}
	if s[0] == 0 { // as a key it would look like one of Schema Registry, see keyID
		return errors.New("is an id that begins with a zero byte")
	}
	return nil
}

// keyID reads an id from a record's key. It returns "" for an empty key, which counts as no key.
func keyID(key []byte) (string, error) {
	if len(key) == 0 {
		return "", nil
	}
	if schema, ok := registered(key); ok {
		return "", fmt.Errorf("the key %s", schemaRegistry(schema, "key.serializer"))
	}
	if at := InvalidUTF8(key); at >= 0 {
		return "", fmt.Errorf("the key is not valid UTF-8 at byte %d", at)
	}
	if err := checkID(string(key)); err != nil {
		return "", fmt.Errorf("the key %w", err)
	}
	return string(key), nil
}

// Normalize returns a query's text in the form that determines its id: trimmed, lower case, single spaces.
func Normalize(text string) string {
	return strings.ToLower(strings.Join(strings.Fields(text), " "))
}

// QueryID returns the id of a query without an id: the UUIDv5 of "hardneg:query:" and the normalised text.
func QueryID(text string) string { return name5(queryName + Normalize(text)) }

// TripletID returns the UUIDv5 of "hardneg:triplet:" and the RFC 8785 form of the JSON array ["<query
// id>","<positive id>","<negative id>",revision].
func TripletID(query, positive, negative string, revision int64) string {
	return name5(tripletName + string(canonical(query, positive, negative, revision)))
}

func name5(name string) string { return uuid.NewSHA1(uuid.NameSpaceURL, []byte(name)).String() }

// ContentHash is the version of a document: see mining.ContentHash. It stands here too, because the records carry it.
func ContentHash(title, text string) string { return mining.ContentHash(title, text) }

// EmbeddedText returns the text that embedders get: title, newline and text, or only one of them if the other
// is empty.
func EmbeddedText(title, text string) string {
	if title == "" || text == "" {
		return title + text
	}
	return title + "\n" + text
}

// TripletKey returns the key of a triplet: the JSON array ["<query id>","<positive id>",rank] in RFC 8785
// form. So every producer writes the same bytes for the same slot.
func TripletKey(queryID, positiveID string, rank int) []byte {
	return canonical(queryID, positiveID, rank)
}

// ParseTripletKey reads the output of TripletKey. It refuses other spellings of the same array, because
// compaction would treat them as other slots.
func ParseTripletKey(key []byte) (queryID, positiveID string, rank int, err error) {
	var parts []json.RawMessage
	if err := json.Unmarshal(key, &parts); err != nil {
		return "", "", 0, fmt.Errorf("triplet key %q: %w", clip(key), err)
	}
	if len(parts) != 3 {
		return "", "", 0, fmt.Errorf("triplet key %q has %d elements, want [query id, positive id, rank]", clip(key), len(parts))
	}
	for i, part := range []any{&queryID, &positiveID, &rank} {
		if err := json.Unmarshal(parts[i], part); err != nil {
			return "", "", 0, fmt.Errorf("triplet key %q, element %d: %w", clip(key), i, err)
		}
	}
	if rank < 1 || queryID == "" || positiveID == "" {
		return "", "", 0, fmt.Errorf("triplet key %q: ids must not be empty and ranks begin at 1", clip(key))
	}
	if !bytes.Equal(key, TripletKey(queryID, positiveID, rank)) {
		return "", "", 0, fmt.Errorf("triplet key %q is not in RFC 8785 form", clip(key))
	}
	return queryID, positiveID, rank, nil
}

// canonical returns the RFC 8785 form of an array of strings and of whole numbers below 2^53.
func canonical(elements ...any) []byte {
	encoded, err := json.Marshal(elements)
	if err == nil {
		encoded, err = jcs.Transform(encoded)
	}
	if err != nil { // strings and numbers always have a JSON form
		panic(fmt.Sprintf("records: %v has no canonical form: %v", elements, err))
	}
	return encoded
}
