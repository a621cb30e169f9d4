package vectorcache

import (
	"math/rand/v2"
	"testing"
)

// Vectors of 1,024 dimensions, 256 in each call, like the calls of a model.
const (
	benchDimensions = 1024
	benchTogether   = 256
)

func benchBatch(from int) (keys []Key, vectors [][]float32) {
	for n := from; n < from+benchTogether; n++ {
		vector := make([]float32, benchDimensions)
		for i := range vector {
			vector[i] = float32(n*i) + 0.5
		}
		keys, vectors = append(keys, keyOf(n)), append(vectors, vector)
	}
	return keys, vectors
}

// BenchmarkPut appends vectors, and evicts once 256 MiB are full.
func BenchmarkPut(b *testing.B) {
	c, _ := open(b, b.TempDir(), 256<<20)
	_, vectors := benchBatch(0)
	b.SetBytes(int64(benchTogether * recordLength(benchDimensions)))
	for n := 0; b.Loop(); n += benchTogether {
		keys := make([]Key, benchTogether)
		for i := range keys {
			keys[i] = keyOf(n + i)
		}
		c.Put(keys, vectors)
	}
	b.ReportMetric(float64(b.N*benchTogether)/b.Elapsed().Seconds(), "puts/s")
}

// BenchmarkGet finds all vectors, at random in 200 MiB. BenchmarkMiss finds none.
func BenchmarkGet(b *testing.B)  { benchmarkGet(b, 0) }
func BenchmarkMiss(b *testing.B) { benchmarkGet(b, 1<<40) }

func benchmarkGet(b *testing.B, from int) {
	c, _ := open(b, b.TempDir(), 256<<20)
	const there = 50_000 / benchTogether * benchTogether
	for n := 0; n < there; n += benchTogether {
		c.Put(benchBatch(n))
	}
	keys := make([]Key, benchTogether)
	for b.Loop() {
		for i := range keys {
			keys[i] = keyOf(from + rand.IntN(there))
		}
		c.Get(keys)
	}
	b.ReportMetric(float64(b.N*benchTogether)/b.Elapsed().Seconds(), "lookups/s")
}

// BenchmarkOpen reads 200 MiB that the system has in memory.
func BenchmarkOpen(b *testing.B) {
	path := b.TempDir()
	c, _ := open(b, path, 256<<20)
	for n := 0; n < 50_000; n += benchTogether {
		c.Put(benchBatch(n))
	}
	b.SetBytes(c.bytes)
	for b.Loop() {
		other, _ := open(b, path, 256<<20)
		_ = other.Close()
	}
}
