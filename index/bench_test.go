package index_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"hardneg/index"
	"hardneg/mining"

	"github.com/rs/zerolog"
)

// The benchmarks run on the Qdrant at HARDNEG_TEST_QDRANT if that is set, otherwise on the embedded server.

func benchIndex(b *testing.B, dimensions int) *index.Index {
	config := index.Config{Address: os.Getenv("HARDNEG_TEST_QDRANT"), Prefix: fmt.Sprintf("hardneg-bench-%d-", os.Getpid()), ExactBelow: 500_000, Log: zerolog.Nop()}
	if config.Address == "" {
		config.Address = startEmbedded(b, b.TempDir(), "127.0.0.1:0").Addr()
	}
	client, err := index.Dial(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = client.Close() })
	x, err := client.Open(b.Context(), "bench", dimensions)
	if err != nil {
		b.Fatal(err)
	}
	return x
}

func benchDocuments(r *rand.Rand, from, n, dimensions int) []index.Document {
	text := make([]byte, 5000)
	for i := range text {
		text[i] = 'a' + byte(r.IntN(26))
	}
	docs := make([]index.Document, n)
	for i := range docs {
		docs[i] = index.Document{
			Document: mining.Document{ID: fmt.Sprintf("document-%d", from+i), Hash: "0123456789abcdef0123456789abcdef", Vector: unit(r, dimensions), MinHash: mining.NewMinHash("a b c d e f g h")},
			Title:    "a title", Text: string(text), Offset: int64(from + i),
		}
	}
	return docs
}

func fill(b *testing.B, x *index.Index, r *rand.Rand, n int) {
	for from := 0; from < n; from += 256 {
		docs := benchDocuments(r, from, min(256, n-from), x.Dimensions())
		if err := x.WriteDocuments(b.Context(), docs, 0, int64(from+256)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWriteDocuments writes batches of 256 documents of 512 dimensions and 5 KB of text.
func BenchmarkWriteDocuments(b *testing.B) {
	x, r := benchIndex(b, 512), rand.New(rand.NewPCG(1, 1))
	docs := benchDocuments(r, 0, 256, 512)
	n := 0
	for b.Loop() {
		for i := range docs {
			docs[i].ID, docs[i].Offset = fmt.Sprintf("document-%d", n%16000), int64(n)
			n++
		}
		if err := x.WriteDocuments(b.Context(), docs, 0, int64(n)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "documents/s")
}

// BenchmarkSearch searches 64 queries at limit 128 in 16,000 documents of 512 dimensions.
func BenchmarkSearch(b *testing.B) {
	for _, queries := range []int{1, 64} {
		b.Run(fmt.Sprintf("queries=%d", queries), func(b *testing.B) {
			x, r := benchIndex(b, 512), rand.New(rand.NewPCG(1, 1))
			fill(b, x, r, 16000)
			probes := make([][]float32, queries)
			for i := range probes {
				probes[i] = unit(r, 512)
			}
			b.ResetTimer()
			for b.Loop() {
				if _, err := x.Search(b.Context(), probes, 128); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkAffected runs Watching and Entering for 256 documents over 10,000 states that watch 100 documents
// each.
func BenchmarkAffected(b *testing.B) {
	x, r := benchIndex(b, 512), rand.New(rand.NewPCG(1, 1))
	for from := 0; from < 10000; from += 250 {
		states := make([]index.State, 250)
		for i := range states {
			states[i] = index.State{QueryID: fmt.Sprintf("query-%d", from+i), Text: "a query", Vector: unit(r, 512), Token: 1, Entry: []mining.Interval{{Low: 0.14, High: 1}}}
			for range 100 {
				states[i].Watch = append(states[i].Watch, fmt.Sprintf("document-%d", r.IntN(100_000)))
			}
		}
		if err := x.WriteStates(b.Context(), states, 1); err != nil {
			b.Fatal(err)
		}
	}
	ids, vectors := make([]string, 256), make([][]float32, 256)
	for i := range ids {
		ids[i], vectors[i] = fmt.Sprintf("document-%d", i), unit(r, 512)
	}
	b.Run("Watching", func(b *testing.B) {
		var n int
		for b.Loop() {
			queries, err := x.Watching(b.Context(), ids)
			if err != nil {
				b.Fatal(err)
			}
			n = len(queries)
		}
		b.ReportMetric(float64(n), "queries")
	})
	b.Run("Entering", func(b *testing.B) {
		for b.Loop() {
			if _, err := x.Entering(b.Context(), vectors); err != nil {
				b.Fatal(err)
			}
		}
	})
}
