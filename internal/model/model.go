// Package model holds what is fitted on a sample of the documents (IDF, axes) and turns texts into the vectors that
// are stored. Vectors of different models never meet.
package model

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/mining"
)

// Model is an ensemble of fitted embedders and a reducer. It is immutable and safe for concurrent use.
type Model struct {
	embedders []embed.Embedder
	weights   []float64
	length    int // of the ensemble's vector
	reducer   *mining.Reducer
	manifest  Manifest
	payload   []byte // what was fitted, as published
}

// blockRows is how many ensemble vectors are held at once: 256 of 4,096 float32 values are 4 MiB.
const blockRows = 256

// Fit fits the ensemble and its reducer on a sample of passages. The same configuration and sample, in the same
// order, give the same id. Items that cannot be embedded (no words, no carried vector) are left out; it is an error
// if none is left.
//
// Below minimum samples the variance says little about texts to come, so the reducer then keeps reduce.MaxDimensions
// axes whatever they capture.
func Fit(ctx context.Context, embedders []config.Embedder, reduce config.Reduce, minimum int, sample []embed.Item) (*Model, error) {
	m, err := assemble(embedders)
	if err != nil {
		return nil, err
	}
	for _, embedder := range m.embedders {
		if fitted, ok := embedder.(embed.Fitted); ok {
			if err := fitted.Fit(texts(sample)); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrSample, err)
			}
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	samples, err := m.reduce(ctx, reduce, minimum, sample)
	if err != nil {
		return nil, err
	}
	return m, m.seal(Manifest{
		CreatedAt: time.Now().UTC().Truncate(time.Second),
		Samples:   samples,
	}, embedders)
}

// ErrSample says that no passage of the sample can be embedded.
var ErrSample = errors.New("model: nothing to fit on")

// assemble builds the ensemble, not fitted yet.
func assemble(definitions []config.Embedder) (*Model, error) {
	embedders, err := embed.New(definitions)
	if err != nil {
		return nil, err
	}
	m := &Model{embedders: embedders}
	for i, embedder := range embedders {
		m.weights = append(m.weights, definitions[i].Weight)
		m.length += embedder.Dimensions()
	}
	return m, nil
}

func texts(sample []embed.Item) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, item := range sample {
			if !yield(item.Text) {
				return
			}
		}
	}
}

// reduce fits the reducer, and returns the number of items that could be embedded.
func (m *Model) reduce(ctx context.Context, reduce config.Reduce, minimum int, sample []embed.Item) (samples int, err error) {
	if reduce.Method != "pca" && reduce.Method != "none" {
		return 0, fmt.Errorf("reduce.method: %q, want pca or none", reduce.Method)
	}
	rows := mining.Matrix{Cols: m.length}
	var refused error
	if reduce.Method != "none" {
		rows.Data = make([]float32, 0, len(sample)*m.length)
	}
	block := mining.NewMatrix(min(blockRows, len(sample)), m.length)
	for start := 0; start < len(sample); start += blockRows {
		kept, failures, err := m.ensemble(ctx, embed.Passage, sample[start:min(start+blockRows, len(sample))], block)
		if err != nil {
			return 0, err
		}
		for _, failure := range failures {
			if refused == nil {
				refused = failure
			}
		}
		samples += len(kept)
		if reduce.Method != "none" {
			rows.Data = append(rows.Data, block.Data[:len(kept)*m.length]...)
		}
	}
	if samples == 0 {
		return 0, fmt.Errorf("%w: all %d are refused: %w", ErrSample, len(sample), cmp.Or(refused, errors.New("the sample is empty")))
	}
	if reduce.Method == "none" {
		m.reducer = mining.Identity(m.length)
		return samples, nil
	}
	rows.Rows = samples
	options := mining.ReducerOptions{
		Variance:      reduce.Variance,
		MaxDimensions: min(reduce.MaxDimensions, m.length),
		SubtractMean:  reduce.SubtractMean,
		Normalize:     reduce.Normalize,
		Seed:          reduce.Seed,
	}
	if samples < minimum {
		options.MinDimensions = options.MaxDimensions
	}
	m.reducer, err = mining.FitReducer(ctx, rows, options)
	if err != nil {
		return 0, fmt.Errorf("model: reducing %d vectors of %d dimensions: %w", samples, m.length, err)
	}
	return samples, nil
}

// ensemble embeds the items with all embedders at once and writes the concatenated vectors of those that all
// embedders could embed to the first rows of out. kept holds the index of the item in each such row, failures an
// error for every other item.
func (m *Model) ensemble(ctx context.Context, kind embed.Kind, items []embed.Item, out mining.Matrix) (kept []int, failures []error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	vectors := make([][][]float32, len(m.embedders))
	refusals := make([][]error, len(m.embedders))
	down := make([]error, len(m.embedders))
	var calls sync.WaitGroup
	for e, embedder := range m.embedders {
		calls.Go(func() {
			vectors[e], refusals[e], down[e] = embedder.Embed(ctx, kind, items)
			if down[e] != nil {
				cancel() // the others' work would be thrown away
			}
		})
	}
	calls.Wait()
	if err := firstCause(down); err != nil {
		return nil, nil, err
	}
	failures = make([]error, len(items))
	parts := make([][]float32, len(m.embedders))
	for i := range items {
		for e := range m.embedders {
			parts[e] = vectors[e][i]
			if failures[i] == nil {
				failures[i] = refusals[e][i]
			}
		}
		if failures[i] != nil {
			continue
		}
		if failures[i] = mining.Concat(parts, m.weights, out.Row(len(kept))); failures[i] == nil {
			kept = append(kept, i)
		}
	}
	return kept, failures, nil
}

// firstCause returns the error that made the others give up.
func firstCause(failures []error) error {
	var cancelled error
	for _, err := range failures {
		switch {
		case err == nil:
		case !errors.Is(err, context.Canceled):
			return err
		case cancelled == nil:
			cancelled = err
		}
	}
	return cancelled
}

var errNothingLeft = errors.New("model: nothing is left of the text's vector after the reduction")

// Vectors returns for each item, in order, either its vector (Dimensions() values, unit length) or an error that says
// why it has none for ever. The last error is for the whole call: an embedder is down, try again later; there never
// is a vector with the part of one embedder missing.
func (m *Model) Vectors(ctx context.Context, kind embed.Kind, items []embed.Item) ([][]float32, []error, error) {
	vectors := make([][]float32, 0, len(items))
	failures := make([]error, 0, len(items))
	block := mining.NewMatrix(min(blockRows, len(items)), m.length)
	for start := 0; start < len(items); start += blockRows {
		part := items[start:min(start+blockRows, len(items))]
		partVectors, partFailures, err := m.block(ctx, kind, part, block)
		if err != nil {
			return nil, nil, err
		}
		vectors, failures = append(vectors, partVectors...), append(failures, partFailures...)
	}
	return vectors, failures, nil
}

// block embeds and reduces as many items as the buffer has rows, at most.
func (m *Model) block(ctx context.Context, kind embed.Kind, items []embed.Item, buffer mining.Matrix) ([][]float32, []error, error) {
	kept, failures, err := m.ensemble(ctx, kind, items, buffer)
	if err != nil {
		return nil, nil, err
	}
	vectors := make([][]float32, len(items))
	if len(kept) == 0 {
		return vectors, failures, nil
	}
	reduced := mining.NewMatrix(len(kept), m.reducer.Out())
	zero, err := m.reducer.Project(mining.Matrix{Rows: len(kept), Cols: m.length, Data: buffer.Data[:len(kept)*m.length]}, reduced)
	if err != nil {
		return nil, nil, fmt.Errorf("model %s: %w", m.manifest.ID, err)
	}
	for row, i := range kept {
		vectors[i] = reduced.Row(row)
	}
	for _, row := range zero {
		vectors[kept[row]], failures[kept[row]] = nil, errNothingLeft
	}
	return vectors, failures, nil
}

// ID names the model: a hash of its content in 16 hexadecimal digits.
func (m *Model) ID() string { return m.manifest.ID }

// Dimensions is the length of a vector.
func (m *Model) Dimensions() int { return m.reducer.Out() }

// Info describes the model.
func (m *Model) Info() Manifest { return m.manifest }
