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

// Aliases are the aliases <prefix>documents and <prefix>queries that there are, with the collections that they point at.
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

// Collections lists the collections named like those of a generation, by the part of their names that Open was given.
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

// Remove deletes aliases, in one call, and then collections. What does not exist is passed over.
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
