package evaluate

import (
	"math"
	"slices"
	"sort"
	"strings"
	"testing"

	"hardneg/internal/audit/audittest"
	"hardneg/internal/pipelinetest"
	"hardneg/mining"
)

// TestEvaluate compares an evaluation with simple loops over all documents and triplets.
func TestEvaluate(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 51, 12)
	w.Config.Mining.Depth = 3
	stop := w.Instance()
	defer func() { stop() }()
	w.Settle()
	delete(w.Docs, "d0") // this positive is not indexed any more
	w.Produce("documents", "d0", nil)
	w.Write("d1", w.Docs["d1"].Vector)
	for key, text := range w.Got() { // make a negative of q5 contain its query
		if id, _, _ := strings.Cut(text, " "); strings.HasPrefix(key, `["q5",`) && id != "d0" {
			w.Docs[id] = pipelinetest.Document{Text: "chapter one:  what is\nQ5 and others", Vector: w.Docs[id].Vector}
			w.Produce("documents", id, map[string]any{"id": id, "text": w.Docs[id].Text, "embeddings": map[string]any{"v": w.Docs[id].Vector}})
			break
		}
	}
	w.Produce("queries", "empty", map[string]any{"query": "nothing is clicked", "query_id": "empty", "embeddings": map[string]any{"v": w.Random()}})
	w.Settle()
	audittest.Clean(w, "before it is evaluated")

	cos := func(a, b []float32) float64 {
		var s float64
		for i := range a {
			s += float64(a[i]) * float64(b[i])
		}
		return s
	}
	e, err := Run(t.Context(), Options{Conn: w.Conn()})
	if err != nil {
		t.Fatal(err)
	}
	// These figures come from the published lists.
	full, slots, uses, verbatim, above := map[string]int{}, 0, map[string]int{}, 0, 0
	var margins, nearness []float64 // of all negatives; the policy semantic gives a margin below 0
	for key, text := range w.Got() {
		parts := strings.Split(key, `"`) // ["query","positive",rank]
		negative, _, _ := strings.Cut(text, " ")
		query, positive := parts[1], parts[3]
		full[query+" "+positive]++
		slots++
		uses[negative]++
		if strings.Contains(strings.ToLower(w.Docs[negative].Text), query) {
			verbatim++
		}
		margin := cos(w.Vector[query], w.Docs[positive].Vector) - cos(w.Vector[query], w.Docs[negative].Vector)
		if margins = append(margins, margin); margin < 0 {
			above++
			nearness = append(nearness, cos(w.Docs[positive].Vector, w.Docs[negative].Vector))
		}
	}
	whole := 0
	for _, n := range full {
		if n == pipelinetest.Negatives {
			whole++
		}
	}
	sort.Float64s(margins)
	sort.Float64s(nearness)
	if e.Known != 13 || e.Queries != 12 || e.Lists.Pairs != 24 || e.Lists.Full != whole || e.Lists.Empty != 24-len(full) || e.Lists.Short[string(mining.ReasonPositiveMissing)] != 1 {
		t.Errorf("%+v, want %d full lists and %d with a negative", e.Lists, whole, len(full))
	}
	if n := e.Negatives; n.Slots != slots || n.Documents != len(uses) || n.Policies["semantic"].Verbatim+n.Policies["positive-aware"].Verbatim != verbatim || n.Policies["semantic"].Slots != above ||
		n.Policies["semantic"].AbovePositive != above || n.Policies["positive-aware"].AbovePositive != 0 || n.MostUsed[0].Slots != slices.Max(values(uses)) || uses[n.MostUsed[0].Document] != n.MostUsed[0].Slots {
		t.Errorf("%+v, want %d slots of %d documents, %d verbatim, %d above", n, slots, len(uses), verbatim, above)
	}
	if verbatim == 0 || above == 0 || whole == len(full) {
		t.Errorf("%d negatives contain their query, %d are above, %d lists of %d are full: nothing was tested", verbatim, above, whole, len(full))
	}
	median := func(of []float64) float64 { return of[int(math.Round(0.5*float64(len(of)-1)))] }
	strict := e.Negatives.Policies["semantic"]
	if m := strict.Margin; len(m) != 5 || math.Abs(m[2]-median(margins[:above])) > 1e-5 || m[0] > m[4] || math.Abs(strict.ToPositive[2]-median(nearness)) > 1e-5 {
		t.Errorf("%+v, want the medians %v and %v", strict, median(margins[:above]), median(nearness))
	}
	if m := e.Negatives.Policies["positive-aware"].Margin; math.Abs(m[2]-median(margins[above:])) > 1e-5 {
		t.Errorf("margins %v of %v", m, margins[above:])
	}
	if len(e.Lists.Missing) != 1 || e.Lists.Missing[0] != (PairName{"q0", "d0"}) || len(e.Lists.Similarity) != 5 {
		t.Errorf("%+v", e.Lists)
	}
	// These figures come from rankings.
	var ndcg, mrr, recall float64
	first, pairs := 0, 0
	for query, q := range w.Logged {
		ids := make([]string, 0, len(w.Docs))
		for id := range w.Docs {
			ids = append(ids, id)
		}
		sort.Slice(ids, func(i, j int) bool {
			return cos(w.Vector[query], w.Docs[ids[i]].Vector) > cos(w.Vector[query], w.Docs[ids[j]].Vector)
		})
		var gain, ideal, best, unnamed float64
		found := 0
		for i, id := range ids {
			if !q.Positives[id] {
				unnamed++
				continue
			}
			found++
			pairs++
			ideal += 1 / math.Log2(float64(found)+1)
			if i < 10 {
				gain += 1 / math.Log2(float64(i)+2)
				best = max(best, 1/float64(i+1))
			}
			if unnamed == 0 {
				first++
			}
		}
		ndcg, mrr, recall = ndcg+gain/ideal, mrr+best, recall+1 // all positives are within the first hundred
	}
	n := float64(len(w.Logged))
	if r := e.Ranking; r.Queries != 12 || r.Pairs != pairs || r.First != first || math.Abs(r.NDCG-ndcg/n) > 1e-9 || math.Abs(r.MRR-mrr/n) > 1e-9 || math.Abs(r.Recall-recall/n) > 1e-9 {
		t.Errorf("%+v, want %d pairs, %d first, %v, %v, %v", r, pairs, first, ndcg/n, mrr/n, recall/n)
	}
	// The same seed gives the same sample.
	some := func(seed uint64) *Evaluation {
		e, err := Run(t.Context(), Options{Conn: w.Conn(), Sample: 4, Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	if a, b := some(5), some(5); a.Queries > 4 || a.Queries < 3 || a.Ranking != b.Ranking || *a.Seed != 5 {
		t.Errorf("%+v and %+v", a, b)
	}
}

func values(m map[string]int) (all []int) {
	for _, n := range m {
		all = append(all, n)
	}
	return all
}
