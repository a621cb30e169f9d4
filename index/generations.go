package index

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A generation is a pair of collections, named <prefix>documents-<generation> and
// <prefix>queries-<generation>. The aliases <prefix>documents and <prefix>queries point at the live one.

func (c *Client) generation(name string, dimensions int) *Index {
	return &Index{
		client: c, dimensions: dimensions,
		documents: c.config.Prefix + "documents-" + name,
		queries:   c.config.Prefix + "queries-" + name,
	}
}

// Active returns the name of the live generation, at whose collections the aliases point. ok is false if
// there are no aliases. It returns an error if the two aliases do not point at the same generation.
func (c *Client) Active(ctx context.Context) (generation string, ok bool, err error) {
	targets, err := c.Aliases(ctx)
	if err != nil {
		return "", false, err
	}
	documents, queries := c.config.Prefix+"documents", c.config.Prefix+"queries"
	first, second := targets[documents], targets[queries]
	if first == "" && second == "" {
		return "", false, nil
	}
	generation, isDocuments := strings.CutPrefix(first, documents+"-")
	other, isQueries := strings.CutPrefix(second, queries+"-")
	if !isDocuments || !isQueries || generation != other {
		return "", false, fmt.Errorf("qdrant at %s: aliases %q -> %q and %q -> %q are not one generation; point both at the same one, or delete both",
			c.config.Address, documents, first, queries, second)
	}
	return generation, true, nil
}

// Open is Create. If there is no live generation yet, it makes this one live.
func (c *Client) Open(ctx context.Context, generation string, dimensions int) (*Index, error) {
	x, err := c.Create(ctx, generation, dimensions)
	if err != nil {
		return nil, err
	}
	if _, ok, err := c.Active(ctx); ok || err != nil {
		return x, err
	}
	err = c.alias(ctx, qdrant.NewAliasCreate(c.config.Prefix+"documents", x.documents), qdrant.NewAliasCreate(c.config.Prefix+"queries", x.queries))
	if err != nil {
		// Another instance may have been faster.
		if _, ok, activeErr := c.Active(ctx); ok && activeErr == nil {
			return x, nil
		}
	}
	return x, err
}

// Promote makes a generation live: it points both aliases at its collections in one request, so every reader
// sees both aliases move, or none.
func (c *Client) Promote(ctx context.Context, x *Index) error {
	documents, queries := c.config.Prefix+"documents", c.config.Prefix+"queries"
	actions := []*qdrant.AliasOperations{qdrant.NewAliasCreate(documents, x.documents), qdrant.NewAliasCreate(queries, x.queries)}
	if _, ok, err := c.Active(ctx); err != nil {
		return err
	} else if ok {
		actions = append([]*qdrant.AliasOperations{qdrant.NewAliasDelete(documents), qdrant.NewAliasDelete(queries)}, actions...)
	}
	return c.alias(ctx, actions...)
}

func (c *Client) alias(ctx context.Context, actions ...*qdrant.AliasOperations) error {
	_, err := call(ctx, c, "UpdateAliases", "", func(ctx context.Context) (*qdrant.CollectionOperationResponse, error) {
		return c.connection.GetCollectionsClient().UpdateAliases(ctx, &qdrant.ChangeAliases{Actions: actions})
	})
	return err
}

// Live opens the live generation and creates nothing. It returns nil and no error if there is none yet.
func (c *Client) Live(ctx context.Context) (*Index, error) {
	generation, ok, err := c.Active(ctx)
	if err != nil || !ok {
		return nil, err
	}
	return c.Existing(ctx, generation)
}

// ErrNoGeneration means that a generation, or one of its collections, does not exist.
var ErrNoGeneration = errors.New("the generation has no collections")

// Existing opens a generation and creates nothing. It returns ErrNoGeneration if there is no documents
// collection.
func (c *Client) Existing(ctx context.Context, generation string) (*Index, error) {
	x := c.generation(generation, 0)
	info, err := c.info(ctx, x.documents)
	if status.Code(err) == codes.NotFound {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoGeneration, generation, err)
	}
	if err != nil {
		return nil, err
	}
	x.dimensions = int(info.GetConfig().GetParams().GetVectorsConfig().GetParams().GetSize())
	return x, c.verify(x.documents, info, x.dimensions)
}

// Held lists the names of the generations that have at least one collection, sorted.
func (c *Client) Held(ctx context.Context) ([]string, error) {
	answer, err := call(ctx, c, "ListCollections", "", func(ctx context.Context) (*qdrant.ListCollectionsResponse, error) {
		return c.connection.GetCollectionsClient().List(ctx, &qdrant.ListCollectionsRequest{})
	})
	if err != nil {
		return nil, err
	}
	var held []string
	for _, collection := range answer.GetCollections() {
		for _, kind := range []string{"documents-", "queries-"} {
			if generation, ok := strings.CutPrefix(collection.GetName(), c.config.Prefix+kind); ok {
				held = append(held, generation)
			}
		}
	}
	slices.Sort(held)
	return slices.Compact(held), nil
}

// Drop deletes the collections of a generation. Collections that do not exist are no error; a live generation
// is.
func (c *Client) Drop(ctx context.Context, generation string) error {
	if live, ok, err := c.Active(ctx); err != nil {
		return err
	} else if ok && live == generation {
		return fmt.Errorf("qdrant at %s: generation %s is live and cannot be dropped", c.config.Address, generation)
	}
	x := c.generation(generation, 0)
	for _, name := range []string{x.queries, x.documents} { // documents last: Existing looks for them
		if err := c.dropCollection(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// insertOnly is the guard of writes that must not replace a point: no point has the nil UUID, so no stored
// point matches.
func insertOnly() *qdrant.Filter {
	return &qdrant.Filter{Must: []*qdrant.Condition{qdrant.NewHasID(qdrant.NewIDUUID(uuid.Nil.String()))}}
}

// SeedDocuments inserts documents from any partitions, to fill a new generation. Documents that the index
// already has stay as they are.
func (x *Index) SeedDocuments(ctx context.Context, docs []Document) error {
	points := make([]*qdrant.PointStruct, len(docs))
	for i := range docs {
		var err error
		if points[i], err = documentPoint(&docs[i], x.dimensions); err != nil {
			return fmt.Errorf("document %q: %w", docs[i].ID, err)
		}
	}
	return x.upsert(ctx, x.documents, points, insertOnly())
}

// SeedStates inserts states, to fill a new generation. States that the index already has stay as they are.
func (x *Index) SeedStates(ctx context.Context, states []State) error {
	points := make([]*qdrant.PointStruct, len(states))
	for i := range states {
		var err error
		if points[i], err = x.statePoint(&states[i]); err != nil {
			return fmt.Errorf("query %q: %w", states[i].QueryID, err)
		}
	}
	return x.upsert(ctx, x.queries, points, insertOnly())
}

// Published says which triplets of a query may be in the triplets topic, as far as its state knows.
type Published struct {
	QueryID  string
	Ranks    map[string]int // by positive, the highest rank that was ever stored
	Revision int64          // State.Revision
}

var withPublished = qdrant.NewWithPayloadInclude(fieldQuery, fieldPublished, fieldRevision)

func publishedFrom(fields payload) Published {
	return Published{stringOf(fields[fieldQuery]), publishedOf(fields[fieldPublished]), fields[fieldRevision].GetIntegerValue()}
}

// ScanPublished calls f for every query, forgotten ones included, in the order of point ids. An error of f
// ends the scan and is returned. It returns ErrNoGeneration if there is no queries collection.
func (x *Index) ScanPublished(ctx context.Context, f func(Published) error) error {
	return orNoGeneration(x.scroll(ctx, x.queries, nil, knownPage, withPublished, qdrant.NewWithVectors(false), func(p *qdrant.RetrievedPoint) error {
		return f(publishedFrom(p.GetPayload()))
	}))
}

func orNoGeneration(err error) error {
	if status.Code(err) == codes.NotFound {
		return fmt.Errorf("%w: %w", ErrNoGeneration, err)
	}
	return err
}

// Published returns the Published of these queries, by id. Ids that the index does not know are not in the
// map. It returns ErrNoGeneration if there is no queries collection.
func (x *Index) Published(ctx context.Context, queryIDs []string) (map[string]Published, error) {
	found := make(map[string]Published, len(queryIDs))
	err := x.points(ctx, x.queries, pointIDs(queryIDs, QueryPointID), withPublished, qdrant.NewWithVectors(false), func(p *qdrant.RetrievedPoint) error {
		q := publishedFrom(p.GetPayload())
		found[q.QueryID] = q
		return nil
	})
	return found, orNoGeneration(err)
}
