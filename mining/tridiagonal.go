package mining

import (
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	lapack "gonum.org/v1/gonum/lapack/gonum"
)

// spectrum is the solution of the projected eigenproblem. gonum's EigenSym accumulates every rotation of the QR
// iteration in all eigenvectors, which takes minutes at 2,000 rows; here the matrix is made tridiagonal, its eigenvalues
// come from QR without vectors, and the vectors that are wanted from inverse iteration, a few passes each.
type spectrum struct {
	values []float64 // descending, none below zero

	m              int
	reflectors     []float64 // m × m, as Dsytrd leaves them
	tau            []float64
	diagonal, next []float64 // the tridiagonal matrix: m and m−1 elements
	random         *rand.Rand
}

// solve finds the eigenvalues of T.
func (f *fit) solve() *spectrum {
	m := f.size
	s := &spectrum{
		m: m, reflectors: make([]float64, m*m), tau: make([]float64, m),
		diagonal: make([]float64, m), next: make([]float64, m),
		random: rand.New(rand.NewPCG(uint64(m), 1)),
	}
	for i := range m {
		copy(s.reflectors[i*m:], f.t[i*f.basis.Rows:i*f.basis.Rows+m])
	}
	work := make([]float64, 1)
	s.tau, s.next = s.tau[:m-1], s.next[:m-1]
	lapack.Implementation{}.Dsytrd(blas.Lower, m, s.reflectors, m, s.diagonal, s.next, s.tau, work, -1)
	work = make([]float64, int(work[0]))
	lapack.Implementation{}.Dsytrd(blas.Lower, m, s.reflectors, m, s.diagonal, s.next, s.tau, work, len(work))
	s.values = slices.Clone(s.diagonal)
	if !(lapack.Implementation{}).Dsterf(m, s.values, slices.Clone(s.next)) {
		panic("mining: the eigenvalues of a finite symmetric matrix did not converge")
	}
	slices.Reverse(s.values)
	return s
}

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
	columns := make([]float64, s.m*k)
	for i := range k {
		for j := range s.m {
			columns[j*k+i] = v[i*s.m+j]
		}
	}
	if s.m > 1 { // back through the reflectors, which leave the first row alone
		work := make([]float64, 1)
		lapack.Implementation{}.Dormqr(blas.Left, blas.NoTrans, s.m-1, k, s.m-1, s.reflectors[s.m:], s.m, s.tau, columns[k:], k, work, -1)
		work = make([]float64, int(work[0]))
		lapack.Implementation{}.Dormqr(blas.Left, blas.NoTrans, s.m-1, k, s.m-1, s.reflectors[s.m:], s.m, s.tau, columns[k:], k, work, len(work))
	}
	out := NewMatrix(k, s.m)
	for i := range k {
		for j := range s.m {
			out.Data[i*s.m+j] = float32(columns[j*k+i])
		}
	}
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
				g := blas64.Vector{N: m, Inc: 1, Data: group[j : j+m]}
				v := blas64.Vector{N: m, Inc: 1, Data: x}
				blas64.Axpy(-blas64.Dot(g, v), g, v)
			}
		}
		scale(x)
	}
}

func scale(x []float64) {
	v := blas64.Vector{N: len(x), Inc: 1, Data: x}
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
