package reduce

import (
	"math"
	"testing"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

// everyKernel runs the test with each kernel that the processor has, and without any.
func everyKernel(t *testing.T, test func(t *testing.T)) {
	defer func(k *kernel) { fastest = k }(fastest)
	for i := range kernels {
		fastest = &kernels[i]
		t.Run(fastest.name, test)
	}
	fastest = nil
	t.Run("portable", test)
}

func TestProducts(t *testing.T) { everyKernel(t, testProducts) }

// testProducts compares with float64 loops. The sizes are below, at and above the sizes of tiles, runs and blocks.
func testProducts(t *testing.T) {
	for _, s := range []struct{ m, n, k int }{{1, 1, 1}, {3, 5, 7}, {8, 64, 512}, {70, 130, 1300}, {65, 1030, 67}, {129, 9, 513}, {241, 257, 255}, {12, 32, 256}, {500, 33, 300}, {31, 700, 520}} {
		a, b := sampleLike(s.m, s.k, 0, 1), sampleLike(s.n, s.k, 0, 2)
		across := NewMatrix(s.k, s.n)
		transpose(b, across)
		product, sum := NewMatrix(s.m, s.n), sampleLike(s.m, s.n, 0, 3)
		start := sampleLike(s.m, s.n, 0, 3)
		Products(a, b, product)
		addMul(-2, a, across, sum)
		for _, at := range [][2]int{{0, 0}, {s.m - 1, s.n - 1}, {s.m / 2, s.n / 3}} {
			alone := NewMatrix(1, 1)
			Products(a.slice(at[0], at[0]+1), b.slice(at[1], at[1]+1), alone)
			if got := product.Row(at[0])[at[1]]; got != alone.Data[0] {
				t.Errorf("%+v: product at %v is %v, and %v where the two rows are alone", s, at, got, alone.Data[0])
			}
		}
		for i := range s.m {
			for j := range s.n {
				want, size := 0.0, 1.0
				for l := range s.k {
					term := float64(a.Row(i)[l]) * float64(b.Row(j)[l])
					want, size = want+term, size+math.Abs(term)
				}
				if got := float64(product.Row(i)[j]); math.Abs(got-want) > 1e-6*size {
					t.Fatalf("%+v: product at %d, %d is %v, want %v", s, i, j, got, want)
				}
				want = float64(start.Row(i)[j]) - 2*want
				if got := float64(sum.Row(i)[j]); math.Abs(got-want) > 2e-6*size {
					t.Fatalf("%+v: sum at %d, %d is %v, want %v", s, i, j, got, want)
				}
			}
		}
	}
}

func BenchmarkProducts(b *testing.B) {
	const n, d = 4096, 4096
	a, block, tall := sampleLike(n, d, 0.3, 1), sampleLike(krylovBlock, d, 0, 1), NewMatrix(n, krylovBlock)
	wide, out := sampleLike(krylovBlock, n, 0, 2), NewMatrix(krylovBlock, d)
	run := func(name string, product func()) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				product()
			}
			b.ReportMetric(2*n*d*krylovBlock*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOPS")
		})
	}
	defer func(k *kernel) { fastest = k }(fastest)
	for i := range kernels {
		fastest = &kernels[i]
		run("transposed/"+fastest.name, func() { Products(a, block, tall) })
		run("plain/"+fastest.name, func() { addMul(1, wide, a, out) })
	}
	run("transposed/portable", func() { portableProducts(a, block, tall) })
	run("plain/portable", func() { portableAddMul(1, wide, a, out) })
	run("transposed/gonum", func() { blas32.Gemm(blas.NoTrans, blas.Trans, 1, a.general(), block.general(), 0, tall.general()) })
	run("plain/gonum", func() { blas32.Gemm(blas.NoTrans, blas.NoTrans, 1, wide.general(), a.general(), 1, out.general()) })
}
