package embed

import (
	"context"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"hardneg/internal/config"
)

// subject is an embedder under test.
type subject struct {
	name     string
	embedder Embedder
	bad      []string // texts that it refuses
	refusal  string
	needs    bool // items must carry their vectors
}

// subjects returns all kinds of embedders, each of three dimensions.
func subjects(t *testing.T) []subject {
	serve := func(rule handler) string {
		server := newScripted(t)
		server.rule = rule
		server.Start()
		t.Cleanup(server.Close)
		return server.URL
	}
	server := serve(refusing(400, "refuse"))
	silent := serve(spoiled(func(e entry) { e["embedding"] = nil }))
	embedders := fitted(t,
		config.Embedder{Name: "words", Type: TypeLexicalWord, Dimensions: 3},
		config.Embedder{Name: "chars", Type: TypeLexicalChar, Dimensions: 3},
		config.Embedder{Name: "own", Type: TypeCarried, Dimensions: 3},
		config.Embedder{Name: "e5", Type: TypeOpenAI, Dimensions: 3, URL: server + "/v1", Model: "m", Batch: 5},
		config.Embedder{Name: "alone", Type: TypeOpenAI, Dimensions: 3, URL: server + "/v1", Model: "m", Batch: 1, EncodingFormat: "float"},
		config.Embedder{Name: "azure", Type: TypeOpenAI, Dimensions: 3, URL: server + "/deployments/m?api-version=1", Model: "m", EncodingFormat: "none"},
		config.Embedder{Name: "null", Type: TypeOpenAI, Dimensions: 3, URL: silent, Model: "m", Batch: 5},
	)
	wordless := []string{"...", "", "\xff\xfe"}
	return []subject{
		{"lexical-word", embedders[0], wordless, "the text has no words in it", false},
		{"lexical-char", embedders[1], wordless, "the text has no words in it", false},
		{"carried", embedders[2], nil, "", true},
		{"openai", embedders[3], []string{"refuse this", "please refuse"}, `refuses the text: 400 Bad Request: "the input has the word refuse"`, false},
		{"openai, one by one", embedders[4], []string{"refuse this"}, `refuses the text: 400 Bad Request: "the input has the word refuse"`, false},
		{"openai, with a query string", embedders[5], []string{"refuse this"}, `/deployments/m/embeddings?api-version=1, model "m" refuses the text: 400`, false},
		{"openai, null for a text", embedders[6], []string{"poison"}, "gives no usable vector: the embedding is null", false},
	}
}

// item returns an item for the subject, with a vector if the subject needs one.
func (s subject) item(text string) Item {
	item := Item{Text: text}
	if s.needs {
		item.Carried = map[string][]float32{s.embedder.Name(): {float32(len(text)), 1, 2}}
	}
	return item
}

func (s subject) items(texts ...string) []Item {
	items := make([]Item, len(texts))
	for i, text := range texts {
		items[i] = s.item(text)
	}
	return items
}

// TestConformance checks what every embedder must do.
func TestConformance(t *testing.T) {
	for _, s := range subjects(t) {
		t.Run(s.name, func(t *testing.T) {
			t.Run("batch", s.testBatch)
			t.Run("empty", s.testEmpty)
			t.Run("carried", s.testCarried)
			t.Run("concurrent", s.testConcurrent)
			t.Run("cancelled", s.testCancelled)
		})
	}
}

// testBatch: each item has its own result, in order, and the rest of the batch does not influence it.
func (s subject) testBatch(t *testing.T) {
	texts := slices.Concat(s.bad, passages, s.bad, passages)
	items := s.items(texts...)
	for _, kind := range []Kind{Passage, Query} {
		vectors, failures, err := s.embedder.Embed(t.Context(), kind, items)
		if err != nil {
			t.Fatal(err)
		}
		if len(vectors) != len(items) || len(failures) != len(items) {
			t.Fatalf("%d vectors and %d errors for %d items", len(vectors), len(failures), len(items))
		}
		for i, item := range items {
			alone, aloneFailures, err := s.embedder.Embed(t.Context(), kind, []Item{item})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(alone[0], vectors[i]) || (aloneFailures[0] == nil) != (failures[i] == nil) {
				t.Errorf("item %d differs in the batch: %v and %v, %v and %v", i, alone[0], vectors[i], aloneFailures[0], failures[i])
			}
			if !slices.Contains(s.bad, item.Text) {
				if failures[i] != nil || len(vectors[i]) != s.embedder.Dimensions() || checkVector(vectors[i], "it") != nil {
					t.Errorf("item %d: vector %v, error %v", i, vectors[i], failures[i])
				}
				continue
			}
			if vectors[i] != nil || failures[i] == nil || !strings.Contains(failures[i].Error(), "embedder "+s.embedder.Name()+": ") ||
				!strings.Contains(failures[i].Error(), s.refusal) {
				t.Errorf("item %d: vector %v, error %v, want the embedder's name and %q", i, vectors[i], failures[i], s.refusal)
			}
		}
	}
}

func (s subject) testEmpty(t *testing.T) {
	vectors, failures, err := s.embedder.Embed(t.Context(), Query, nil)
	if err != nil || len(vectors) != 0 || len(failures) != 0 {
		t.Errorf("vectors %v, errors %v, error %v of nothing", vectors, failures, err)
	}
}

// testCarried: every embedder uses a vector that the record carries under its name, after checking it.
func (s subject) testCarried(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for _, test := range []struct {
		name   string
		vector []float32
		want   string
	}{
		{"used", []float32{3, 0, -4}, ""},
		{"smallest", []float32{0, math.SmallestNonzeroFloat32, 0}, ""},
		{"short", []float32{1, 2}, "the carried vector has 2 numbers, want 3"},
		{"long", []float32{1, 2, 3, 4}, "the carried vector has 4 numbers, want 3"},
		{"empty", []float32{}, "the carried vector has 0 numbers, want 3"},
		{"NaN", []float32{1, nan, 0}, "number 1 of the carried vector is NaN, want a finite one"},
		{"infinite", []float32{1, 0, inf}, "number 2 of the carried vector is -Inf, want a finite one"},
		{"zero", []float32{0, 0, 0}, "the carried vector is all zeros"},
	} {
		name := s.embedder.Name()
		vector, err := one(t, s.embedder, Item{Text: "partition", Carried: map[string][]float32{name: test.vector, "other": {1}}})
		if test.want == "" {
			if err != nil || !slices.Equal(vector, test.vector) {
				t.Errorf("%s: vector %v, error %v, want %v", test.name, vector, err, test.vector)
			}
		} else if err == nil || !strings.Contains(err.Error(), "embedder "+name+": ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want the embedder's name and %q", test.name, err, test.want)
		}
	}
}

// testConcurrent: many callers at the same time get what a single caller gets. Run it with -race.
func (s subject) testConcurrent(t *testing.T) {
	var texts []string
	for range 10 {
		texts = append(texts, passages...)
	}
	items := s.items(texts...)
	want, _, err := s.embedder.Embed(t.Context(), Passage, items[:len(passages)])
	if err != nil {
		t.Fatal(err)
	}
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			vectors, _, err := s.embedder.Embed(t.Context(), Passage, items)
			if err != nil {
				t.Error(err)
				return
			}
			for i, vector := range vectors {
				if !slices.Equal(vector, want[i%len(want)]) {
					t.Errorf("item %d differs", i)
				}
			}
		})
	}
	callers.Wait()
}

func (s subject) testCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if vectors, failures, err := s.embedder.Embed(ctx, Passage, s.items(passages...)); err != context.Canceled || vectors != nil || failures != nil {
		t.Errorf("vectors %v, errors %v, error %v, want %v alone", vectors, failures, err, context.Canceled)
	}
}
