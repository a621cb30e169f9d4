package qdrant

import (
	"cmp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"
)

// blockRows vectors are scored at a time: their scores against a batch of queries stay in the processor's cache, and
// gonum does not start goroutines of its own for a product this small.
const blockRows = 128

// sparseBlock is the number of wanted vectors in a block below which each is scored alone.
const sparseBlock = blockRows / 8

// scored is a hit.
type scored struct {
	score float32
	slot  uint32
}

// search is one query of a batch.
type search struct {
	vector    []float32
	wanted    bitset
	limit     int
	threshold *float32
	hits      []scored // the outcome, best first
}

// order ranks hits: higher scores first, equal ones by point id.
func (v *view) order(a, b scored) int {
	if a.score != b.score {
		return cmp.Compare(b.score, a.score)
	}
	return v.ids[a.slot].compare(v.ids[b.slot])
}

// run scores every wanted vector against every query of the batch and keeps the best. Every score comes from the same
// routine with the same order of sums, so that it depends on the two vectors alone.
func (v *view) run(batch []*search) {
	if len(batch) == 0 || v.dimensions == 0 {
		return
	}
	queries := make([]float32, 0, len(batch)*v.dimensions)
	for _, s := range batch {
		queries = append(queries, s.vector...)
	}
	blocks := (len(v.ids) + blockRows - 1) / blockRows
	workers := max(1, min(runtime.GOMAXPROCS(0), blocks))
	tops := make([][]top, workers)
	var next atomic.Int64
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			tops[w] = make([]top, len(batch))
			scores := make([]float32, blockRows*len(batch))
			for block := int(next.Add(1)) - 1; block < blocks; block = int(next.Add(1)) - 1 {
				v.scoreBlock(block, batch, queries, scores, tops[w])
			}
		})
	}
	group.Wait()
	for i, s := range batch {
		for w := range workers {
			s.hits = append(s.hits, tops[w][i].items...)
		}
		slices.SortFunc(s.hits, v.order)
		s.hits = s.hits[:min(len(s.hits), s.limit)]
	}
}

func (v *view) scoreBlock(block int, batch []*search, queries, scores []float32, tops []top) {
	first := block * blockRows
	rows := min(blockRows, len(v.ids)-first)
	var wanted []int // rows that a query of the batch wants
	for row := range rows {
		slot := uint32(first + row)
		if slices.ContainsFunc(batch, func(s *search) bool { return s.wanted.has(slot) }) {
			wanted = append(wanted, row)
		}
	}
	start := (first % chunkRows) * v.dimensions
	vectors := v.chunks[first/chunkRows][start:]
	if len(wanted) < sparseBlock {
		for _, row := range wanted {
			v.multiply(vectors[row*v.dimensions:], 1, queries, len(batch), scores[row*len(batch):])
		}
	} else {
		v.multiply(vectors, rows, queries, len(batch), scores)
	}
	for _, row := range wanted {
		slot := uint32(first + row)
		for i, score := range scores[row*len(batch) : (row+1)*len(batch)] {
			s := batch[i]
			if s.wanted.has(slot) && (s.threshold == nil || score >= *s.threshold) {
				tops[i].offer(v, s.limit, scored{score, slot})
			}
		}
	}
}

// multiply computes the products of rows vectors with n queries: scores[row*n+query].
func (v *view) multiply(vectors []float32, rows int, queries []float32, n int, scores []float32) {
	gonum.Implementation{}.Sgemm(blas.NoTrans, blas.Trans, rows, n, v.dimensions, 1, vectors, v.dimensions, queries, v.dimensions, 0, scores, n)
}

// top keeps the best hits: a heap with the worst at its root.
type top struct{ items []scored }

func (t *top) offer(v *view, limit int, hit scored) {
	if len(t.items) < limit {
		t.items = append(t.items, hit)
		for child := len(t.items) - 1; child > 0; {
			parent := (child - 1) / 2
			if v.order(t.items[child], t.items[parent]) <= 0 {
				return
			}
			t.items[child], t.items[parent] = t.items[parent], t.items[child]
			child = parent
		}
		return
	}
	if limit == 0 || v.order(hit, t.items[0]) >= 0 {
		return
	}
	t.items[0] = hit
	for parent := 0; ; {
		child := 2*parent + 1
		if child >= len(t.items) {
			return
		}
		if right := child + 1; right < len(t.items) && v.order(t.items[right], t.items[child]) > 0 {
			child = right
		}
		if v.order(t.items[child], t.items[parent]) <= 0 {
			return
		}
		t.items[child], t.items[parent] = t.items[parent], t.items[child]
		parent = child
	}
}
