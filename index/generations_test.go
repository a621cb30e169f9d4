package index_test

import (
	"errors"
	"maps"
	"testing"

	"hardneg/index"
)

func TestGenerations(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		ctx, c := t.Context(), dial(t, config)
		live := func(want string) {
			t.Helper()
			if got, ok, err := c.Active(ctx); err != nil || got != want || ok != (want != "") {
				t.Errorf("generation %q is live (%v, %v), want %q", got, ok, err, want)
			}
		}
		if _, err := c.Existing(ctx, "g1"); !errors.Is(err, index.ErrNoGeneration) {
			t.Errorf("a generation that never was: %v", err)
		}
		if _, err := c.Create(ctx, "g1", dimensions); err != nil {
			t.Fatal(err)
		}
		live("")
		if _, err := c.Open(ctx, "g1", dimensions); err != nil {
			t.Fatal(err)
		}
		live("g1")
		next, err := c.Create(ctx, "g2", 2*dimensions)
		if err != nil {
			t.Fatal(err)
		}
		live("g1")
		if err := c.Drop(ctx, "g1"); err == nil {
			t.Error("the live generation was dropped")
		}
		for range 2 { // the second time nothing changes
			if err := c.Promote(ctx, next); err != nil {
				t.Fatal(err)
			}
			live("g2")
		}
		if x, err := c.Live(ctx); err != nil || x.Generation() != "g2" || x.Dimensions() != 2*dimensions {
			t.Errorf("live: %v, %v", x, err)
		}
		before, err := c.Existing(ctx, "g1")
		if err != nil || before.Dimensions() != dimensions {
			t.Fatalf("the one before: %v, %v", before, err)
		}
		for range 2 {
			if err := c.Drop(ctx, "g1"); err != nil {
				t.Errorf("drop: %v", err)
			}
		}
		if _, err := c.Existing(ctx, "g1"); !errors.Is(err, index.ErrNoGeneration) {
			t.Errorf("a generation that was dropped: %v", err)
		}
		if _, err := before.Published(ctx, []string{"q"}); !errors.Is(err, index.ErrNoGeneration) {
			t.Errorf("what a generation that was dropped has published: %v", err)
		}
		if err := before.ScanPublished(ctx, func(index.Published) error { return nil }); !errors.Is(err, index.ErrNoGeneration) {
			t.Errorf("all that a generation that was dropped has published: %v", err)
		}
		live("g2")
	})
}

func TestSeedsInsertOnly(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, r := open(t, config), random(t)
		write(t, x, 0, 7, document(r, "there", 0, 7))
		if err := x.SeedDocuments(t.Context(), []index.Document{document(r, "there", 0, 3), document(r, "new", 1, 4), marker("gone", 2, 5)}); err != nil {
			t.Fatal(err)
		}
		for id, offset := range map[string]int64{"there": 7, "new": 4, "gone": 5} {
			if d, ok := read(t, x, id); !ok || d.Offset != offset || d.Deleted != (id == "gone") {
				t.Errorf("document %q: %+v, want offset %d", id, d, offset)
			}
		}
		state := func(id, text string, token int64) index.State {
			return index.State{QueryID: id, Text: text, Vector: unit(r, dimensions), Token: token, Published: map[string]int{"p": len(text)}, Revision: token + 1}
		}
		if err := x.WriteStates(t.Context(), []index.State{state("there", "mined", 5)}, 5); err != nil {
			t.Fatal(err)
		}
		if err := x.SeedStates(t.Context(), []index.State{state("there", "seeded", 0), state("new", "seeded", 0)}); err != nil {
			t.Fatal(err)
		}
		states, err := x.States(t.Context(), []string{"there", "new"})
		if err != nil || states["there"].Text != "mined" || states["new"].Text != "seeded" {
			t.Errorf("states %+v, %v", states, err)
		}
		want := map[string]index.Published{
			"there": {QueryID: "there", Ranks: map[string]int{"p": 5}, Revision: 6},
			"new":   {QueryID: "new", Ranks: map[string]int{"p": 6}, Revision: 1},
		}
		same := func(got map[string]index.Published) bool {
			return maps.EqualFunc(got, want, func(a, b index.Published) bool {
				return a.QueryID == b.QueryID && maps.Equal(a.Ranks, b.Ranks) && a.Revision == b.Revision
			})
		}
		got, err := x.Published(t.Context(), []string{"there", "new", "unknown"})
		if err != nil || !same(got) {
			t.Errorf("published %v, %v, want %v", got, err, want)
		}
		scanned := map[string]index.Published{}
		err = x.ScanPublished(t.Context(), func(p index.Published) error { scanned[p.QueryID] = p; return nil })
		if err != nil || !same(scanned) {
			t.Errorf("scanned %v, %v, want %v", scanned, err, want)
		}
		// The miner's writes replace seeded states.
		if err := x.WriteStates(t.Context(), []index.State{state("new", "mined", 9)}, 9); err != nil {
			t.Fatal(err)
		}
		if states, err = x.States(t.Context(), []string{"new"}); err != nil || states["new"].Text != "mined" {
			t.Errorf("a state written over a seed: %+v, %v", states, err)
		}
	})
}
