package mining_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hardneg/mining"
)

// inputs makes one query with all evidence of the corpus, and one query for each evidence alone.
func (c corpus) inputs() []mining.Input {
	all := c.input(false, 0)
	inputs := []mining.Input{all}
	for _, e := range all.Evidence {
		in := all
		in.Evidence = []mining.Evidence{e}
		inputs = append(inputs, in)
	}
	return inputs
}

// whole mines with all documents as candidates. Each way to search must give the same outcome.
func whole(m *mining.Miner, in mining.Input, documents []mining.Document) mining.Outcome {
	in.Candidates, in.Exhausted = documents, true
	return m.Mine(in)
}

// TestBatch runs searches that begin with small limits, scans, and both in turn. They must decide as Mine does with
// all documents. No search may ask for more candidates than Held.
func TestBatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg, c := drawConfig(t), drawCorpus(t)
		m := newMiner(t, cfg)
		documents := c.ranking()
		rand.New(rand.NewPCG(1, 2)).Shuffle(len(documents), func(i, j int) { documents[i], documents[j] = documents[j], documents[i] })
		memory, err := mining.NewCorpus(documents)
		if err != nil {
			t.Fatal(err)
		}
		held := rapid.IntRange(1, 20).Draw(t, "held")
		b := mining.Batch{
			Mine: m.Mine, First: rapid.IntRange(1, 4).Draw(t, "first"), Held: held,
			Search: func(ctx context.Context, inputs []mining.Input, places []int, limit int) error {
				if len(places) > 1 && len(places)*limit > held {
					t.Fatalf("%d searches for %d candidates at a time, %d may be held", len(places), limit, held)
				}
				for _, i := range places {
					if in := inputs[i]; in.Limit != limit || in.Candidates != nil || in.Exhausted || in.Floor != nil {
						t.Fatalf("input %+v is searched with limit %d", in, limit)
					}
				}
				return memory.Search(ctx, inputs, places, limit)
			},
		}
		if scans := rapid.IntRange(0, 3).Draw(t, "scan"); scans > 0 {
			b.Scan = func(_ context.Context, inputs []mining.Input, places []int) error {
				for _, i := range places {
					nearest := m.Nearest(inputs[i])
					for _, d := range documents {
						nearest.Add(d)
					}
					nearest.Fill(&inputs[i])
				}
				return nil
			}
			if scans < 3 {
				b.ScanInstead = func(limit, queries int) bool { return limit*queries > 8 }
			}
		}
		inputs := c.inputs()
		inputs[0].Limit = rapid.IntRange(0, 9).Draw(t, "limit")
		want := make([]mining.Outcome, len(inputs))
		for i, in := range inputs {
			want[i] = whole(m, in, documents)
		}
		times := make([]int, len(inputs))
		err = b.Run(t.Context(), inputs, func(i int, got mining.Outcome) {
			times[i]++
			if !reflect.DeepEqual(got, want[i]) {
				t.Fatalf("query %d: got\n%+v\nwant\n%+v", i, got, want[i])
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, in := range inputs {
			if times[i] != 1 || in.Candidates != nil || in.Exhausted || in.Floor != nil || in.Limit == 0 {
				t.Fatalf("query %d was decided %d times, and left as %+v", i, times[i], in)
			}
		}
	})
}

// TestBatchLimits: limits grow four times, queries with the same limit share a search, and a query begins with the
// limit that its input has.
func TestBatchLimits(t *testing.T) {
	var searches []string
	b := mining.Batch{
		Search: func(_ context.Context, inputs []mining.Input, places []int, limit int) error {
			names := make([]string, len(places))
			for k, i := range places {
				names[k] = inputs[i].QueryID
			}
			searches = append(searches, fmt.Sprint(limit, " ", strings.Join(names, "")))
			return nil
		},
		Mine: func(in mining.Input) mining.Outcome {
			return mining.Outcome{More: in.QueryID == "b" && in.Limit < 700 || in.QueryID == "c" && in.Limit < 100}
		},
		Held: 400, First: 48,
	}
	p := at("p", 0.9, 0)
	var inputs []mining.Input
	for i, id := range []string{"a", "b", "c", "d", "e"} {
		inputs = append(inputs, mining.Input{QueryID: id, Query: []float32{1, 0, 0}, Limit: []int{0, 0, 0, 192, 0}[i], Evidence: []mining.Evidence{{ID: "p", Positive: true, Document: &p}}})
	}
	inputs[4].Evidence[0].Positive = false
	var order []string
	if err := b.Run(t.Context(), inputs, func(i int, _ mining.Outcome) { order = append(order, inputs[i].QueryID) }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"48 abc", "192 db", "192 c", "768 b"}; !slices.Equal(searches, want) {
		t.Errorf("searches %q, want %q", searches, want)
	}
	if want := []string{"e", "a", "d", "c", "b"}; !slices.Equal(order, want) {
		t.Errorf("decided in the order %q, want %q", order, want)
	}
	if inputs[1].Limit != 768 || inputs[0].Limit != 48 {
		t.Errorf("limits %d and %d are left, want 768 and 48", inputs[1].Limit, inputs[0].Limit)
	}
}

// TestBatchErrors: errors of a search come back as they are, and a search that never finds enough is an error.
func TestBatchErrors(t *testing.T) {
	m := newMiner(t, mining.DefaultConfig())
	p := at("p", 0.9, 0)
	input := func() []mining.Input {
		return []mining.Input{{QueryID: "q1", Query: []float32{1, 0, 0}, Evidence: []mining.Evidence{{ID: "p", Positive: true, Document: &p}}}}
	}
	nobody := func(int, mining.Outcome) { t.Error("a query was decided") }
	down := errors.New("down")
	nothing := func(context.Context, []mining.Input, []int, int) error { return nil }
	for _, test := range []struct {
		batch mining.Batch
		want  string
	}{
		{mining.Batch{Search: func(context.Context, []mining.Input, []int, int) error { return down }}, "down"},
		{mining.Batch{Scan: func(context.Context, []mining.Input, []int) error { return down }}, "down"},
		{mining.Batch{Search: nothing}, `mining: query "q1" needs more than 201326592 candidates: does Search set Exhausted?`},
		{mining.Batch{Scan: func(context.Context, []mining.Input, []int) error { return nil }}, `mining: query "q1" is open after a scan: does Scan set Exhausted?`},
		{mining.Batch{Search: func(_ context.Context, inputs []mining.Input, _ []int, _ int) error {
			inputs[0].Candidates = []mining.Document{{ID: "d", Vector: []float32{1, 0}}}
			return nil
		}}, `mining: query "q1": candidate "d": the vector has 2 dimensions, not 3`},
	} {
		test.batch.Mine = m.Mine
		if err := test.batch.Run(t.Context(), input(), nobody); err == nil || err.Error() != test.want {
			t.Errorf("error %v, want %s", err, test.want)
		}
	}
	if err := (&mining.Batch{Mine: m.Mine, Search: func(context.Context, []mining.Input, []int, int) error { return down }}).Run(t.Context(), input(), nobody); err != down {
		t.Errorf("the error of Search is wrapped: %v", err)
	}
	memory, err := mining.NewCorpus([]mining.Document{p})
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (&mining.Batch{Mine: m.Mine, Search: memory.Search}).Run(ended, input(), nobody); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
	other := input()
	other[0].Query, other[0].Evidence[0].Document = []float32{1, 0}, &mining.Document{ID: "p", Vector: []float32{1, 0}}
	if err := (&mining.Batch{Mine: m.Mine, Search: memory.Search}).Run(t.Context(), other, nobody); err == nil ||
		err.Error() != `mining: query "q1": the vector has 2 dimensions, the documents' have 3` {
		t.Errorf("error %v for a query of other dimensions", err)
	}
}

// TestBatchTrusts: Run does not check trusted inputs. The service needs this: with reduce.normalize off, its vectors
// do not have unit length.
func TestBatchTrusts(t *testing.T) {
	p, a := mining.Document{ID: "p", Vector: []float32{0.7, 0}}, mining.Document{ID: "a", Vector: []float32{0.3, 0.4}}
	decided := 0
	b := mining.Batch{
		Mine: newMiner(t, positiveAware(1)).Mine, Trusted: true,
		Search: func(_ context.Context, inputs []mining.Input, _ []int, _ int) error {
			inputs[0].Candidates, inputs[0].Exhausted = []mining.Document{p, a}, true
			return nil
		},
	}
	inputs := []mining.Input{{Query: []float32{0.9, 0}, Evidence: []mining.Evidence{{ID: "p", Positive: true, Document: &p}}}}
	err := b.Run(t.Context(), inputs, func(_ int, out mining.Outcome) {
		decided++
		if out.Pairs[0].Slots[0].Document != "a" {
			t.Errorf("decided %+v", out)
		}
	})
	if err != nil || decided != 1 {
		t.Errorf("error %v, %d decided", err, decided)
	}
	b.Trusted = false
	if err := b.Run(t.Context(), inputs, nil); err == nil || !strings.Contains(err.Error(), "the vector has length 0.9, not 1") {
		t.Errorf("error %v", err)
	}
}

// TestValidate has an input for each mistake that would leave lists empty or wrong without any notice.
func TestValidate(t *testing.T) {
	nan := float32(math.NaN())
	for name, test := range map[string]struct {
		change func(*mining.Input)
		want   string
	}{
		"nothing":                   {func(in *mining.Input) {}, ""},
		"no hashes":                 {func(in *mining.Input) { in.Evidence[0].Document.Hash, in.Candidates[0].Hash = "", "" }, ""},
		"an empty MinHash":          {func(in *mining.Input) { in.Candidates[0].MinHash = mining.MinHash{} }, ""},
		"16 bits":                   {func(in *mining.Input) { in.Query = []float32{0.996, 0, 0} }, ""},
		"only weak evidence":        {func(in *mining.Input) { in.Query, in.Candidates, in.Evidence[0].Positive = nil, nil, false }, ""},
		"a positive that is gone":   {func(in *mining.Input) { in.Query, in.Candidates, in.Evidence[0].Document = nil, nil, nil }, ""},
		"no query vector":           {func(in *mining.Input) { in.Query = nil }, "there is no vector"},
		"candidates without query":  {func(in *mining.Input) { in.Query, in.Evidence = nil, nil }, "there is no vector"},
		"an empty query vector":     {func(in *mining.Input) { in.Query = []float32{} }, "there is no vector"},
		"a zero query vector":       {func(in *mining.Input) { in.Query = make([]float32, 3) }, "vector is zero"},
		"a query that is NaN":       {func(in *mining.Input) { in.Query = []float32{nan, 0, 0} }, "vector has an element that is not finite"},
		"a long query vector":       {func(in *mining.Input) { in.Query = []float32{3, 0, 4} }, "the vector has length 5, not 1: see mining.Normalize"},
		"evidence without id":       {func(in *mining.Input) { in.Evidence[0].ID = "" }, "evidence: a document has no id"},
		"evidence twice":            {func(in *mining.Input) { in.Evidence = append(in.Evidence, in.Evidence[0]) }, `evidence: the id "p" comes twice`},
		"evidence of another":       {func(in *mining.Input) { in.Evidence[0].Document.ID = "x" }, `evidence "p" has document "x"`},
		"evidence without vector":   {func(in *mining.Input) { in.Evidence[0].Document.Vector = nil }, `evidence "p": there is no vector`},
		"evidence of other vectors": {func(in *mining.Input) { in.Evidence[0].Document.Vector = []float32{1, 0} }, `evidence "p": the vector has 2 dimensions, not 3`},
		"a short MinHash":           {func(in *mining.Input) { in.Evidence[0].Document.MinHash = make(mining.MinHash, 64) }, `evidence "p": its MinHash has 64 elements, not 128`},
		"a candidate without id":    {func(in *mining.Input) { in.Candidates[0].ID = "" }, "candidates: a document has no id"},
		"candidates twice":          {func(in *mining.Input) { in.Candidates[0].ID = "b" }, `candidates: the id "b" comes twice`},
		"a candidate without":       {func(in *mining.Input) { in.Candidates[0].Vector = nil }, `candidate "a": there is no vector`},
		"a zero candidate":          {func(in *mining.Input) { in.Candidates[0].Vector = make([]float32, 3) }, `candidate "a": vector is zero`},
	} {
		p := at("p", 0.9, 0)
		in := mining.Input{
			QueryID: "q", Query: []float32{1, 0, 0}, Evidence: []mining.Evidence{{ID: "p", Positive: true, Document: &p}},
			Candidates: []mining.Document{at("a", 0.5, 1), at("b", 0.4, 2)},
		}
		test.change(&in)
		got, want := "", test.want
		if err := in.Validate(); err != nil {
			got = err.Error()
		}
		if want != "" {
			want = `mining: query "q": ` + want
		}
		if got != want {
			t.Errorf("%s: error %q, want %q", name, got, want)
		}
	}
}

func TestNewCorpus(t *testing.T) {
	for _, test := range []struct {
		documents []mining.Document
		want      string
	}{
		{nil, ""},
		{[]mining.Document{at("a", 0.5, 1), at("b", 0.5, 1)}, ""},
		{[]mining.Document{at("a", 0.5, 1), {Vector: []float32{1, 0, 0}}}, "mining: document 1: a document has no id"},
		{[]mining.Document{at("a", 0.5, 1), at("a", 0.4, 1)}, `mining: document 1: the id "a" comes twice`},
		{[]mining.Document{{ID: "a"}}, `mining: document "a": there is no vector`},
		{[]mining.Document{at("a", 0.5, 1), {ID: "b", Vector: []float32{1}}}, `mining: document "b": the vector has 1 dimensions, not 3`},
		{[]mining.Document{{ID: "a", Vector: []float32{2}}}, `mining: document "a": the vector has length 2, not 1: see mining.Normalize`},
	} {
		_, err := mining.NewCorpus(test.documents)
		if got := fmt.Sprint(err); got != test.want && (err != nil || test.want != "") {
			t.Errorf("error %v, want %q", err, test.want)
		}
	}
	empty, _ := mining.NewCorpus(nil)
	in := empty.Input("q", []float32{1, 0, 0}, "gone")
	b := mining.Batch{Mine: newMiner(t, mining.DefaultConfig()).Mine, Search: empty.Search}
	err := b.Run(t.Context(), []mining.Input{in}, func(_ int, out mining.Outcome) {
		if len(out.Pairs) != 1 || out.Pairs[0].Reason != mining.ReasonPositiveMissing {
			t.Errorf("an empty corpus gives %+v", out)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// TestNearestAtTheEdge: the semantic policy excludes the positive's own cosine. The positive must not take
// the place of a document that is a little nearer, but has a later id.
func TestNearestAtTheEdge(t *testing.T) {
	p := at("a", 0.5, 0)
	nearer := at("b", 0.5, 3)
	nearer.Vector[0] = math.Nextafter32(p.Vector[0], 1)
	m := newMiner(t, mining.Config{Negatives: 1, NearDuplicate: 2, NearText: 2, Tiers: []mining.Tier{{Policy: mining.PolicySemantic, Depth: 1}}})
	in := mining.Input{QueryID: "q", Query: []float32{1, 0, 0}, Evidence: []mining.Evidence{{ID: "a", Positive: true, Document: &p}}}
	want := whole(m, in, []mining.Document{p, nearer})
	if len(want.Pairs[0].Slots) != 1 {
		t.Fatalf("the case is not the one that is meant: %+v", want)
	}
	nearest := m.Nearest(in)
	nearest.Add(p)
	nearest.Add(nearer)
	nearest.Fill(&in)
	if got := m.Mine(in); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestPanics: if only a mistake in the program can be the cause, the panic says what the mistake is.
func TestPanics(t *testing.T) {
	for want, do := range map[string]func(){
		"mining: a vector of 2 dimensions is compared with one of 3": func() { mining.Cosine(make([]float32, 2, 4), make([]float32, 3)) },
		"mining: a vector of 0 dimensions is compared with one of 3": func() { mining.Cosine(nil, make([]float32, 3)) },
		"mining: this Miner has no rules: make it by New":            func() { new(mining.Miner).Mine(mining.Input{}) },
	} {
		func() {
			defer func() {
				if got := recover(); got != want {
					t.Errorf("panic %v, want %s", got, want)
				}
			}()
			do()
		}()
	}
}

func TestContentHash(t *testing.T) {
	// printf 'T\nt' | sha256sum, printf '\nt' | sha256sum
	for _, test := range []struct{ title, text, want string }{
		{"T", "t", "e625310308ffa9f07cf9a787bebe499e"}, {"", "t", "7aefdb613d76fbf9a5139e2dc6e35ede"},
	} {
		if got := mining.ContentHash(test.title, test.text); got != test.want {
			t.Errorf("ContentHash(%q, %q) = %s, want %s", test.title, test.text, got, test.want)
		}
	}
}
