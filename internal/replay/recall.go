package replay

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"hardneg/index"
	"hardneg/internal/stages"
	"hardneg/mining"
)

// mostRecalled bounds the documents that a replay keeps in memory. A document takes about 3 KB at 512
// dimensions.
const mostRecalled = 32_768

// recall is an index that keeps the documents that searches find, because the searches of a replay find the
// same documents over and over. A search asks Qdrant only for points and their versions. The versions tell
// which documents have not changed.
type recall struct {
	*index.Index
	most int
	mu   sync.Mutex
	kept map[string]recalled // by point
}

// recalled is a kept document and its version.
type recalled struct {
	version  uint64
	document mining.Document
}

// newRecall returns an empty cache over an index.
func newRecall(x *index.Index) *recall {
	return &recall{Index: x, most: mostRecalled, kept: map[string]recalled{}}
}

// Search returns what index.Index.Search returns.
func (r *recall) Search(ctx context.Context, queries [][]float32, limit int) ([]index.Hits, error) {
	hits := make([]index.Hits, len(queries))
	open := make([]int, len(queries)) // indexes of the queries without a result
	for i := range open {
		open[i] = i
	}
	for range stages.MaxRounds {
		vectors := make([][]float32, len(open))
		for k, i := range open {
			vectors[k] = queries[i]
		}
		rankings, err := r.Rank(ctx, vectors, limit)
		if err != nil {
			return nil, err
		}
		kept, missing := r.lookUp(rankings)
		read, err := r.DocumentsAt(ctx, missing, index.WithVector|index.WithMinHash)
		if err != nil {
			return nil, err
		}
		var again []int
		for k, i := range open {
			documents, ok := r.hits(queries[i], rankings[k].Hits, kept, read)
			if !ok {
				again = append(again, i)
				continue
			}
			hits[i] = index.Hits{Documents: documents, Exhausted: rankings[k].Exhausted}
		}
		if open = again; len(open) == 0 {
			return hits, nil
		}
	}
	return nil, fmt.Errorf("the documents that a search found changed during each of %d readings", stages.MaxRounds)
}

// lookUp returns the kept documents of the rankings that have not changed, and the points of the others. It
// returns copies, because other searches may drop kept documents meanwhile.
func (r *recall) lookUp(rankings []index.Ranking) (kept map[string]recalled, missing []string) {
	kept = map[string]recalled{}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ranking := range rankings {
		for _, hit := range ranking.Hits {
			if known, ok := r.kept[hit.Point]; ok && known.version == hit.Version {
				kept[hit.Point] = known
			} else {
				missing = append(missing, hit.Point)
			}
		}
	}
	slices.Sort(missing)
	return kept, slices.Compact(missing)
}

// hits returns the documents of a ranking, or false if one of them has changed since. Versions of different
// replicas cannot be compared, because each replica counts its own writes. So a document must also have the
// score of the ranking.
func (r *recall) hits(query []float32, ranking []index.Ranked, kept map[string]recalled, read map[string]index.Document) ([]mining.Document, bool) {
	documents := make([]mining.Document, len(ranking))
	for i, hit := range ranking {
		if known, ok := kept[hit.Point]; ok && known.version == hit.Version && stages.SameCosine(mining.Cosine(query, known.document.Vector), hit.Score) {
			documents[i] = known.document
			continue
		}
		d, ok := read[hit.Point]
		if !ok || d.Deleted || !stages.SameCosine(mining.Cosine(query, d.Vector), hit.Score) {
			r.forget(hit.Point)
			return nil, false
		}
		// The document was read after the ranking. If somebody wrote it in between, with nearly the same
		// vector, it is newer than this version. That does no harm, because no later search finds this
		// version.
		r.keep(hit, d.Document)
		documents[i] = d.Document
	}
	return documents, true
}

// keep keeps a document. If there are too many it drops others, whichever come first.
func (r *recall) keep(hit index.Ranked, d mining.Document) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for point := range r.kept { // in random order
		if len(r.kept) < r.most {
			break
		}
		delete(r.kept, point)
	}
	r.kept[hit.Point] = recalled{hit.Version, d}
}

// forgetSlots drops the documents of lists that were torn, so that the next search reads them again.
func (r *recall) forgetSlots(s index.State) {
	for _, p := range s.Positives {
		for _, slot := range p.Slots {
			r.forget(index.DocumentPointID(slot.Document))
		}
	}
}

// forget drops the document of a point.
func (r *recall) forget(point string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.kept, point)
}
