package mining

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func number(v float64) *float64 { return &v }

func TestConfigValidate(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Negatives = 0 }, "mining.negatives: is 0, must be at least 1"},
		{func(c *Config) { c.NearDuplicate = 0 }, "mining.near_duplicate: is 0"},
		{func(c *Config) { c.NearDuplicate = math.NaN() }, "mining.near_duplicate: is NaN"},
		{func(c *Config) { c.NearText = -1 }, "mining.near_text: is -1"},
		{func(c *Config) { c.Depth = -1 }, "mining.depth: is -1"},
		{func(c *Config) { c.Tiers = nil }, "mining.tiers: names no policy"},
		{func(c *Config) { c.Negatives = 9 }, "mining.tiers: fill at most 4 of mining.negatives = 9 slots"},
		{func(c *Config) { c.Tiers[1].UpTo = -1 }, "mining.tiers[1].upto: is -1"},
		{func(c *Config) { c.Tiers[0].Policy = "hard" }, `mining.tiers[0].policy: is "hard", must be semantic or positive-aware`},
		{func(c *Config) { c.Tiers[1].Sampling = "some" }, `mining.tiers[1].sampling: is "some", must be top or random`},
		{func(c *Config) { c.Tiers[1].Depth = -1 }, "mining.tiers[1].depth: is -1"},
		{func(c *Config) { c.Tiers[1].Skip = -1 }, "mining.tiers[1].skip: is -1"},
		{func(c *Config) { c.Tiers[1].Skip = 200 }, "mining.tiers[1].skip: is 200 of 200 candidates (depth)"},
		{func(c *Config) { c.Tiers[1].RelativeMargin = number(math.NaN()) }, "mining.tiers[1].relative_margin: is NaN"},
		{func(c *Config) { c.Tiers[1].AbsoluteMargin = number(-0.1) }, "mining.tiers[1].absolute_margin: is -0.1"},
		{func(c *Config) { c.Tiers[1].MinScore, c.Tiers[1].MaxScore = number(0.5), number(0.4) }, "mining.tiers[1].min_score: is 0.5, above max_score, 0.4"},
		{func(c *Config) { c.Tiers[0].MaxScore = number(0.4) }, "mining.tiers[0].max_score: belongs to positive-aware; semantic has none"},
	} {
		config := DefaultConfig()
		c.change(&config)
		if err := config.Validate(); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("error %v, want %s…", err, c.want)
		}
	}
}

func TestFingerprint(t *testing.T) {
	want := DefaultConfig().Fingerprint()
	same := DefaultConfig()
	same.Depth, same.Tiers[1].RelativeMargin, same.Tiers[1].UpTo, same.Tiers[0].Sampling = 0, nil, 0, SamplingTop
	if got := same.Fingerprint(); got != want {
		t.Errorf("written out or left to the defaults, the same rules have fingerprints %s and %s", want, got)
	}
	if same.Depth != 0 || same.Tiers[1].RelativeMargin != nil {
		t.Error("Fingerprint changed the configuration")
	}
	for i, change := range []func(*Config){
		func(c *Config) { c.Negatives = 3 }, func(c *Config) { c.NearText = 0.6 }, func(c *Config) { c.NearDuplicate = 0.9 },
		func(c *Config) { c.Depth = 100 }, func(c *Config) { c.Tiers[1].MinScore = number(0) }, func(c *Config) { c.Tiers[1].Skip = 1 },
		func(c *Config) { c.Tiers = c.Tiers[1:] }, func(c *Config) { c.Tiers[1].Sampling = SamplingRandom },
	} {
		config := DefaultConfig()
		change(&config)
		if config.Fingerprint() == want {
			t.Errorf("change %d keeps the fingerprint", i)
		}
	}
}

func TestConcat(t *testing.T) {
	out := make([]float32, 5)
	if err := Concat([][]float32{{3, 4}, {0, 1e-30, 0}}, []float64{1, 2}, out); err != nil {
		t.Fatal(err)
	}
	scale := 1 / math.Sqrt(5)
	for i, want := range []float64{0.6 * scale, 0.8 * scale, 0, 2 * scale, 0} {
		if math.Abs(float64(out[i])-want) > 1e-7 {
			t.Errorf("element %d is %v, want %v", i, out[i], want)
		}
	}
	inf := float32(math.Inf(1))
	for _, c := range []struct {
		parts [][]float32
		want  error
	}{
		{[][]float32{{1, 0}, {0, 0, 0}}, ErrZeroVector},
		{[][]float32{{1, inf}, {0, 1, 0}}, ErrNotFinite},
		{[][]float32{{1, inf - inf}, {0, 1, 0}}, ErrNotFinite},
	} {
		if err := Concat(c.parts, []float64{1, 1}, out); !errors.Is(err, c.want) {
			t.Errorf("%v: %v, want %v", c.parts, err, c.want)
		}
	}
	for _, weights := range [][]float64{{1}, {1, math.NaN()}, {0, 0}} {
		if Concat([][]float32{{1, 0}, {0, 1, 0}}, weights, out) == nil {
			t.Errorf("weights %v are accepted", weights)
		}
	}
	for _, n := range []int{4, 6} {
		if Concat([][]float32{{1, 0}, {0, 1, 0}}, []float64{1, 1}, make([]float32, n)) == nil {
			t.Errorf("5 elements fit into %d", n)
		}
	}
}

// TestNDCG has values of pytrec_eval (ndcg_cut_k), worked out by hand.
func TestNDCG(t *testing.T) {
	relevant := map[string]float64{"a": 2, "b": 1, "c": 1, "no": 0, "worse": -1}
	l3, l4, l5 := math.Log2(3), 2.0, math.Log2(5)
	for _, c := range []struct {
		ranked []string
		k      int
		want   float64
	}{
		{[]string{"a", "b", "c"}, 10, 1},
		{[]string{"x", "a", "no", "b"}, 10, (2/l3 + 1/l5) / (2 + 1/l3 + 1/l4)},
		{[]string{"x", "a", "no", "b"}, 3, (2 / l3) / (2 + 1/l3 + 1/l4)},
		{[]string{"b", "a"}, 1, 0.5},
		{[]string{"a", "a", "a"}, 10, 2 / (2 + 1/l3 + 1/l4)},
		{[]string{"worse"}, 10, 0},
		{nil, 10, 0},
		{[]string{"a"}, 0, 0},
		{[]string{"a"}, -1, 0},
	} {
		if got := NDCG(c.ranked, relevant, c.k); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%v at %d: %v, want %v", c.ranked, c.k, got, c.want)
		}
	}
	if NDCG([]string{"a"}, nil, 10) != 0 {
		t.Error("gain without relevant documents")
	}
}

func TestSame(t *testing.T) {
	slot := Slot{"d", "h", PolicySemantic, 0.5, 0.4}
	pair := Pair{"p", "h", 0.3, []Slot{slot}, ReasonExhausted}
	close := pair
	close.Similarity += 5e-6
	if !SamePair(pair, close) || !SameEntry([]Interval{{0.1, 2}}, []Interval{{0.100005, 2}}) {
		t.Error("cosines within the slack differ")
	}
	for i, change := range []func(*Pair){
		func(p *Pair) { p.Positive = "" }, func(p *Pair) { p.Hash = "" }, func(p *Pair) { p.Reason = "" }, func(p *Pair) { p.Similarity += 2e-5 },
		func(p *Pair) { p.Slots = nil }, func(p *Pair) { p.Slots[0].Document = "" }, func(p *Pair) { p.Slots[0].Hash = "" },
		func(p *Pair) { p.Slots[0].Policy = "" }, func(p *Pair) { p.Slots[0].QueryNegative = 0 }, func(p *Pair) { p.Slots[0].PositiveNegative = 0 },
	} {
		other := pair
		other.Slots = []Slot{slot}
		change(&other)
		if SamePair(pair, other) {
			t.Errorf("change %d goes unnoticed", i)
		}
	}
	if SameEntry([]Interval{{0.1, 2}}, nil) || SameEntry([]Interval{{0.1, 2}}, []Interval{{0.1, 1}}) {
		t.Error("other intervals are the same")
	}
}

func TestReciprocalRankAndRecall(t *testing.T) {
	ranked := []string{"x", "b", "y", "a", "z"}
	relevant := map[string]float64{"a": 1, "b": 0.5, "c": 2, "y": 0}
	for _, c := range []struct {
		k          int
		rr, recall float64
	}{{-1, 0, 0}, {0, 0, 0}, {1, 0, 0}, {2, 0.5, 1. / 3}, {3, 0.5, 1. / 3}, {4, 0.5, 2. / 3}, {100, 0.5, 2. / 3}} {
		if rr, recall := ReciprocalRank(ranked, relevant, c.k), Recall(ranked, relevant, c.k); rr != c.rr || recall != c.recall {
			t.Errorf("at %d: %v, %v, want %v, %v", c.k, rr, recall, c.rr, c.recall)
		}
	}
	if ReciprocalRank(ranked, nil, 5) != 0 || Recall(ranked, nil, 5) != 0 || Recall(nil, relevant, 5) != 0 {
		t.Error("of nothing there is something")
	}
}
