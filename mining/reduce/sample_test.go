package reduce

import (
	"errors"
	"math"
	"reflect"
	"runtime"
	"testing"

	"hardneg/mining"
)

// TestSampleMoments compares mean, variance and covariance with a computation in float64, for samples that keep
// their rows and samples that keep their covariance. The rows lie far from zero.
func TestSampleMoments(t *testing.T) { everyKernel(t, testSampleMoments) }

func testSampleMoments(t *testing.T) {
	for _, c := range []struct{ n, d int }{{1, 3}, {2, 1}, {5, 7}, {300, 40}, {600, 300}, {513, 70}, {260, 300}} {
		m := sampleLike(c.n, c.d, 0.3, 4)
		for i := range m.Data {
			m.Data[i] += 30
		}
		covariance, _, _ := exactSpectrum(t, m)
		s := NewSample(c.n, c.d)
		if err := s.Add(m); err != nil {
			t.Fatal(err)
		}
		if kept := s.square.Rows > 0; kept != (c.n > c.d) {
			t.Errorf("%+v: covariance %v", c, kept)
		}
		mean, total := s.finish()
		trace := 0.0
		for i := range c.d {
			trace += covariance.At(i, i)
			var sum float64
			for r := range c.n {
				sum += float64(m.Row(r)[i])
			}
			if want := sum / float64(c.n); math.Abs(float64(mean[i])-want) > 1e-5 {
				t.Fatalf("%+v: mean %v, want %v", c, mean[i], want)
			}
			for j := range c.d {
				var got float64
				for r := range s.rows.Rows {
					got += float64(s.rows.Row(r)[i]) * float64(s.rows.Row(r)[j]) / float64(max(1, c.n-1))
				}
				if s.square.Rows > 0 {
					got = float64(s.square.Row(i)[j])
				}
				if want := covariance.At(i, j); math.Abs(got-want) > 1e-5 {
					t.Fatalf("%+v: covariance of %d and %d is %v, want %v", c, i, j, got, want)
				}
			}
		}
		if math.Abs(total-trace) > 1e-5*trace {
			t.Errorf("%+v: total variance %v, want %v", c, total, trace)
		}
	}
}

// TestSampleBlocks: the result is the same to the bit, however the rows are cut into blocks, and on any number of
// processors.
func TestSampleBlocks(t *testing.T) {
	m := sampleLike(700, 90, 0.4, 2)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, expected := range []int{700, 10} {
		var want *Reducer
		for processors, size := range []int{700, 1, 13, 256, 300} {
			runtime.GOMAXPROCS(1 + processors)
			s := NewSample(expected, m.Cols)
			for first := 0; first < m.Rows; first += size {
				if err := s.Add(m.slice(first, min(first+size, m.Rows))); err != nil {
					t.Fatal(err)
				}
			}
			r, err := s.Fit(t.Context(), Options{Variance: 0.9, Seed: 5})
			if err != nil || s.Rows() != m.Rows {
				t.Fatal(s.Rows(), err)
			}
			if want == nil {
				want = r
			}
			if !reflect.DeepEqual(r, want) {
				t.Errorf("blocks of %d of %d rows give another reducer", size, expected)
			}
		}
	}
}

func TestSampleRefuses(t *testing.T) {
	s := NewSample(10, 3)
	if err := s.Add(NewMatrix(2, 4)); err == nil {
		t.Error("rows of another length are accepted")
	}
	bad := NewMatrix(4, 3)
	bad.Row(2)[1] = float32(math.NaN())
	if err := s.Add(bad); !errors.Is(err, mining.ErrNotFinite) || s.Rows() != 2 {
		t.Error(err, s.Rows())
	}
}

// TestFitMemory bounds the memory that is allocated from the first row to the axes. Garbage counts too.
func TestFitMemory(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector lets pools forget what they hold")
	}
	allocated := func(n, d, most int) uint64 {
		next := rowsLike(d, 0.6, 1)
		block := NewMatrix(100, d)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s := NewSample(n, d)
		for range n / block.Rows {
			for i := range block.Rows {
				next(block.Row(i))
			}
			if err := s.Add(block); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Fit(t.Context(), Options{Variance: 1, MaxDimensions: most}); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	const few, many, d = 5_000, 50_000, 128
	less, more := allocated(few, d, 16), allocated(many, d, 16)
	t.Logf("%d × %d: %.1f MB, %d × %d: %.1f MB (of float32 alone %.1f MB)", few, d, float64(less)/1e6, many, d, float64(more)/1e6, many*d*4/1e6)
	if more > less+(many-few)*d*4/20 || more > many*d*4/2 {
		t.Error("memory grows with the number of rows")
	}
	const n, long = 2000, 2048
	whole := allocated(n, long, 16)
	t.Logf("%d × %d: %.1f MB (in float64 %.1f MB)", n, long, float64(whole)/1e6, n*long*8/1e6)
	if whole > n*long*8 {
		t.Error("more than the rows in float64")
	}
}
