// Package records defines the records that hardneg reads and writes: strict parsing, encoding, ids and content
// hashes, and their JSON Schemas. It does no I/O.
//
// Input is one JSON object in UTF-8. Unknown fields are ignored, an optional field that is null counts as absent,
// and names are matched exactly. A record that breaks a rule is refused with an error that names the field or the
// byte; the stages turn it into a dead letter.
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

// MaxID is the longest id of a document or a query, in bytes: ids become keys, payload values and parts of other
// keys, all of which are bounded.
const MaxID = 1024

// Prefixes of the names whose UUIDv5 (RFC 9562, URL namespace) serve as ids.
const (
	queryName   = "hardneg:query:"
	tripletName = "hardneg:triplet:"
)

// checkID says why s is no id.
func checkID(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	if len(s) > MaxID {
		return fmt.Errorf("is an id of %d bytes, at most %d are allowed", len(s), MaxID)
	}
	return nil
}

// keyID reads an id from a record's key. An empty key names nothing and counts as none.
func keyID(key []byte) (string, error) {
	if len(key) == 0 {
		return "", nil
	}
	if at := invalidUTF8(key); at >= 0 {
		return "", fmt.Errorf("the key is not valid UTF-8 at byte %d", at)
	}
	if err := checkID(string(key)); err != nil {
		return "", fmt.Errorf("the key %w", err)
	}
	return string(key), nil
}

// Normalize returns a query's text as it counts for its id: trimmed, lower case, single spaces.
func Normalize(text string) string {
	return strings.ToLower(strings.Join(strings.Fields(text), " "))
}

// QueryID is the id of a query that has none of its own: the UUIDv5 of "hardneg:query:" and the normalised text.
func QueryID(text string) string { return name5(queryName + Normalize(text)) }

// TripletID is the UUIDv5 of "hardneg:triplet:" and the RFC 8785 form of the JSON array
// ["<query id>","<positive id>","<negative id>",revision].
func TripletID(query, positive, negative string, revision int64) string {
	return name5(tripletName + string(canonical(query, positive, negative, revision)))
}

func name5(name string) string { return uuid.NewSHA1(uuid.NameSpaceURL, []byte(name)).String() }

// ContentHash is the version of a document: see mining.ContentHash. It stands here too, for the records carry it.
func ContentHash(title, text string) string { return mining.ContentHash(title, text) }

// EmbeddedText is what embedders get of a document: title, newline and text, or the text alone without a title.
func EmbeddedText(title, text string) string {
	if title == "" {
		return text
	}
	return title + "\n" + text
}

// TripletKey is the key of a triplet: the JSON array ["<query id>","<positive id>",rank] in RFC 8785 form, so that
// every producer writes the same bytes for the same slot.
func TripletKey(queryID, positiveID string, rank int) []byte {
	return canonical(queryID, positiveID, rank)
}

// ParseTripletKey reads what TripletKey wrote. Another spelling of the same array is refused: compaction would
// take it for another slot.
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

// canonical is the RFC 8785 form of an array of strings and whole numbers below 2^53.
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
