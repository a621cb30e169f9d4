package reduce

import (
	"math"

	"gonum.org/v1/gonum/blas/blas32"

	"hardneg/mining"
)

const (
	krylovBlock = 32 // the basis grows by so many rows at a time
	// If orthogonalisation leaves less than this share of a row's length, the rest is rounding error of
	// float32, not a direction.
	breakdown = 1e-4
)

// krylov is the growing basis of a block Krylov space of the covariance C, and C's projection on it.
type krylov struct {
	rank  int       // the most dimensions that the sample can span
	basis Matrix    // Q: its first rows are orthonormal, the others are free
	size  int       // number of orthonormal rows
	t     band      // T = QCQᵀ
	trace float64   // of T
	next  Matrix    // C times the last block, without its part within Q: the next block comes from it
	norms []float64 // lengths of next's rows before the part within Q was subtracted
}

func (f *fit) begin() {
	f.rank = min(f.sample.n-1, f.sample.d)
	f.basis = NewMatrix(min(f.rank, 8*krylovBlock), f.sample.d)
	f.t.width = krylovBlock
}

// grow adds a block to the basis and projects C on it. It gives false if the basis spans all directions of
// the sample.
//
// C times a block lies in this block, the one before and the next one. The rows of the next block have the
// same order as the rows that they come from. So T has krylovBlock elements on both sides of its diagonal.
// Elements farther off are rounding errors, and are left out.
func (f *fit) grow() bool {
	first := f.size
	full := min(first+krylovBlock, f.rank)
	if first > 0 {
		f.extend(f.next, f.norms, full)
	}
	// At the start there is no block to go on from. Later, C times the last block can lie within the basis (a
	// closed subspace, or an eigenvalue whose multiplicity is larger than a block). In both cases random
	// combinations of the sample's rows give new directions.
	for f.size < full {
		before := f.size
		sketch := f.sketch()
		lengths := rowNorms(sketch)
		f.project(sketch)
		f.extend(sketch, lengths, full)
		if f.size == before {
			break
		}
	}
	if f.size == first {
		return false
	}
	block := f.basis.slice(first, f.size)
	f.next = f.covariance(block)
	f.norms = rowNorms(f.next)
	h := f.project(f.next)
	for i := range block.Rows {
		at := first + i
		row := make([]float64, 0, krylovBlock+1)
		for _, v := range h.Row(i)[max(0, at-krylovBlock) : at+1] {
			row = append(row, float64(v))
		}
		f.t.append(row)
		f.trace += row[len(row)-1]
	}
	return true
}

// sketch makes a block of random combinations of the centred rows of the sample.
func (f *fit) sketch() Matrix {
	directions := f.sample.rows.Rows
	if f.sample.square.Rows > 0 {
		directions = f.sample.d
	}
	m := NewMatrix(krylovBlock, directions)
	for i := range m.Data {
		m.Data[i] = float32(f.random.NormFloat64())
	}
	if f.sample.square.Rows > 0 {
		return f.covariance(m)
	}
	return f.combine(m)
}

// covariance multiplies C by each row of the block.
func (f *fit) covariance(block Matrix) Matrix {
	if f.sample.square.Rows > 0 {
		return multiply(block, f.sample.square) // C is its own transpose
	}
	weights := multiply(block, f.sample.rows)
	blas32.Scal(1/float32(f.sample.n-1), vector(weights.Data))
	return f.combine(weights)
}

// combine multiplies weights (b × n) by the centred sample (n × d).
func (f *fit) combine(weights Matrix) Matrix {
	out := NewMatrix(weights.Rows, f.sample.d)
	addMul(1, weights, f.sample.rows, out)
	return out
}

// multiply gives a·bᵀ.
func multiply(a, b Matrix) Matrix {
	c := NewMatrix(a.Rows, b.Rows)
	Products(a, b, c)
	return c
}

// project subtracts from the rows of w their part within the basis, and gives the coordinates of this part,
// w·Qᵀ.
func (f *fit) project(w Matrix) Matrix {
	if f.size == 0 {
		return Matrix{}
	}
	q := f.basis.slice(0, f.size)
	h := multiply(w, q)
	addMul(-1, h, q, w)
	return h
}

// extend adds the directions of rows to the basis, until it has full rows. The rows were projected once
// before, and lengths are their lengths before that.
func (f *fit) extend(rows Matrix, lengths []float64, full int) {
	f.project(rows) // projecting twice is enough for orthogonality (Giraud et al., 2005) …
	first := f.size
	for i := 0; i < rows.Rows && f.size < full; i++ {
		if f.size == f.basis.Rows {
			f.enlarge()
		}
		row := rows.Row(i)
		before := norm(row)
		subtract(f.basis.slice(first, f.size), row)
		if norm(row) < before/2 { // … unless subtracting the block's own rows leaves less than half
			subtract(f.basis.slice(0, f.size), row)
			subtract(f.basis.slice(0, f.size), row)
		}
		if norm(row) > breakdown*lengths[i] && mining.Normalize(row) == nil {
			copy(f.basis.Row(f.size), row)
			f.size++
		}
	}
}

func (f *fit) enlarge() {
	basis := NewMatrix(min(f.rank, f.basis.Rows*3/2), f.basis.Cols)
	copy(basis.Data, f.basis.Data)
	f.basis = basis
}

// rotate multiplies coefficients (k × size) by the basis, which gives the axes.
func (f *fit) rotate(coefficients Matrix) Matrix {
	out := NewMatrix(coefficients.Rows, f.sample.d)
	addMul(1, coefficients, f.basis.slice(0, f.size), out)
	for i := range out.Rows {
		_ = mining.Normalize(out.Row(i)) // there is no error: an eigenvector of T times orthonormal rows has length 1
	}
	return out
}

// orthogonalise makes a row orthogonal to orthonormal rows, and gives it unit length. It gives false if
// almost nothing is left of the row.
func orthogonalise(to Matrix, row []float32) bool {
	before := norm(row)
	for range 2 {
		subtract(to, row)
	}
	return norm(row) > breakdown*before && mining.Normalize(row) == nil
}

// subtract subtracts from v its parts along orthonormal rows.
func subtract(rows Matrix, v []float32) {
	for i := range rows.Rows {
		r := rows.Row(i)
		blas32.Axpy(-float32(blas32.DDot(vector(r), vector(v))), vector(r), vector(v))
	}
}

func rowNorms(m Matrix) []float64 {
	norms := make([]float64, m.Rows)
	for i := range norms {
		norms[i] = norm(m.Row(i))
	}
	return norms
}

func norm(v []float32) float64 { return math.Sqrt(blas32.DDot(vector(v), vector(v))) }

// transpose writes the transpose of in to out. It goes tile by tile, since a tile stays in the cache.
func transpose(in, out Matrix) {
	const tile = 32
	for i := 0; i < in.Rows; i += tile {
		for j := 0; j < in.Cols; j += tile {
			for r := i; r < min(i+tile, in.Rows); r++ {
				for c := j; c < min(j+tile, in.Cols); c++ {
					out.Data[c*out.Cols+r] = in.Data[r*in.Cols+c]
				}
			}
		}
	}
}
