package reduce

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"

	"hardneg/mining"
)

// Matrix is a matrix of float32 values, row after row: row i is Data[i*Cols:(i+1)*Cols].
type Matrix struct {
	Rows, Cols int
	Data       []float32
}

// NewMatrix makes a matrix of zeros.
func NewMatrix(rows, cols int) Matrix { return Matrix{rows, cols, make([]float32, rows*cols)} }

// Row gives row i. It shares the memory of the matrix.
func (m Matrix) Row(i int) []float32 { return m.Data[i*m.Cols : (i+1)*m.Cols : (i+1)*m.Cols] }

// slice gives the rows from first up to, but not including, end. It shares the memory of the matrix.
func (m Matrix) slice(first, end int) Matrix {
	return Matrix{end - first, m.Cols, m.Data[first*m.Cols : end*m.Cols]}
}

func (m Matrix) check(what string) error {
	if m.Rows < 0 || m.Cols < 1 || len(m.Data) != m.Rows*m.Cols {
		return fmt.Errorf("reduce: %s: %d values are no matrix of %d × %d", what, len(m.Data), m.Rows, m.Cols)
	}
	return nil
}

func (m Matrix) general() blas32.General {
	return blas32.General{Rows: m.Rows, Cols: m.Cols, Stride: m.Cols, Data: m.Data}
}

// Reducer projects vectors of d dimensions on k principal axes. Fit, Sample.Fit, Identity or UnmarshalBinary
// makes it. It is safe for concurrent use, as long as nobody changes it.
type Reducer struct {
	Dimensions   int       // d
	Mean         []float32 // mean of the sample, d values; nil for the identity
	Components   Matrix    // the axes: k × d, orthonormal rows, the largest variance first; no rows for the identity
	Share        []float64 // k values: the first i+1 axes capture Share[i] of the total variance
	Total        float64   // total variance of the sample: the trace of its covariance
	SubtractMean bool      // project v − Mean instead of v
	Normalize    bool      // give each projection unit length

	onAxes []float32 // projection of Mean, k values
}

// Identity makes a reducer that leaves vectors of d dimensions as they are, and only gives them unit length.
func Identity(d int) *Reducer { return &Reducer{Dimensions: d, Normalize: true} }

// Out is the number of dimensions of a reduced vector: k, or d for the identity.
func (r *Reducer) Out() int {
	if r.Components.Rows == 0 {
		return r.Dimensions
	}
	return r.Components.Rows
}

// negligible bounds rounding errors: if a projection is shorter than this part of its vector, the vector has
// no part along the axes, and the direction of the projection means nothing.
const negligible = 1e-6

// Project reduces the rows of in (n × Dimensions), and writes them to the rows of out (n × Out). The only
// error is a matrix of another size.
//
// With Normalize, the rows of out have unit length. But a row without a part along the axes has no direction:
// it becomes zero, and Project returns its index. The same happens to a row with elements that are not
// finite, which the caller should refuse before: see mining.Concat.
func (r *Reducer) Project(in, out Matrix) (zero []int, err error) { return r.project(in, out, nil) }

// ProjectMeasured does the same as Project, and also measures how much of the vectors' energy the axes
// capture. For an identity there is nothing to measure: its Energy is zero.
func (r *Reducer) ProjectMeasured(in, out Matrix) (zero []int, e Energy, err error) {
	zero, err = r.project(in, out, &e)
	return zero, e, err
}

func (r *Reducer) project(in, out Matrix, energy *Energy) (zero []int, err error) {
	if err := in.check("input"); err != nil {
		return nil, err
	}
	if err := out.check("output"); err != nil {
		return nil, err
	}
	if in.Cols != r.Dimensions || out.Cols != r.Out() || in.Rows != out.Rows {
		return nil, fmt.Errorf("reduce: cannot reduce %d × %d to %d × %d; the reducer takes vectors of %d to %d",
			in.Rows, in.Cols, out.Rows, out.Cols, r.Dimensions, r.Out())
	}
	if r.Components.Rows == 0 {
		copy(out.Data, in.Data)
	} else {
		Products(in, r.Components, out)
		r.centre(in, out, energy)
	}
	if !r.Normalize {
		return nil, nil
	}
	for i := range out.Rows {
		row := out.Row(i)
		before := math.Sqrt(blas32.DDot(vector(in.Row(i)), vector(in.Row(i))))
		after := math.Sqrt(blas32.DDot(vector(row), vector(row)))
		if !(after > negligible*before) || mining.Normalize(row) != nil {
			clear(row)
			zero = append(zero, i)
		}
	}
	return zero, nil
}

// centre measures projections if energy is not nil, and subtracts the mean from them if SubtractMean is set.
func (r *Reducer) centre(in, out Matrix, energy *Energy) {
	if !r.SubtractMean && energy == nil {
		return
	}
	mean := r.meanOnAxes()
	for i := range out.Rows {
		row := out.Row(i)
		if energy != nil {
			energy.measure(in.Row(i), r.Mean, row, mean)
		}
		if r.SubtractMean {
			blas32.Axpy(-1, vector(mean), vector(row)) // (v − mean)·c = v·c − mean·c
		}
	}
}

// meanOnAxes gives the projection of the mean. If a caller has cut Components to the first axes, the
// projection on these is the first part of the projection on all.
func (r *Reducer) meanOnAxes() []float32 {
	k := r.Components.Rows
	if k == 0 || len(r.onAxes) >= k {
		return r.onAxes[:k]
	}
	projected := make([]float32, k)
	blas32.Gemv(blas.NoTrans, 1, r.Components.general(), vector(r.Mean), 0, vector(projected))
	return projected
}

func vector(v []float32) blas32.Vector { return blas32.Vector{N: len(v), Inc: 1, Data: v} }
