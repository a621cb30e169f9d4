package model

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/mining/reduce"
)

// TestDriftTable prints the table of docs/models.md: how much models capture of the documents they were
// fitted on, of others of the same collection, and of other collections, as a service sees it. It takes many
// minutes and needs HARDNEG_TEST_QUALITY=1.
func TestDriftTable(t *testing.T) {
	if os.Getenv("HARDNEG_TEST_QUALITY") == "" {
		t.Skip("takes many minutes: set HARDNEG_TEST_QUALITY=1")
	}
	names := []string{"aws-docs", "scifact", "medquad"}
	passages := map[string][]embed.Item{}
	for _, name := range names {
		passages[name] = openCollection(t, name, "test").passages
	}
	random := rand.New(rand.NewPCG(1, 1))
	fmt.Println("| fitted on | axes | sample | held out | fed with | odds left: lowest, at the end | share at the end |")
	for _, name := range names {
		inOrder := passages[name]
		shuffled := slices.Clone(inOrder)
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for _, c := range []struct {
			how     string
			items   []embed.Item
			samples int
			axes    int
		}{
			{"spread over", shuffled, 1000, 512}, {"first of", inOrder, 1000, 512}, {"spread over", shuffled, 2500, 512}, {"first of", inOrder, 2500, 512},
		} {
			reduction := config.Reduce{Method: "pca", Variance: 0.95, MaxDimensions: c.axes, Normalize: true, Seed: 1}
			m, err := Fit(context.Background(), nil, ensemble, reduction, 1000, c.items[:c.samples])
			if err != nil {
				t.Fatal(err)
			}
			info := m.Info()
			row := fmt.Sprintf("| %d, %s %s | %d | %.3f | %.3f", c.samples, c.how, name, info.Dimensions, info.Variance[len(info.Variance)-1].Share, info.HeldOut.Share)
			for _, other := range names {
				fed := passages[other]
				if other == name {
					fed = c.items[c.samples:]
				}
				fed = fed[:min(len(fed), 2000)]
				lowest, d := feed(t, m, fed)
				fmt.Printf("%s | %s | %.2f, %.2f | %.3f |\n", row, other, lowest, d.left(), d.Share())
			}
		}
	}
}

// left returns the share of the odds that remains.
func (d *Drift) left() float64 { return odds(d.Share()) / odds(d.heldOut.Share) }

// feed embeds documents like a service, and returns the lowest share of the odds that Drift saw.
func feed(t *testing.T, m *Model, items []embed.Item) (lowest float64, d *Drift) {
	t.Helper()
	d, lowest = NewDrift(m.Info()), math.Inf(1)
	m.Observe(func(e reduce.Energy) {
		d.Add(e)
		if d.seen >= DriftMinimum {
			lowest = min(lowest, d.left())
		}
	})
	for start := 0; start < len(items); start += 500 {
		if _, _, err := m.Vectors(context.Background(), embed.Passage, items[start:min(start+500, len(items))]); err != nil {
			t.Fatal(err)
		}
	}
	return lowest, d
}
