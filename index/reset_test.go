package index_test

import (
	"maps"
	"reflect"
	"testing"

	"hardneg/index"
)

// TestRemove deletes aliases and collections of two generations, each twice. Collections of another prefix
// stay.
func TestRemove(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		ctx := t.Context()
		client, other := dial(t, config), config
		other.Prefix += "other-"
		neighbour := dial(t, other)
		for _, c := range []*index.Client{client, neighbour} {
			if _, err := c.Open(ctx, "one", dimensions); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Create(ctx, "two", dimensions); err != nil {
				t.Fatal(err)
			}
		}
		d, q := config.Prefix+"documents", config.Prefix+"queries"
		want := map[string][]string{"one": {d + "-one", q + "-one"}, "two": {d + "-two", q + "-two"}}
		got, err := client.Collections(ctx)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("collections %v, want %v: %v", got, want, err)
		}
		aliases, err := client.Aliases(ctx)
		if err != nil || !maps.Equal(aliases, map[string]string{d: d + "-one", q: q + "-one"}) {
			t.Fatalf("aliases %v: %v", aliases, err)
		}
		for range 2 {
			if err := client.Remove(ctx, []string{q, d}, []string{d + "-one", q + "-one", q + "-two"}); err != nil {
				t.Fatal(err)
			}
		}
		got, err = client.Collections(ctx)
		if err != nil || !reflect.DeepEqual(got, map[string][]string{"two": {d + "-two"}}) {
			t.Errorf("what is left is %v: %v", got, err)
		}
		if _, ok, err := client.Active(ctx); ok || err != nil {
			t.Errorf("a generation is active: %v", err)
		}
		if generation, ok, err := neighbour.Active(ctx); generation != "one" || !ok || err != nil {
			t.Errorf("the neighbour's generation is %q: %v", generation, err)
		}
		if err := neighbour.Remove(ctx, []string{other.Prefix + "documents", other.Prefix + "queries"}, nil); err != nil {
			t.Error(err)
		}
	})
}
