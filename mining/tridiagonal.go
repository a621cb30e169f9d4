package mining

import (
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/blas/blas64"
	lapack "gonum.org/v1/gonum/lapack/gonum"
)

// spectrum is the solution of the projected eigenproblem. gonum's EigenSym accumulates every rotation of the QR
// iteration in all eigenvectors, which takes minutes at 2,000 rows; here the matrix is made tridiagonal, its eigenvalues
// come from QR without vectors, and the vectors that are wanted from inverse iteration, a few passes each.
type spectrum struct {
	values []float64 // descending

	m              int
	reflectors     [][]float64 // row i, from column i+1: v of H_i = 1 − 2vvᵀ, of unit length
	diagonal, next []float64   // the tridiagonal matrix H…H_1·H_0·T·H_0·H_1…: m and m−1 elements
	random         *rand.Rand
}

// solve finds the eigenvalues of T.
func (f *fit) solve() *spectrum {
	m := f.size
	s := &spectrum{m: m, random: rand.New(rand.NewPCG(uint64(m), 1))}
	t := make([][]float64, m)
	for i := range m {
		t[i] = slices.Clone(f.t[i*f.basis.Rows : i*f.basis.Rows+m])
	}
	s.tridiagonalise(t)
	s.values = slices.Clone(s.diagonal)
	if !(lapack.Implementation{}).Dsterf(m, s.values, slices.Clone(s.next)) {
		panic("mining: the eigenvalues of a finite symmetric matrix did not converge")
	}
	slices.Reverse(s.values)
	return s
}

// tridiagonalise reduces a symmetric matrix by Householder reflections (Golub and Van Loan, Matrix Computations,
// §8.3.1), overwriting it. The matrix is held whole, so that all work runs along rows; and a row is multiplied with
// the next reflector while it is updated by the last, so that memory is passed over once for each, by all processors.
func (s *spectrum) tridiagonalise(t [][]float64) {
	m := s.m
	s.diagonal, s.next = make([]float64, m), make([]float64, m-1)
	s.reflectors = make([][]float64, m)
	p := make([]float64, m) // T·v
	var v, w []float64      // the last reflector and its update, T −= v·wᵀ + w·vᵀ, from column k
	for k := range m {
		if v != nil {
			update(t[k][k:], v, w, 0) // row k alone: the next reflector comes from it
		}
		s.diagonal[k] = t[k][k]
		if k == m-1 {
			return
		}
		u, next := reflector(t[k][k+1:])
		s.next[k], s.reflectors[k] = next, u
		parallel(m-k-1, tridiagonalRows, func(first, end int) {
			for i := k + 1 + first; i < k+1+end; i++ {
				if v != nil {
					update(t[i][k+1:], v[1:], w[1:], i-k-1)
				}
				p[i] = dot64(t[i][k+1:], u)
			}
		})
		// H·T·H = T − v·wᵀ − w·vᵀ with w = 2(p − (vᵀp)v).
		q := slices.Clone(p[k+1:])
		axpy64(-dot64(q, u), u, q)
		for i := range q {
			q[i] *= 2
		}
		v, w = u, q
	}
}

const tridiagonalRows = 64

// update takes row i of v·wᵀ + w·vᵀ away from a row.
func update(row, v, w []float64, i int) {
	axpy64(-v[i], w, row)
	axpy64(-w[i], v, row)
}

// reflector gives the unit vector v for which (1 − 2vvᵀ)x = (next, 0, …, 0).
func reflector(x []float64) (v []float64, next float64) {
	v = slices.Clone(x)
	norm := blas64.Nrm2(vector64(v))
	if norm == 0 {
		return v, 0 // nothing to reflect: 1 − 2·0·0ᵀ
	}
	next = -math.Copysign(norm, v[0]) // away from v[0]: no cancellation
	v[0] -= next
	blas64.Scal(1/blas64.Nrm2(vector64(v)), vector64(v))
	return v, next
}

func vector64(v []float64) blas64.Vector   { return blas64.Vector{N: len(v), Inc: 1, Data: v} }
func dot64(x, y []float64) float64         { return blas64.Dot(vector64(x), vector64(y)) }
func axpy64(alpha float64, x, y []float64) { blas64.Axpy(alpha, vector64(x), vector64(y)) }

// choose gives the number of leading eigenvalues that reach target: at most most, and as many as differ from zero.
func (s *spectrum) choose(target float64, most int) (k int) {
	for sum := 0.0; k < min(most, s.m) && s.values[k] > 1e-7*s.values[0] && sum < target; k++ {
		sum += s.values[k]
	}
	return k
}

// sum of the first k eigenvalues.
func (s *spectrum) sum(k int) (sum float64) {
	for _, v := range s.values[:min(k, s.m)] {
		sum += v
	}
	return sum
}

// vectors gives the first k eigenvectors as rows (k × m).
func (s *spectrum) vectors(k int) Matrix {
	v := make([]float64, k*s.m) // of the tridiagonal matrix
	norm := math.Abs(s.values[0])
	first := 0 // of the group of eigenvalues so close that inverse iteration does not tell their vectors apart
	for i := range k {
		if i > 0 && s.values[i-1]-s.values[i] > 1e-9*norm {
			first = i
		}
		s.iterate(s.values[i], norm, v[first*s.m:i*s.m], v[i*s.m:(i+1)*s.m])
	}
	out := NewMatrix(k, s.m)
	parallel(k, gemmRows, func(first, end int) { // back through the reflections, some vectors at a time
		for j := s.m - 2; j >= 0; j-- {
			r := s.reflectors[j]
			for i := first; i < end; i++ {
				x := v[i*s.m+j+1 : (i+1)*s.m]
				axpy64(-2*dot64(r, x), r, x)
			}
		}
		for i := first; i < end; i++ {
			for j, x := range v[i*s.m : (i+1)*s.m] {
				out.Data[i*s.m+j] = float32(x)
			}
		}
	})
	return out
}

// iterate finds one eigenvector of the tridiagonal matrix by inverse iteration from a random start, orthogonal
// to the rows of group (Golub and Van Loan, Matrix Computations, §8.2.2; Peters and Wilkinson, 1971).
func (s *spectrum) iterate(value, norm float64, group, x []float64) {
	m := s.m
	for i := range x {
		x[i] = s.random.Float64() - 0.5
	}
	lu := s.factor(value, norm)
	for range 3 {
		lu.solve(x)
		scale(x)
		for range 2 {
			for j := 0; j < len(group); j += m {
				axpy64(-dot64(group[j:j+m], x), group[j:j+m], x)
			}
		}
		scale(x)
	}
}

func scale(x []float64) {
	v := vector64(x)
	largest := math.Abs(x[blas64.Iamax(v)]) // first, so that the squares do not overflow
	blas64.Scal(1/largest, v)
	blas64.Scal(1/blas64.Nrm2(v), v)
}

// tridiagonalLU is a tridiagonal matrix, shifted, as P·L·U with partial pivoting: U has two diagonals above its own.
type tridiagonalLU struct {
	u0, u1, u2, l []float64
	swap          []bool
}

func (s *spectrum) factor(shift, norm float64) *tridiagonalLU {
	m := s.m
	buffer := make([]float64, 4*m)
	lu := &tridiagonalLU{buffer[:m], buffer[m : 2*m], buffer[2*m : 3*m], buffer[3*m:], make([]bool, m)}
	tiny := math.Max(norm*0x1p-52, math.SmallestNonzeroFloat64*0x1p60)
	copy(lu.u1, s.next)
	for i, d := range s.diagonal {
		lu.u0[i] = d - shift
	}
	for i := range m - 1 {
		below := s.next[i]
		if math.Abs(below) > math.Abs(lu.u0[i]) { // the next row becomes the pivot
			lu.swap[i] = true
			lu.l[i] = lu.u0[i] / below
			pivot1, pivot2 := lu.u0[i+1], lu.u1[i+1]
			lu.u0[i+1] = lu.u1[i] - lu.l[i]*pivot1
			lu.u1[i+1] = -lu.l[i] * pivot2
			lu.u0[i], lu.u1[i], lu.u2[i] = below, pivot1, pivot2
			continue
		}
		if math.Abs(lu.u0[i]) < tiny {
			lu.u0[i] = tiny
		}
		lu.l[i] = below / lu.u0[i]
		lu.u0[i+1] -= lu.l[i] * lu.u1[i]
	}
	if math.Abs(lu.u0[m-1]) < tiny {
		lu.u0[m-1] = tiny
	}
	return lu
}

func (lu *tridiagonalLU) solve(x []float64) {
	m := len(x)
	for i := range m - 1 {
		if lu.swap[i] {
			x[i], x[i+1] = x[i+1], x[i]
		}
		x[i+1] -= lu.l[i] * x[i]
	}
	for i := m - 1; i >= 0; i-- {
		v := x[i]
		if i+1 < m {
			v -= lu.u1[i] * x[i+1]
		}
		if i+2 < m {
			v -= lu.u2[i] * x[i+2]
		}
		x[i] = v / lu.u0[i]
	}
}
