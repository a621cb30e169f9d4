package model

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"hardneg/internal/config"
	"hardneg/internal/embed"
)

var small = []config.Embedder{
	{Name: "words", Type: embed.TypeLexicalWord, Weight: 1, Dimensions: 64},
	{Name: "characters", Type: embed.TypeLexicalChar, Weight: 0.5, Dimensions: 96},
}

var pca = config.Reduce{Method: "pca", Variance: 0.95, MaxDimensions: 32, Normalize: true, Seed: 1}

// prose makes passages of invented words.
func prose(seed uint64, n int) []embed.Item {
	random := rand.New(rand.NewPCG(seed, 1))
	items := make([]embed.Item, n)
	for i := range items {
		var words []string
		for range 5 + random.IntN(30) {
			words = append(words, fmt.Sprintf("w%do%d", random.IntN(40), random.IntN(10)))
		}
		items[i].Text = strings.Join(words, " ")
	}
	return items
}

func mustFit(t testing.TB, embedders []config.Embedder, reduce config.Reduce, minimum int, sample []embed.Item) *Model {
	t.Helper()
	m, err := Fit(context.Background(), nil, embedders, reduce, minimum, sample)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustVectors(t testing.TB, m *Model, items []embed.Item) ([][]float32, []error) {
	t.Helper()
	vectors, failures, err := m.Vectors(context.Background(), embed.Passage, items)
	if err != nil {
		t.Fatal(err)
	}
	if len(vectors) != len(items) || len(failures) != len(items) {
		t.Fatalf("%d vectors and %d errors for %d items", len(vectors), len(failures), len(items))
	}
	return vectors, failures
}

// TestVectors: vectors have unit length and do not depend on the batch around an item, also across blocks of
// 256. Errors are in the right places.
func TestVectors(t *testing.T) {
	for _, reduce := range []config.Reduce{pca, {Method: "none"}} {
		m := mustFit(t, small, reduce, 10, prose(1, 300))
		items := prose(2, 600)
		for i := 0; i < len(items); i += 100 {
			items[i].Text = "?!"
		}
		vectors, failures := mustVectors(t, m, items)
		for i, vector := range vectors {
			if i%100 == 0 {
				if vector != nil || failures[i] == nil || !strings.Contains(failures[i].Error(), "embedder words: the text has no words in it") {
					t.Errorf("%s: item %d without words: vector of %d, error %v", reduce.Method, i, len(vector), failures[i])
				}
				continue
			}
			if failures[i] != nil {
				t.Fatalf("%s: item %d: %v", reduce.Method, i, failures[i])
			}
			if len(vector) != m.Dimensions() {
				t.Fatalf("%s: %d dimensions, want %d", reduce.Method, len(vector), m.Dimensions())
			}
			var squares float64
			for _, value := range vector {
				squares += float64(value) * float64(value)
			}
			if math.Abs(squares-1) > 1e-5 {
				t.Fatalf("%s: item %d has the squared length %v", reduce.Method, i, squares)
			}
			if i%37 == 0 {
				if alone, _ := mustVectors(t, m, items[i:i+1]); !slices.Equal(alone[0], vector) {
					t.Errorf("%s: item %d has another vector alone", reduce.Method, i)
				}
			}
		}
	}
}

func TestVectorsOfNothing(t *testing.T) {
	m := mustFit(t, small, pca, 10, prose(1, 50))
	mustVectors(t, m, nil)
}

// TestIdentity: what determines the vectors determines the id, and nothing else does.
func TestIdentity(t *testing.T) {
	sample := prose(1, 200)
	m := mustFit(t, small, pca, 10, sample)
	if again := mustFit(t, small, pca, 10, sample); again.ID() != m.ID() {
		t.Errorf("fitted again: id %s, was %s", again.ID(), m.ID())
	}
	if len(m.ID()) != 16 || strings.Trim(m.ID(), "0123456789abcdef") != "" {
		t.Errorf("id %q is not 16 hexadecimal digits", m.ID())
	}
	heavier := slices.Clone(small)
	heavier[1].Weight = 2
	narrower := pca
	narrower.MaxDimensions = 16
	for name, other := range map[string]*Model{
		"weight":  mustFit(t, heavier, pca, 10, sample),
		"reducer": mustFit(t, small, narrower, 10, sample),
		"sample":  mustFit(t, small, pca, 10, sample[1:]),
	} {
		if other.ID() == m.ID() {
			t.Errorf("another %s has the same id", name)
		}
	}
}

// TestSmallSample: below the minimum the reducer keeps all axes that it may, so that texts unlike the sample
// still get different vectors.
func TestSmallSample(t *testing.T) {
	sample := prose(1, 5)
	if m := mustFit(t, small, pca, 5, sample); m.Dimensions() >= 5 {
		t.Errorf("%d dimensions from %d samples at the minimum", m.Dimensions(), len(sample))
	}
	m := mustFit(t, small, pca, 6, sample)
	if m.Dimensions() != pca.MaxDimensions {
		t.Errorf("%d dimensions below the minimum, want %d", m.Dimensions(), pca.MaxDimensions)
	}
	vectors, failures := mustVectors(t, m, []embed.Item{{Text: "entirely different things"}, {Text: "yet another sentence here"}})
	if failures[0] != nil || failures[1] != nil || slices.Equal(vectors[0], vectors[1]) {
		t.Errorf("unseen texts: errors %v", failures)
	}
	wide := pca
	wide.MaxDimensions = 10_000
	if m := mustFit(t, small, wide, 6, sample); m.Dimensions() != 160 {
		t.Errorf("%d dimensions, want those of the ensemble, 160", m.Dimensions())
	}
}

func TestFitErrors(t *testing.T) {
	for _, test := range []struct {
		name      string
		embedders []config.Embedder
		sample    []embed.Item
		want      string
	}{
		{"no sample", small, nil, "no passage of the sample has any words"},
		{"no words", small, []embed.Item{{Text: "."}, {Text: ""}}, "no passage of the sample has any words"},
		{"nothing carried", []config.Embedder{{Name: "own", Type: embed.TypeCarried, Weight: 1, Dimensions: 2}}, prose(1, 3), "nothing to fit on: all 3 are refused: embedder own: the record carries no vector"},
		{"no embedders", nil, prose(1, 3), "none configured"},
	} {
		_, err := Fit(context.Background(), nil, test.embedders, pca, 10, test.sample)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.want)
		}
	}
	method := pca
	method.Method = "umap"
	if _, err := Fit(context.Background(), nil, small, method, 10, prose(1, 30)); err == nil || !strings.Contains(err.Error(), `reduce.method: "umap"`) {
		t.Errorf("unknown method: error %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Fit(ctx, nil, small, pca, 10, prose(1, 30)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v", err)
	}
}

// TestCarried: a carried vector replaces the embedder's own. A wrong one is an error of that item.
func TestCarried(t *testing.T) {
	definitions := append(slices.Clone(small), config.Embedder{Name: "own", Type: embed.TypeCarried, Weight: 1, Dimensions: 2})
	sample := prose(1, 40)
	for i := range sample {
		sample[i].Carried = map[string][]float32{"own": {float32(i), 1}}
	}
	m := mustFit(t, definitions, config.Reduce{Method: "none"}, 10, sample)
	item := func(own ...float32) embed.Item {
		return embed.Item{Text: sample[0].Text, Carried: map[string][]float32{"own": own}}
	}
	vectors, failures := mustVectors(t, m, []embed.Item{item(3, 4), item(6, 8), item(4, 3), item(1), sample[0], {Text: sample[0].Text}})
	if !slices.Equal(vectors[0], vectors[1]) || slices.Equal(vectors[0], vectors[2]) {
		t.Error("the carried vector's direction does not tell, or its length does")
	}
	for i, want := range map[int]string{3: "carried vector has 1 numbers, want 2", 5: "carries no vector"} {
		if failures[i] == nil || !strings.Contains(failures[i].Error(), want) {
			t.Errorf("item %d: error %v, want one with %q", i, failures[i], want)
		}
	}
}

// down is an embedder that cannot be reached.
type down struct{ embed.Embedder }

var errDown = errors.New("connection refused")

func (down) Embed(context.Context, embed.Kind, []embed.Item) ([][]float32, []error, error) {
	return nil, nil, errDown
}

func TestEmbedderDown(t *testing.T) {
	m := mustFit(t, small, pca, 10, prose(1, 50))
	for e := range m.embedders {
		broken := *m
		broken.embedders = slices.Clone(m.embedders)
		broken.embedders[e] = down{m.embedders[e]}
		vectors, _, err := broken.Vectors(context.Background(), embed.Query, prose(2, 300))
		if !errors.Is(err, errDown) || vectors != nil {
			t.Errorf("embedder %d down: %d vectors, error %v", e, len(vectors), err)
		}
	}
}

func TestConcurrentVectors(t *testing.T) {
	m := mustFit(t, small, pca, 10, prose(1, 100))
	items := prose(2, 300)
	want, _ := mustVectors(t, m, items)
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			got, _, err := m.Vectors(context.Background(), embed.Passage, items)
			if err != nil {
				t.Error(err)
				return
			}
			for i := range got {
				if !slices.Equal(got[i], want[i]) {
					t.Errorf("item %d differs", i)
					return
				}
			}
		})
	}
	callers.Wait()
}
