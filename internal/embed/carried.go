package embed

import (
	"context"
	"fmt"
	"math"
)

// carried uses the vectors that records carry under its name. It computes none itself.
type carried struct {
	name       string
	dimensions int
}

func (c *carried) Name() string    { return c.name }
func (c *carried) Dimensions() int { return c.dimensions }

func (c *carried) Embed(ctx context.Context, _ Kind, items []Item) ([][]float32, []error, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	vectors := make([][]float32, len(items))
	failures := make([]error, len(items))
	for i, item := range items {
		vector, found, err := carriedVector(c, item)
		switch {
		case err != nil:
			failures[i] = err
		case !found:
			failures[i] = fmt.Errorf("embedder %s: the record carries no vector, want embeddings.%s with %d numbers", c.name, c.name, c.dimensions)
		default:
			vectors[i] = vector
		}
	}
	return vectors, failures, nil
}

// carriedVector returns the vector that a record carries under the embedder's name, after checking it. It
// returns the record's own slice.
func carriedVector(embedder Embedder, item Item) (vector []float32, found bool, err error) {
	vector, found = item.Carried[embedder.Name()]
	if !found {
		return nil, false, nil
	}
	if len(vector) != embedder.Dimensions() {
		return nil, true, fmt.Errorf("embedder %s: the carried vector has %d numbers, want %d", embedder.Name(), len(vector), embedder.Dimensions())
	}
	if flaw := checkVector(vector, "the carried vector"); flaw != nil {
		return nil, true, fmt.Errorf("embedder %s: %w", embedder.Name(), flaw)
	}
	return vector, true, nil
}

// checkVector returns an error if a vector has no direction: a number that is not finite, or only zeros.
func checkVector(vector []float32, name string) error {
	zero := true
	for i, value := range vector {
		if wide := float64(value); math.IsNaN(wide) || math.IsInf(wide, 0) {
			return fmt.Errorf("number %d of %s is %v, want a finite one", i, name, value)
		}
		zero = zero && value == 0
	}
	if zero {
		return fmt.Errorf("%s is all zeros, which has no direction", name)
	}
	return nil
}
