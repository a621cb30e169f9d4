package index

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Aliases returns the aliases <prefix>documents and <prefix>queries, as far as they exist, with the names of
// the collections at which they point.
func (c *Client) Aliases(ctx context.Context) (map[string]string, error) {
	answer, err := call(ctx, c, "ListAliases", "", func(ctx context.Context) (*qdrant.ListAliasesResponse, error) {
		return c.connection.GetCollectionsClient().ListAliases(ctx, &qdrant.ListAliasesRequest{})
	})
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, alias := range answer.GetAliases() {
		if name := alias.GetAliasName(); name == c.config.Prefix+"documents" || name == c.config.Prefix+"queries" {
			found[name] = alias.GetCollectionName()
		}
	}
	return found, nil
}

// Collections returns the names of all collections that belong to a generation, by the name of the
// generation.
func (c *Client) Collections(ctx context.Context) (map[string][]string, error) {
	answer, err := call(ctx, c, "ListCollections", "", func(ctx context.Context) (*qdrant.ListCollectionsResponse, error) {
		return c.connection.GetCollectionsClient().List(ctx, &qdrant.ListCollectionsRequest{})
	})
	if err != nil {
		return nil, err
	}
	found := map[string][]string{}
	for _, collection := range answer.GetCollections() {
		for _, kind := range []string{"documents-", "queries-"} {
			if generation, ok := strings.CutPrefix(collection.GetName(), c.config.Prefix+kind); ok {
				found[generation] = append(found[generation], collection.GetName())
			}
		}
	}
	return found, nil
}

// Remove deletes aliases, in one request, and then collections. Names that do not exist are no error. It does
// not ask whether a generation is live.
func (c *Client) Remove(ctx context.Context, aliases, collections []string) error {
	there, err := c.Aliases(ctx)
	if err != nil {
		return err
	}
	var actions []*qdrant.AliasOperations
	for _, name := range slices.Sorted(maps.Keys(there)) {
		if slices.Contains(aliases, name) {
			actions = append(actions, qdrant.NewAliasDelete(name))
		}
	}
	if len(actions) > 0 {
		if err := c.alias(ctx, actions...); err != nil {
			return err
		}
	}
	for _, name := range collections {
		if err := c.dropCollection(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) dropCollection(ctx context.Context, name string) error {
	_, err := call(ctx, c, "DeleteCollection", name, func(ctx context.Context) (*qdrant.CollectionOperationResponse, error) {
		return c.connection.GetCollectionsClient().Delete(ctx, &qdrant.DeleteCollection{CollectionName: name})
	})
	if err != nil && status.Code(err) != codes.NotFound {
		return err
	}
	return nil
}
