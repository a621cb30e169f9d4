package index

import (
	"context"
	"slices"
	"strings"

	"github.com/qdrant/go-client/qdrant"
)

// Held lists the generations that have a collection, in order.
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
