package model

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/mining/reduce"
)

// Manifest describes a published model. It is JSON.
type Manifest struct {
	Schema     int        `json:"schema"` // of manifest and payload: 1
	ID         string     `json:"id"`
	CreatedAt  time.Time  `json:"created_at"`
	Embedders  []Embedder `json:"embedders"`
	Dimensions int        `json:"dimensions"`
	Samples    int        `json:"samples"`            // passages that the model was fitted on
	Variance   []Captured `json:"variance,omitempty"` // none without a reduction
	HeldOut    *HeldOut   `json:"held_out,omitempty"` // none without a reduction, for a small sample, or from an older version
	Bytes      int        `json:"bytes"`              // size of the payload
	Reducer    int        `json:"reducer_bytes"`      // at the payload's end
	Chunks     int        `json:"chunks"`             // number of chunks of the payload
	Checksum   string     `json:"sha256"`             // of the payload
}

// Captured is a point of the variance curve: the share of the sample's total variance in the first axes.
type Captured struct {
	Dimensions int     `json:"dimensions"`
	Share      float64 `json:"share"`
}

const (
	schema     = 1
	chunkBytes = 500_000 // of the payload in one record: below 512 KiB with key and headers
)

// maxPayload limits a payload that is read back: 2,048 axes of 65,536 dimensions.
const maxPayload = 1 << 29

// seal serialises the fitted data and completes the manifest.
func (m *Model) seal(manifest Manifest, definitions []config.Embedder) error {
	for i, embedder := range m.embedders {
		part := define(definitions[i])
		part.Dimensions = embedder.Dimensions()
		if fitted, ok := embedder.(embed.Fitted); ok {
			data, err := fitted.MarshalBinary()
			if err != nil {
				return fmt.Errorf("model: %w", err)
			}
			part.Bytes = len(data)
			m.payload = append(m.payload, data...)
		}
		manifest.Embedders = append(manifest.Embedders, part)
	}
	data, err := m.reducer.MarshalBinary()
	if err != nil {
		return fmt.Errorf("model: %w", err)
	}
	m.payload = append(m.payload, data...)
	if len(m.payload) > maxPayload {
		return fmt.Errorf("model: %d bytes were fitted, at most %d can be published: lower reduce.max_dimensions or the embedders' dimensions", len(m.payload), maxPayload)
	}
	manifest.Schema = schema
	manifest.Dimensions = m.reducer.Out()
	manifest.Variance = curve(m.reducer.Share)
	manifest.Bytes = len(m.payload)
	manifest.Reducer = len(data)
	manifest.Chunks = (len(m.payload) + chunkBytes - 1) / chunkBytes
	manifest.Checksum = checksum(m.payload)
	manifest.ID = identify(manifest)
	m.manifest = manifest
	return nil
}

// identify computes a model's id from everything that determines its vectors, and nothing else.
func identify(manifest Manifest) string {
	content := sha256.New()
	fmt.Fprintf(content, "%d %d %d %s\n", manifest.Schema, manifest.Dimensions, manifest.Reducer, manifest.Checksum)
	for _, part := range manifest.Embedders {
		part.identify(content)
	}
	return hex.EncodeToString(content.Sum(nil)[:8])
}

func checksum(payload []byte) string {
	sum := sha256.Sum256(payload)
	return hex.EncodeToString(sum[:])
}

// curve keeps only the shares that are needed to choose a number of dimensions: at the powers of two, at the
// first dimension that reaches each tenth, and at the end.
func curve(shares []float64) []Captured {
	var points []Captured
	tenth := 1
	for i, share := range shares {
		dimensions := i + 1
		reached := tenth
		for reached < 10 && share >= float64(reached)/10 {
			reached++
		}
		if dimensions&(dimensions-1) == 0 || reached > tenth || dimensions == len(shares) {
			points = append(points, Captured{dimensions, share})
		}
		tenth = reached
	}
	return points
}

// Encode returns the model as records of the models topic: the manifest, and the payload in chunks of less
// than 512 KiB. The chunks share the model's memory.
func (m *Model) Encode() (manifest []byte, chunks [][]byte, err error) {
	manifest, err = json.Marshal(m.manifest)
	if err != nil {
		return nil, nil, fmt.Errorf("model %s: %w", m.manifest.ID, err)
	}
	for start := 0; start < len(m.payload); start += chunkBytes {
		chunks = append(chunks, m.payload[start:min(start+chunkBytes, len(m.payload))])
	}
	return manifest, chunks, nil
}

// Decode reads the output of Encode. It fails if anything was lost or changed. It asks no server.
func Decode(resources *embed.Resources, manifest []byte, chunks [][]byte) (*Model, error) {
	var described Manifest
	if err := json.Unmarshal(manifest, &described); err != nil {
		return nil, fmt.Errorf("model: the manifest is not JSON: %w", err)
	}
	if described.Schema != schema {
		return nil, fmt.Errorf("model %s: schema %d, want %d: another version of hardneg wrote it", described.ID, described.Schema, schema)
	}
	payload, err := described.join(chunks)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", described.ID, err)
	}
	m, err := described.open(payload, resources)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", described.ID, err)
	}
	return m, nil
}

// join puts the chunks together and checks them against the manifest.
func (described Manifest) join(chunks [][]byte) ([]byte, error) {
	if len(chunks) != described.Chunks {
		return nil, fmt.Errorf("%d chunks, want %d", len(chunks), described.Chunks)
	}
	size := 0
	for _, chunk := range chunks {
		size += len(chunk)
	}
	if size != described.Bytes {
		return nil, fmt.Errorf("%d bytes in %d chunks, want %d", size, len(chunks), described.Bytes)
	}
	payload := bytes.Join(chunks, nil)
	if got := checksum(payload); got != described.Checksum {
		return nil, fmt.Errorf("the SHA-256 of the chunks is %s, want %s", got, described.Checksum)
	}
	if id := identify(described); id != described.ID {
		return nil, fmt.Errorf("the content is that of model %s", id)
	}
	return payload, nil
}

// Definitions returns the embedders in the form of a configuration.
func (described Manifest) Definitions() []config.Embedder {
	var definitions []config.Embedder
	for _, part := range described.Embedders {
		definitions = append(definitions, part.configuration())
	}
	return definitions
}

// open restores the model from a payload that agrees with the manifest.
func (described Manifest) open(payload []byte, resources *embed.Resources) (*Model, error) {
	m, err := assemble(described.Definitions(), resources)
	if err != nil {
		return nil, err
	}
	rest := payload
	for i, embedder := range m.embedders {
		size := described.Embedders[i].Bytes
		if size < 0 || size > len(rest) {
			return nil, fmt.Errorf("embedder %s: %d bytes of %d", embedder.Name(), size, len(rest))
		}
		fitted, ok := embedder.(embed.Fitted)
		if ok {
			err = fitted.UnmarshalBinary(rest[:size])
		} else if size != 0 {
			err = fmt.Errorf("embedder %s: %d bytes, want none", embedder.Name(), size)
		}
		if err != nil {
			return nil, err
		}
		rest = rest[size:]
	}
	if described.Reducer != len(rest) {
		return nil, fmt.Errorf("%d bytes are left for the reducer, want %d", len(rest), described.Reducer)
	}
	m.reducer = new(reduce.Reducer)
	if err := m.reducer.UnmarshalBinary(rest); err != nil {
		return nil, fmt.Errorf("reducer: %w", err)
	}
	if m.reducer.Dimensions != m.length || m.reducer.Out() != described.Dimensions {
		return nil, errors.New("the reducer's dimensions are not those of the manifest and its embedders")
	}
	m.manifest, m.payload = described, payload
	return m, nil
}
