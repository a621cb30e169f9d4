package index

import (
	"context"
	"fmt"
	"slices"

	"hardneg/mining"

	"github.com/qdrant/go-client/qdrant"
)

// The two look-ups that find the queries which a changed document affects. docs/architecture.md ("Who is
// affected by a document?") says why they miss nothing.

const (
	// cosineTolerance is how far a cosine may lie outside an entry interval and still count. It is two
	// slacks, because float32 sums differ with the order of addition: one for this cosine, one for the cosine
	// that made the interval.
	cosineTolerance = 2 * mining.Slack

	firstEntering  = 256 // limit of the first search; if fewer hits come, there are no more
	enteringGrowth = 4   // factor from one limit to the next
	watchPage      = 1000
	enteringBytes  = 400 // estimated bytes of a hit in an answer
)

// Watching returns the sorted ids of the queries whose State.Watch contains at least one of the documents.
// Those are the queries that the change or removal of such a document may affect.
func (x *Index) Watching(ctx context.Context, documentIDs []string) ([]string, error) {
	found := make(map[string]struct{})
	for ids := range slices.Chunk(documentIDs, maxPoints) {
		filter := &qdrant.Filter{Must: []*qdrant.Condition{qdrant.NewMatchKeywords(fieldWatch, ids...)}}
		err := x.scroll(ctx, x.queries, filter, watchPage, qdrant.NewWithPayloadInclude(fieldQuery), qdrant.NewWithVectors(false), func(p *qdrant.RetrievedPoint) error {
			found[stringOf(p.GetPayload()[fieldQuery])] = struct{}{}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	queries := make([]string, 0, len(found))
	for id := range found {
		queries = append(queries, id)
	}
	slices.Sort(queries)
	return queries, nil
}

// Entering returns, for each document vector, the ids of the queries whose lists the document may newly
// enter. Those are the queries with an interval in State.Entry that contains the cosine of query and
// document, give or take 2*10⁻⁵. The queries come in the order of how far the cosine lies above the lowest
// end of their intervals, the farthest first.
//
// A query's point is the vector (q, -τ), where τ is the lowest end of its intervals. The probe (d, 1)
// therefore scores cos(q, d) - τ, and a search with a score threshold of zero finds every query that the
// document may reach. It returns an error if a vector has the wrong length or holds a NaN or an infinity.
func (x *Index) Entering(ctx context.Context, vectors [][]float32) ([][]string, error) {
	probes := make([][]float32, len(vectors))
	for i, vector := range vectors {
		if err := x.checkQuery(vector); err != nil {
			return nil, fmt.Errorf("entering: document %d: %w", i, err)
		}
		probes[i] = append(slices.Clone(vector), 1)
	}
	params, err := x.searchParams(ctx, x.queries)
	if err != nil {
		return nil, err
	}
	template := qdrant.QueryPoints{
		CollectionName: x.queries, Params: params, ScoreThreshold: qdrant.PtrOf(float32(-cosineTolerance)),
		WithPayload: qdrant.NewWithPayloadInclude(fieldQuery, fieldEntry, fieldTau), WithVectors: qdrant.NewWithVectors(false),
	}
	entering := make([][]string, len(vectors))
	positions := make([]int, len(vectors)) // of each probe in vectors
	for i := range positions {
		positions[i] = i
	}
	for limit := firstEntering; len(probes) > 0; limit *= enteringGrowth {
		var unfinished [][]float32
		var unfinishedPositions []int
		err := x.queryBatches(ctx, &template, probes, limit, enteringBytes, func(i int, points []*qdrant.ScoredPoint) error {
			if len(points) == limit {
				unfinished, unfinishedPositions = append(unfinished, probes[i]), append(unfinishedPositions, positions[i])
				return nil
			}
			entering[positions[i]] = withinEntry(points)
			return nil
		})
		if err != nil {
			return nil, err
		}
		probes, positions = unfinished, unfinishedPositions
	}
	return entering, nil
}

// withinEntry returns the ids of those hits that have an entry interval which contains the cosine.
func withinEntry(points []*qdrant.ScoredPoint) []string {
	var ids []string
	for _, point := range points {
		cosine := point.GetScore() + float32Of(point.GetPayload()[fieldTau])
		for _, entry := range items(point.GetPayload()[fieldEntry], intervalOf) {
			if cosine >= entry.Low-cosineTolerance && cosine <= entry.High+cosineTolerance {
				ids = append(ids, stringOf(point.GetPayload()[fieldQuery]))
				break
			}
		}
	}
	return ids
}
