package catalog

import (
	"context"
	"math/rand/v2"
	"slices"
)

// KnownQueries lists the queries that have a state, sorted. A forgotten query is not among them.
func (v *View) KnownQueries(ctx context.Context) ([]string, error) {
	const page = 10_000
	var ids []string
	for next := ""; ; {
		found, after, err := v.Collections.Known(ctx, next, page, "")
		if err != nil {
			return nil, err
		}
		for _, k := range found {
			ids = append(ids, k.QueryID)
		}
		if next = after; next == "" {
			slices.Sort(ids)
			return ids, nil
		}
	}
}

// Sample draws n of the ids, sorted; all of them for n = 0. The same ids and the same seed give the same sample.
func Sample(ids []string, n int, seed uint64) []string {
	if n == 0 || n > len(ids) {
		n = len(ids)
	}
	sample := make([]string, n)
	for i, k := range rand.New(rand.NewPCG(seed, 0)).Perm(len(ids))[:n] {
		sample[i] = ids[k]
	}
	slices.Sort(sample)
	return sample
}
