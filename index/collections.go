package index

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Index is the pair of collections of one generation. Any number of goroutines may use it at the same time.
type Index struct {
	client     *Client
	dimensions int
	documents  string // collection names
	queries    string
	ordering   *qdrant.WriteOrdering
	exact      bool // search exactly, never by HNSW
	sizes      sizes
}

// The payload indexes of each collection: one for each field that a filter names. Qdrant's strict mode
// forbids filters on other fields.
var (
	documentIndexes = map[string]qdrant.FieldType{
		fieldDeleted: qdrant.FieldType_FieldTypeBool,
		fieldSource:  qdrant.FieldType_FieldTypeInteger,
		fieldOffset:  qdrant.FieldType_FieldTypeInteger,
	}
	queryIndexes = map[string]qdrant.FieldType{
		fieldDeleted: qdrant.FieldType_FieldTypeBool,
		fieldWatch:   qdrant.FieldType_FieldTypeKeyword,
		fieldToken:   qdrant.FieldType_FieldTypeInteger,

		fieldFingerprint: qdrant.FieldType_FieldTypeKeyword,
	}
)

// Create opens a generation, and creates its collections and payload indexes if they are missing. dimensions
// is the length of document vectors; query points have one component more. Several instances may call it at
// the same time. It returns an error if an existing collection has other dimensions or another distance, or
// if its writes are confirmed before every replica has them.
func (c *Client) Create(ctx context.Context, generation string, dimensions int) (*Index, error) {
	if generation == "" || dimensions <= 0 {
		return nil, fmt.Errorf("index: generation %q with %d dimensions: want a name and a positive number", generation, dimensions)
	}
	x := c.generation(generation, dimensions)
	replicated := false
	for _, want := range []struct {
		name       string
		dimensions int
		indexes    map[string]qdrant.FieldType
	}{{x.documents, dimensions, documentIndexes}, {x.queries, dimensions + 1, queryIndexes}} {
		info, err := c.ensure(ctx, want.name, want.dimensions)
		if err != nil {
			return nil, err
		}
		if err := c.verify(want.name, info, want.dimensions); err != nil {
			return nil, err
		}
		if err := c.ensureIndexes(ctx, want.name, info, want.indexes); err != nil {
			return nil, err
		}
		replicated = replicated || info.GetConfig().GetParams().GetReplicationFactor() > 1
	}
	if replicated {
		x.ordering = &qdrant.WriteOrdering{Type: qdrant.WriteOrderingType_Strong}
	}
	return x, nil
}

// Generation returns the name of the generation, which is the last part of the names of its collections.
func (x *Index) Generation() string {
	return strings.TrimPrefix(x.documents, x.client.config.Prefix+"documents-")
}

// Dimensions returns the length of document and query vectors.
func (x *Index) Dimensions() int { return x.dimensions }

// ensure creates a collection if it is missing, and returns its description.
func (c *Client) ensure(ctx context.Context, name string, dimensions int) (*qdrant.CollectionInfo, error) {
	info, err := c.info(ctx, name)
	if status.Code(err) != codes.NotFound {
		return info, err
	}
	request := &qdrant.CreateCollection{
		CollectionName: name,
		VectorsConfig:  qdrant.NewVectorsConfig(&qdrant.VectorParams{Size: uint64(dimensions), Distance: qdrant.Distance_Dot}),
	}
	if n := c.config.ReplicationFactor; n > 1 {
		request.ReplicationFactor = qdrant.PtrOf(uint32(n))
		request.WriteConsistencyFactor = qdrant.PtrOf(uint32(n))
	}
	_, createErr := call(ctx, c, "CreateCollection", name, func(ctx context.Context) (*qdrant.CollectionOperationResponse, error) {
		return c.connection.GetCollectionsClient().Create(ctx, request)
	})
	// Another instance may have created it first, so only its existence counts.
	info, err = c.info(ctx, name)
	if err != nil {
		return nil, errors.Join(createErr, err)
	}
	return info, nil
}

func (c *Client) info(ctx context.Context, name string) (*qdrant.CollectionInfo, error) {
	answer, err := call(ctx, c, "CollectionInfo", name, func(ctx context.Context) (*qdrant.GetCollectionInfoResponse, error) {
		return c.connection.GetCollectionsClient().Get(ctx, &qdrant.GetCollectionInfoRequest{CollectionName: name})
	})
	return answer.GetResult(), err
}

// verify refuses a collection whose settings would make answers wrong.
func (c *Client) verify(name string, info *qdrant.CollectionInfo, dimensions int) error {
	params := info.GetConfig().GetParams()
	vectors := params.GetVectorsConfig().GetParams()
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("qdrant at %s: collection %q %s", c.config.Address, name, fmt.Sprintf(format, args...))
	}
	switch {
	case vectors == nil:
		return refuse("has named vectors, want one unnamed vector of %d dimensions: it was made by something else", dimensions)
	case vectors.GetSize() != uint64(dimensions):
		return refuse("has %d dimensions, want %d: it belongs to another model", vectors.GetSize(), dimensions)
	case vectors.GetDistance() != qdrant.Distance_Dot:
		return refuse("has distance %s, want Dot", vectors.GetDistance())
	case vectors.GetDatatype() != qdrant.Datatype_Default && vectors.GetDatatype() != qdrant.Datatype_Float32:
		return refuse("stores vectors as %s, want Float32: cosines would not be those of the vectors written", vectors.GetDatatype())
	case params.GetReplicationFactor() > 1 && params.GetWriteConsistencyFactor() < params.GetReplicationFactor():
		return refuse("has %d replicas but confirms writes after %d: a read could miss an acknowledged write; set its write_consistency_factor to %d",
			params.GetReplicationFactor(), params.GetWriteConsistencyFactor(), params.GetReplicationFactor())
	}
	return nil
}

// ensureIndexes creates the payload indexes that are missing.
func (c *Client) ensureIndexes(ctx context.Context, name string, info *qdrant.CollectionInfo, indexes map[string]qdrant.FieldType) error {
	for field, kind := range indexes {
		if _, ok := info.GetPayloadSchema()[field]; ok {
			continue
		}
		_, err := call(ctx, c, "CreateFieldIndex", name, func(ctx context.Context) (*qdrant.UpdateResult, error) {
			return completed(c.connection.GetPointsClient().CreateFieldIndex(ctx, &qdrant.CreateFieldIndexCollection{
				CollectionName: name, FieldName: field, FieldType: &kind, Wait: qdrant.PtrOf(true),
			}))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Counts returns the exact numbers of documents that are not deleted and of queries that are not forgotten.
func (x *Index) Counts(ctx context.Context) (documents, queries uint64, err error) {
	if documents, err = x.count(ctx, x.documents, notDeleted, true); err != nil {
		return 0, 0, err
	}
	queries, err = x.count(ctx, x.queries, notDeleted, true)
	return documents, queries, err
}

// notDeleted is the filter that leaves out delete markers and forgotten queries.
var notDeleted = &qdrant.Filter{Must: []*qdrant.Condition{qdrant.NewMatchBool(fieldDeleted, false)}}

func (x *Index) count(ctx context.Context, collection string, filter *qdrant.Filter, exact bool) (uint64, error) {
	answer, err := call(ctx, x.client, "Count", collection, func(ctx context.Context) (*qdrant.CountResponse, error) {
		return x.client.connection.GetPointsClient().Count(ctx, &qdrant.CountPoints{
			CollectionName: collection, Filter: filter, Exact: &exact,
		})
	})
	return answer.GetResult().GetCount(), err
}

// sizeAge is how long a known number of points is used to choose between exact search and HNSW.
const sizeAge = 10 * time.Second

// sizes caches the number of points of each collection for sizeAge.
type sizes struct {
	mu    sync.Mutex
	known map[string]size
}

type size struct {
	points uint64
	asked  time.Time
}

// searchParams chooses exact search for collections of fewer than Config.ExactBelow points, and HNSW for
// larger ones. It makes Qdrant compare the vectors themselves: somebody may have switched quantization on, and
// the rules compare cosines that differ by less than its error.
func (x *Index) searchParams(ctx context.Context, collection string) (*qdrant.SearchParams, error) {
	if x.exact {
		return params(true), nil
	}
	x.sizes.mu.Lock()
	known, ok := x.sizes.known[collection]
	x.sizes.mu.Unlock()
	if !ok || time.Since(known.asked) > sizeAge {
		points, err := x.count(ctx, collection, nil, false)
		if err != nil {
			return nil, err
		}
		known = size{points, time.Now()}
		x.sizes.mu.Lock()
		if x.sizes.known == nil {
			x.sizes.known = make(map[string]size)
		}
		x.sizes.known[collection] = known
		x.sizes.mu.Unlock()
	}
	return params(known.points < uint64(max(x.client.config.ExactBelow, 0))), nil
}

func params(exact bool) *qdrant.SearchParams {
	return &qdrant.SearchParams{Exact: &exact, Quantization: &qdrant.QuantizationSearchParams{Ignore: qdrant.PtrOf(true)}}
}
