// Package embed turns texts into vectors. It has one Embedder for each kind of model. The vector of an
// ensemble is the concatenation of their vectors, one piece for each embedder.
//
// Only packages of hardneg import it.
package embed

import (
	"context"
	"errors"
)

// Kind says whether a text is a query or a passage. Some models embed the two differently.
type Kind uint8

// The kinds of texts.
const (
	Passage Kind = iota
	Query
)

// Item is one text, with the vectors that its record carried.
type Item struct {
	Text    string
	Carried map[string][]float32 // by embedder name; nil if the record carried none
}

// Embedder embeds batches of texts.
//
// For each item, in order, Embed returns a vector or an error. A vector has Dimensions() float32 values, all
// finite, and any length but zero. An error says why this text can never have a vector; its record then
// becomes a dead letter.
//
// The last error concerns the whole call, which can be repeated later. It is ErrUnavailable if repeating may
// help by itself, ErrDenied if somebody must change something first, and the context's own error if the
// context has ended. Vectors that the call had by then may come with this error, with nil for all other
// items. Only a cache can use them.
type Embedder interface {
	Name() string
	Dimensions() int
	Embed(ctx context.Context, kind Kind, items []Item) ([][]float32, []error, error)
}

// Fitted is an Embedder that learns from a sample of passages before its first use, for example IDF weights.
// Fit may range over the texts more than once.
type Fitted interface {
	Embedder
	Fit(texts func(yield func(string) bool)) error
	MarshalBinary() ([]byte, error)
	UnmarshalBinary([]byte) error
}

// Served is an Embedder whose vectors come from a server. If the configuration does not give their length,
// Dimensions returns 0 until Probe has asked the server. Errors of Probe are like the last error of Embed.
type Served interface {
	Embedder
	Probe(ctx context.Context) error
}

// The errors of a whole call.
var (
	// ErrUnavailable: the server cannot be reached, is too busy, or fails. A later call may succeed.
	ErrUnavailable = errors.New("the server is unavailable")
	// ErrDenied: the server answers, but gives no vectors for any text, because a key, url, model or length
	// is wrong. This stays so until somebody changes the server, a key file or the configuration.
	ErrDenied = errors.New("no text can be embedded until something is changed")
)
