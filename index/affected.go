package index

import (
	"context"
	"fmt"
	"slices"

	"hardneg/mining"

	"github.com/qdrant/go-client/qdrant"
)

// The two look-ups of who is affected by a change of a document. docs/ has why they miss nothing.

const (
	// doubt is how far a probe may lie outside an entry interval and still count: two slacks, one for the cosine of
	// the probe and one for the one that the interval was made from.
	cosineTolerance = 2 * mining.Slack

	firstEntering  = 256 // limit of the first search; fewer hits than that are all there are
	enteringGrowth = 4
	watchPage      = 1000
	enteringBytes  = 400 // about what a hit takes in an answer
)

// Watching returns the sorted ids of the queries whose watch holds any of the documents.
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

// Entering returns, for each document vector, the ids of the queries whose lists the document may newly enter,
// hardest hit first: those of whose entry intervals one holds the cosine of query and document, or nearly does.
func (x *Index) Entering(ctx context.Context, vectors [][]float32) ([][]string, error) {
	probes := make([][]float32, len(vectors))
	for i, vector := range vectors {
		if err := x.checkQuery(vector); err != nil {
			return nil, fmt.Errorf("entering: document %d: %w", i, err)
		}
		// A query's point is (q, -tau): the score of (d, 1) is cos(q, d) - tau.
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

// withinEntry keeps the queries of which an entry interval holds the cosine.
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
