package model

import (
	"context"
	"fmt"
	"os"
	"testing"

	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/mining/reduce"
)

// TestReducerSwitches prints the table of docs/embedders.md on reduce.subtract_mean and reduce.normalize: the quality of
// the default ensemble, at the default number of dimensions, with each of their settings. Axes are the same for all. It
// takes minutes and needs HARDNEG_TEST_QUALITY=1.
func TestReducerSwitches(t *testing.T) {
	if os.Getenv("HARDNEG_TEST_QUALITY") == "" {
		t.Skip("takes minutes: set HARDNEG_TEST_QUALITY=1")
	}
	defaults := config.Default()
	for _, name := range []string{"aws-docs", "scifact", "medquad"} {
		c := openCollection(t, name, "test")
		plain, err := Fit(context.Background(), nil, defaults.Embedders, config.Reduce{Method: "none"}, 1, c.passages)
		if err != nil {
			t.Fatal(err)
		}
		passages, queries := vectors(t, plain, embed.Passage, c.passages), vectors(t, plain, embed.Query, c.queries)
		sample := passages
		if sample.Rows > defaults.Fit.Sample {
			sample = every(passages, defaults.Fit.Sample)
		}
		reducer, err := reduce.Fit(t.Context(), sample, reduce.Options{
			Variance: defaults.Reduce.Variance, MaxDimensions: defaults.Reduce.MaxDimensions, Seed: defaults.Reduce.Seed,
		})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("| %s, %d of %d dimensions |", name, reducer.Out(), plain.Dimensions())
		for _, subtract := range []bool{false, true} {
			for _, normalize := range []bool{true, false} {
				reducer.SubtractMean, reducer.Normalize = subtract, normalize
				fmt.Printf(" %.4f |", c.ndcg(project(t, reducer, passages), project(t, reducer, queries)))
			}
		}
		fmt.Println()
	}
}
