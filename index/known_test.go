package index_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"hardneg/index"
)

// TestKnown lists queries in pages of several sizes, and then only the queries with another fingerprint.
func TestKnown(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, r := open(t, config), random(t)
		var states []index.State
		var all, unlike []string // ids, in the order of their points
		for i := range 1100 {    // more than Known reads in one call
			s := state(r, fmt.Sprintf("q%d", i), 1)
			s.Fingerprint, s.Newest = "a", index.Position{Timestamp: int64(i)}
			if i%5 == 0 {
				s.Fingerprint = "b"
			}
			if i%7 == 0 {
				s.Text, s.Vector = "", nil
			} else {
				all = append(all, s.QueryID)
				if i%5 == 0 {
					unlike = append(unlike, s.QueryID)
				}
			}
			states = append(states, s)
		}
		if err := x.WriteStates(t.Context(), states, 1); err != nil {
			t.Fatal(err)
		}
		byPoint := func(a, b string) int { return strings.Compare(index.QueryPointID(a), index.QueryPointID(b)) }
		slices.SortFunc(all, byPoint)
		slices.SortFunc(unlike, byPoint)
		through := func(from string, limit int, fingerprint string) (ids []string) {
			t.Helper()
			for {
				known, next, err := x.Known(t.Context(), from, limit, fingerprint)
				if err != nil {
					t.Fatal(err)
				}
				if len(known) > limit || len(known) < limit && next != "" {
					t.Fatalf("%d queries of %d, then %q", len(known), limit, next)
				}
				for _, k := range known {
					if fmt.Sprintf("q%d", k.Newest.Timestamp) != k.QueryID {
						t.Fatalf("%+v", k)
					}
					ids = append(ids, k.QueryID)
				}
				if from = next; next == "" {
					return ids
				}
			}
		}
		for _, limit := range []int{7, len(all), 1000, 5000} {
			if got := through("", limit, ""); !slices.Equal(got, all) {
				t.Errorf("pages of %d: %d queries, want %d", limit, len(got), len(all))
			}
			if got := through("", limit, "a"); !slices.Equal(got, unlike) {
				t.Errorf("pages of %d: %d queries of other rules, want %d", limit, len(got), len(unlike))
			}
		}
		// A list may begin at any point id, also at one that does not exist.
		const middle = "80000000-0000-4000-8000-000000000000"
		at := slices.IndexFunc(all, func(id string) bool { return index.QueryPointID(id) >= middle })
		if got := through(middle, 50, ""); !slices.Equal(got, all[at:]) {
			t.Errorf("from the middle: %d queries, want %d", len(got), len(all)-at)
		}
	})
}

// TestLive: Live opens the live generation and creates nothing.
func TestLive(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		client := dial(t, config)
		if x, err := client.Live(t.Context()); err != nil || x != nil {
			t.Fatalf("before there is one: %v, %v", x, err)
		}
		x, r := open(t, config), random(t)
		docs := []index.Document{document(r, "a", 0, 1), document(r, "b", 0, 2), document(r, "c", 0, 3)}
		if err := x.WriteDocuments(t.Context(), docs, 0, 3); err != nil {
			t.Fatal(err)
		}
		live, err := client.Live(t.Context())
		if err != nil || live.Generation() != "g1" || live.Dimensions() != dimensions {
			t.Fatalf("%+v, %v", live, err)
		}
		query := unit(r, dimensions)
		want, err := x.Search(t.Context(), [][]float32{query}, 2)
		if err != nil {
			t.Fatal(err)
		}
		got, err := live.SearchExactly(t.Context(), [][]float32{query}, 2)
		if err != nil || len(got) != 1 || got[0].Exhausted || len(got[0].Documents) != 2 || got[0].Documents[0].ID != want[0].Documents[0].ID {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	})
}

// TestHeld: a generation with only one of its collections is listed, and collections of another prefix are
// not.
func TestHeld(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		client := dial(t, config)
		if held, err := client.Held(t.Context()); err != nil || len(held) > 0 {
			t.Fatalf("before there is one: %v, %v", held, err)
		}
		for _, generation := range []string{"g2", "g1", "g3-17"} {
			if _, err := client.Open(t.Context(), generation, dimensions); err != nil {
				t.Fatal(err)
			}
		}
		other := config
		other.Prefix += "documents-of-others-"
		if _, err := dial(t, other).Open(t.Context(), "g4", dimensions); err != nil {
			t.Fatal(err)
		}
		if err := raw(t, config.Address).DeleteCollection(t.Context(), config.Prefix+"documents-g2"); err != nil {
			t.Fatal(err)
		}
		held, err := client.Held(t.Context())
		if want := []string{"g1", "g2", "g3-17"}; err != nil || !slices.Equal(slices.DeleteFunc(held, func(g string) bool { return strings.HasPrefix(g, "of-others-") }), want) {
			t.Errorf("%v, %v, want %v", held, err, want)
		}
	})
}
