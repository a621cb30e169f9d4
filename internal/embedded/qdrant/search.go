package qdrant

import (
	"cmp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"hardneg/mining/reduce"
)

// blockRows is the number of vectors that are scored together. So few scores against a batch of queries fit
// in the processor's cache, and a product of this size starts no goroutines of its own.
const blockRows = 128

// scored is a hit.
type scored struct {
	score float32
	slot  uint32
}

// search is one query of a batch.
type search struct {
	vector     []float32
	candidates bitset
	limit      int
	threshold  *float32
	hits       []scored // result, best first
}

// order ranks hits: higher scores first, equal scores by point id.
func (v *view) order(a, b scored) int {
	if a.score != b.score {
		return cmp.Compare(b.score, a.score)
	}
	return v.ids[a.slot].compare(v.ids[b.slot])
}

// run scores every candidate vector against every query of the batch and keeps the best hits. Every score comes
// from the same routine with the same order of sums, so it depends only on the two vectors.
func (v *view) run(batch []*search) {
	if len(batch) == 0 || v.dimensions == 0 {
		return
	}
	queries := reduce.NewMatrix(len(batch), v.dimensions)
	for i, s := range batch {
		copy(queries.Row(i), s.vector)
	}
	blocks := (len(v.ids) + blockRows - 1) / blockRows
	workers := max(1, min(runtime.GOMAXPROCS(0), blocks))
	tops := make([][]top, workers)
	var next atomic.Int64
	var group sync.WaitGroup
	for w := range workers {
		tops[w] = make([]top, len(batch))
		group.Go(func() {
			s := scorer{
				view: v, batch: batch, queries: queries, tops: tops[w], scores: reduce.NewMatrix(blockRows, len(batch)),
			}
			for block := int(next.Add(1)) - 1; block < blocks; block = int(next.Add(1)) - 1 {
				s.scoreBlock(block)
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

// scorer is the working state of one goroutine of a search.
type scorer struct {
	*view
	batch   []*search
	queries reduce.Matrix // the batch's vectors
	scores  reduce.Matrix // blockRows × queries
	sparse  reduce.Matrix // copies of the rows to score, if they are few in a block; allocated on first use
	tops    []top         // by query
}

func (s *scorer) scoreBlock(block int) {
	first := block * blockRows
	var rows []int // candidates of at least one query of the batch
	for row := range min(blockRows, len(s.ids)-first) {
		slot := uint32(first + row)
		if slices.ContainsFunc(s.batch, func(q *search) bool { return q.candidates.has(slot) }) {
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		return
	}
	from, d := (first%chunkRows)*s.dimensions, s.dimensions
	vectors := reduce.Matrix{Rows: rows[len(rows)-1] + 1, Cols: d, Data: s.chunks[first/chunkRows][from:]}
	dense := len(rows) > vectors.Rows/2
	if !dense {
		if s.sparse.Rows == 0 {
			s.sparse = reduce.NewMatrix(blockRows, d)
		}
		for i, row := range rows {
			copy(s.sparse.Row(i), vectors.Row(row))
		}
		vectors = s.sparse
		vectors.Rows = len(rows)
	}
	vectors.Data = vectors.Data[:vectors.Rows*d]
	reduce.Products(vectors, s.queries, reduce.Matrix{Rows: vectors.Rows, Cols: s.scores.Cols, Data: s.scores.Data[:vectors.Rows*s.scores.Cols]})
	for i, row := range rows {
		slot := uint32(first + row)
		if dense {
			i = row
		}
		for k, score := range s.scores.Row(i) {
			q := s.batch[k]
			if q.candidates.has(slot) && (q.threshold == nil || score >= *q.threshold) {
				s.tops[k].offer(s.view, q.limit, scored{score, slot})
			}
		}
	}
}

// top keeps the best hits in a heap, with the worst at its root.
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
