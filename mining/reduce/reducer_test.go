package reduce

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/mat"
)

// sampleLike makes rows around a mean that is not zero. Their spectrum falls as it does with text embeddings.
func sampleLike(n, d int, decay float64, seed uint64) Matrix {
	m := NewMatrix(n, d)
	next := rowsLike(d, decay, seed)
	for i := range n {
		next(m.Row(i))
	}
	return m
}

// rowsLike makes a function that writes the next row.
func rowsLike(d int, decay float64, seed uint64) func([]float32) {
	r := rand.New(rand.NewPCG(seed, 7))
	mean := make([]float64, d)
	for j := range mean {
		mean[j] = 0.5 * r.NormFloat64()
	}
	// A few passes of random rotations in pairs mix the axes without an O(d²) matrix for each row.
	pairs := make([]int, d)
	for j := range pairs {
		pairs[j] = j
	}
	type turn struct {
		a, b int
		s, c float64
	}
	var turns []turn
	for range 6 {
		r.Shuffle(d, func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
		for j := 0; j+1 < d; j += 2 {
			s, c := math.Sincos(2 * math.Pi * r.Float64())
			turns = append(turns, turn{pairs[j], pairs[j+1], s, c})
		}
	}
	scales, row := make([]float64, d), make([]float64, d)
	for j := range scales {
		scales[j] = math.Pow(float64(j+1), -decay)
	}
	return func(out []float32) {
		for j := range row {
			row[j] = r.NormFloat64() * scales[j]
		}
		for _, t := range turns {
			row[t.a], row[t.b] = t.c*row[t.a]-t.s*row[t.b], t.s*row[t.a]+t.c*row[t.b]
		}
		for j := range row {
			out[j] = float32(row[j] + mean[j])
		}
	}
}

// exactSpectrum is the oracle: it computes the covariance in float64, and all its eigenvectors.
func exactSpectrum(t testing.TB, m Matrix) (covariance *mat.SymDense, values []float64, vectors *mat.Dense) {
	mean := make([]float64, m.Cols)
	for i := range m.Rows {
		for j, v := range m.Row(i) {
			mean[j] += float64(v) / float64(m.Rows)
		}
	}
	x := mat.NewDense(m.Rows, m.Cols, nil)
	for i := range m.Rows {
		for j, v := range m.Row(i) {
			x.Set(i, j, (float64(v)-mean[j])/math.Sqrt(float64(max(1, m.Rows-1))))
		}
	}
	covariance = mat.NewSymDense(m.Cols, nil)
	covariance.SymOuterK(1, x.T())
	var e mat.EigenSym
	if !e.Factorize(covariance, true) {
		t.Fatal("the oracle did not converge")
	}
	ascending := e.Values(nil)
	var v mat.Dense
	e.VectorsTo(&v)
	vectors = mat.NewDense(m.Cols, m.Cols, nil)
	for k := range m.Cols {
		values = append(values, ascending[m.Cols-1-k])
		for j := range m.Cols {
			vectors.Set(k, j, v.At(j, m.Cols-1-k))
		}
	}
	return covariance, values, vectors
}

func asDense(m Matrix) *mat.Dense {
	out := mat.NewDense(m.Rows, m.Cols, nil)
	for i := range m.Rows {
		for j, v := range m.Row(i) {
			out.Set(i, j, float64(v))
		}
	}
	return out
}

func TestReducerAgainstExact(t *testing.T) {
	for _, c := range []struct {
		n, d     int
		decay    float64
		variance float64
		most     int
	}{
		{600, 40, 0.5, 0.95, 0},
		{900, 300, 0.3, 0.95, 512},
		{900, 300, 0.3, 0.95, 64},
		{1500, 500, 0.6, 0.9, 512},
		{1500, 500, 0.1, 0.95, 128}, // nearly flat: the hard case
		{1500, 512, 1.0, 0.95, 512},
		{200, 400, 0.4, 0.95, 512}, // fewer rows than dimensions
		{200, 400, 0.4, 1, 0},
		{64, 2, 0.4, 1, 0},
		{300, 70, 0, 0.99, 0},
	} {
		t.Run(fmt.Sprintf("%dx%d/%v/%v/%d", c.n, c.d, c.decay, c.variance, c.most), func(t *testing.T) {
			m := sampleLike(c.n, c.d, c.decay, 1)
			r, err := Fit(context.Background(), m, Options{Variance: c.variance, MaxDimensions: c.most, Seed: 3})
			if err != nil {
				t.Fatal(err)
			}
			covariance, values, _ := exactSpectrum(t, m)
			total := 0.0
			for _, v := range values {
				total += v
			}
			if math.Abs(r.Total-total) > 1e-4*total {
				t.Errorf("total variance %v, exactly %v", r.Total, total)
			}
			k := r.Out()
			q := asDense(r.Components)
			var gram, tmp, projected mat.Dense
			gram.Mul(q, q.T())
			for i := range k {
				for j := range k {
					want := 0.0
					if i == j {
						want = 1
					}
					if math.Abs(gram.At(i, j)-want) > 2e-5 {
						t.Fatalf("axes %d and %d: product %v", i, j, gram.At(i, j))
					}
				}
			}
			tmp.Mul(q, covariance)
			projected.Mul(&tmp, q.T())
			captured, best := 0.0, 0.0
			for i := range k {
				captured += projected.At(i, i)
				best += values[i]
				if math.Abs(captured/total-r.Share[i]) > 1e-4 {
					t.Fatalf("share of %d axes: says %v, is %v", i+1, r.Share[i], captured/total)
				}
			}
			t.Logf("k=%d captured %.5f, best possible %.5f", k, captured/total, best/total)
			if captured < best-0.001*total {
				t.Errorf("%d axes capture %.5f, the best %.5f", k, captured/total, best/total)
			}
			exact := 0
			for sum := 0.0; exact < len(values) && sum < c.variance*total*(1-1e-7) && (c.most == 0 || exact < c.most); exact++ {
				sum += values[exact]
			}
			if k < exact-1 || float64(k) > float64(exact)*1.02+1 {
				t.Errorf("%d axes, exactly %d are needed", k, exact)
			}
		})
	}
}
