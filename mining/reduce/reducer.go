package reduce

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"

	"hardneg/mining"
)

// Matrix is a row-major view of float32 values: row i is Data[i*Cols:(i+1)*Cols].
type Matrix struct {
	Rows, Cols int
	Data       []float32
}

// NewMatrix allocates a matrix of zeros.
func NewMatrix(rows, cols int) Matrix { return Matrix{rows, cols, make([]float32, rows*cols)} }

// Row is a view of one row.
func (m Matrix) Row(i int) []float32 { return m.Data[i*m.Cols : (i+1)*m.Cols : (i+1)*m.Cols] }

// slice is a view of the rows from first up to, not including, end.
func (m Matrix) slice(first, end int) Matrix {
	return Matrix{end - first, m.Cols, m.Data[first*m.Cols : end*m.Cols]}
}

func (m Matrix) check(what string) error {
	if m.Rows < 0 || m.Cols < 1 || len(m.Data) != m.Rows*m.Cols {
		return fmt.Errorf("mining: %s: %d values are no matrix of %d × %d", what, len(m.Data), m.Rows, m.Cols)
	}
	return nil
}

func (m Matrix) general() blas32.General {
	return blas32.General{Rows: m.Rows, Cols: m.Cols, Stride: m.Cols, Data: m.Data}
}

// Reducer projects the ensemble's vectors on principal axes. It is safe for concurrent use once made.
type Reducer struct {
	Dimensions   int       // d, length of the vectors to reduce
	Mean         []float32 // d; nil for the identity
	Components   Matrix    // k × d, orthonormal rows, by variance; no rows: the identity
	Share        []float64 // k: share of the total variance that the first i+1 axes capture in the sample
	Total        float64   // total variance of the sample: the trace of its covariance
	SubtractMean bool      // project v − mean instead of v
	Normalize    bool      // give every projection unit length

	onAxes []float32 // k: the mean, projected
}

// Identity is the reducer that leaves d dimensions as they are, but for unit length.
func Identity(d int) *Reducer { return &Reducer{Dimensions: d, Normalize: true} }

// Out is k, the length of a reduced vector.
func (r *Reducer) Out() int {
	if r.Components.Rows == 0 {
		return r.Dimensions
	}
	return r.Components.Rows
}

// negligible is the length of a projection, relative to that of the vector, below which it is rounding error: such
// a vector lies outside the span of the axes, and its direction in there means nothing.
const negligible = 1e-6

// Project writes the reduced vectors of in (n × Dimensions) to out (n × Out). With Normalize they have unit length,
// but for the rows it returns: those had no direction left, and are zero. Elements that are not finite are the
// caller's to refuse (see Concat); their rows come back as zero, too.
func (r *Reducer) Project(in, out Matrix) (zero []int, err error) { return r.project(in, out, nil) }

// ProjectMeasured is Project, and tells how much of the vectors' variance the axes capture. An identity captures
// nothing that is worth measuring: its Energy is zero.
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
		return nil, fmt.Errorf("mining: cannot reduce %d × %d to %d × %d; the reducer takes vectors of %d to %d",
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

// centre subtracts the mean from projections where that is asked for, and measures them.
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

// meanOnAxes is the mean's projection. Axes are nested: of a reducer that was cut to its first ones it is a part.
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
