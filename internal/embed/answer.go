package embed

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// answer is the body of a successful answer.
type answer struct {
	Data []struct {
		Index     *int    `json:"index"`
		Embedding numbers `json:"embedding"`
	} `json:"data"`
	Error json.RawMessage `json:"error"`
}

// numbers is a vector in JSON: an array, or base64 of little-endian float32.
type numbers []float32

func (n *numbers) UnmarshalJSON(data []byte) error {
	switch {
	case len(data) > 0 && data[0] == '"':
		return n.decode(data)
	case len(data) > 0 && data[0] == '[':
		return n.parse(data[1 : len(data)-1])
	}
	return fmt.Errorf("an embedding is %.20q, want numbers or base64", data)
}

func (n *numbers) decode(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("an embedding is no base64: %w", err)
	}
	if len(raw)%4 != 0 {
		return fmt.Errorf("an embedding has %d bytes, want a multiple of 4", len(raw))
	}
	*n = make(numbers, len(raw)/4)
	for i := range *n {
		(*n)[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return nil
}

// parse reads the text between the brackets. Some servers write NaN as null, and encoding/json would silently
// turn it into 0.
func (n *numbers) parse(data []byte) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	*n = make(numbers, 0, bytes.Count(data, []byte(","))+1)
	for element := range bytes.SplitSeq(data, []byte(",")) {
		element = bytes.TrimSpace(element)
		if string(element) == "null" {
			*n = append(*n, float32(math.NaN()))
			continue
		}
		value, err := strconv.ParseFloat(string(element), 32)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return fmt.Errorf("number %d of an embedding is %.20q", len(*n), element)
		}
		*n = append(*n, float32(value)) // a number out of range becomes infinite, which is refused later
	}
	return nil
}

// vectorsOf reads the answer to a request with the given number of texts. The vectors are in the order of the
// texts.
func vectorsOf(body []byte, texts int, secrets []string) ([][]float32, error) {
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, fmt.Errorf("the answer is not the JSON of embeddings: %w", err)
	}
	if a.Data == nil && len(a.Error) > 0 && string(a.Error) != "null" {
		return nil, fmt.Errorf("the answer is an error with status 200: %q", message(body, secrets))
	}
	if len(a.Data) != texts {
		return nil, fmt.Errorf("the answer has %d embeddings for %d texts", len(a.Data), texts)
	}
	vectors := make([][]float32, texts)
	for i, d := range a.Data {
		switch {
		case d.Index == nil:
			return nil, fmt.Errorf("embedding %d of the answer has no index", i)
		case *d.Index < 0 || *d.Index >= texts:
			return nil, fmt.Errorf("embedding %d of the answer has index %d for %d texts", i, *d.Index, texts)
		case vectors[*d.Index] != nil:
			return nil, fmt.Errorf("the answer has index %d twice", *d.Index)
		case len(d.Embedding) == 0:
			return nil, fmt.Errorf("embedding %d of the answer is empty", i)
		}
		vectors[*d.Index] = d.Embedding
	}
	return vectors, nil
}
