package reduce

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/mat"
)

// TestBand compares eigenvalues with gonum's, and puts the vectors into their equation. There are random bands,
// bands wider than the matrix, matrices that fall into blocks, and eigenvalues of higher multiplicity.
func TestBand(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, element := range map[string]func(i, j int) float64{
		"random":   func(i, j int) float64 { return random.NormFloat64() },
		"graded":   func(i, j int) float64 { return random.NormFloat64() * math.Exp(-float64(i+j)/15) },
		"apart":    func(i, j int) float64 { return random.NormFloat64() * float64(min(1, 1-min(1, (i/7-j/7)))) },
		"diagonal": func(i, j int) float64 { return float64(max(0, 1-(i-j))) * float64(1+i%3) },
		// If it is shifted by an eigenvalue, its leading parts are singular too. So it needs pivots.
		"path": func(i, j int) float64 { return float64(min(1, (i-j)%2)) },
		"zero": func(i, j int) float64 { return 0 },
	} {
		for _, c := range []struct{ m, width int }{{1, 3}, {2, 1}, {30, 1}, {40, 5}, {10, 16}, {130, 32}, {31, 1}, {41, 4}} {
			t.Run(fmt.Sprintf("%s/%d/%d", name, c.m, c.width), func(t *testing.T) {
				b := band{width: c.width}
				whole := mat.NewSymDense(c.m, nil)
				for i := range c.m {
					var row []float64
					for j := max(0, i-c.width); j <= i; j++ {
						v := element(i, j)
						if name != "zero" && i == j {
							v += 4 // what covariances have: leading eigenvalues that are positive
						}
						row = append(row, v)
						whole.SetSym(i, j, v)
					}
					b.append(row)
				}
				s := newSpectrum(b)
				var oracle mat.EigenSym
				if !oracle.Factorize(whole, false) {
					t.Fatal("the oracle did not converge")
				}
				scale := 1.0
				for i, want := range oracle.Values(nil) {
					scale = max(scale, math.Abs(want))
					if got := s.values[c.m-1-i]; math.Abs(got-want) > 1e-12*scale*float64(c.m) {
						t.Fatalf("eigenvalue %d is %v, want %v", i, got, want)
					}
				}
				k := s.choose(math.Inf(1), 1, c.m)
				if name == "zero" {
					if k != 0 {
						t.Errorf("%d eigenvalues differ from zero", k)
					}
					return
				}
				v := asDense(s.vectors(k))
				var applied, gram mat.Dense
				applied.Mul(v, whole)
				gram.Mul(v, v.T())
				for i := range k {
					for j := range c.m {
						if off := applied.At(i, j) - s.values[i]*v.At(i, j); math.Abs(off) > 1e-6*scale {
							t.Fatalf("vector %d is off by %v at %d", i, off, j)
						}
					}
					for j := range k {
						want := 0.0
						if i == j {
							want = 1
						}
						if math.Abs(gram.At(i, j)-want) > 1e-6 {
							t.Fatalf("vectors %d and %d have product %v", i, j, gram.At(i, j))
						}
					}
				}
			})
		}
	}
}
