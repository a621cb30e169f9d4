package embed

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"hardneg/internal/config"
	"hardneg/internal/vectorcache"
)

// Cache keeps the vectors of embedders, so that no text is embedded twice. A nil *Cache keeps nothing.
type Cache struct {
	Vectors *vectorcache.Cache
	All     bool // also keep vectors of lexical embedders, which are faster to compute than to read
}

// Close closes the files. No embedder may be in use any more.
func (c *Cache) Close() error {
	if c == nil {
		return nil
	}
	return c.Vectors.Close()
}

// keeps reports whether the cache keeps vectors of this type of embedder: those that cost more than a
// look-up.
func (c *Cache) keeps(kind string) bool {
	switch {
	case c == nil, kind == TypeCarried:
		return false
	case kind == TypeLexicalWord, kind == TypeLexicalChar:
		return c.All
	}
	return true
}

// wrap puts the cache in front of an embedder. If the cache does not keep its vectors, wrap returns the
// embedder itself.
func (c *Cache) wrap(embedder Embedder, definition config.Embedder) Embedder {
	if !c.keeps(definition.Type) {
		return embedder
	}
	behind := &cached{Embedder: embedder, definition: definition, vectors: c.Vectors}
	if fitted, ok := embedder.(Fitted); ok {
		return &cachedFitted{cached: behind, fitted: fitted}
	}
	behind.identity = identity(definition, embedder.Dimensions(), nil)
	if served, ok := embedder.(Served); ok {
		return &cachedServed{cached: behind, served: served}
	}
	return behind
}

// usageFields are the fields of a definition that do not influence its vectors. If one is missing here, texts
// are embedded again when that field changes. If there is one too many, the cache gives wrong vectors.
var usageFields = []string{"Name", "Weight"}

// identity hashes everything except kind and text that determines an embedder's vectors: its definition, and
// what it has learnt. Fields without a value are left out, so that adding a field to the program keeps the
// cached vectors valid.
func identity(definition config.Embedder, dimensions int, learnt []byte) (id [sha256.Size]byte) {
	definition = Resolved(definition)
	definition.Dimensions = dimensions // the type's own length if the definition gives none
	fields := map[string]any{}
	values := reflect.ValueOf(definition)
	for i := range values.NumField() {
		if name := values.Type().Field(i).Name; !slices.Contains(usageFields, name) && !values.Field(i).IsZero() {
			fields[name] = values.Field(i).Interface()
		}
	}
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err) // cannot happen: the definition was read from YAML
	}
	return sha256.Sum256(fmt.Appendf(text, "\n%x", sha256.Sum256(learnt)))
}

// cached asks the cache first, and then its embedder.
type cached struct {
	Embedder
	definition config.Embedder
	vectors    *vectorcache.Cache
	identity   [sha256.Size]byte
}

// key returns the cache key of a text.
func (c *cached) key(kind Kind, text string) vectorcache.Key {
	content := sha256.Sum256([]byte(text))
	return sha256.Sum256(slices.Concat(c.identity[:], []byte{byte(kind)}, content[:]))
}

// Embed asks the embedder only for texts that the cache does not have, each text once, and for items that
// carry a vector.
func (c *cached) Embed(ctx context.Context, kind Kind, items []Item) ([][]float32, []error, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	var (
		keys   []vectorcache.Key // of the distinct texts
		first  = map[vectorcache.Key]int{}
		source = make([]int, len(items)) // index of the first item with the same text
	)
	for i, item := range items {
		source[i] = i
		if _, carried := item.Carried[c.Name()]; carried {
			continue
		}
		key := c.key(kind, item.Text)
		if at, known := first[key]; known {
			source[i] = at
			continue
		}
		first[key] = i
		keys = append(keys, key)
	}
	vectors, failures := make([][]float32, len(items)), make([]error, len(items))
	for k, vector := range c.vectors.Get(keys) {
		if len(vector) == c.Dimensions() {
			vectors[first[keys[k]]] = vector
		}
	}
	if err := c.embed(ctx, kind, items, source, vectors, failures); err != nil {
		return nil, nil, err
	}
	for i, at := range source {
		vectors[i], failures[i] = vectors[at], failures[at]
	}
	return vectors, failures, nil
}

// embed fills in what the cache did not have. It gives the new vectors to the cache, even if the call fails.
func (c *cached) embed(ctx context.Context, kind Kind, items []Item, source []int, vectors [][]float32, failures []error) error {
	var missing []Item
	var indexes []int
	for i, item := range items {
		if source[i] == i && vectors[i] == nil {
			missing, indexes = append(missing, item), append(indexes, i)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	embedded, refusals, err := c.Embedder.Embed(ctx, kind, missing)
	var keys []vectorcache.Key
	var kept [][]float32
	for k, vector := range embedded {
		if vector == nil {
			continue
		}
		if _, carried := missing[k].Carried[c.Name()]; !carried {
			keys, kept = append(keys, c.key(kind, missing[k].Text)), append(kept, vector)
		}
	}
	if len(keys) > 0 {
		c.vectors.Put(keys, kept)
	}
	if err != nil {
		return err
	}
	for k, i := range indexes {
		vectors[i], failures[i] = embedded[k], refusals[k]
	}
	return nil
}

// cachedFitted is a cached embedder whose vectors depend on what it was fitted on.
type cachedFitted struct {
	*cached
	fitted Fitted
}

func (c *cachedFitted) Fit(texts func(yield func(string) bool)) error {
	if err := c.fitted.Fit(texts); err != nil {
		return err
	}
	return c.updateIdentity()
}

func (c *cachedFitted) MarshalBinary() ([]byte, error) { return c.fitted.MarshalBinary() }

func (c *cachedFitted) UnmarshalBinary(data []byte) error {
	if err := c.fitted.UnmarshalBinary(data); err != nil {
		return err
	}
	return c.updateIdentity()
}

func (c *cachedFitted) updateIdentity() error {
	data, err := c.fitted.MarshalBinary()
	if err != nil {
		return err
	}
	c.identity = identity(c.definition, c.Dimensions(), data)
	return nil
}

// cachedServed is a cached embedder that may have to ask its server for the length of its vectors first.
type cachedServed struct {
	*cached
	served Served
}

func (c *cachedServed) Probe(ctx context.Context) error {
	if err := c.served.Probe(ctx); err != nil {
		return err
	}
	c.identity = identity(c.definition, c.Dimensions(), nil)
	return nil
}

// Embed goes past the cache before the embedder is fitted, so that the caller gets the embedder's own error.
func (c *cachedFitted) Embed(ctx context.Context, kind Kind, items []Item) ([][]float32, []error, error) {
	if c.identity == [sha256.Size]byte{} {
		return c.Embedder.Embed(ctx, kind, items)
	}
	return c.cached.Embed(ctx, kind, items)
}
