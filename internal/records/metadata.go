package records

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Limits of a document's metadata. Qdrant reads messages nested up to 100 deep, and each object takes three
// levels.
const (
	MaxMetadata      = 1 << 20 // bytes, as the record has them
	MaxMetadataDepth = 16      // objects and arrays inside each other, including the metadata itself
)

// metadata returns an optional object of any content that the index can store: every number fits float64,
// every string consists of characters, and the limits above hold. Whole numbers that fit int64 stay exact in
// the index. Others are rounded to float64.
func (o object) metadata(name string) (json.RawMessage, error) {
	raw, ok := o.field(name)
	if !ok {
		return nil, nil
	}
	if kind(raw) != "an object" {
		return nil, o.wrong(name, "an object", raw)
	}
	if len(raw) > MaxMetadata {
		return nil, fmt.Errorf("field %q has %d bytes, at most %d are allowed", o.path+name, len(raw), MaxMetadata)
	}
	if err := pairedSurrogates(raw); err != nil {
		return nil, fmt.Errorf("field %q %w", o.path+name, err)
	}
	if err := checkMetadata(raw); err != nil {
		return nil, fmt.Errorf("field %q %w", o.path+name, err)
	}
	return raw, nil
}

// checkMetadata reads valid JSON token by token. Recursion would need as much stack as the metadata is deep.
func checkMetadata(raw []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	for depth := 0; ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch token := token.(type) {
		case json.Delim:
			if token == '}' || token == ']' {
				depth--
			} else if depth++; depth > MaxMetadataDepth {
				return fmt.Errorf("is nested more than %d deep at its byte %d", MaxMetadataDepth, decoder.InputOffset()-1)
			}
		case json.Number:
			if _, err := strconv.ParseFloat(token.String(), 64); err != nil {
				return fmt.Errorf("has the number %s, which is outside of float64", clip([]byte(token)))
			}
		}
	}
}
