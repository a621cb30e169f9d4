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
	inputs := make([]mining.Input, len(ids))
	for i, id := range ids {
		state, known := states[id]
		all[id] = recomputed{state: state, known: known}
		inputs[i] = mining.Input{QueryID: id, Query: state.Vector}
		for _, p := range state.Positives {
			e := mining.Evidence{ID: p.Document, Positive: p.Weight >= a.Rules.MinWeight && state.Vector != nil}
			if d, ok := documents[p.Document]; ok && !d.Deleted {
				e.Document = &d.Document
			}
			inputs[i].Evidence = append(inputs[i].Evidence, e)
		}
	}
	batch := mining.Batch{
		Mine: a.mine, First: firstLimit, Held: heldDocuments, Trusted: true,
		Search: a.search, Scan: a.scan,
		// One pass over all documents costs less than searches that return as many.
		ScanInstead: func(limit, queries int) bool {
			return limit > a.searchable || limit > firstLimit && uint64(limit*queries) > a.documents
		},
	}
	err = batch.Run(ctx, inputs, func(i int, outcome mining.Outcome) {
		r := all[ids[i]]
		r.outcome = outcome
		all[ids[i]] = r
	})
	return all, err
}

// search finds the candidates of some inputs, exactly.
func (a *recomputer) search(ctx context.Context, inputs []mining.Input, some []int, limit int) error {
	queries := make([][]float32, len(some))
	for k, i := range some {
		queries[k] = inputs[i].Query
	}
	hits, err := a.Collections.SearchExactly(ctx, queries, limit)
	if err != nil {
		return err
	}
	for k, i := range some {
		inputs[i].Candidates, inputs[i].Exhausted = hits[k].Documents, hits[k].Exhausted
	}
	return nil
}

// scan finds the candidates of inputs whose lists reach further down than a search of bearable size. It goes through all documents
// once, and keeps for each query the documents that the rules may look at.
func (a *recomputer) scan(ctx context.Context, inputs []mining.Input, some []int) error {
	nearest := make([]*mining.Nearest, len(some))
	for k, i := range some {
		nearest[k] = a.mining.Nearest(inputs[i])
	}
	err := a.Collections.ScanDocuments(ctx, index.WithVector|index.WithMinHash, func(d index.Document) error {
		if d.Deleted {
			return nil
		}
		for _, n := range nearest {
			n.Add(d.Document)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for k, i := range some {
		nearest[k].Fill(&inputs[i])
	}
	return nil
}
