package vectorcache

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"hardneg/internal/telemetry"
)

// open opens a cache that logs into a buffer.
func open(t testing.TB, path string, maxBytes int64) (*Cache, *bytes.Buffer) {
	t.Helper()
	return openMeasured(t, path, maxBytes, prometheus.NewRegistry())
}

func openMeasured(t testing.TB, path string, maxBytes int64, registry *prometheus.Registry) (*Cache, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	c, err := Open(Options{Path: path, MaxBytes: maxBytes, Log: zerolog.New(log).Level(zerolog.InfoLevel), Metrics: telemetry.NewMetrics(registry)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, log
}

// measured returns the value of a metric, summed over its labels.
func measured(t testing.TB, registry *prometheus.Registry, name string) (value int) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			for _, metric := range family.GetMetric() {
				value += int(metric.GetCounter().GetValue() + metric.GetGauge().GetValue())
			}
			return value
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// vectorOf returns the vector that belongs to a number. Any other vector under its key is wrong.
func vectorOf(n int) []float32 {
	random := rand.New(rand.NewPCG(uint64(n), 7))
	vector := make([]float32, 1+random.IntN(40))
	for i := range vector {
		vector[i] = math.Float32frombits(random.Uint32()) // NaN too: bits are kept
	}
	return vector
}

func keyOf(n int) Key { return sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(n))) }

func put(c *Cache, numbers ...int) {
	var keys []Key
	var vectors [][]float32
	for _, n := range numbers {
		keys, vectors = append(keys, keyOf(n)), append(vectors, vectorOf(n))
	}
	c.Put(keys, vectors)
}

// get looks for numbers and returns which of them are in the cache. A wrong vector fails the test.
func get(t testing.TB, c *Cache, numbers ...int) []bool {
	t.Helper()
	keys := make([]Key, len(numbers))
	for i, n := range numbers {
		keys[i] = keyOf(n)
	}
	found := make([]bool, len(numbers))
	for i, vector := range c.Get(keys) {
		if found[i] = vector != nil; found[i] && !same(vector, vectorOf(numbers[i])) {
			t.Fatalf("the vector of %d is %v, want %v", numbers[i], vector, vectorOf(numbers[i]))
		}
	}
	return found
}

func same(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// size returns the total size of all files.
func size(t testing.TB, path string) (total int64) {
	t.Helper()
	for _, name := range files(t, path, "*") {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	return total
}

func files(t testing.TB, path, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(path, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	if given := os.Getenv("HARDNEG_TEST_SEED"); given != "" {
		if _, err := fmt.Sscan(given, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("replay with HARDNEG_TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// TestAgainstMap makes random calls to two caches of one directory, reopens them now and then, and compares
// with a map. While there is room, each finds what either has put. Neither finds anything else.
func TestAgainstMap(t *testing.T) {
	random := seeded(t)
	for range 30 {
		path := t.TempDir()
		roomy := random.IntN(2) == 0
		most := int64(40_000)
		if roomy {
			most = 1 << 30
		}
		caches := make([]*Cache, 2)
		for i := range caches {
			caches[i], _ = open(t, path, most)
		}
		there := map[int]bool{}
		for range 300 {
			i := random.IntN(len(caches))
			numbers := make([]int, random.IntN(20))
			for k := range numbers {
				numbers[k] = random.IntN(1000)
			}
			switch random.IntN(20) {
			case 0:
				if err := caches[i].Close(); err != nil {
					t.Fatal(err)
				}
				caches[i], _ = open(t, path, most)
			case 1, 2, 3, 4, 5, 6, 7, 8:
				put(caches[i], numbers...)
				for _, n := range numbers {
					there[n] = true
				}
				if now := size(t, path); now > most || now != caches[i].bytes {
					t.Fatalf("%d bytes on disk, %d by the cache, at most %d", now, caches[i].bytes, most)
				}
				if !roomy {
					continue
				}
				fallthrough
			default:
				for k, found := range get(t, caches[i], numbers...) {
					if found && !there[numbers[k]] || !found && there[numbers[k]] && roomy {
						t.Fatalf("%d: found %v, was put %v", numbers[k], found, there[numbers[k]])
					}
				}
			}
		}
	}
}

// TestRecentUse: used vectors and the newest ones stay. Unused ones are removed, oldest first.
func TestRecentUse(t *testing.T) {
	path := t.TempDir()
	const most = 100_000
	registry := prometheus.NewRegistry()
	c, _ := openMeasured(t, path, most, registry)
	hot := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	put(c, hot...)
	n := 1000
	for c.bytes < most*9/10 {
		put(c, n)
		n++
	}
	for range 5000 {
		put(c, n)
		n++
		if found := get(t, c, hot...); slices.Contains(found, false) {
			t.Fatalf("after %d others: of the vectors in use there are %v", n-1000, found)
		}
	}
	if get(t, c, n-1)[0] == false {
		t.Error("the newest is gone")
	}
	left := 0
	for _, found := range get(t, c, 1000, 1001, 1002, 1003, 1004) {
		if found {
			left++
		}
	}
	if left > 0 {
		t.Errorf("%d of the oldest, unused ones are there", left)
	}
	puts := n - 1000 + len(hot)
	if evicted := measured(t, registry, "hardneg_cache_evictions_total"); evicted != puts-len(c.index) {
		t.Errorf("%d evictions counted, %d put, %d left", evicted, puts, len(c.index))
	}
	if bytes := measured(t, registry, "hardneg_cache_bytes"); int64(bytes) != size(t, path) {
		t.Errorf("%d bytes by the metric, %d on disk", bytes, size(t, path))
	}
	if lookups := measured(t, registry, "hardneg_cache_lookups_total"); lookups != 5000*len(hot)+1+5 {
		t.Errorf("%d look-ups counted, %d made", lookups, 5000*len(hot)+1+5)
	}
}

// TestAllInUse: the cache makes room even if everything was used, and keeps its limit.
func TestAllInUse(t *testing.T) {
	path := t.TempDir()
	const most = 30_000
	c, _ := open(t, path, most)
	for n := range 3000 {
		put(c, n)
		if !get(t, c, n)[0] {
			t.Fatalf("%d is not there right after it was put", n)
		}
		get(t, c, n-1, n-2, n-100, n-200)
		if now := size(t, path); now > most {
			t.Fatalf("%d bytes, at most %d", now, most)
		}
	}
}

// TestSmallerBound: a cache that is opened with a smaller limit shrinks at once.
func TestSmallerBound(t *testing.T) {
	path := t.TempDir()
	c, _ := open(t, path, 1<<20)
	for n := range 2000 {
		put(c, n)
	}
	get(t, c, 0, 1, 2)
	_ = c.Close()
	c, _ = open(t, path, 150_000)
	if now := size(t, path); now > 150_000 || now < 75_000 {
		t.Errorf("%d bytes, want at most 150000, and not much less", now)
	}
	if !get(t, c, 1999)[0] {
		t.Error("the newest is gone")
	}
}

// TestLargerThanAll: a vector that never fits is not kept, and nothing is removed for it.
func TestLargerThanAll(t *testing.T) {
	c, log := open(t, t.TempDir(), 10_000)
	put(c, 1)
	c.Put([]Key{keyOf(2), keyOf(3)}, [][]float32{make([]float32, 3000), {}})
	if found := get(t, c, 1); !found[0] || c.Get([]Key{keyOf(2)})[0] != nil || log.Len() > 0 {
		t.Errorf("found %v, log %s", found, log)
	}
}

// TestSimilarKeys: of two keys that look equal to the index one is found, never with the vector of the other.
func TestSimilarKeys(t *testing.T) {
	c, log := open(t, t.TempDir(), 1<<20)
	one, other := keyOf(1), keyOf(1)
	other[31] ^= 1
	c.Put([]Key{one}, [][]float32{{1}})
	c.Put([]Key{other}, [][]float32{{2}})
	for range 2 {
		if got := c.Get([]Key{one, other}); !same(got[0], []float32{1}) || got[1] != nil || log.Len() > 0 {
			t.Fatalf("%v, log %s", got, log)
		}
	}
}

// TestConcurrent: many goroutines use two caches of one directory, with evictions, under the race detector.
func TestConcurrent(t *testing.T) {
	path := t.TempDir()
	const most = 200_000
	a, _ := open(t, path, most)
	b, _ := open(t, path, most)
	var workers sync.WaitGroup
	for worker := range 8 {
		workers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 3))
			c := []*Cache{a, b}[worker%2]
			for range 150 {
				numbers := make([]int, 1+random.IntN(30))
				for i := range numbers {
					numbers[i] = random.IntN(5000)
				}
				if random.IntN(2) == 0 {
					put(c, numbers...)
				}
				keys := make([]Key, len(numbers))
				for i, n := range numbers {
					keys[i] = keyOf(n)
				}
				for i, vector := range c.Get(keys) {
					if vector != nil && !same(vector, vectorOf(numbers[i])) {
						t.Errorf("a wrong vector of %d", numbers[i])
						return
					}
				}
			}
		})
	}
	workers.Wait()
	if now := size(t, path); now > most {
		t.Errorf("%d bytes, at most %d", now, most)
	}
}

// TestCannotWrite: a vector that cannot be written is not kept, which is logged once. Existing vectors are
// still found.
func TestCannotWrite(t *testing.T) {
	path := t.TempDir()
	c, log := open(t, path, 1<<20)
	put(c, 1)
	_ = c.segments[0].file.Close()
	readOnly, err := os.Open(filepath.Join(path, c.segments[0].name))
	if err != nil {
		t.Fatal(err)
	}
	c.segments[0].file = readOnly
	put(c, 2)
	put(c, 3)
	if found := get(t, c, 1, 2); !found[0] || found[1] {
		t.Errorf("found %v, want the first alone", found)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines in the log, want one:\n%s", n, log)
	}
}

// TestRemoved: somebody empties or removes the folder while it is in use.
func TestRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache")
	c, _ := open(t, path, 1<<20)
	put(c, 1, 2)
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	put(c, 3)
	if found := get(t, c, 1, 3); found[0] || !found[1] {
		t.Errorf("found %v, want the second alone", found)
	}
	other, _ := open(t, path, 1<<20)
	if !get(t, other, 3)[0] {
		t.Error("what was put after the removal is not on disk")
	}
}

// TestHeldLock: a process that is suspended during a write does not hold up the others.
func TestHeldLock(t *testing.T) {
	path := t.TempDir()
	c, log := open(t, path, 1<<20)
	put(c, 1)
	other, _ := open(t, path, 1<<20)
	held, err := other.lock()
	if err != nil {
		t.Fatal(err)
	}
	put(c, 2)
	third, _ := open(t, path, 1<<20)
	if found := get(t, third, 1, 2); !found[0] || found[1] || log.Len() == 0 {
		t.Errorf("found %v, log %q, want the first alone and a line", found, log)
	}
	_ = held.Close()
	put(c, 2)
	if !get(t, c, 2)[0] || !get(t, third, 2)[0] {
		t.Error("nothing is kept after the other one went on")
	}
}

func TestOpenErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Path: path}); err == nil || !strings.Contains(err.Error(), "cache: ") || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want one that names the path", err)
	}
}
