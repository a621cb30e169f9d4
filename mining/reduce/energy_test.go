package reduce

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"
)

// naiveEnergy is the oracle: it computes the sums of the definition in float64, from the exported fields of the
// reducer.
func naiveEnergy(m Matrix, r *Reducer) (total, captured float64) {
	for i := range m.Rows {
		for j, v := range m.Row(i) {
			total += math.Pow(float64(v)-float64(r.Mean[j]), 2)
		}
		for k := range r.Components.Rows {
			along := 0.0
			for j, v := range m.Row(i) {
				along += (float64(v) - float64(r.Mean[j])) * float64(r.Components.Row(k)[j])
			}
			captured += along * along
		}
	}
	return total, captured
}

func closeTo(got, want float64) bool { return math.Abs(got-want) <= 1e-4*max(1e-9, math.Abs(want)) }

// TestEnergy compares the energy with its definition: with each combination of switches, for the sample and for
// other vectors, and for a reducer that was cut. It also checks that measuring changes no vector.
func TestEnergy(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	sample, other := sampleLike(300, 61, 0.5, seed), sampleLike(40, 61, 0.2, seed+1)
	for _, o := range []Options{
		{Variance: 0.8}, {Variance: 0.8, Normalize: true}, {Variance: 0.8, SubtractMean: true}, {Variance: 0.8, SubtractMean: true, Normalize: true},
		{Variance: 0.3, MaxDimensions: 1}, {Variance: 0.5, MinDimensions: 50, Normalize: true},
	} {
		r, err := Fit(context.Background(), sample, o)
		if err != nil {
			t.Fatal(err)
		}
		cut := *r
		cut.Components = r.Components.slice(0, (r.Out()+1)/2)
		for name, c := range map[string]struct {
			reducer *Reducer
			rows    Matrix
		}{"sample": {r, sample}, "other": {r, other}, "cut": {&cut, other}} {
			plain, measured := NewMatrix(c.rows.Rows, c.reducer.Out()), NewMatrix(c.rows.Rows, c.reducer.Out())
			if _, err := c.reducer.Project(c.rows, plain); err != nil {
				t.Fatal(err)
			}
			_, e, err := c.reducer.ProjectMeasured(c.rows, measured)
			if err != nil {
				t.Fatal(err)
			}
			total, captured := naiveEnergy(c.rows, c.reducer)
			if e.Vectors != float64(c.rows.Rows) || !closeTo(e.Total, total) || !closeTo(e.Captured, captured) || !closeTo(e.Share(), captured/total) {
				t.Errorf("%+v, %s: %+v, want %v of %v", o, name, e, captured, total)
			}
			for i := range plain.Data {
				if plain.Data[i] != measured.Data[i] {
					t.Fatalf("%+v, %s: measuring changes element %d", o, name, i)
				}
			}
		}
		_, e, err := r.ProjectMeasured(sample, NewMatrix(sample.Rows, r.Out()))
		if err != nil {
			t.Fatal(err)
		}
		// The last share and the energy of the sample are the same sum of eigenvalues, except for random axes.
		if want := r.Share[r.Out()-1]; o.MinDimensions == 0 && math.Abs(e.Share()-want) > 1e-3 {
			t.Errorf("%+v: the sample's energy is captured to %v, its curve ends at %v", o, e.Share(), want)
		}
	}
}

// TestEnergyWithoutAxes: an identity and vectors that are not finite have no energy.
func TestEnergyWithoutAxes(t *testing.T) {
	_, e, err := Identity(5).ProjectMeasured(sampleLike(3, 5, 0, 1), NewMatrix(3, 5))
	if err != nil || e != (Energy{}) || e.Share() != 1 {
		t.Errorf("%+v, %v", e, err)
	}
	sample := sampleLike(20, 5, 0, 1)
	r, err := Fit(context.Background(), sample, Options{Variance: 0.7, Normalize: true})
	if err != nil {
		t.Fatal(err)
	}
	_, want, err := r.ProjectMeasured(sample.slice(0, 1), NewMatrix(1, r.Out()))
	if err != nil {
		t.Fatal(err)
	}
	two := NewMatrix(2, 5)
	copy(two.Row(0), sample.Row(0))
	two.Row(1)[2] = float32(math.NaN())
	if _, got, err := r.ProjectMeasured(two, NewMatrix(2, r.Out())); err != nil || got != want || got.Vectors != 1 {
		t.Errorf("%+v, want %+v (%v)", got, want, err)
	}
}

func TestEnergySums(t *testing.T) {
	e := Energy{Vectors: 2, Total: 4, Captured: 1}
	e.Add(Energy{Vectors: 2, Total: 2, Captured: 2})
	e.Decay(0.5)
	if want := (Energy{Vectors: 2, Total: 3, Captured: 1.5}); e != want || e.Share() != 0.5 {
		t.Errorf("%+v, want %+v", e, want)
	}
}
