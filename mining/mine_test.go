package mining_test

import (
	"cmp"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"hardneg/mining"
)

// Small vectors with few values make ties, duplicates and cosines on the bounds frequent.
func drawVector(t *rapid.T, label string) []float32 {
	v := rapid.SliceOfN(rapid.IntRange(-2, 3), 3, 3).Draw(t, label)
	return unit(v)
}

func unit(v []int) []float32 {
	var squares float64
	for _, x := range v {
		squares += float64(x * x)
	}
	if squares == 0 {
		return []float32{1, 0, 0}
	}
	out := make([]float32, len(v))
	for i, x := range v {
		out[i] = float32(float64(x) / math.Sqrt(squares))
	}
	return out
}

var texts = func() (h []mining.MinHash) {
	base := "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
	for _, s := range []string{base, base + " seventeen", base + " a b c d e f g h i j k", "something else altogether it is, quite so", "red green blue"} {
		h = append(h, mining.NewMinHash(s))
	}
	return append(h, nil)
}()

func drawDocument(t *rapid.T, id string) mining.Document {
	d := mining.Document{ID: id, Vector: drawVector(t, "vector")}
	// Contents repeat, and some documents have no hash; near-copies move a vector a little.
	switch rapid.IntRange(0, 5).Draw(t, "copy") {
	case 0, 1:
		d.Hash = "h" + strconv.Itoa(rapid.IntRange(0, 4).Draw(t, "content"))
	case 2:
	default:
		d.Hash = "own " + id + strconv.Itoa(rapid.IntRange(0, 1).Draw(t, "version"))
	}
	if rapid.Bool().Draw(t, "shift") {
		step := rapid.SampledFrom([]float32{1e-7, 1e-6, 3e-6, 0.1, 0.3}).Draw(t, "step")
		d.Vector = slices.Clone(d.Vector)
		d.Vector[rapid.IntRange(0, 2).Draw(t, "axis")] += step
		norm := math.Sqrt(float64(dot(d.Vector, d.Vector)))
		for i := range d.Vector {
			d.Vector[i] = float32(float64(d.Vector[i]) / norm)
		}
	}
	d.MinHash = texts[rapid.IntRange(0, 3*len(texts)).Draw(t, "text")%len(texts)]
	return d
}

func drawConfig(t *rapid.T) mining.Config {
	c := mining.Config{
		Negatives:     rapid.IntRange(1, 4).Draw(t, "negatives"),
		NearDuplicate: rapid.SampledFrom([]float64{0.9, 0.98, 2}).Draw(t, "near_duplicate"),
		NearText:      rapid.SampledFrom([]float64{0.5, 0.9, 2}).Draw(t, "near_text"),
		Depth:         rapid.IntRange(1, 8).Draw(t, "depth"),
	}
	number := func(label string, values ...float64) *float64 {
		i := rapid.IntRange(0, 2*len(values)).Draw(t, label)
		if i >= len(values) {
			return nil
		}
		return &values[i]
	}
	for range rapid.IntRange(1, 3).Draw(t, "tiers") {
		tier := mining.Tier{
			Policy:   rapid.SampledFrom([]string{"semantic", "positive-aware"}).Draw(t, "policy"),
			UpTo:     rapid.IntRange(0, 4).Draw(t, "upto"),
			Depth:    rapid.IntRange(0, 6).Draw(t, "tier_depth"),
			Sampling: rapid.SampledFrom([]string{"", "top", "random"}).Draw(t, "sampling"),
		}
		effective := tier.Depth
		if effective == 0 {
			effective = c.Depth
		}
		tier.Skip = max(0, min(rapid.IntRange(-2, 2).Draw(t, "skip"), effective-1))
		if tier.Policy == "positive-aware" {
			tier.RelativeMargin = number("relative_margin", 0, 0.05, 0.3)
			tier.AbsoluteMargin = number("absolute_margin", 0, 0.02, 0.4)
			tier.MaxScore = number("max_score", 0.9, 0.5)
			tier.MinScore = number("min_score", -0.5, 0, 0.3)
		}
		c.Tiers = append(c.Tiers, tier)
	}
	c.Tiers[len(c.Tiers)-1].UpTo = c.Negatives
	return c
}

func drawCorpus(t *rapid.T) corpus {
	c := corpus{query: drawVector(t, "query"), live: map[string]mining.Document{}, evidence: map[string]bool{}}
	n := rapid.IntRange(1, 14).Draw(t, "documents")
	for i := range n {
		id := fmt.Sprintf("d%02d", i)
		c.live[id] = drawDocument(t, id)
	}
	for range rapid.IntRange(1, 3).Draw(t, "evidence") {
		// Ids after the last document are not indexed.
		c.evidence[fmt.Sprintf("d%02d", rapid.IntRange(0, n+1).Draw(t, "evidence_id"))] = rapid.IntRange(0, 3).Draw(t, "weak") > 0
	}
	return c
}

func chance(positive, document string) uint64 { return mining.Chance("q", positive, document) }

func newMiner(t rapid.TB, c mining.Config) *mining.Miner {
	m, err := mining.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func equalPairs(a, b []mining.Pair) bool { return slices.EqualFunc(a, b, mining.SamePair) }

func TestMineEqualsOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg, c := drawConfig(t), drawCorpus(t)
		out := newMiner(t, cfg).Mine(c.input(true, -1))
		if out.More {
			t.Fatal("asks for more than there is")
		}
		if want := c.pairs(cfg, chance); !equalPairs(out.Pairs, want) {
			t.Fatalf("mined\n%+v\nwant\n%+v", out.Pairs, want)
		}
		for id := range c.evidence {
			if !slices.Contains(out.Watch, id) {
				t.Fatalf("evidence %s is not watched", id)
			}
		}
		if !slices.IsSorted(out.Watch) || len(slices.Compact(slices.Clone(out.Watch))) != len(out.Watch) {
			t.Fatalf("watch %v", out.Watch)
		}
		for i, v := range out.Entry {
			if v.Low > v.High || i > 0 && v.Low <= out.Entry[i-1].High {
				t.Fatalf("entry %v", out.Entry)
			}
		}
	})
}

// TestChangesAreSeen checks what convergence needs: if a change of one document alters a list, then Watch has the
// document, or Entry holds its new cosine. Several changes follow each other without a new outcome, as long as Watch
// and Entry see none of them: the old Watch and Entry must see the later changes too.
func TestChangesAreSeen(t *testing.T) {
	// The order by rounded cosines needs a millionth. The rest of Slack is for the sums of the search engine.
	const tolerance = 1.2e-6
	cases, altered := 0, 0
	property := func(t *rapid.T) {
		cfg, c := drawConfig(t), drawCorpus(t)
		m := newMiner(t, cfg)
		old := m.Mine(c.input(true, -1))
		for range rapid.IntRange(1, 8).Draw(t, "changes") {
			id := fmt.Sprintf("d%02d", rapid.IntRange(0, len(c.live)+1).Draw(t, "id"))
			_, existed := c.live[id]
			seen := slices.Contains(old.Watch, id)
			if existed && rapid.IntRange(0, 2).Draw(t, "delete") == 0 {
				delete(c.live, id)
			} else {
				d := drawDocument(t, id)
				c.live[id] = d
				cosine := float64(dot(c.query, d.Vector))
				for _, v := range old.Entry {
					seen = seen || cosine >= float64(v.Low)-tolerance && cosine <= float64(v.High)+tolerance
				}
			}
			cases++
			now := c.pairs(cfg, chance)
			if !equalPairs(old.Pairs, now) {
				altered++
				if !seen {
					t.Fatalf("change of %s goes unseen: before\n%+v\nafter\n%+v\nwatch %v entry %v", id, old.Pairs, now, old.Watch, old.Entry)
				}
			}
			if seen {
				old = m.Mine(c.input(true, -1))
			}
		}
	}
	rapid.Check(t, property)
	t.Logf("%d changes, %d altered a list", cases, altered)
}

// TestHorizon cuts the candidates by slightly different sums, as a search engine does. Mine must then give the
// same lists as with all documents, or ask for more.
func TestHorizon(t *testing.T) {
	enough, more := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		cfg, c := drawConfig(t), drawCorpus(t)
		m := newMiner(t, cfg)
		limit := rapid.IntRange(0, len(c.live)).Draw(t, "limit")
		whole := m.Mine(c.input(true, -1))
		in := c.input(false, -1)
		engine := map[string]float64{}
		for _, d := range in.Candidates {
			engine[d.ID] = float64(dot(c.query, d.Vector)) + rapid.Float64Range(-4e-6, 4e-6).Draw(t, "error")
		}
		slices.SortFunc(in.Candidates, func(a, b mining.Document) int { return cmp.Compare(engine[b.ID], engine[a.ID]) })
		in.Candidates = in.Candidates[:limit]
		cut := m.Mine(in)
		if cut.More {
			more++
			return
		}
		enough++
		if !equalPairs(cut.Pairs, whole.Pairs) || !reflect.DeepEqual(cut.Watch, whole.Watch) || !mining.SameEntry(cut.Entry, whole.Entry) {
			t.Fatalf("of %d candidates %d give\n%+v\nall\n%+v", len(c.live), limit, cut, whole)
		}
	})
	t.Logf("%d lists were complete, %d asked for more", enough, more)
	if enough == 0 || more == 0 {
		t.Error("one of the two was never tried")
	}
}

// at makes a document with this cosine to (1, 0, 0).
func at(id string, cosine, side float64) mining.Document {
	rest := math.Sqrt(1 - cosine*cosine)
	return mining.Document{ID: id, Hash: "of " + id, Vector: []float32{float32(cosine), float32(rest * math.Cos(side)), float32(rest * math.Sin(side))}}
}

func positiveAware(negatives int) mining.Config {
	c := mining.DefaultConfig()
	c.Negatives = negatives
	c.Tiers = []mining.Tier{{Policy: mining.PolicyPositiveAware}}
	return c
}

// TestHorizonSlack: the engine left out a document b, since its sums put b below a. By our sums b comes before y.
func TestHorizonSlack(t *testing.T) {
	p, x, y, a := at("p", 0.9, 0), at("x", 0.8, 1), at("y", 0.500004, 2), at("a", 0.5, 3)
	in := mining.Input{
		QueryID: "q", Query: []float32{1, 0, 0}, Evidence: []mining.Evidence{{ID: "p", Positive: true, Document: &p}},
		Candidates: []mining.Document{p, x, y, a},
	}
	if out := newMiner(t, positiveAware(2)).Mine(in); !out.More {
		t.Errorf("took %v, though a document with more than 0.500004 may have been left out", out.Pairs[0].Slots)
	}
	if out := newMiner(t, positiveAware(1)).Mine(in); out.More || out.Pairs[0].Slots[0].Document != "x" {
		t.Errorf("x is far above the horizon: %+v", out)
	}
}

// TestRandomWatchesCopies: of two copies in a window, only the first takes part in the random choice. If it is not
// chosen and is then removed, the second takes part, and may be chosen.
func TestRandomWatchesCopies(t *testing.T) {
	c := corpus{query: []float32{1, 0, 0}, live: map[string]mining.Document{}, evidence: map[string]bool{"p": true}}
	c.live["p"] = at("p", 0.9, 0)
	cfg := positiveAware(1)
	cfg.Tiers[0].Sampling = mining.SamplingRandom
	c.live["other"] = at("other", 0.6, 1)
	m := newMiner(t, cfg)
	tried := false
	for i := range 100 {
		first, second := fmt.Sprint("a", i), fmt.Sprint("b", i)
		if !(chance("p", second) < chance("p", "other") && chance("p", "other") < chance("p", first)) {
			continue
		}
		tried = true
		one, two := at(first, 0.5, 2), at(second, 0.4, 3)
		two.Hash = one.Hash
		c.live[first], c.live[second] = one, two
		before := m.Mine(c.input(true, -1))
		delete(c.live, first)
		after := m.Mine(c.input(true, -1))
		if before.Pairs[0].Slots[0].Document != "other" || after.Pairs[0].Slots[0].Document != second {
			t.Fatalf("before %+v, after %+v", before.Pairs, after.Pairs)
		}
		if !slices.Contains(before.Watch, first) {
			t.Errorf("%s is not watched: %v", first, before.Watch)
		}
		delete(c.live, second)
	}
	if !tried {
		t.Error("no ids with the order of chance that this test needs")
	}
}

// TestDefaultRules is a pair worked out by hand: first the nearest document by the paper's rule, then the nearest
// documents with at most 95 % of the positive's similarity.
func TestDefaultRules(t *testing.T) {
	p := at("p", 0.8, 0)
	copyOfP, nearP := at("copy", 0.7, 2), at("near", 0.79, 0.01)
	copyOfP.Hash = p.Hash
	beside := at("beside", 0.82, 0.3) // nearer to the positive than to the query
	c := corpus{query: []float32{1, 0, 0}, live: map[string]mining.Document{}, evidence: map[string]bool{"p": true, "gone": true, "weak": false}}
	for _, d := range []mining.Document{
		p, copyOfP, nearP, beside, at("above", 0.9, 3), at("above2", 0.85, 2), at("between", 0.77, 3), at("weak", 0.7, 3),
		at("n1", 0.75, 2.5), at("n2", 0.5, 1), at("n3", 0.4, 1.5), at("n4", 0.3, 3),
	} {
		c.live[d.ID] = d
	}
	out := newMiner(t, mining.DefaultConfig()).Mine(c.input(true, -1))
	var got []string
	for _, s := range out.Pairs[1].Slots {
		got = append(got, s.Document+" "+s.Policy)
	}
	want := []string{"above semantic", "n1 positive-aware", "n2 positive-aware", "n3 positive-aware"}
	if !slices.Equal(got, want) || out.Pairs[1].Reason != "" || out.Pairs[0].Reason != mining.ReasonPositiveMissing {
		t.Errorf("mined %v, want %v; pairs %+v", got, want, out.Pairs)
	}
	if want := []string{"above", "gone", "n1", "n2", "n3", "p", "weak"}; !slices.Equal(out.Watch, want) {
		t.Errorf("watch %v, want %v", out.Watch, want)
	}
	if !mining.SameEntry(out.Entry, []mining.Interval{{Low: 0.4, High: 0.76}, {Low: 0.9, High: 2}}) {
		t.Errorf("entry %v", out.Entry)
	}
}

// TestWithoutHashes: a document without a hash is no copy of another document without a hash.
func TestWithoutHashes(t *testing.T) {
	random := positiveAware(3)
	random.Tiers[0].Sampling = mining.SamplingRandom
	for name, test := range map[string]struct {
		cfg    mining.Config
		hashes map[string]string
		want   []string
	}{
		"nobody has one":             {positiveAware(3), nil, []string{"a", "b", "c"}},
		"nobody, drawn at random":    {random, nil, []string{"a", "b", "c"}},
		"only the positive has one":  {positiveAware(3), map[string]string{"p": "1"}, []string{"a", "b", "c"}},
		"only negatives have one":    {positiveAware(3), map[string]string{"a": "1", "b": "1"}, []string{"a", "c"}},
		"copies of evidence by hash": {positiveAware(3), map[string]string{"p": "1", "a": "1"}, []string{"b", "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := corpus{query: []float32{1, 0, 0}, live: map[string]mining.Document{}, evidence: map[string]bool{"p": true}}
			for _, d := range []mining.Document{at("p", 0.9, 0), at("a", 0.6, 1), at("b", 0.5, 2), at("c", 0.4, 3)} {
				d.Hash = test.hashes[d.ID]
				c.live[d.ID] = d
			}
			var got []string
			for _, slot := range newMiner(t, test.cfg).Mine(c.input(true, -1)).Pairs[0].Slots {
				got = append(got, slot.Document)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("mined %v, want %v", got, test.want)
			}
		})
	}
}

func TestMineIgnoresOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg, c := drawConfig(t), drawCorpus(t)
		m := newMiner(t, cfg)
		in := c.input(true, -1)
		want := m.Mine(in)
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		r.Shuffle(len(in.Candidates), func(i, j int) { in.Candidates[i], in.Candidates[j] = in.Candidates[j], in.Candidates[i] })
		r.Shuffle(len(in.Evidence), func(i, j int) { in.Evidence[i], in.Evidence[j] = in.Evidence[j], in.Evidence[i] })
		if got := m.Mine(in); !reflect.DeepEqual(got, want) {
			t.Fatalf("shuffled\n%+v\nwant\n%+v", got, want)
		}
	})
}

func BenchmarkMine(b *testing.B) {
	const dimensions, candidates = 512, 200
	r := rand.New(rand.NewPCG(1, 2))
	vector := func() []float32 {
		v := make([]float32, dimensions)
		var squares float64
		for i := range v {
			v[i] = float32(r.NormFloat64())
			squares += float64(v[i]) * float64(v[i])
		}
		for i := range v {
			v[i] /= float32(math.Sqrt(squares))
		}
		return v
	}
	m := newMiner(b, mining.DefaultConfig())
	in := mining.Input{QueryID: "q", Query: vector()}
	for i := range candidates {
		d := mining.Document{ID: strconv.Itoa(i), Hash: strconv.Itoa(i), Vector: vector(), MinHash: mining.NewMinHash(fmt.Sprint("text of ", i, r.Uint64()))}
		in.Candidates = append(in.Candidates, d)
	}
	in.Evidence = []mining.Evidence{{ID: "7", Positive: true, Document: &in.Candidates[7]}}
	for b.Loop() {
		for range 256 {
			m.Mine(in)
		}
	}
	b.ReportMetric(256*float64(b.N)/b.Elapsed().Seconds(), "queries/s")
}

// TestMain runs the properties with more cases than rapid's 100, unless a flag gives another number.
func TestMain(m *testing.M) {
	flag.Parse()
	told := false
	flag.Visit(func(f *flag.Flag) { told = told || f.Name == "rapid.checks" })
	if !told {
		checks := "6000"
		if testing.Short() {
			checks = "500"
		}
		if err := flag.Set("rapid.checks", checks); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
