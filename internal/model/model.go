// Package model turns texts into the vectors that are stored. A Model holds what was fitted on a sample of
// the documents (IDF, axes). Vectors of different models are never compared.
//
// Only packages of hardneg import it.
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
	"hardneg/mining/reduce"
)

// Model is an ensemble of fitted embedders and a reducer. It is safe for concurrent use.
type Model struct {
	embedders []embed.Embedder
	weights   []float64
	length    int // of the ensemble's vector
	reducer   *reduce.Reducer
	manifest  Manifest
	payload   []byte // fitted data, as published
	observe   func(reduce.Energy)
}

// blockRows is the number of ensemble vectors in memory at once: 256 of 4,096 float32 values are 4 MiB.
const blockRows = 256

// Fit fits the ensemble and its reducer on a sample of passages. The same configuration and sample, in the
// same order, give the same id. Items that cannot be embedded (no words, no carried vector) are left out. If
// none is left, Fit returns ErrSample.
//
// Of 200 or more samples, one in 20, and at most 500, are held out when the axes are fitted: see Drift.
//
// A sample below minimum says little about the variance of later texts. The reducer then keeps
// reduction.MaxDimensions axes, whatever they capture.
func Fit(ctx context.Context, resources *embed.Resources, embedders []config.Embedder, reduction config.Reduce, minimum int, sample []embed.Item, progress ...Progress) (*Model, error) {
	m, err := assemble(embedders, resources)
	if err != nil {
		return nil, err
	}
	if err := m.probe(ctx); err != nil {
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
	samples, heldOut, err := m.reduce(ctx, reduction, minimum, sample, progress...)
	if err != nil {
		return nil, err
	}
	return m, m.seal(Manifest{
		CreatedAt: time.Now().UTC().Truncate(time.Second),
		Samples:   samples,
		HeldOut:   heldOut,
	}, embedders)
}

// Progress is called during a fit, with the number of embedded texts, and later of the dimensions searched
// for axes.
type Progress func(step string, done int)

// Steps of a fit.
const (
	StepEmbedded = "embedded"
	StepSearched = "dimensions searched"
)

// ErrSample means that no passage of the sample can be embedded.
var ErrSample = errors.New("model: nothing to fit on")

// assemble builds the ensemble without fitting it.
func assemble(definitions []config.Embedder, resources *embed.Resources) (*Model, error) {
	embedders, err := embed.New(definitions, resources)
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

// probe asks the servers for lengths that are not configured.
func (m *Model) probe(ctx context.Context) error {
	m.length = 0
	for _, embedder := range m.embedders {
		if served, ok := embedder.(embed.Served); ok && served.Dimensions() == 0 {
			if err := served.Probe(ctx); err != nil {
				return err
			}
		}
		m.length += embedder.Dimensions()
	}
	return nil
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

// reduce fits the reducer. It returns the number of items that could be embedded, and the measurement on the
// held-out ones.
func (m *Model) reduce(ctx context.Context, reduction config.Reduce, minimum int, sample []embed.Item, progress ...Progress) (samples int, heldOut *HeldOut, err error) {
	if reduction.Method != "pca" && reduction.Method != "none" {
		return 0, nil, fmt.Errorf("reduce.method: %q, want pca or none", reduction.Method)
	}
	var rows *holdOut
	var refused error
	if reduction.Method != "none" {
		rows = newHoldOut(len(sample), m.length)
	}
	block := reduce.NewMatrix(min(blockRows, len(sample)), m.length)
	for start := 0; start < len(sample); start += blockRows {
		end := min(start+blockRows, len(sample))
		kept, failures, err := m.ensemble(ctx, embed.Passage, sample[start:end], block)
		if err != nil {
			return 0, nil, err
		}
		for _, failure := range failures {
			if refused == nil {
				refused = failure
			}
		}
		samples += len(kept)
		if rows != nil {
			if err := rows.add(reduce.Matrix{Rows: len(kept), Cols: m.length, Data: block.Data[:len(kept)*m.length]}); err != nil {
				return 0, nil, err
			}
		}
		for _, f := range progress {
			f(StepEmbedded, end)
		}
	}
	if samples == 0 {
		return 0, nil, fmt.Errorf("%w: all %d are refused: %w", ErrSample, len(sample), cmp.Or(refused, errors.New("the sample is empty")))
	}
	if rows == nil {
		m.reducer = reduce.Identity(m.length)
		return samples, nil, nil
	}
	options := reduce.Options{
		Variance:      reduction.Variance,
		MaxDimensions: min(reduction.MaxDimensions, m.length),
		SubtractMean:  reduction.SubtractMean,
		Normalize:     reduction.Normalize,
		Seed:          reduction.Seed,
		Progress: func(dimensions int) {
			for _, f := range progress {
				f(StepSearched, dimensions)
			}
		},
	}
	if samples < minimum {
		options.MinDimensions = options.MaxDimensions
	}
	rest, control, err := rows.split()
	if err != nil {
		return 0, nil, err
	}
	m.reducer, err = rest.Fit(ctx, options)
	if err != nil {
		return 0, nil, fmt.Errorf("model: reducing %d vectors of %d dimensions: %w", rest.Rows(), m.length, err)
	}
	if control.Rows == 0 {
		return samples, nil, nil
	}
	_, energy, err := m.reducer.ProjectMeasured(control, reduce.NewMatrix(control.Rows, m.reducer.Out()))
	return samples, &HeldOut{control.Rows, energy.Share()}, err
}

// ensemble embeds the items with all embedders at the same time. The first rows of out get the concatenated
// vectors of the items that all embedders could embed. kept holds the index of the item in each such row,
// failures an error for every other item.
func (m *Model) ensemble(ctx context.Context, kind embed.Kind, items []embed.Item, out reduce.Matrix) (kept []int, failures []error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	vectors := make([][][]float32, len(m.embedders))
	refusals := make([][]error, len(m.embedders))
	callErrors := make([]error, len(m.embedders))
	var calls sync.WaitGroup
	for e, embedder := range m.embedders {
		calls.Go(func() {
			vectors[e], refusals[e], callErrors[e] = embedder.Embed(ctx, kind, items)
			if callErrors[e] != nil {
				cancel() // the other results would be thrown away
			}
		})
	}
	calls.Wait()
	if err := firstCause(callErrors); err != nil {
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

// firstCause returns the error that caused the others.
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

// Vectors returns for each item, in order, a vector (Dimensions() values, unit length) or an error that says
// why it can never have one. The last error concerns the whole call: an embedder is down, and the call can be
// repeated later. A vector never lacks the part of an embedder.
func (m *Model) Vectors(ctx context.Context, kind embed.Kind, items []embed.Item) ([][]float32, []error, error) {
	vectors := make([][]float32, 0, len(items))
	failures := make([]error, 0, len(items))
	block := reduce.NewMatrix(min(blockRows, len(items)), m.length)
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

// block embeds and reduces the items, at most as many as the buffer has rows.
func (m *Model) block(ctx context.Context, kind embed.Kind, items []embed.Item, buffer reduce.Matrix) ([][]float32, []error, error) {
	kept, failures, err := m.ensemble(ctx, kind, items, buffer)
	if err != nil {
		return nil, nil, err
	}
	vectors := make([][]float32, len(items))
	if len(kept) == 0 {
		return vectors, failures, nil
	}
	reduced := reduce.NewMatrix(len(kept), m.reducer.Out())
	zero, err := m.project(kind, reduce.Matrix{Rows: len(kept), Cols: m.length, Data: buffer.Data[:len(kept)*m.length]}, reduced)
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

// project reduces vectors. For passages it calls the observer.
func (m *Model) project(kind embed.Kind, in, out reduce.Matrix) (zero []int, err error) {
	if m.observe == nil || kind != embed.Passage {
		return m.reducer.Project(in, out)
	}
	zero, energy, err := m.reducer.ProjectMeasured(in, out)
	if err == nil && energy.Vectors > 0 {
		m.observe(energy)
	}
	return zero, err
}

// Observe registers f, which is called with measurements of the passages embedded from now on, from the
// goroutines that embed them. Call Observe before the model is used.
func (m *Model) Observe(f func(reduce.Energy)) { m.observe = f }

// ID returns the model's name: a hash of its content in 16 hexadecimal digits.
func (m *Model) ID() string { return m.manifest.ID }

// Dimensions returns the length of a vector.
func (m *Model) Dimensions() int { return m.reducer.Out() }

// Info describes the model.
func (m *Model) Info() Manifest { return m.manifest }
