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

var passages = []string{
	"Kafka keeps records in topics and partitions.",
	"A partition is an ordered log of records.",
	"Offsets are committed with the transaction of a batch.",
	"Qdrant stores points with vectors and a payload.",
	"The payload index makes filters fast.",
	"Naïve café owners read ÜBER-long pages, 世界 and 世論.",
}

// fitted returns the configured embedders, fitted on the passages above.
func fitted(t testing.TB, definitions ...config.Embedder) []Embedder {
	t.Helper()
	embedders, err := New(definitions, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, embedder := range embedders {
		if learning, ok := embedder.(Fitted); ok {
			if err := learning.Fit(slices.Values(passages)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return embedders
}

func one(t *testing.T, embedder Embedder, item Item) ([]float32, error) {
	t.Helper()
	vectors, failures, err := embedder.Embed(context.Background(), Passage, []Item{item})
	if err != nil {
		t.Fatal(err)
	}
	if len(vectors) != 1 || len(failures) != 1 {
		t.Fatalf("%d vectors and %d errors for one item", len(vectors), len(failures))
	}
	if (vectors[0] == nil) != (failures[0] != nil) {
		t.Fatalf("vector %v with error %v: want one of the two", vectors[0], failures[0])
	}
	return vectors[0], failures[0]
}

func TestNew(t *testing.T) {
	for _, test := range []struct {
		name        string
		definitions []config.Embedder
		want        []string // in the error, in order
	}{
		{"default", []config.Embedder{{Name: "w", Type: "lexical-word"}, {Name: "c", Type: "lexical-char"}, {Name: "e", Type: "carried", Dimensions: 3}}, nil},
		{"none", nil, []string{"none configured"}},
		{"unknown type", []config.Embedder{{Name: "w", Type: "lexical"}}, []string{"embedders[0]", `w: unknown type "lexical", want lexical-word, lexical-char or carried`}},
		{"no type", []config.Embedder{{Name: "w"}}, []string{"w: type is missing"}},
		{"no name", []config.Embedder{{Type: "lexical-word"}}, []string{"embedders[0]: name is missing"}},
		{"duplicate", []config.Embedder{{Name: "w", Type: "lexical-word"}, {Name: "w", Type: "lexical-char"}}, []string{`embedders[1]: the name "w" is taken by embedders[0]`}},
		{"carried without length", []config.Embedder{{Name: "e", Type: "carried"}}, []string{"e: type carried needs dimensions"}},
		{"negative", []config.Embedder{{Name: "w", Type: "lexical-word", Dimensions: -1}}, []string{"w: dimensions -1 is outside"}},
		{"too many", []config.Embedder{{Name: "w", Type: "lexical-word", Dimensions: 1 << 20}}, []string{"w: dimensions 1048576 is outside"}},
		{"all at once", []config.Embedder{{Name: "a", Type: "x"}, {Name: "b", Type: "y"}}, []string{"a: unknown", "b: unknown"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			embedders, err := New(test.definitions, nil)
			if test.want == nil {
				if err != nil || len(embedders) != len(test.definitions) {
					t.Fatalf("%d embedders, error %v", len(embedders), err)
				}
				for i, embedder := range embedders {
					if embedder.Name() != test.definitions[i].Name {
						t.Errorf("embedder %d is %s, want %s", i, embedder.Name(), test.definitions[i].Name)
					}
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			rest := err.Error()
			for _, part := range test.want {
				_, after, found := strings.Cut(rest, part)
				if !found {
					t.Fatalf("error %q lacks %q", err, part)
				}
				rest = after
			}
		})
	}
}

// TestCarriedVectors: whatever the embedder, a vector that the record carried under its name is used, once checked.
func TestCarriedVectors(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for _, embedder := range fitted(t,
		config.Embedder{Name: "own", Type: "carried", Dimensions: 3},
		config.Embedder{Name: "own-words", Type: "lexical-word", Dimensions: 3},
		config.Embedder{Name: "own-chars", Type: "lexical-char", Dimensions: 3},
	) {
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
			vector, err := one(t, embedder, Item{Text: "partition", Carried: map[string][]float32{embedder.Name(): test.vector, "other": {1}}})
			if test.want == "" {
				if err != nil || !slices.Equal(vector, test.vector) {
					t.Errorf("%s, %s: vector %v, error %v, want %v", embedder.Name(), test.name, vector, err, test.vector)
				}
			} else if err == nil || !strings.Contains(err.Error(), "embedder "+embedder.Name()+": ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s, %s: error %v, want the embedder's name and %q", embedder.Name(), test.name, err, test.want)
			}
		}
	}
}

func TestCarriedIsMissing(t *testing.T) {
	embedder := fitted(t, config.Embedder{Name: "own", Type: "carried", Dimensions: 3})[0]
	_, err := one(t, embedder, Item{Text: "partition", Carried: map[string][]float32{"other": {1, 2, 3}}})
	if err == nil || !strings.Contains(err.Error(), "embedder own: the record carries no vector, want embeddings.own with 3 numbers") {
		t.Errorf("error %v", err)
	}
}

// TestBatch: each item has its own outcome, in order, and it does not depend on the batch around it.
func TestBatch(t *testing.T) {
	for _, embedder := range lexicals(t) {
		items := []Item{{Text: "..."}, {Text: passages[0]}, {Text: ""}, {Text: passages[5]}, {Text: "\xff\xfe"}}
		vectors, failures, err := embedder.Embed(context.Background(), Query, items)
		if err != nil {
			t.Fatal(err)
		}
		for i, item := range items {
			alone, err := one(t, embedder, item)
			if !slices.Equal(alone, vectors[i]) || (err == nil) != (failures[i] == nil) {
				t.Errorf("%s: item %d differs in the batch", embedder.Name(), i)
			}
			if i%2 == 0 && (err == nil || !strings.Contains(err.Error(), "no words in it")) {
				t.Errorf("%s: item %d: error %v, want that it has no words", embedder.Name(), i, err)
			}
		}
	}
}

func lexicals(t testing.TB) []Embedder {
	return fitted(t,
		config.Embedder{Name: "words", Type: "lexical-word", Dimensions: 256},
		config.Embedder{Name: "characters", Type: "lexical-char", Dimensions: 256})
}

// TestConcurrent: many callers at once, with -race, get what one alone gets.
func TestConcurrent(t *testing.T) {
	for _, embedder := range lexicals(t) {
		var items []Item
		for range 50 {
			for _, passage := range passages {
				items = append(items, Item{Text: passage})
			}
		}
		want, _, err := embedder.Embed(context.Background(), Passage, items[:len(passages)])
		if err != nil {
			t.Fatal(err)
		}
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				vectors, _, err := embedder.Embed(context.Background(), Passage, items)
				if err != nil {
					t.Error(err)
					return
				}
				for i, vector := range vectors {
					if !slices.Equal(vector, want[i%len(want)]) {
						t.Errorf("%s: item %d differs", embedder.Name(), i)
					}
				}
			})
		}
		callers.Wait()
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, embedder := range append(lexicals(t), fitted(t, config.Embedder{Name: "own", Type: "carried", Dimensions: 3})...) {
		if _, _, err := embedder.Embed(ctx, Passage, []Item{{Text: "partition"}}); err != context.Canceled {
			t.Errorf("%s: error %v, want %v", embedder.Name(), err, context.Canceled)
		}
	}
}

func TestNotFitted(t *testing.T) {
	embedders, err := New([]config.Embedder{{Name: "w", Type: "lexical-word"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := embedders[0].Embed(context.Background(), Passage, []Item{{Text: "partition"}}); err == nil || !strings.Contains(err.Error(), "embedder w: not fitted") {
		t.Errorf("error %v", err)
	}
	fitted := embedders[0].(Fitted)
	if _, err := fitted.MarshalBinary(); err == nil {
		t.Error("an embedder that was not fitted can be marshalled")
	}
	if err := fitted.Fit(slices.Values([]string{"...", ""})); err == nil || !strings.Contains(err.Error(), "no passage of the sample has any words") {
		t.Errorf("error %v", err)
	}
}
