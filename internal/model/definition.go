package model

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"hardneg/internal/config"
	"hardneg/internal/embed"
)

// Embedder is the definition of one part of the ensemble.
type Embedder struct {
	Name       string  `json:"name"`
	Type       string  `json:"type"`
	Weight     float64 `json:"weight"`
	Dimensions int     `json:"dimensions"`
	Bytes      int     `json:"bytes"`            // size of its fitted data in the payload
	Served     *Served `json:"openai,omitempty"` // of type openai
}

// Served says which requests give the vectors. It has only what determines the vectors: no keys, no headers,
// and not how requests are made.
type Served struct {
	URL               string `json:"url,omitempty"` // where the model was fitted; used if none is configured, and no part of the model's id
	Query             Asked  `json:"query"`
	Passage           Asked  `json:"passage"`
	RequestDimensions bool   `json:"request_dimensions,omitempty"`
}

// Asked is the part of a request that accompanies each text of a kind.
type Asked struct {
	Model  string `json:"model"`
	Prefix string `json:"prefix,omitempty"`
	Body   Fields `json:"body,omitempty"`
}

// Fields are the members of a JSON object. Numbers stay as they were written.
type Fields map[string]any

// UnmarshalJSON keeps numbers as they are written.
func (f *Fields) UnmarshalJSON(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	return decoder.Decode((*map[string]any)(f))
}

// define returns the definition of a configured embedder, without fitted data.
func define(c config.Embedder) Embedder {
	e := Embedder{Name: c.Name, Type: c.Type, Weight: c.Weight, Dimensions: c.Dimensions}
	if c.Type == embed.TypeOpenAI {
		e.Served = &Served{URL: c.URL, Query: asked(c, embed.Query), Passage: asked(c, embed.Passage), RequestDimensions: c.RequestDimensions}
	}
	return e
}

func asked(c config.Embedder, kind embed.Kind) Asked {
	served := embed.ServedAs(c, kind)
	return Asked{Model: served.Model, Prefix: served.Prefix, Body: served.Body}
}

// configuration returns the definition in the form of a configuration.
func (e Embedder) configuration() config.Embedder {
	c := config.Embedder{Name: e.Name, Type: e.Type, Weight: e.Weight, Dimensions: e.Dimensions}
	if e.Served != nil {
		c.URL, c.RequestDimensions = e.Served.URL, e.Served.RequestDimensions
		c.QueryModel, c.QueryPrefix, c.QueryBody = e.Served.Query.Model, e.Served.Query.Prefix, e.Served.Query.Body
		c.PassageModel, c.PassagePrefix, c.PassageBody = e.Served.Passage.Model, e.Served.Passage.Prefix, e.Served.Passage.Body
	}
	return c
}

// identify writes everything that determines the vectors.
func (e Embedder) identify(to io.Writer) {
	fmt.Fprintf(to, "%q %q %v %d %d\n", e.Name, e.Type, e.Weight, e.Dimensions, e.Bytes)
	if e.Served == nil {
		return
	}
	served := *e.Served
	served.URL = ""
	content, err := json.Marshal(served)
	if err != nil {
		panic(err) // cannot happen: it was read from YAML or JSON
	}
	fmt.Fprintf(to, "%s\n", content)
}

// Is reports whether a configuration has this embedder: it gives the same vectors with the same weight.
func (e Embedder) Is(c config.Embedder) bool {
	other := define(c)
	other.Bytes = e.Bytes
	if c.Type == embed.TypeOpenAI && c.Dimensions == 0 { // the server is asked
		other.Dimensions = e.Dimensions
	}
	var mine, theirs bytes.Buffer
	e.identify(&mine)
	other.identify(&theirs)
	return bytes.Equal(mine.Bytes(), theirs.Bytes())
}
