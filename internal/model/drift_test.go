package model

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/mining/reduce"
)

// topical makes passages about a few topics. Each topic has its own vocabulary.
func topical(seed uint64, n, firstTopic, topics int) []embed.Item {
	random := rand.New(rand.NewPCG(seed, 1))
	items := make([]embed.Item, n)
	for i := range items {
		topic := firstTopic + random.IntN(topics)
		for range 20 {
			items[i].Text += " t" + string(rune('a'+topic)) + string(rune('a'+random.IntN(20))) + string(rune('a'+random.IntN(3)))
		}
	}
	return items
}

// TestCurve checks the curve against a second form of its definition.
func TestCurve(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 200 {
		shares := make([]float64, 1+random.IntN(300))
		sum := 0.0
		for i := range shares {
			shares[i] = sum + random.ExpFloat64()
			sum = shares[i]
		}
		end := random.Float64()
		if random.IntN(3) == 0 {
			end = 1
		}
		for i := range shares {
			shares[i] *= end / sum
		}
		want := map[int]bool{len(shares): true}
		for d := 1; d <= len(shares); d *= 2 {
			want[d] = true
		}
		for tenth := 1; tenth < 10; tenth++ {
			for i, share := range shares {
				if share >= float64(tenth)/10 {
					want[i+1] = true
					break
				}
			}
		}
		last := 0
		for _, point := range curve(shares) {
			if !want[point.Dimensions] || point.Dimensions <= last || point.Share != shares[point.Dimensions-1] {
				t.Fatalf("%v after %d, of %d shares up to %v", point, last, len(shares), end)
			}
			delete(want, point.Dimensions)
			last = point.Dimensions
		}
		if len(want) > 0 {
			t.Fatalf("%v are missing, of %d shares up to %v", want, len(shares), end)
		}
	}
	if got := curve(nil); len(got) > 0 {
		t.Errorf("no axes: %v", got)
	}
}

// TestHoldOut: every row is in exactly one part. Held-out rows are evenly spread, few and limited in number.
// Of few rows none is held out, however many were expected.
func TestHoldOut(t *testing.T) {
	for _, c := range []struct{ expected, n int }{
		{1, 1}, {19, 19}, {199, 199}, {200, 200}, {201, 201}, {1000, 1000}, {9999, 9999}, {10_000, 10_000}, {10_001, 10_001}, {60_000, 60_000},
		{10_000, 199}, {10_000, 5}, {10_000, 4000}, {60_000, 200},
	} {
		n := c.n
		h := newHoldOut(c.expected, 1)
		for first := 0; first < n; first += 100 {
			block := reduce.NewMatrix(min(100, n-first), 1)
			for i := range block.Data {
				block.Data[i] = float32(first + i)
			}
			if err := h.add(block); err != nil {
				t.Fatal(err)
			}
		}
		rest, control, err := h.split()
		if err != nil {
			t.Fatal(err)
		}
		if control.Rows != len(control.Data) || rest.Rows()+control.Rows != n {
			t.Fatalf("%+v: %d and %d", c, rest.Rows(), control.Rows)
		}
		switch want := n / 20; {
		case n < 200 && control.Rows != 0, n >= 200 && c.expected <= 10_000 && control.Rows != want, n == c.expected && n > 10_000 && (control.Rows > 500 || control.Rows < 400):
			t.Errorf("%+v: %d are held out", c, control.Rows)
		}
		for i, v := range control.Data {
			if want := float32(h.every*(i+1) - 1); v != want {
				t.Fatalf("%+v: row %v is held out, want %v", c, v, want)
			}
		}
		// The rows are 0 to n−1, so the mean of one part determines the mean of the other.
		if r, err := rest.Fit(t.Context(), reduce.Options{Variance: 1}); err != nil {
			t.Fatal(err)
		} else {
			sum := float64(r.Mean[0]) * float64(n-control.Rows)
			for _, v := range control.Data {
				sum += float64(v)
			}
			if want := float64(n) * float64(n-1) / 2; math.Abs(sum-want) > 1e-6*want {
				t.Errorf("%+v: the rows of both sides add up to %v, want %v", c, sum, want)
			}
		}
	}
}

// TestDriftIsTheDefinition computes the weights from the definition, document by document, in the simplest
// way. A batch counts as one moment.
func TestDriftIsTheDefinition(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	d := NewDrift(Manifest{HeldOut: &HeldOut{100, 0.5}})
	type document struct{ batch, total, captured float64 }
	var all []document
	seen := 0.0
	for range 40 {
		n := 1 + random.IntN(200)
		var e reduce.Energy
		level := random.Float64()
		for range n {
			x := document{seen + float64(n), 0.5 + random.Float64(), 0}
			x.captured = x.total * level * random.Float64()
			e.Add(reduce.Energy{Vectors: 1, Total: x.total, Captured: x.captured})
			all = append(all, x)
		}
		seen += float64(n)
		d.Add(e)
		var total, captured float64
		for _, x := range all {
			w := math.Exp(-(seen - x.batch) / 1000)
			total, captured = total+w*x.total, captured+w*x.captured
		}
		if math.Abs(d.Share()-captured/total) > 1e-9 || d.Seen() != int64(seen) {
			t.Fatalf("after %v documents: share %v, want %v", seen, d.Share(), captured/total)
		}
		share := captured / total
		if want := seen >= 500 && share/(1-share) < 0.7; want != d.Notable() {
			t.Fatalf("after %v documents, share %v: notable %v", seen, share, d.Notable())
		}
	}
}

// TestNoVerdict: without a comparison, or with few documents, nothing is notable.
func TestNoVerdict(t *testing.T) {
	lost := reduce.Energy{Vectors: 499, Total: 499}
	d := NewDrift(Manifest{HeldOut: &HeldOut{100, 0.5}})
	if d.Share() != 1 || d.Notable() {
		t.Error("nothing was seen, and it drifted")
	}
	d.Add(lost)
	if d.Notable() {
		t.Error("a verdict on 499 documents")
	}
	d.Add(reduce.Energy{Vectors: 100, Total: 100})
	if !d.Notable() {
		t.Error("nothing is captured of 599 documents, and it is not notable")
	}
	d = NewDrift(Manifest{})
	d.Add(reduce.Energy{Vectors: 5000, Total: 5000})
	if d.Notable() {
		t.Error("a verdict without a comparison")
	}
}

// TestObserve: the observed energy agrees with the definition, for all passages and no queries.
func TestObserve(t *testing.T) {
	m := mustFit(t, small, pca, 10, topical(1, 400, 0, 4))
	var mu sync.Mutex
	var got reduce.Energy
	m.Observe(func(e reduce.Energy) {
		mu.Lock()
		defer mu.Unlock()
		got.Add(e)
	})
	items := append(topical(2, 600, 0, 4), embed.Item{Text: "..."})
	if _, _, err := m.Vectors(context.Background(), embed.Query, items); err != nil || got.Vectors != 0 {
		t.Fatalf("queries are measured: %+v, %v", got, err)
	}
	mustVectors(t, m, items)
	var want reduce.Energy
	block := reduce.NewMatrix(len(items), m.length)
	kept, _, err := m.ensemble(context.Background(), embed.Passage, items, block)
	if err != nil {
		t.Fatal(err)
	}
	for i := range kept {
		x := block.Row(i)
		for j, v := range x {
			want.Total += math.Pow(float64(v)-float64(m.reducer.Mean[j]), 2)
		}
		for k := range m.reducer.Components.Rows {
			along := 0.0
			for j, v := range x {
				along += (float64(v) - float64(m.reducer.Mean[j])) * float64(m.reducer.Components.Row(k)[j])
			}
			want.Captured += along * along
		}
	}
	if got.Vectors != 600 || math.Abs(got.Total-want.Total) > 1e-3*want.Total || math.Abs(got.Captured-want.Captured) > 1e-3*want.Captured {
		t.Errorf("measured %+v, want %+v", got, want)
	}
}

// TestDriftOfTopics: documents on the sample's topics do not count as drift, documents on other topics do,
// and later documents on the sample's topics end the drift again.
func TestDriftOfTopics(t *testing.T) {
	m := mustFit(t, small, pca, 10, topical(1, 1000, 0, 4))
	held := m.Info().HeldOut
	if held == nil || held.Documents != 50 || !(held.Share > 0 && held.Share < 1) {
		t.Fatalf("held out: %+v", held)
	}
	d := NewDrift(m.Info())
	m.Observe(d.Add)
	for i, step := range []struct {
		topic   int
		notable bool
	}{{0, false}, {10, true}, {0, false}} {
		mustVectors(t, m, topical(uint64(2+i), 4000, step.topic, 4))
		if d.Notable() != step.notable {
			t.Errorf("after step %d: captured %.3f, held out %.3f: notable %v", i, d.Share(), held.Share, d.Notable())
		}
	}
}

// TestHeldOutIsWhatToExpect: the held-out share predicts new documents of the same kind, while the sample's
// own share is far off.
func TestHeldOutIsWhatToExpect(t *testing.T) {
	many := config.Reduce{Method: "pca", Variance: 1, MaxDimensions: 110, Normalize: true, Seed: 1}
	m := mustFit(t, small, many, 10, prose(1, 240))
	var fresh reduce.Energy
	m.Observe(fresh.Add)
	mustVectors(t, m, prose(2, 2000))
	sample, held := m.Info().Variance[len(m.Info().Variance)-1].Share, m.Info().HeldOut.Share
	if off := math.Abs(held - fresh.Share()); off > 0.05 || sample-fresh.Share() < 2*off {
		t.Errorf("captured of the sample %.3f, of those held out %.3f, of new ones %.3f", sample, held, fresh.Share())
	}
}

// TestNothingHeldOut: small samples and models without axes have nothing held out.
func TestNothingHeldOut(t *testing.T) {
	for name, m := range map[string]*Model{
		"small": mustFit(t, small, pca, 10, prose(1, 199)), "unreduced": mustFit(t, small, config.Reduce{Method: "none"}, 10, prose(1, 400)),
	} {
		if m.Info().HeldOut != nil {
			t.Errorf("%s: %+v", name, m.Info().HeldOut)
		}
	}
	plain := mustFit(t, small, config.Reduce{Method: "none"}, 10, prose(1, 400))
	plain.Observe(func(e reduce.Energy) { t.Errorf("measured without axes: %+v", e) })
	mustVectors(t, plain, prose(2, 10))
}
