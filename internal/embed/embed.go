// Package embed turns texts into vectors: one Embedder for each kind of model, and the ensemble's vectors in, one
// piece of the concatenation for each.
package embed

import (
	"context"
	"errors"
)

// Kind is what a text is: some models embed queries and passages differently.
type Kind uint8

// The kinds.
const (
	Passage Kind = iota
	Query
)

// Item is a text with the vectors that its record carried.
type Item struct {
	Text    string
	Carried map[string][]float32 // by embedder name; nil: none
}

// Embedder embeds batches of texts.
//
// Embed returns, for each item in order, either a vector of Dimensions() float32 values (any length but zero, all
// finite), or an error that says why this text has none for ever (the record becomes a dead letter). The last
// error is for the whole call: try again later. It is an ErrUnavailable where that may help by itself, an ErrDenied
// where somebody must change something first, and the context's own error where that has ended. The vectors that were
// had by then may come with it, nil for all other items; they are of use to a cache alone.
type Embedder interface {
	Name() string
	Dimensions() int
	Embed(ctx context.Context, kind Kind, items []Item) ([][]float32, []error, error)
}

// Fitted is an Embedder that learns from a sample of passages before its first use, such as IDF weights. Fit
// may range over the texts more than once.
type Fitted interface {
	Embedder
	Fit(texts func(yield func(string) bool)) error
	MarshalBinary() ([]byte, error)
	UnmarshalBinary([]byte) error
}

// Served is an Embedder whose vectors come from a server. Where their length is not configured, Dimensions is 0 until
// Probe has asked; errors are those of a whole call.
type Served interface {
	Embedder
	Probe(ctx context.Context) error
}

// What the error of a whole call can be.
var (
	// ErrUnavailable: the server cannot be reached, is too busy, or fails. It may be well again later.
	ErrUnavailable = errors.New("the server is unavailable")
	// ErrDenied: the server answers, and will not give vectors for any text: a wrong key, url, model or length. It stays
	// so until somebody changes the server, a key file or the configuration.
	ErrDenied = errors.New("no text can be embedded until something is changed")
)
