package reduce

import (
	"context"
	"errors"
	"math"
	"reflect"
	"runtime"
	"testing"

	"hardneg/mining"
)

// TestReducerDeterminism: the same rows and seed give the same bits on one processor and on several.
func TestReducerDeterminism(t *testing.T) {
	m := sampleLike(700, 300, 0.3, 5)
	o := Options{Variance: 0.9, MaxDimensions: 200, MinDimensions: 10, Normalize: true, Seed: 9}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	one, err := Fit(context.Background(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	out := NewMatrix(m.Rows, one.Out())
	if _, err := one.Project(m, out); err != nil {
		t.Fatal(err)
	}
	for _, processors := range []int{2, 5} {
		runtime.GOMAXPROCS(processors)
		other, err := Fit(context.Background(), m, o)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(one, other) {
			t.Errorf("%d processors give another reducer than one", processors)
		}
		again := NewMatrix(m.Rows, one.Out())
		if _, err := other.Project(m, again); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(out, again) {
			t.Errorf("%d processors project differently", processors)
		}
	}
}

func TestProject(t *testing.T) {
	m := sampleLike(300, 60, 0.5, 2)
	for _, o := range []Options{
		{Variance: 0.8}, {Variance: 0.8, Normalize: true}, {Variance: 0.8, SubtractMean: true}, {Variance: 0.8, SubtractMean: true, Normalize: true},
	} {
		r, err := Fit(context.Background(), m, o)
		if err != nil {
			t.Fatal(err)
		}
		out := NewMatrix(m.Rows, r.Out())
		zero, err := r.Project(m, out)
		if err != nil || zero != nil {
			t.Fatal(zero, err)
		}
		for i := range m.Rows {
			want := make([]float64, r.Out())
			squares := 0.0
			for k := range want {
				for j, c := range r.Components.Row(k) {
					v := float64(m.Row(i)[j])
					if o.SubtractMean {
						v -= float64(r.Mean[j])
					}
					want[k] += v * float64(c)
				}
				squares += want[k] * want[k]
			}
			for k, w := range want {
				if o.Normalize {
					w /= math.Sqrt(squares)
				}
				if math.Abs(w-float64(out.Row(i)[k])) > 1e-5 {
					t.Fatalf("%+v: row %d element %d is %v, want %v", o, i, k, out.Row(i)[k], w)
				}
			}
		}
		if _, err := r.Project(m, NewMatrix(m.Rows, r.Out()+1)); err == nil {
			t.Error("an output of the wrong width is accepted")
		}
		if _, err := r.Project(NewMatrix(1, 59), NewMatrix(1, r.Out())); err == nil {
			t.Error("vectors of the wrong length are accepted")
		}
	}
}

func TestProjectReportsZeroRows(t *testing.T) {
	in := Matrix{3, 4, []float32{0, 0, 0, 0, 3, 0, 4, 0, float32(math.NaN()), 0, 0, 0}}
	out := NewMatrix(3, 4)
	zero, err := Identity(4).Project(in, out)
	if err != nil || !reflect.DeepEqual(zero, []int{0, 2}) {
		t.Fatal(zero, err)
	}
	if !reflect.DeepEqual(out.Data, []float32{0, 0, 0, 0, 0.6, 0, 0.8, 0, 0, 0, 0, 0}) {
		t.Error(out.Data)
	}
	// The vector is orthogonal to these axes, except for rounding.
	r := &Reducer{Dimensions: 2, Mean: []float32{0, 0}, Components: Matrix{1, 2, []float32{1, 0}}, Share: []float64{1}, Normalize: true}
	in, out = Matrix{2, 2, []float32{1e-8, 1, 0.1, -1}}, NewMatrix(2, 1)
	if zero, err := r.Project(in, out); err != nil || !reflect.DeepEqual(zero, []int{0}) || out.Data[0] != 0 || out.Data[1] != 1 {
		t.Error(zero, err, out.Data)
	}
}

// TestReducerSmallSamples: if a sample spans fewer directions than MinDimensions, Fit adds orthonormal axes.
func TestReducerSmallSamples(t *testing.T) {
	same := NewMatrix(5, 30)
	for i := range same.Data {
		same.Data[i] = 1
	}
	few := NewMatrix(8, 30) // three different rows
	for i := range 8 {
		few.Row(i)[i%3] = 1
	}
	for name, c := range map[string]struct {
		rows  Matrix
		spans int
	}{
		"one row": {sampleLike(1, 30, 0, 1), 0}, "all the same": {same, 0}, "three texts": {few, 2}, "ten rows": {sampleLike(10, 30, 0, 1), 9},
	} {
		for _, least := range []int{0, 5, 30, 99} {
			r, err := Fit(context.Background(), c.rows, Options{Variance: 1, MinDimensions: least, Normalize: true})
			if err != nil {
				t.Fatal(err)
			}
			if want := max(1, c.spans, min(30, least)); r.Out() != want || len(r.Share) != want {
				t.Fatalf("%s: %d axes and %d shares, want %d", name, r.Out(), len(r.Share), want)
			}
			for i := range r.Out() {
				for j := range i + 1 {
					want := 0.0
					if i == j {
						want = 1
					}
					if got := float64(mining.Cosine(r.Components.Row(i), r.Components.Row(j))); math.Abs(got-want) > 1e-5 {
						t.Fatalf("%s: axes %d and %d have product %v", name, i, j, got)
					}
				}
			}
			if last := r.Share[r.Out()-1]; math.Abs(last-1) > 1e-4 {
				t.Errorf("%s: all axes capture %v", name, last)
			}
			if _, err := r.MarshalBinary(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestReducerLeast: if fewer axes than MinDimensions capture the variance, Fit adds the next principal axes. It adds
// random axes only when the sample has no more directions.
func TestReducerLeast(t *testing.T) {
	rows := sampleLike(300, 200, 0, 3)
	few, err := Fit(context.Background(), rows, Options{Variance: 0.3})
	if err != nil {
		t.Fatal(err)
	}
	all, err := Fit(context.Background(), rows, Options{Variance: 1, MaxDimensions: 120})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Fit(context.Background(), rows, Options{Variance: 0.3, MinDimensions: 120, MaxDimensions: 150})
	if err != nil {
		t.Fatal(err)
	}
	if few.Out() >= 120 || got.Out() != 120 {
		t.Fatalf("%d axes for the variance alone, %d with a least of 120", few.Out(), got.Out())
	}
	for i, want := range all.Share {
		if math.Abs(got.Share[i]-want) > 1e-3 {
			t.Fatalf("%d axes capture %v, the principal ones %v", i+1, got.Share[i], want)
		}
	}
}

// TestReducerMultiplicity has eigenvalues whose multiplicity is larger than a block. A Krylov space alone does not
// find all their vectors.
func TestReducerMultiplicity(t *testing.T) {
	const d = 200
	m := NewMatrix(2*d, d)
	for i := range d {
		m.Row(2 * i)[i], m.Row(2*i + 1)[i] = 1, -1
		if i >= 150 {
			m.Row(2 * i)[i], m.Row(2*i + 1)[i] = 0.1, -0.1
		}
	}
	r, err := Fit(context.Background(), m, Options{Variance: 0.99})
	if err != nil {
		t.Fatal(err)
	}
	if k := math.Ceil(0.99 * 150.5); float64(r.Out()) < k || float64(r.Out()) > k+1 {
		t.Errorf("%d axes, want %v", r.Out(), k)
	}
}

func TestFitReducerErrors(t *testing.T) {
	good := sampleLike(10, 4, 0, 1)
	bad := sampleLike(10, 4, 0, 1)
	bad.Row(7)[2] = float32(math.Inf(-1))
	if _, err := Fit(context.Background(), bad, Options{Variance: 0.9}); !errors.Is(err, mining.ErrNotFinite) {
		t.Error(err)
	}
	for _, o := range []Options{{}, {Variance: 1.1}, {Variance: math.NaN()}, {Variance: 0.9, MaxDimensions: -1}, {Variance: 0.9, MinDimensions: -1}} {
		if _, err := Fit(context.Background(), good, o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	for _, m := range []Matrix{{}, {Rows: 0, Cols: 3}, {Rows: 2, Cols: 2, Data: make([]float32, 3)}} {
		if _, err := Fit(context.Background(), m, Options{Variance: 0.9}); err == nil {
			t.Errorf("sample of %d × %d with %d values is accepted", m.Rows, m.Cols, len(m.Data))
		}
	}
}
