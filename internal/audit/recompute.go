package audit

import (
	"context"
	"slices"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/mining"
)

const (
	together      = 64      // queries whose reads share a round trip
	firstLimit    = 64      // candidates of a first search; each further search asks for four times as many
	heldDocuments = 1 << 14 // candidates held in memory at a time; a query that needs more is compared with all documents
)

// recomputer decides the lists of queries from scratch: it takes their evidence as it is stored, and searches exactly.
type recomputer struct {
	*catalog.View
	mining     *mining.Miner
	mine       func(mining.Input) mining.Outcome // mining.Mine, or what records an account of it
	searchable int                               // candidates of the widest search
	documents  uint64                            // number of documents at the beginning
}

func newRecomputer(ctx context.Context, view *catalog.View) (*recomputer, error) {
	documents, _, err := view.Collections.Counts(ctx)
	if err != nil {
		return nil, err
	}
	rules, err := mining.New(view.Rules.Mining)
	if err != nil {
		return nil, err
	}
	return &recomputer{View: view, mining: rules, mine: rules.Mine, searchable: heldDocuments, documents: documents}, nil
}

// recomputed is a query: what is stored, and what should be.
type recomputed struct {
	state   index.State
	known   bool
	outcome mining.Outcome
}

// recompute mines queries from scratch. It takes their evidence as it is stored. It reads everything else, and decides it anew by
// exact search over all documents.
func (a *recomputer) recompute(ctx context.Context, ids []string) (map[string]recomputed, error) {
	states, err := a.Collections.States(ctx, ids)
	if err != nil {
		return nil, err
	}
	var evidence []string
	for _, s := range states {
		for _, p := range s.Positives {
			evidence = append(evidence, p.Document)
		}
	}
	slices.Sort(evidence)
	documents, err := a.Collections.Documents(ctx, slices.Compact(evidence), index.WithVector|index.WithMinHash)
	if err != nil {
		return nil, err
	}
	all := make(map[string]recomputed, len(ids))
	var open []mining.Input
	for _, id := range ids {
		state, known := states[id]
		all[id] = recomputed{state: state, known: known}
		in := mining.Input{QueryID: id, Query: state.Vector}
		search := false
		for _, p := range state.Positives {
			e := mining.Evidence{ID: p.Document, Positive: p.Weight >= a.Rules.MinWeight && state.Vector != nil}
			if d, ok := documents[p.Document]; ok && !d.Deleted {
				e.Document = &d.Document
			}
			search = search || e.Positive && e.Document != nil
			in.Evidence = append(in.Evidence, e)
		}
		if search {
			open = append(open, in)
			continue
		}
		in.Exhausted = true
		all[id] = recomputed{state, known, a.mine(in)}
	}
	for limit := firstLimit; len(open) > 0; limit *= 4 {
		// One pass over all documents costs less than searches that return as many.
		if limit > a.searchable || limit > firstLimit && uint64(limit*len(open)) > a.documents {
			return all, a.scan(ctx, open, all)
		}
		var more []mining.Input
		for some := range slices.Chunk(open, max(1, heldDocuments/limit)) {
			undecided, err := a.search(ctx, some, limit, all)
			if err != nil {
				return nil, err
			}
			more = append(more, undecided...)
		}
		open = more
	}
	return all, nil
}

// search decides what it can with so many candidates, and returns the rest.
func (a *recomputer) search(ctx context.Context, inputs []mining.Input, limit int, all map[string]recomputed) (undecided []mining.Input, err error) {
	queries := make([][]float32, len(inputs))
	for i, in := range inputs {
		queries[i] = in.Query
	}
	hits, err := a.Collections.SearchExactly(ctx, queries, limit)
	if err != nil {
		return nil, err
	}
	for i, in := range inputs {
		full := in
		full.Candidates, full.Exhausted = hits[i].Documents, hits[i].Exhausted
		outcome := a.mine(full)
		if outcome.More {
			undecided = append(undecided, in)
			continue
		}
		r := all[in.QueryID]
		r.outcome = outcome
		all[in.QueryID] = r
	}
	return undecided, nil
}
