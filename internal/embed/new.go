package embed

import (
	"context"
	"errors"
	"fmt"

	"hardneg/internal/config"
)

// The types of embedders that a definition can name.
const (
	TypeLexicalWord = "lexical-word"
	TypeLexicalChar = "lexical-char"
	TypeCarried     = "carried"
	TypeOpenAI      = "openai"
)

const typeNames = TypeOpenAI + ", " + TypeLexicalWord + ", " + TypeLexicalChar + " or " + TypeCarried

// Resources are what embedders need beside their definitions. A nil *Resources is an empty one.
type Resources struct {
	// Cache keeps vectors; nil means no cache.
	Cache *Cache
	// Connections are configured embedders. If one has the same name and type as a definition, it says where
	// the server is, which key to use, and how to make requests; the definition then only says what
	// determines the vectors. Without such an embedder, the definition says both.
	Connections []config.Embedder
	// Observe is called for every request to a server, with the context of the call. Several goroutines may
	// call it at the same time. It may be nil.
	Observe func(context.Context, Request)
}

// connected returns a definition with its connection filled in.
func (r *Resources) connected(definition config.Embedder) config.Embedder {
	for _, configured := range r.Connections {
		if configured.Name == definition.Name && configured.Type == definition.Type {
			return definition.Connected(configured)
		}
	}
	return definition
}

// New builds the embedders of a configuration, in its order. It puts the cache in front of those whose
// vectors the cache keeps. It reports everything that is wrong with the definitions at once. It reads no
// files except certificates, and asks no server.
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
		positions = make(map[string]int)
	)
	for i, definition := range definitions {
		if first, taken := positions[definition.Name]; taken && definition.Name != "" {
			failures = append(failures, fmt.Errorf("embedders[%d]: the name %q is taken by embedders[%d]", i, definition.Name, first))
			continue
		}
		positions[definition.Name] = i
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
