package embed

import (
	"context"
	"slices"
	"strings"
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
		want        []string // parts of the error, in order
	}{
		{"default", []config.Embedder{{Name: "w", Type: "lexical-word"}, {Name: "c", Type: "lexical-char"}, {Name: "e", Type: "carried", Dimensions: 3}}, nil},
		{"none", nil, []string{"none configured"}},
		{"unknown type", []config.Embedder{{Name: "w", Type: "lexical"}}, []string{"embedders[0]", `w: unknown type "lexical", want openai, lexical-word, lexical-char or carried`}},
		{"no type", []config.Embedder{{Name: "w"}}, []string{"w: type is missing"}},
		{"no name", []config.Embedder{{Type: "lexical-word"}}, []string{"embedders[0]: name is missing"}},
		{"duplicate", []config.Embedder{{Name: "w", Type: "lexical-word"}, {Name: "w", Type: "lexical-char"}}, []string{`embedders[1]: the name "w" is taken by embedders[0]`}},
		{"carried without length", []config.Embedder{{Name: "e", Type: "carried"}}, []string{"e: type carried needs dimensions"}},
		{"openai without url", []config.Embedder{{Name: "e", Type: "openai", Model: "m"}}, []string{"e: type openai needs url, and model or both"}},
		{"openai without a model for queries", []config.Embedder{{Name: "e", Type: "openai", URL: "http://h", PassageModel: "m"}}, []string{"e: type openai needs url, and model or both"}},
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

func TestCarriedIsMissing(t *testing.T) {
	embedder := fitted(t, config.Embedder{Name: "own", Type: "carried", Dimensions: 3})[0]
	_, err := one(t, embedder, Item{Text: "partition", Carried: map[string][]float32{"other": {1, 2, 3}}})
	if err == nil || !strings.Contains(err.Error(), "embedder own: the record carries no vector, want embeddings.own with 3 numbers") {
		t.Errorf("error %v", err)
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

func lexicals(t testing.TB) []Embedder {
	return fitted(t,
		config.Embedder{Name: "words", Type: "lexical-word", Dimensions: 256},
		config.Embedder{Name: "characters", Type: "lexical-char", Dimensions: 256})
}
