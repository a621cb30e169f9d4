package records

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
)

// vector is an embedding that is written as base64 of little-endian float32.
type vector []float32

// MarshalJSON implements json.Marshaler.
func (v vector) MarshalJSON() ([]byte, error) {
	raw := make([]byte, 0, 4*len(v))
	for _, x := range v {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
	}
	return json.Marshal(raw)
}

func vectors(embeddings map[string][]float32) map[string]vector {
	if embeddings == nil {
		return nil
	}
	out := make(map[string]vector, len(embeddings))
	for name, v := range embeddings {
		out[name] = v
	}
	return out
}

// embeddings reads an optional object of vectors by embedder. Each vector is an array of numbers, or base64
// of little-endian float32. All values must be finite. The embedder checks the length, because only it knows
// the right one.
func (o object) embeddings(name string) (map[string][]float32, error) {
	members, err := o.object(name)
	if err != nil || members.fields == nil {
		return nil, err
	}
	out := make(map[string][]float32, len(members.fields))
	for embedder := range members.fields {
		raw, ok := members.field(embedder)
		if !ok {
			continue
		}
		v, err := parseVector(raw)
		if err != nil {
			return nil, fmt.Errorf("field %q of embedder %q %w", name, embedder, err)
		}
		out[embedder] = v
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

func parseVector(raw json.RawMessage) ([]float32, error) {
	var v []float32
	var err error
	switch kind(raw) {
	case "an array":
		v, err = parseFloats(raw)
	case "a string":
		v, err = parseBase64(raw)
	default:
		return nil, fmt.Errorf("must be an array of numbers or a base64 string, not %s", kind(raw))
	}
	if err != nil {
		return nil, err
	}
	if len(v) == 0 {
		return nil, fmt.Errorf("is empty")
	}
	for i, x := range v {
		if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
			return nil, fmt.Errorf("has the value %v at index %d, want finite numbers", x, i)
		}
	}
	return v, nil
}

func parseFloats(raw json.RawMessage) ([]float32, error) {
	var wide []*float64 // pointers distinguish null from 0
	if err := json.Unmarshal(raw, &wide); err != nil {
		return nil, fmt.Errorf("must be an array of numbers: %v", err)
	}
	v := make([]float32, len(wide))
	for i, x := range wide {
		if x == nil {
			return nil, fmt.Errorf("has a null at index %d, want finite numbers", i)
		}
		v[i] = float32(*x)
		if math.IsInf(float64(v[i]), 0) {
			return nil, fmt.Errorf("has the value %v at index %d, which float32 cannot hold", *x, i)
		}
	}
	return v, nil
}

func parseBase64(raw json.RawMessage) ([]float32, error) {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("is not base64 with padding: %v", err)
	}
	if len(data)%4 != 0 {
		return nil, fmt.Errorf("has %d bytes, not a multiple of 4 as float32 needs", len(data))
	}
	v := make([]float32, len(data)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return v, nil
}

// encode writes JSON without HTML escapes, which would only make texts longer.
func encode(value any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil { // all values that get here have a JSON form
		panic(fmt.Sprintf("records: encode %T: %v", value, err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
