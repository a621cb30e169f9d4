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

// Cache keeps vectors of embedders, so that the same text is not embedded twice. A nil one keeps nothing.
type Cache struct {
	Vectors *vectorcache.Cache
	All     bool // those of the lexical embedders too, which take less time than reading them
}

// Close lets go of the files, once no embedder is in use.
func (c *Cache) Close() error {
	if c == nil {
		return nil
	}
	return c.Vectors.Close()
}

// keeps tells whether the vectors of a type of embedder are kept: those that cost more than a look-up.
func (c *Cache) keeps(kind string) bool {
	switch {
	case c == nil, kind == TypeCarried:
		return false
	case kind == TypeLexicalWord, kind == TypeLexicalChar:
		return c.All
	}
	return true
}

// wrap returns the embedder behind the cache, or as it is where the cache does not keep vectors of its type.
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

// indifferent are the fields of a definition on which its vectors do not depend. A field that is missing here costs texts
// that are embedded anew when it changes; one too many would give wrong vectors.
var indifferent = []string{"Name", "Weight"}

// identity is the hash of what determines an embedder's vectors beside kind and text: its definition, and what it has
// learnt. Fields without a value are left out, so that vectors outlast the addition of a field.
func identity(definition config.Embedder, dimensions int, learnt []byte) (id [sha256.Size]byte) {
	definition = Resolved(definition)
	definition.Dimensions = dimensions // that of the type, where none is given
	fields := map[string]any{}
	values := reflect.ValueOf(definition)
	for i := range values.NumField() {
		if name := values.Type().Field(i).Name; !slices.Contains(indifferent, name) && !values.Field(i).IsZero() {
			fields[name] = values.Field(i).Interface()
		}
	}
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err) // a definition was read from YAML
	}
	return sha256.Sum256(fmt.Appendf(text, "\n%x", sha256.Sum256(learnt)))
}

// cached asks the cache before its embedder.
type cached struct {
	Embedder
	definition config.Embedder
	vectors    *vectorcache.Cache
	identity   [sha256.Size]byte
}

// key names the vector of a text.
func (c *cached) key(kind Kind, text string) vectorcache.Key {
	content := sha256.Sum256([]byte(text))
	return sha256.Sum256(slices.Concat(c.identity[:], []byte{byte(kind)}, content[:]))
}

// Embed passes on the items whose vectors the cache does not have, each text once, and those that carry one.
func (c *cached) Embed(ctx context.Context, kind Kind, items []Item) ([][]float32, []error, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	var (
		keys   []vectorcache.Key // of the different texts
		first  = map[vectorcache.Key]int{}
		source = make([]int, len(items)) // the item with the same text that is first
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

// embed fills in what the cache did not have, and gives it to the cache, also where the call fails in the end.
func (c *cached) embed(ctx context.Context, kind Kind, items []Item, source []int, vectors [][]float32, failures []error) error {
	var missing []Item
	var places []int
	for i, item := range items {
		if source[i] == i && vectors[i] == nil {
			missing, places = append(missing, item), append(places, i)
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
	for k, i := range places {
		vectors[i], failures[i] = embedded[k], refusals[k]
	}
	return nil
}

// cachedFitted is cached for an embedder whose vectors depend on what it was fitted on.
type cachedFitted struct {
	*cached
	fitted Fitted
}

func (c *cachedFitted) Fit(texts func(yield func(string) bool)) error {
	if err := c.fitted.Fit(texts); err != nil {
		return err
	}
	return c.learnt()
}

func (c *cachedFitted) MarshalBinary() ([]byte, error) { return c.fitted.MarshalBinary() }

func (c *cachedFitted) UnmarshalBinary(data []byte) error {
	if err := c.fitted.UnmarshalBinary(data); err != nil {
		return err
	}
	return c.learnt()
}

func (c *cachedFitted) learnt() error {
	data, err := c.fitted.MarshalBinary()
	if err != nil {
		return err
	}
	c.identity = identity(c.definition, c.Dimensions(), data)
	return nil
}

// cachedServed is cached for an embedder whose server may have to tell the length of its vectors first.
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

// Embed fails as its embedder does before that is fitted.
func (c *cachedFitted) Embed(ctx context.Context, kind Kind, items []Item) ([][]float32, []error, error) {
	if c.identity == [sha256.Size]byte{} {
		return c.Embedder.Embed(ctx, kind, items)
	}
	return c.cached.Embed(ctx, kind, items)
}
