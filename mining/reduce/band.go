package reduce

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"

	"gonum.org/v1/gonum/blas/blas64"
	lapack "gonum.org/v1/gonum/lapack/gonum"
)

// band is the lower half of a symmetric matrix whose elements are zero if they are more than width places off
// the diagonal. A block Krylov space gives such a matrix, just as a Krylov space of single vectors gives a
// tridiagonal matrix. A band matrix is cheap to solve: with m rows, all eigenvalues cost 6·m²·width
// operations, and each eigenvector about 4·m·width². A dense matrix needs 4/3·m³ operations before the first
// of either.
type band struct {
	width int
	rows  []float64 // row i, columns i−width…i, at i·(width+1)
}

func (b *band) size() int { return len(b.rows) / (b.width + 1) }

// append adds a row. Its last element is on the diagonal. Missing elements at its start are zero.
func (b *band) append(row []float64) {
	b.rows = append(b.rows, make([]float64, b.width+1-len(row))...)
	b.rows = append(b.rows, row...)
}

// spectrum is a symmetric band matrix with its eigenvalues. QR iteration gives the eigenvalues alone, and
// inverse iteration gives those eigenvectors that are needed. gonum's EigenSym would apply each rotation to
// all eigenvectors, which takes minutes with 2,000 rows.
type spectrum struct {
	band
	values []float64 // descending
}

func newSpectrum(b band) *spectrum {
	s := &spectrum{band: b}
	diagonal, next := b.tridiagonal()
	if !(lapack.Implementation{}).Dsterf(len(diagonal), diagonal, next) {
		panic("reduce: the eigenvalues of a finite symmetric matrix did not converge")
	}
	slices.Reverse(diagonal)
	s.values = diagonal
	return s
}

// tridiagonal makes the matrix tridiagonal by rotations of neighbouring rows and columns (Schwarz,
// "Tridiagonalization of a Symmetric Band Matrix", 1968). Each rotation removes one element from the edge of
// the band, and creates one outside of the band, one band width further down. The next rotations chase this
// element until it falls off the end. The result is the diagonal (m elements) and the elements next to it
// (m−1).
func (b *band) tridiagonal() (diagonal, next []float64) {
	m, w := b.size(), b.width
	stride := w + 2 // one more than the band has, for the element outside of it
	a := make([]float64, m*stride)
	for i := range m {
		copy(a[i*stride+1:(i+1)*stride], b.rows[i*(w+1):])
	}
	at := func(i, j int) int { return i*stride + j - i + w + 1 }
	for k := range m {
		for d := min(w, m-1-k); d > 1; d-- {
			for j, p := k, k+d; p < m; j, p = p-1, p+w { // rotate element (p, j) into (p−1, j)
				x, y := a[at(p-1, j)], a[at(p, j)]
				if y == 0 {
					break
				}
				r := math.Hypot(x, y)
				c, s := x/r, y/r
				a[at(p-1, j)], a[at(p, j)] = r, 0
				upper, lower := a[at(p-1, j+1):at(p-1, p-1)], a[at(p, j+1):at(p, p-1)]
				for i, u := range upper {
					v := lower[i]
					upper[i], lower[i] = c*u+s*v, c*v-s*u
				}
				u, v, z := a[at(p-1, p-1)], a[at(p, p)], a[at(p, p-1)]
				a[at(p-1, p-1)] = c*c*u + 2*c*s*z + s*s*v
				a[at(p, p)] = s*s*u - 2*c*s*z + c*c*v
				a[at(p, p-1)] = (c*c-s*s)*z + c*s*(v-u)
				for i, q := p+1, at(p+1, p-1); i <= min(p+w, m-1); i, q = i+1, q+stride-1 {
					u, v := a[q], a[q+1]
					a[q], a[q+1] = c*u+s*v, c*v-s*u
				}
			}
		}
	}
	diagonal, next = make([]float64, m), make([]float64, m-1)
	for i := range m {
		diagonal[i] = a[at(i, i)]
		if i > 0 {
			next[i-1] = a[at(i, i-1)]
		}
	}
	return diagonal, next
}

// choose counts the leading eigenvalues that the axes need: enough for their sum to reach target, but not
// fewer than least, not more than most, and none that is zero.
func (s *spectrum) choose(target float64, least, most int) (k int) {
	for sum := 0.0; k < min(most, len(s.values)) && s.values[k] > 1e-7*s.values[0] && (k < least || sum < target); k++ {
		sum += s.values[k]
	}
	return k
}

// sum adds the first k eigenvalues.
func (s *spectrum) sum(k int) (sum float64) {
	for _, v := range s.values[:min(k, len(s.values))] {
		sum += v
	}
	return sum
}

// vectors gives the first k eigenvectors as rows (k × m).
func (s *spectrum) vectors(k int) Matrix {
	m := s.size()
	out := NewMatrix(k, m)
	// Inverse iteration cannot separate the vectors of eigenvalues that are very close to each other. So
	// these form a group, in which each vector is made orthogonal to the earlier ones. groups holds the first
	// eigenvalue of each.
	var groups []int
	for i := range k {
		if i == 0 || s.values[i-1]-s.values[i] > 1e-9*s.values[0] {
			groups = append(groups, i)
		}
	}
	groups = append(groups, k)
	parallel(len(groups)-1, 1, func(g, _ int) {
		f := factors.Get().(*factor)
		defer factors.Put(f)
		group := make([]float64, 0, (groups[g+1]-groups[g])*m)
		for i := groups[g]; i < groups[g+1]; i++ {
			x := group[len(group) : len(group)+m]
			s.iterate(f, i, group, x)
			group = group[:len(group)+m]
			for j, v := range x {
				out.Data[i*m+j] = float32(v)
			}
		}
	})
	return out
}

// iterate finds eigenvector i by inverse iteration from a random start, and keeps it orthogonal to the rows
// of group (Golub and Van Loan, Matrix Computations, §8.2.2; Peters and Wilkinson, 1971).
func (s *spectrum) iterate(f *factor, i int, group, x []float64) {
	m := len(x)
	random := rand.New(rand.NewPCG(uint64(m), uint64(i)))
	for j := range x {
		x[j] = random.Float64() - 0.5
	}
	f.decompose(&s.band, s.values[i], s.values[0])
	for range 2 {
		f.solve(x)
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
	largest := math.Abs(x[blas64.Iamax(v)]) // divide by it first, so that the squares do not overflow
	blas64.Scal(1/largest, v)
	blas64.Scal(1/blas64.Nrm2(v), v)
}

func vector64(v []float64) blas64.Vector   { return blas64.Vector{N: len(v), Inc: 1, Data: v} }
func dot64(x, y []float64) float64         { return blas64.Dot(vector64(x), vector64(y)) }
func axpy64(alpha float64, x, y []float64) { blas64.Axpy(alpha, vector64(x), vector64(y)) }

// factor is the decomposition P·L·U of a shifted band matrix, with partial pivoting. Pivoting makes U twice
// as wide above the diagonal as the band is.
type factor struct {
	m, width int
	rows     []float64 // row i, columns i−width…i+2·width, at i·(3·width+1): L below the diagonal, then U
	pivots   []int     // for each row the row that took its place
}

var factors = sync.Pool{New: func() any { return new(factor) }}

func (f *factor) at(i, j int) int { return i*(3*f.width+1) + j - i + f.width }

func (f *factor) decompose(b *band, shift, norm float64) {
	m, w := b.size(), b.width
	f.m, f.width = m, w
	f.rows = slices.Grow(f.rows[:0], m*(3*w+1))[:m*(3*w+1)]
	f.pivots = slices.Grow(f.pivots[:0], m)[:m]
	clear(f.rows)
	for i := range m {
		for j := max(0, i-w); j <= i; j++ {
			v := b.rows[i*(w+1)+j-i+w]
			f.rows[f.at(i, j)], f.rows[f.at(j, i)] = v, v
		}
		f.rows[f.at(i, i)] -= shift
	}
	tiny := math.Max(norm*0x1p-52, math.SmallestNonzeroFloat64*0x1p60)
	for i := range m {
		last, end := min(i+w, m-1), min(i+2*w+1, m)
		pivot := i
		for r := i + 1; r <= last; r++ {
			if math.Abs(f.rows[f.at(r, i)]) > math.Abs(f.rows[f.at(pivot, i)]) {
				pivot = r
			}
		}
		f.pivots[i] = pivot
		u := f.rows[f.at(i, i):f.at(i, end)]
		if pivot != i {
			for j, v := range f.rows[f.at(pivot, i):f.at(pivot, end)] {
				f.rows[f.at(pivot, i)+j], u[j] = u[j], v
			}
		}
		if math.Abs(u[0]) < tiny {
			u[0] = tiny
		}
		for r := i + 1; r <= last; r++ {
			row := f.rows[f.at(r, i):f.at(r, end)]
			if row[0] != 0 {
				row[0] /= u[0]
				axpy64(-row[0], u[1:], row[1:])
			}
		}
	}
}

func (f *factor) solve(x []float64) {
	for i := range f.m {
		x[i], x[f.pivots[i]] = x[f.pivots[i]], x[i]
		if v := x[i]; v != 0 {
			for r, at := i+1, f.at(i+1, i); r <= min(i+f.width, f.m-1); r, at = r+1, at+3*f.width {
				x[r] -= f.rows[at] * v
			}
		}
	}
	for i := f.m - 1; i >= 0; i-- {
		end := min(i+2*f.width+1, f.m)
		x[i] = (x[i] - dot64(f.rows[f.at(i, i+1):f.at(i, end)], x[i+1:end])) / f.rows[f.at(i, i)]
	}
}
