package model

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"hardneg/internal/config"
	"hardneg/internal/embed"
)

func encode(t testing.TB, m *Model) ([]byte, [][]byte) {
	t.Helper()
	manifest, chunks, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return manifest, chunks
}

func TestRoundTrip(t *testing.T) {
	own := config.Embedder{Name: "own", Type: embed.TypeCarried, Weight: 2, Dimensions: 3}
	for name, m := range map[string]*Model{
		"reduced":   mustFit(t, small, pca, 10, prose(1, 200)),
		"unreduced": mustFit(t, small, config.Reduce{Method: "none"}, 10, prose(1, 200)),
		"carried":   mustFit(t, []config.Embedder{own}, config.Reduce{Method: "none"}, 10, []embed.Item{{Carried: map[string][]float32{"own": {1, 2, 3}}}}),
	} {
		manifest, chunks := encode(t, m)
		for i, chunk := range chunks {
			if len(chunk) == 0 || len(chunk) >= 512<<10 {
				t.Errorf("%s: chunk %d has %d bytes", name, i, len(chunk))
			}
		}
		back, err := Decode(nil, manifest, chunks)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if back.ID() != m.ID() || back.Dimensions() != m.Dimensions() {
			t.Errorf("%s: id %s and %d dimensions, want %s and %d", name, back.ID(), back.Dimensions(), m.ID(), m.Dimensions())
		}
		again, chunksAgain := encode(t, back)
		if !bytes.Equal(manifest, again) || !slices.EqualFunc(chunks, chunksAgain, bytes.Equal) {
			t.Errorf("%s: encoded again it differs", name)
		}
		items := prose(3, 20)
		for i := range items {
			items[i].Carried = map[string][]float32{"own": {1, float32(i), 3}}
		}
		want, _ := mustVectors(t, m, items)
		got, _ := mustVectors(t, back, items)
		if !slices.EqualFunc(got, want, slices.Equal[[]float32]) {
			t.Errorf("%s: the vectors differ", name)
		}
	}
}

func TestManifest(t *testing.T) {
	m := mustFit(t, small, pca, 10, append(prose(1, 200), embed.Item{Text: "..."}))
	data, _ := encode(t, m)
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"schema", "id", "created_at", "embedders", "dimensions", "samples", "variance", "sha256", "chunks"} {
		if got[key] == nil {
			t.Errorf("the manifest lacks %q: %s", key, data)
		}
	}
	info := m.Info()
	if info.Samples != 200 || info.Dimensions != m.Dimensions() || info.ID != m.ID() || info.CreatedAt.IsZero() {
		t.Errorf("manifest %+v", info)
	}
	last := info.Variance[len(info.Variance)-1]
	if last.Dimensions != m.Dimensions() || last.Share <= 0 || last.Share > 1+1e-9 {
		t.Errorf("the variance curve ends at %+v", last)
	}
}

// TestDecodeDamaged: anything lost or changed on the way gives an error that names the model.
func TestDecodeDamaged(t *testing.T) {
	m := mustFit(t, small, pca, 10, prose(1, 100))
	manifest, chunks := encode(t, m)
	if len(chunks) < 3 {
		t.Fatalf("%d chunks are too few for this test", len(chunks))
	}
	edit := func(change func(*Manifest)) []byte {
		changed := m.Info()
		changed.Embedders = slices.Clone(changed.Embedders)
		change(&changed)
		data, err := json.Marshal(changed)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	flipped := slices.Clone(chunks)
	flipped[1] = slices.Clone(chunks[1])
	flipped[1][77] ^= 1
	swapped := slices.Clone(chunks)
	swapped[0], swapped[1] = chunks[1], chunks[0]
	shortened := slices.Clone(chunks)
	shortened[0] = chunks[0][1:]
	for _, test := range []struct {
		name     string
		manifest []byte
		chunks   [][]byte
		want     string
	}{
		{"no manifest", nil, chunks, "the manifest is not JSON"},
		{"manifest cut", manifest[:len(manifest)/2], chunks, "the manifest is not JSON"},
		{"schema", edit(func(m *Manifest) { m.Schema = 2 }), chunks, "schema 2, want 1"},
		{"chunk lost", manifest, chunks[1:], "chunks, want"},
		{"chunk twice", manifest, append(slices.Clone(chunks), chunks[0]), "chunks, want"},
		{"byte lost", manifest, shortened, "bytes in"},
		{"bit flipped", manifest, flipped, "SHA-256"},
		{"out of order", manifest, swapped, "SHA-256"},
		{"another id", edit(func(m *Manifest) { m.ID = "0123456789abcdef" }), chunks, "the content is that of model " + m.ID()},
		{"another weight", edit(func(m *Manifest) { m.Embedders[0].Weight = 3 }), chunks, "the content is that of model"},
		{"another dimension", edit(func(m *Manifest) { m.Dimensions++ }), chunks, "the content is that of model"},
		{"no embedders", edit(func(m *Manifest) { m.Embedders = nil }), chunks, "the content is that of model"},
		{"resealed without embedders", reseal(edit, func(m *Manifest) { m.Embedders = nil }), chunks, "none configured"},
		{"resealed with another type", reseal(edit, func(m *Manifest) { m.Embedders[0].Type = "x" }), chunks, "unknown type"},
		{"resealed with negative bytes", reseal(edit, func(m *Manifest) { m.Embedders[0].Bytes = -1 }), chunks, "embedder words: -1 bytes"},
		{"resealed with too many bytes", reseal(edit, func(m *Manifest) { m.Embedders[1].Bytes = 1 << 40 }), chunks, "embedder characters"},
		{"resealed with other buckets", reseal(edit, func(m *Manifest) { m.Embedders[0].Dimensions++ }), chunks, "dimensions are not those"},
		{"resealed with fewer dimensions", reseal(edit, func(m *Manifest) { m.Dimensions-- }), chunks, "dimensions are not those"},
	} {
		_, err := Decode(nil, test.manifest, test.chunks)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "model") {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.want)
		}
	}
}

// reseal changes a manifest and gives it the id of its new content, like a faulty writer.
func reseal(edit func(func(*Manifest)) []byte, change func(*Manifest)) []byte {
	return edit(func(m *Manifest) {
		change(m)
		m.ID = identify(*m)
	})
}

// TestDecodeRandomDamage breaks manifest and chunks at random positions. The result is an error, never a
// panic or another model.
func TestDecodeRandomDamage(t *testing.T) {
	m := mustFit(t, small, pca, 10, prose(1, 100))
	manifest, chunks := encode(t, m)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 40 {
		damaged := slices.Clone(chunks)
		at := random.IntN(len(damaged))
		damaged[at] = slices.Clone(damaged[at])
		damaged[at][random.IntN(len(damaged[at]))] ^= 1 << random.IntN(8)
		if _, err := Decode(nil, manifest, damaged); err == nil {
			t.Fatal("a changed chunk was not noticed")
		}
	}
}

// FuzzDecode: Decode never panics, and a model that it accepts is complete.
func FuzzDecode(f *testing.F) {
	own := config.Embedder{Name: "own", Type: embed.TypeCarried, Weight: 2, Dimensions: 3}
	sample := []embed.Item{{Carried: map[string][]float32{"own": {1, 2, 3}}}, {Carried: map[string][]float32{"own": {3, -2, 1}}}}
	for _, reduce := range []config.Reduce{{Method: "none"}, {Method: "pca", Variance: 0.9, MaxDimensions: 2, Normalize: true}} {
		manifest, chunks := encode(f, mustFit(f, []config.Embedder{own}, reduce, 10, sample))
		f.Add(manifest, chunks[0])
	}
	f.Add([]byte(`{"schema":1,"chunks":1}`), []byte{})
	f.Add([]byte(`{"schema":1,"chunks":-1,"bytes":-1}`), []byte{0})
	f.Fuzz(func(t *testing.T, manifest, payload []byte) {
		for _, chunks := range [][][]byte{nil, {payload}, {payload, nil}} {
			m, err := Decode(nil, manifest, chunks)
			if err == nil && (m.ID() == "" || m.Dimensions() <= 0) {
				t.Fatalf("model %q of %d dimensions", m.ID(), m.Dimensions())
			}
		}
		// With a manifest that matches it, the same payload reaches the decoders behind the checksum.
		var described Manifest
		if json.Unmarshal(manifest, &described) != nil {
			return
		}
		described.vouch(payload)
		if resealed, err := json.Marshal(described); err == nil {
			_, _ = Decode(nil, resealed, [][]byte{payload})
		}
	})
}

// vouch makes a manifest agree with a payload of one chunk.
func (m *Manifest) vouch(payload []byte) {
	fitted := 0
	for _, part := range m.Embedders {
		fitted += part.Bytes
	}
	m.Chunks, m.Bytes, m.Reducer = 1, len(payload), len(payload)-fitted
	m.Checksum = checksum(payload)
	m.ID = identify(*m)
}
