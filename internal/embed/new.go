package embed

import (
	"errors"
	"fmt"

	"hardneg/internal/config"
)

// The types that a definition can name.
const (
	TypeLexicalWord = "lexical-word"
	TypeLexicalChar = "lexical-char"
	TypeCarried     = "carried"
)

// New builds the embedders of a configuration, in its order, behind the cache where that keeps their vectors. All that
// is wrong with the definitions is reported at once.
func New(definitions []config.Embedder, cache *Cache) ([]Embedder, error) {
	if len(definitions) == 0 {
		return nil, errors.New("embedders: none configured, at least one is needed")
	}
	var (
		embedders []Embedder
		failures  []error
		places    = make(map[string]int)
	)
	for i, definition := range definitions {
		if first, taken := places[definition.Name]; taken && definition.Name != "" {
			failures = append(failures, fmt.Errorf("embedders[%d]: the name %q is taken by embedders[%d]", i, definition.Name, first))
			continue
		}
		places[definition.Name] = i
		embedder, err := newEmbedder(definition)
		if err != nil {
			failures = append(failures, fmt.Errorf("embedders[%d]: %w", i, err))
			continue
		}
		embedders = append(embedders, cache.wrap(embedder, definition))
	}
	if len(failures) > 0 {
		return nil, errors.Join(failures...)
	}
	return embedders, nil
}

func newEmbedder(definition config.Embedder) (Embedder, error) {
	if definition.Name == "" {
		return nil, errors.New("name is missing")
	}
	if definition.Dimensions < 0 || definition.Dimensions > maxDimensions {
		return nil, fmt.Errorf("%s: dimensions %d is outside 0..%d", definition.Name, definition.Dimensions, maxDimensions)
	}
	switch definition.Type {
	case TypeLexicalWord:
		return newLexical(definition.Name, definition.Dimensions, countWords), nil
	case TypeLexicalChar:
		return newLexical(definition.Name, definition.Dimensions, countCharacters), nil
	case TypeCarried:
		if definition.Dimensions == 0 {
			return nil, fmt.Errorf("%s: type %s needs dimensions, the length of the vectors that records carry", definition.Name, TypeCarried)
		}
		return &carried{name: definition.Name, dimensions: definition.Dimensions}, nil
	case "":
		return nil, fmt.Errorf("%s: type is missing, want %s, %s or %s", definition.Name, TypeLexicalWord, TypeLexicalChar, TypeCarried)
	default:
		return nil, fmt.Errorf("%s: unknown type %q, want %s, %s or %s", definition.Name, definition.Type, TypeLexicalWord, TypeLexicalChar, TypeCarried)
	}
}
