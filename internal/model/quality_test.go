package model

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"

	"hardneg/internal/config"
	"hardneg/internal/dataset"
	"hardneg/internal/embed"
	"hardneg/internal/records"
	"hardneg/mining"
	"hardneg/mining/reduce"
)

var ensemble = []config.Embedder{
	{Name: "words", Type: embed.TypeLexicalWord, Weight: 1},
	{Name: "characters", Type: embed.TypeLexicalChar, Weight: 1},
}

// collection is a test collection in memory.
type collection struct {
	ids      []string
	passages []embed.Item
	queries  []embed.Item
	relevant []map[string]float64
	bytes    int
}

func openCollection(t testing.TB, name string, splits ...string) *collection {
	t.Helper()
	opened, err := dataset.OpenBEIR(filepath.Join(dataFolder(t), name), splits...)
	if err != nil {
		t.Fatal(err)
	}
	c := new(collection)
	for _, document := range all(t, opened.Documents()) {
		text := records.EmbeddedText(document.Title, document.Text)
		c.ids = append(c.ids, document.ID)
		c.passages = append(c.passages, embed.Item{Text: text})
		c.bytes += len(text)
	}
	for _, query := range all(t, opened.Queries()) {
		c.queries = append(c.queries, embed.Item{Text: query.Query})
		relevant := make(map[string]float64)
		for _, id := range query.Positives {
			relevant[id] = 1
		}
		c.relevant = append(c.relevant, relevant)
	}
	return c
}

func all[T any](t testing.TB, values iter.Seq2[T, error]) (list []T) {
	t.Helper()
	for value, err := range values {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, value)
	}
	return list
}

// dataFolder finds the test collections, or skips the test.
func dataFolder(t testing.TB) string {
	t.Helper()
	folder := os.Getenv("HARDNEG_TEST_DATA")
	if folder == "" {
		root, err := filepath.Abs(".")
		for ; err == nil && root != filepath.Dir(root); root = filepath.Dir(root) {
			if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
				break
			}
		}
		folder = filepath.Join(root, "..", "shared", "data")
	}
	if _, err := os.Stat(folder); err != nil {
		t.Skipf("no test collections: %v (HARDNEG_TEST_DATA names their folder)", err)
	}
	return folder
}

// vectors embeds items into one matrix. Rows of items without a vector stay zero.
func vectors(t testing.TB, m *Model, kind embed.Kind, items []embed.Item) reduce.Matrix {
	t.Helper()
	found, _, err := m.Vectors(context.Background(), kind, items)
	if err != nil {
		t.Fatal(err)
	}
	matrix := reduce.NewMatrix(len(items), m.Dimensions())
	for i, vector := range found {
		copy(matrix.Row(i), vector)
	}
	return matrix
}

const cutOff = 10

// ndcg returns the mean nDCG@10 of exact search.
func (c *collection) ndcg(passages, queries reduce.Matrix) float64 {
	scores := reduce.NewMatrix(queries.Rows, passages.Rows)
	blas32.Gemm(blas.NoTrans, blas.Trans, 1, general(queries), general(passages), 0, general(scores))
	var sum float64
	for q := range queries.Rows {
		sum += mining.NDCG(c.top(scores.Row(q)), c.relevant[q], cutOff)
	}
	return sum / float64(queries.Rows)
}

func (c *collection) top(scores []float32) []string {
	var best []int
	for i, score := range scores {
		if len(best) == cutOff && score <= scores[best[cutOff-1]] {
			continue
		}
		at, _ := slices.BinarySearchFunc(best, score, func(other int, score float32) int {
			if scores[other] >= score {
				return -1
			}
			return 1
		})
		best = slices.Insert(best, at, i)
		best = best[:min(len(best), cutOff)]
	}
	var ids []string
	for _, i := range best {
		ids = append(ids, c.ids[i])
	}
	return ids
}

// semantic returns a share of the pairs of a query and a relevant passage: those with a document that meets
// both conditions of the semantic policy and is no near copy of the relevant passage.
func (c *collection) semantic(passages, queries reduce.Matrix) float64 {
	places := make(map[string]int, len(c.ids))
	for i, id := range c.ids {
		places[id] = i
	}
	scores := reduce.NewMatrix(queries.Rows, passages.Rows)
	blas32.Gemm(blas.NoTrans, blas.Trans, 1, general(queries), general(passages), 0, general(scores))
	pairs, found := 0, 0
	for q := range queries.Rows {
		for id := range c.relevant[q] {
			at, known := places[id]
			if !known {
				continue
			}
			pairs++
			row := scores.Row(q)
			for d, score := range row {
				if score <= row[at] || c.relevant[q][c.ids[d]] > 0 {
					continue
				}
				between := mining.Cosine(passages.Row(at), passages.Row(d))
				if between < score && between < 0.98 {
					found++
					break
				}
			}
		}
	}
	return float64(found) / float64(pairs)
}

func general(m reduce.Matrix) blas32.General {
	return blas32.General{Rows: m.Rows, Cols: m.Cols, Stride: m.Cols, Data: m.Data}
}

// bars are the lowest nDCG@10 on the test splits that the default ensemble may have.
var bars = map[string]struct{ unreduced, at512 float64 }{
	"scifact":  {0.68, 0.60},
	"aws-docs": {0.54, 0.52},
	"medquad":  {0.59, 0.42},
}

// TestQuality compares the default ensemble, without reduction, with its measured quality on one collection.
func TestQuality(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 10 s")
	}
	c := openCollection(t, "scifact", "test")
	m, err := Fit(context.Background(), nil, ensemble, config.Reduce{Method: "none"}, 1000, c.passages)
	if err != nil {
		t.Fatal(err)
	}
	got := c.ndcg(vectors(t, m, embed.Passage, c.passages), vectors(t, m, embed.Query, c.queries))
	t.Logf("scifact, unreduced: nDCG@10 %.4f", got)
	if got < bars["scifact"].unreduced {
		t.Errorf("nDCG@10 %.4f, want %v", got, bars["scifact"].unreduced)
	}
}

// TestQualityCurve prints the table of docs/embedders.md (quality, variance and speed by number of
// dimensions) and compares it with the bars. It takes minutes and needs HARDNEG_TEST_QUALITY=1.
func TestQualityCurve(t *testing.T) {
	if os.Getenv("HARDNEG_TEST_QUALITY") == "" {
		t.Skip("takes minutes: set HARDNEG_TEST_QUALITY=1")
	}
	for _, name := range []string{"scifact", "aws-docs", "medquad"} {
		t.Run(name, func(t *testing.T) {
			c := openCollection(t, name, "test")
			plain, took := fit(t, c, config.Reduce{Method: "none"})
			fmt.Printf("%s: %d passages, %d queries, %d cores\n", name, len(c.passages), len(c.queries), runtime.GOMAXPROCS(0))
			start := time.Now()
			passages := vectors(t, plain, embed.Passage, c.passages)
			embedding := time.Since(start)
			fmt.Printf("IDF fitted in %.1f s, embedded at %.1f MB/s\n", took.Seconds(), float64(c.bytes)/1e6/embedding.Seconds())
			queries := vectors(t, plain, embed.Query, c.queries)
			got, want := c.ndcg(passages, queries), bars[name]
			fmt.Printf("| %d (unreduced) | %.4f | 1 | %.1f GB | |\n", plain.Dimensions(), got, float64(plain.Dimensions())*4e6/1e9)
			fmt.Printf("%.3f of the pairs have a semantic negative\n", c.semantic(passages, queries))
			if got < want.unreduced {
				t.Errorf("nDCG@10 %.4f, want %v", got, want.unreduced)
			}
			if got := c.curve(t, passages, queries); got < want.at512 {
				t.Errorf("nDCG@10 %.4f at 512 dimensions, want %v", got, want.at512)
			}
		})
	}
}

var curveDimensions = []int{64, 128, 256, 384, 512, 768, 1024}

// curve reduces the ensemble's vectors once, to the largest number of dimensions, and then cuts them, because
// axes are nested. It returns the nDCG@10 at 512 dimensions.
func (c *collection) curve(t *testing.T, passages, queries reduce.Matrix) (at512 float64) {
	sample := passages
	if sample.Rows > 10_000 { // fit.sample
		sample = every(passages, 10_000)
	}
	start := time.Now()
	reducer, err := reduce.Fit(t.Context(), sample, reduce.Options{Variance: 1, MaxDimensions: curveDimensions[len(curveDimensions)-1], Normalize: true, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%d axes of %d vectors fitted in %.1f s\n", reducer.Out(), sample.Rows, time.Since(start).Seconds())
	reducedPassages, reducedQueries := project(t, reducer, passages), project(t, reducer, queries)
	for _, dimensions := range curveDimensions {
		cut := *reducer
		cut.Components.Rows, cut.Components.Data = dimensions, reducer.Components.Data[:dimensions*reducer.Components.Cols]
		start := time.Now()
		project(t, &cut, reduce.Matrix{Rows: 1000, Cols: passages.Cols, Data: passages.Data[:1000*passages.Cols]})
		projecting := time.Since(start)
		cutPassages, cutQueries := firstColumns(reducedPassages, dimensions), firstColumns(reducedQueries, dimensions)
		got := c.ndcg(cutPassages, cutQueries)
		fmt.Printf("| %d | %.4f | %.3f | %.1f GB | %.0f/s |\n", dimensions,
			got, reducer.Share[dimensions-1], float64(dimensions)*4e6/1e9, 1000/projecting.Seconds())
		if dimensions == 512 {
			at512 = got
			fmt.Printf("%.3f of the pairs have a semantic negative\n", c.semantic(cutPassages, cutQueries))
		}
	}
	return at512
}

// firstColumns returns what the reducer would give with fewer axes. Rows have unit length again.
func firstColumns(m reduce.Matrix, columns int) reduce.Matrix {
	cut := reduce.NewMatrix(m.Rows, columns)
	for i := range m.Rows {
		row := cut.Row(i)
		copy(row, m.Row(i))
		if length := blas32.Nrm2(blas32.Vector{N: columns, Inc: 1, Data: row}); length > 0 {
			blas32.Scal(1/length, blas32.Vector{N: columns, Inc: 1, Data: row})
		}
	}
	return cut
}

func project(t *testing.T, reducer *reduce.Reducer, in reduce.Matrix) reduce.Matrix {
	t.Helper()
	out := reduce.NewMatrix(in.Rows, reducer.Out())
	if _, err := reducer.Project(in, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// every returns n rows, evenly spread.
func every(m reduce.Matrix, n int) reduce.Matrix {
	taken := reduce.NewMatrix(n, m.Cols)
	for i := range n {
		copy(taken.Row(i), m.Row(i*m.Rows/n))
	}
	return taken
}

func fit(t *testing.T, c *collection, reduce config.Reduce) (*Model, time.Duration) {
	t.Helper()
	start := time.Now()
	m, err := Fit(context.Background(), nil, ensemble, reduce, 1000, c.passages)
	if err != nil {
		t.Fatal(err)
	}
	return m, time.Since(start)
}

// BenchmarkEmbedding embeds real passages (scifact) as words and characters, on all cores, without reduction.
func BenchmarkEmbedding(b *testing.B) {
	c := openCollection(b, "scifact", "test")
	m, err := Fit(context.Background(), nil, ensemble, config.Reduce{Method: "none"}, 1000, c.passages[:1000])
	if err != nil {
		b.Fatal(err)
	}
	passages, size := c.passages[1000:2000], 0
	for _, passage := range passages {
		size += len(passage.Text)
	}
	b.SetBytes(int64(size))
	for b.Loop() {
		for _, embedder := range m.embedders {
			if _, _, err := embedder.Embed(context.Background(), embed.Passage, passages); err != nil {
				b.Fatal(err)
			}
		}
	}
}
