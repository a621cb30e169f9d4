package embed

import (
	"context"
	"errors"
	"fmt"

	"hardneg/internal/config"
)

// The types that a definition can name.
const (
	TypeLexicalWord = "lexical-word"
	TypeLexicalChar = "lexical-char"
	TypeCarried     = "carried"
	TypeOpenAI      = "openai"
)

const typeNames = TypeOpenAI + ", " + TypeLexicalWord + ", " + TypeLexicalChar + " or " + TypeCarried

// Resources are what embedders draw on beside their definitions. A nil one has nothing.
type Resources struct {
	// Cache keeps vectors; nil: none.
	Cache *Cache
	// Connections are embedders of which one of the same name and type as a definition says where the server is, with
	// which key, and how requests are made; the definition says all that determines the vectors. Where there is none, the
	// definition says both.
	Connections []config.Embedder
	// Observe is told of every request to a server, with the context of the call, by several goroutines at a time; nil:
	// nobody watches.
	Observe func(context.Context, Request)
}

// connected is a definition with its connection.
func (r *Resources) connected(definition config.Embedder) config.Embedder {
	for _, configured := range r.Connections {
		if configured.Name == definition.Name && configured.Type == definition.Type {
			return definition.Connected(configured)
		}
	}
	return definition
}

// New builds the embedders of a configuration, in its order, behind the cache where that keeps their vectors. All that
// is wrong with the definitions is reported at once. It reads no file but those of certificates, and asks no server.
func New(definitions []config.Embedder, resources *Resources) ([]Embedder, error) {
	if resources == nil {
		resources = &Resources{}
	}
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
		embedder, err := newEmbedder(definition, resources)
		if err != nil {
			failures = append(failures, fmt.Errorf("embedders[%d]: %w", i, err))
			continue
		}
		embedders = append(embedders, resources.Cache.wrap(embedder, definition))
	}
	if len(failures) > 0 {
		return nil, errors.Join(failures...)
	}
	return embedders, nil
}

func newEmbedder(definition config.Embedder, resources *Resources) (Embedder, error) {
	if definition.Name == "" {
		return nil, errors.New("name is missing")
	}
	if definition.Dimensions < 0 || definition.Dimensions > maxDimensions {
		return nil, fmt.Errorf("%s: dimensions %d is outside 0..%d", definition.Name, definition.Dimensions, maxDimensions)
	}
	switch definition.Type {
	case TypeLexicalWord:
		return newLexical(definition.Name, definition.Dimensions, wordVocabulary), nil
	case TypeLexicalChar:
		return newLexical(definition.Name, definition.Dimensions, characterVocabulary), nil
	case TypeCarried:
		if definition.Dimensions == 0 {
			return nil, fmt.Errorf("%s: type %s needs dimensions, the length of the vectors that records carry", definition.Name, TypeCarried)
		}
		return &carried{name: definition.Name, dimensions: definition.Dimensions}, nil
	case TypeOpenAI:
		return newOpenAI(resources.connected(definition), resources.Observe)
	case "":
		return nil, fmt.Errorf("%s: type is missing, want %s", definition.Name, typeNames)
	default:
		return nil, fmt.Errorf("%s: unknown type %q, want %s", definition.Name, definition.Type, typeNames)
	}
}
