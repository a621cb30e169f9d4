package catalog

import (
	"context"
	"math/rand/v2"
	"slices"
)

// KnownQueries returns the ids of the queries that have a state, sorted. It leaves out forgotten queries.
func (v *View) KnownQueries(ctx context.Context) ([]string, error) {
	const page = 10_000
	var ids []string
	for next := ""; ; {
		known, after, err := v.Collections.Known(ctx, next, page, "")
		if err != nil {
			return nil, err
		}
		for _, k := range known {
			ids = append(ids, k.QueryID)
		}
		if next = after; next == "" {
			slices.Sort(ids)
			return ids, nil
		}
	}
}

// Sample returns n of the ids, sorted, or all of them if n is 0 or there are no more than n. The ids must be
// in a fixed order: the same ids in the same order with the same seed give the same sample.
func Sample(ids []string, n int, seed uint64) []string {
	if n <= 0 || n > len(ids) {
		n = len(ids)
	}
	sample := make([]string, n)
	for i, k := range rand.New(rand.NewPCG(seed, 0)).Perm(len(ids))[:n] {
		sample[i] = ids[k]
	}
	slices.Sort(sample)
	return sample
}
