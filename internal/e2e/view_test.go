package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// small makes models that are fitted within a second.
var small = []string{
	"--set", "embedders=[{name: words, type: lexical-word, dimensions: 512}, {name: chars, type: lexical-char, dimensions: 512}]",
	"--set", "reduce.max_dimensions=96", "--set", "fit.minimum=100", "--set", "fit.sample=1000",
}

// TestView loads a collection, compares the view with brute force, makes 500 random changes, and compares
// again.
func TestView(t *testing.T) {
	dir := collection(t)
	s := newService(t, "--embedded", "--set", "topics.purge_refresh=200ms")
	s.spawn()
	names := namedTopics("hardneg", "")
	k, w := newKafka(t, s.Kafka, names), newWorld(names)
	start := time.Now()
	s.load("beir", dir, "--split", "train")
	w.loaded(t, dir, "train")
	s.ready(patience)
	k.quiet(patience)
	t.Logf("quiet %v after the load began: %v", time.Since(start).Round(time.Millisecond), w)
	t.Log(compare(t, s, k, w, ""))
	if t.Failed() {
		return
	}
	changes := newChurn(w, random(t)).steps(500)
	start = time.Now()
	k.produce(changes...)
	k.quiet(patience)
	t.Logf("quiet %v after %d changes: %v", time.Since(start).Round(time.Millisecond), len(changes), w)
	t.Log(compare(t, s, k, w, ""))
	checkExplained(t, s, k)
	checkEvaluated(t, s, k)
	checkTwins(t, s, k, w, "")
	s.stop()
}

// checkExplained expects that `hardneg explain` computes the lists of the view.
func checkExplained(t *testing.T, s *service, k *kafka) {
	t.Helper()
	view := readView(t, k).live
	queries := map[string]bool{}
	for at := range view {
		queries[at.query] = true
	}
	for _, query := range slices.Sorted(maps.Keys(queries))[:min(10, len(queries))] {
		out := hardneg(t, patience, "explain", query, "--data-dir", s.dir, "-o", "json")
		var explained struct {
			Text  string
			Pairs []struct {
				Positive  string
				Negatives []string
				Stored    []any
			}
		}
		if err := json.Unmarshal([]byte(out.stdout), &explained); err != nil || out.code != 0 {
			t.Fatalf("explain %s: exit code %d, %v: %s", query, out.code, err, out.stderr)
		}
		for _, p := range explained.Pairs {
			if len(p.Stored) > 0 {
				t.Errorf("query %s, positive %s: the stored list is another one: %v", query, p.Positive, p.Stored)
			}
			for i, negative := range p.Negatives {
				at := place{query, p.Positive, i + 1}
				x, ok := view[at]
				if !ok || x.Negative.ID != negative || x.Query.Text != explained.Text {
					t.Errorf("%v is %s, explained is %s", at, x.Negative.ID, negative)
				}
				delete(view, at)
			}
			if len(p.Negatives) == 0 {
				continue
			}
			table := hardneg(t, patience, "explain", query, "--data-dir", s.dir, "--positive", p.Positive, "--document", p.Negatives[0])
			if !strings.Contains(table.stdout, ": negative 1") || !strings.Contains(table.stdout, "document  ") {
				t.Errorf("explain %s: exit code %d, %s\n%s", query, table.code, table.stderr, table.stdout)
			}
		}
		for at := range view {
			if at.query == query {
				t.Errorf("%v is not explained", at)
			}
		}
	}
	if out := hardneg(t, patience, "explain", "never asked", "--data-dir", s.dir); out.code != 1 || !strings.Contains(out.stderr, `nothing is known of the query "never asked"`) {
		t.Errorf("explain of an unknown query: exit code %d: %s", out.code, out.stderr)
	}
}

// TestLarge measures the first load of the largest collection, and compares.
func TestLarge(t *testing.T) {
	if !*long {
		t.Skip("takes minutes: -long runs it")
	}
	dir := filepath.Join(data(), "medquad")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the benchmark collections are not there:", err)
	}
	s := newService(t, "--embedded", "--set", "topics.purge_refresh=200ms")
	s.spawn()
	names := namedTopics("hardneg", "")
	k, w := newKafka(t, s.Kafka, names), newWorld(names)
	start := time.Now()
	s.load("beir", dir, "--split", "train")
	w.loaded(t, dir, "train")
	s.ready(10 * time.Minute)
	k.quiet(10 * time.Minute)
	took := time.Since(start)
	t.Logf("%v loaded and mined in %v: %.0f documents and %.0f queries a second", w, took.Round(time.Second),
		float64(len(w.documents))/took.Seconds(), float64(len(w.queries))/took.Seconds())
	t.Log(compare(t, s, k, w, ""))
	changes := newChurn(w, random(t)).steps(500)
	start = time.Now()
	k.produce(changes...)
	k.quiet(5 * time.Minute)
	t.Logf("quiet %v after %d changes", time.Since(start).Round(time.Millisecond), len(changes))
	t.Log(compare(t, s, k, w, ""))
}

// checkEvaluated expects that `hardneg eval` counts exactly what is in the view.
func checkEvaluated(t *testing.T, s *service, k *kafka) {
	t.Helper()
	slots, documents, semantic := 0, map[string]bool{}, map[pair]bool{}
	for at, x := range readView(t, k).live {
		slots++
		documents[x.Negative.ID] = true
		if x.Policy == "semantic" {
			semantic[at.pair()] = true
		}
	}
	out := hardneg(t, patience, "eval", "--all", "--data-dir", s.dir, "-o", "json")
	var e struct {
		Lists     struct{ Covered map[string]int }
		Negatives struct{ Slots, Documents int }
		Ranking   struct {
			NDCG float64 `json:"ndcg_10"`
		}
	}
	if err := json.Unmarshal([]byte(out.stdout), &e); err != nil || out.code != 0 {
		t.Fatalf("eval: exit code %d, %v: %s", out.code, err, out.stderr)
	}
	if e.Negatives.Slots != slots || e.Negatives.Documents != len(documents) || e.Lists.Covered["semantic"] != len(semantic) || e.Ranking.NDCG < 0.2 || e.Ranking.NDCG > 1 {
		t.Errorf("eval: %+v, want %d slots, %d documents, %d pairs with a semantic one", e, slots, len(documents), len(semantic))
	}
	if table := hardneg(t, patience, "eval", "--sample", "20", "--seed", "1", "--data-dir", s.dir); table.code != 0 || !strings.Contains(table.stdout, "nDCG@10 ") {
		t.Errorf("eval: exit code %d, %s\n%s", table.code, table.stderr, table.stdout)
	}
}

// checkTwins checks that stored vectors belong to the current texts. It adds documents and queries with the
// same texts under other ids. These are embedded now, and must get the same vectors. So the oracle does not
// compute with old vectors.
func checkTwins(t *testing.T, s *service, k *kafka, w *world, prefix string) {
	t.Helper()
	documents, queries := map[string]string{}, map[string]string{} // original by twin
	var records []*kgo.Record
	for _, id := range slices.Sorted(maps.Keys(w.documents)) {
		if len(documents) < 150 && (len(id)+len(documents))%2 == 0 || len(id) > 4 && id[:4] == "new-" {
			twin := fmt.Sprintf("twin-%d", len(documents))
			documents[twin] = id
			records = append(records, w.put(twin, w.documents[id]))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.queries)) {
		if len(queries) < 100 {
			twin := fmt.Sprintf("twin-%d", len(queries))
			queries[twin] = id
			records = append(records, w.judge(twin, w.queries[id].text))
		}
	}
	k.produce(records...)
	k.quiet(patience)
	client := qdrantClient(t, s.Qdrant)
	corpus, vectors := readCorpus(t, client, prefix), readQueryVectors(t, client, prefix)
	errs := few{t: t}
	for twin, id := range documents {
		if c := cosine(corpus[twin].vector, corpus[id].vector); math.Abs(c-1) > 1e-5 {
			errs.errorf("the vector of document %q is not that of its text: cosine %v with it", id, c)
		}
	}
	for twin, id := range queries {
		if c := cosine(vectors[twin], vectors[id]); math.Abs(c-1) > 1e-5 {
			errs.errorf("the vector of query %q is not that of its text: cosine %v with it", id, c)
		}
	}
}
