package audit

import (
	"context"
	"slices"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/mining"
)

const (
	together      = 64      // queries that share the round trips of their reads
	firstLimit    = 64      // candidates of a first search; each further search asks for four times as many
	heldDocuments = 1 << 14 // candidates that are held in memory at a time; a query that needs more is compared with all documents
)

// recomputer decides the lists of queries from scratch. It takes their evidence from the states, and searches
// exactly.
type recomputer struct {
	*catalog.View
	mining     *mining.Miner
	mine       func(mining.Input) mining.Outcome // mining.Mine, or for Explain a function that also logs
	searchable int                               // candidates of a search, at most; tests set it lower
	documents  uint64                            // number of documents at the beginning
}

// newRecomputer returns a recomputer for a view.
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

// recomputed is a query whose lists were recomputed.
type recomputed struct {
	state   index.State    // as it is stored
	known   bool           // there is a state
	outcome mining.Outcome // as it should be
}

// recompute mines queries from scratch, by exact search over all documents, and returns the outcomes by
// query. Only the evidence comes from the states.
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
	queries := make(map[string]recomputed, len(ids))
	inputs := make([]mining.Input, len(ids))
	for i, id := range ids {
		state, known := states[id]
		queries[id] = recomputed{state: state, known: known}
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
		r := queries[ids[i]]
		r.outcome = outcome
		queries[ids[i]] = r
	})
	return queries, err
}

// search finds the candidates of the inputs at the indexes in open, exactly.
func (a *recomputer) search(ctx context.Context, inputs []mining.Input, open []int, limit int) error {
	queries := make([][]float32, len(open))
	for k, i := range open {
		queries[k] = inputs[i].Query
	}
	hits, err := a.Collections.SearchExactly(ctx, queries, limit)
	if err != nil {
		return err
	}
	for k, i := range open {
		inputs[i].Candidates, inputs[i].Exhausted = hits[k].Documents, hits[k].Exhausted
	}
	return nil
}

// scan finds the candidates of the inputs at the indexes in open. Their lists would need a search that is too
// large. scan goes through all documents once, and keeps for each query the documents that the rules may look
// at.
func (a *recomputer) scan(ctx context.Context, inputs []mining.Input, open []int) error {
	nearest := make([]*mining.Nearest, len(open))
	for k, i := range open {
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
	for k, i := range open {
		nearest[k].Fill(&inputs[i])
	}
	return nil
}
