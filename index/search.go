package index

import (
	"context"
	"fmt"

	"hardneg/mining"

	"github.com/qdrant/go-client/qdrant"
)

// Hits is the answer to one search.
type Hits struct {
	Documents []mining.Document // nearest first, with vector, hash and MinHash
	Exhausted bool              // fewer documents came than the limit: the index has no more
}

// Search returns, for each query vector, the documents with the highest dot product, at most limit of them.
// Deleted documents are left out. It searches by HNSW, which may miss some, once the collection has
// Config.ExactBelow points. It returns an error if limit is not positive, or if a vector has the wrong length
// or holds a NaN or an infinity.
func (x *Index) Search(ctx context.Context, queries [][]float32, limit int) ([]Hits, error) {
	params, err := x.searchParams(ctx, x.documents)
	if err != nil {
		return nil, err
	}
	return x.search(ctx, queries, limit, params)
}

// Exact returns the same index with exact search in place of HNSW, however large the collections are.
func (x *Index) Exact() *Index {
	return &Index{client: x.client, dimensions: x.dimensions, documents: x.documents, queries: x.queries, ordering: x.ordering, exact: true}
}

// SearchExactly is Search without HNSW, however large the collection is. It misses no document.
func (x *Index) SearchExactly(ctx context.Context, queries [][]float32, limit int) ([]Hits, error) {
	return x.Exact().Search(ctx, queries, limit)
}

func (x *Index) search(ctx context.Context, queries [][]float32, limit int, params *qdrant.SearchParams) ([]Hits, error) {
	if limit <= 0 {
		return nil, fmt.Errorf("search: limit %d: want a positive number", limit)
	}
	for i, query := range queries {
		if err := x.checkQuery(query); err != nil {
			return nil, fmt.Errorf("search: query %d: %w", i, err)
		}
	}
	all := make([]Hits, 0, len(queries))
	template := qdrant.QueryPoints{
		CollectionName: x.documents, Filter: notDeleted, Params: params,
		WithPayload: qdrant.NewWithPayloadInclude(fieldDocument, fieldHash, fieldMinHash), WithVectors: qdrant.NewWithVectors(true),
	}
	size := hitBytes + 4*x.dimensions
	err := x.queryBatches(ctx, &template, queries, limit, size, func(_ int, points []*qdrant.ScoredPoint) error {
		hits := Hits{Documents: make([]mining.Document, len(points)), Exhausted: len(points) < limit}
		for i, point := range points {
			var err error
			if hits.Documents[i], err = minedFrom(point.GetPayload(), point.GetVectors()); err != nil {
				return err
			}
		}
		all = append(all, hits)
		return nil
	})
	return all, err
}

// hitBytes is the estimated size of a hit in an answer, without its vector.
const hitBytes = 700

// queryBatches runs one search for each vector, and calls f with the position of the vector and its hits. It
// sends the searches in batches, small enough that an answer stays below maxAnswerBytes if each hit takes
// hitSize bytes.
func (x *Index) queryBatches(ctx context.Context, template *qdrant.QueryPoints, vectors [][]float32, limit, hitSize int, f func(i int, points []*qdrant.ScoredPoint) error) error {
	batch := max(1, min(maxSearches, maxAnswerBytes/(limit*hitSize)))
	for start := 0; start < len(vectors); start += batch {
		part := vectors[start:min(start+batch, len(vectors))]
		request := &qdrant.QueryBatchPoints{CollectionName: template.CollectionName}
		for _, vector := range part {
			request.QueryPoints = append(request.QueryPoints, &qdrant.QueryPoints{
				CollectionName: template.CollectionName, Query: qdrant.NewQueryDense(vector), Limit: qdrant.PtrOf(uint64(limit)),
				Filter: template.Filter, Params: template.Params, ScoreThreshold: template.ScoreThreshold,
				WithPayload: template.WithPayload, WithVectors: template.WithVectors,
			})
		}
		answer, err := call(ctx, x.client, "QueryBatch", template.CollectionName, func(ctx context.Context) (*qdrant.QueryBatchResponse, error) {
			return x.client.connection.GetPointsClient().QueryBatch(ctx, request)
		})
		if err != nil {
			return err
		}
		if len(answer.GetResult()) != len(part) {
			return x.client.describe("QueryBatch", template.CollectionName, fmt.Errorf("%d answers to %d searches", len(answer.GetResult()), len(part)))
		}
		for i, result := range answer.GetResult() {
			if err := f(start+i, result.GetResult()); err != nil {
				return x.client.describe("QueryBatch", template.CollectionName, err)
			}
		}
	}
	return nil
}

func (x *Index) checkQuery(vector []float32) error {
	if len(vector) != x.dimensions {
		return fmt.Errorf("the vector has %d dimensions, the index %d", len(vector), x.dimensions)
	}
	return checkFinite("vector", vector)
}

// Ranked is a document in a ranking.
type Ranked struct {
	Point   string  // DocumentPointID of the document; DocumentsAt reads it
	Version uint64  // of the point; every write of the point changes it
	Score   float32 // dot product with the query, as the server summed it
}

// Ranking is the answer to one search by Rank.
type Ranking struct {
	Hits      []Ranked // nearest first
	Exhausted bool     // fewer documents came than the limit: the index has no more
}

// Rank is Search for long rankings: it returns the point ids and scores of the documents and nothing else.
func (x *Index) Rank(ctx context.Context, queries [][]float32, limit int) ([]Ranking, error) {
	for i, query := range queries {
		if err := x.checkQuery(query); err != nil {
			return nil, fmt.Errorf("rank: query %d: %w", i, err)
		}
	}
	params, err := x.searchParams(ctx, x.documents)
	if err != nil {
		return nil, err
	}
	template := qdrant.QueryPoints{
		CollectionName: x.documents, Filter: notDeleted, Params: params,
		WithPayload: qdrant.NewWithPayload(false), WithVectors: qdrant.NewWithVectors(false),
	}
	rankings := make([]Ranking, len(queries))
	err = x.queryBatches(ctx, &template, queries, limit, rankedBytes, func(i int, points []*qdrant.ScoredPoint) error {
		rankings[i] = Ranking{Hits: make([]Ranked, len(points)), Exhausted: len(points) < limit}
		for k, point := range points {
			rankings[i].Hits[k] = Ranked{Point: point.GetId().GetUuid(), Version: point.GetVersion(), Score: point.GetScore()}
		}
		return nil
	})
	return rankings, err
}

// rankedBytes is the estimated size of a hit of Rank in an answer.
const rankedBytes = 64
