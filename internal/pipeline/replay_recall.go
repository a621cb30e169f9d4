package pipeline

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"hardneg/index"
	"hardneg/mining"
)

// mostRecalled bounds the documents that a replay keeps: some 3 KB each at 512 dimensions.
const mostRecalled = 32_768

// recall is an index that keeps the documents that searches find: those of a replay find the same ones over and over. A
// search asks for bare points, whose versions say which of them are as they were.
type recall struct {
	*index.Index
	mu   sync.Mutex
	kept map[string]recalled // by point
}

type recalled struct {
	version  uint64
	document mining.Document
}

func newRecall(x *index.Index) *recall { return &recall{Index: x, kept: map[string]recalled{}} }

// Search is index.Index.Search.
func (r *recall) Search(ctx context.Context, queries [][]float32, limit int) ([]index.Hits, error) {
	all := make([]index.Hits, len(queries))
	open := make([]int, len(queries))
	for i := range open {
		open[i] = i
	}
	for range maxRounds {
		vectors := make([][]float32, len(open))
		for k, i := range open {
			vectors[k] = queries[i]
		}
		rankings, err := r.Rankings(ctx, vectors, limit)
		if err != nil {
			return nil, err
		}
		read, err := r.missing(ctx, rankings)
		if err != nil {
			return nil, err
		}
		var again []int
		for k, i := range open {
			hits, ok := r.hits(queries[i], rankings[k], read)
			if !ok {
				again = append(again, i)
				continue
			}
			all[i] = index.Hits{Documents: hits, Exhausted: len(rankings[k]) < limit}
		}
		if open = again; len(open) == 0 {
			return all, nil
		}
	}
	return nil, fmt.Errorf("the documents that a search found changed during each of %d readings", maxRounds)
}

// missing reads those of the ranked documents that are not kept as they are.
func (r *recall) missing(ctx context.Context, rankings [][]index.Ranked) (map[string]index.Document, error) {
	var points []string
	r.mu.Lock()
	for _, ranking := range rankings {
		for _, hit := range ranking {
			if known, ok := r.kept[hit.Point]; !ok || known.version != hit.Version {
				points = append(points, hit.Point)
			}
		}
	}
	r.mu.Unlock()
	slices.Sort(points)
	return r.DocumentsAt(ctx, slices.Compact(points), index.WithVector|index.WithMinHash)
}

// hits are the documents of a ranking; false: one has changed since.
func (r *recall) hits(query []float32, ranking []index.Ranked, read map[string]index.Document) ([]mining.Document, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	documents := make([]mining.Document, len(ranking))
	for i, hit := range ranking {
		if known, ok := r.kept[hit.Point]; ok && known.version == hit.Version {
			documents[i] = known.document
			continue
		}
		d, ok := read[hit.Point]
		if !ok || d.Deleted || !near(mining.Cosine(query, d.Vector), hit.Score) {
			return nil, false
		}
		for point := range r.kept { // any
			if len(r.kept) < mostRecalled {
				break
			}
			delete(r.kept, point)
		}
		// It was read after the ranking. If it was written in between, with nearly the same vector, it is newer than that
		// version, which no later search will find.
		r.kept[hit.Point] = recalled{hit.Version, d.Document}
		documents[i] = d.Document
	}
	return documents, true
}
