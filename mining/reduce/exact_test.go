package reduce

import (
	"context"
	"flag"
	"fmt"
	"math"
	"testing"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/mat"

	"hardneg/mining"
)

var exact = flag.Bool("exact", false, "compare the reducer with exact eigenvectors in 2,048 dimensions, too: takes minutes")

// TestReducerCosines compares the cosines of reduced vectors, which the rules work with, to the cosines under the
// same number of exact axes in float64. It takes rows of the sample and other rows.
func TestReducerCosines(t *testing.T) {
	for _, c := range []struct {
		n, d  int
		decay float64
		most  int
	}{
		{1200, 512, 0.6, 64}, {1200, 512, 0.6, 0}, {1200, 512, 0.3, 128}, {1200, 512, 0.3, 0}, {400, 512, 0.4, 0}, {4096, 2048, 0.5, 512}, {4096, 2048, 0.5, 0},
	} {
		t.Run(fmt.Sprintf("%dx%d/decay=%v/most=%d", c.n, c.d, c.decay, c.most), func(t *testing.T) {
			if c.d > 512 && !*exact {
				t.Skip("takes minutes: -exact")
			}
			const other = 100
			all := sampleLike(c.n+other, c.d, c.decay, 1)
			sample, seen := all.slice(0, c.n), all.slice(c.n-other, c.n+other)
			r, err := Fit(context.Background(), sample, Options{Variance: 0.95, MaxDimensions: c.most, Normalize: true, Seed: 3})
			if err != nil {
				t.Fatal(err)
			}
			k := r.Out()
			covariance, values, vectors := exactOnce(t, sample)
			var on, captured mat.Dense
			q := asDense(r.Components)
			on.Mul(q, covariance)
			captured.Mul(&on, q.T())
			loss := (floats.Sum(values[:k]) - mat.Trace(&captured)) / floats.Sum(values)

			reduced := NewMatrix(seen.Rows, k)
			if _, err := r.Project(seen, reduced); err != nil {
				t.Fatal(err)
			}
			var exactly mat.Dense
			exactly.Mul(asDense(seen), vectors.Slice(0, k, 0, c.d).T())
			for i := range seen.Rows {
				row := exactly.RawRowView(i)
				floats.Scale(1/floats.Norm(row, 2), row)
			}
			var most, sum float64
			pairs := 0
			for i := range seen.Rows {
				for j := range i {
					difference := math.Abs(float64(mining.Cosine(reduced.Row(i), reduced.Row(j))) - floats.Dot(exactly.RawRowView(i), exactly.RawRowView(j)))
					most, sum, pairs = max(most, difference), sum+difference, pairs+1
				}
			}
			t.Logf("%d axes: share %.5f, as they say %.5f, less by %.1e than the best; cosines differ by %.1e at most, by %.1e in the mean",
				k, mat.Trace(&captured)/floats.Sum(values), r.Share[k-1], loss, most, sum/float64(pairs))
			if loss > 1e-4 || math.Abs(mat.Trace(&captured)/floats.Sum(values)-r.Share[k-1]) > 1e-5 || most > 0.01 || sum/float64(pairs) > 0.001 {
				t.Error("that is too much")
			}
		})
	}
}

// exactOnce keeps the last decomposition, since several cases use the same sample.
func exactOnce(t *testing.T, m Matrix) (*mat.SymDense, []float64, *mat.Dense) {
	if last.rows != m.Rows || last.first != m.Data[0] || len(last.values) != m.Cols {
		last.covariance, last.values, last.vectors = exactSpectrum(t, m)
		last.rows, last.first = m.Rows, m.Data[0]
	}
	return last.covariance, last.values, last.vectors
}

var last struct {
	rows       int
	first      float32
	covariance *mat.SymDense
	values     []float64
	vectors    *mat.Dense
}
