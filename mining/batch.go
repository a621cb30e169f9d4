package mining

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

const (
	defaultFirst = 48
	defaultHeld  = 1 << 14
	growth       = 4       // the next search for a query asks for so many times as many candidates
	mostLimit    = 1 << 28 // a query that needs so many candidates shows a fault of Search, not a long list
)

// Batch mines many queries. It searches for candidates, mines, and searches again, with four times as many
// candidates, for the queries whose outcome says More. Queries with the same limit share a search.
type Batch struct {
	// Mine decides one query: Miner.Mine, or a function around Miner.Explain. It is called with More outcomes
	// too.
	Mine func(Input) Outcome

	// Search finds the candidates of the inputs at the given places: for each of them the limit documents
	// that are nearest to Query, or all documents if there are fewer. It sets Candidates of each, and
	// Exhausted if these are all documents. A search that reads only a part of its ranking sets Floor too.
	// All three are empty before. Corpus.Search is such a function. Its error ends Run, which returns it as
	// it is.
	Search func(ctx context.Context, inputs []Input, places []int, limit int) error

	// Scan, if there is one, takes the place of Search where one pass over all documents costs less. It sets
	// Candidates and Exhausted of the inputs at the given places, as Nearest.Fill does. Run asks ScanInstead
	// before each round: limit is the limit of the next search, and queries is the number of inputs that need
	// it. Scan gets all of them at once. If ScanInstead is nil, each round is a scan.
	Scan        func(ctx context.Context, inputs []Input, places []int) error
	ScanInstead func(limit, queries int) bool

	// First is the limit of a query's first search if Input.Limit is 0. First 0 means 48.
	First int

	// Held bounds the candidates that are in memory at a time, with their vectors: a search gets at most
	// Held/limit inputs, but at least one. 0 means 16,384.
	Held int

	// Trusted leaves out Input.Validate, which Run calls for each input before and after its search. It is
	// for inputs whose ids and vectors were checked when they were stored.
	Trusted bool
}

// Run decides all inputs, and calls decided once for each, in no particular order, with its place in inputs.
// It changes the inputs: Limit is that of the last search, and Candidates, Exhausted and Floor are left
// empty. An input without a positive that has a document needs no search.
//
// An error is that of ctx, Search, Scan or Input.Validate, or says that a search with a huge limit or a scan
// has left a query open. Some inputs may have been decided before. Run uses one processor; call it for parts
// of the inputs to use more.
func (b *Batch) Run(ctx context.Context, inputs []Input, decided func(i int, out Outcome)) error {
	var open []int
	for i := range inputs {
		in := &inputs[i]
		in.reset()
		if err := b.validate(in); err != nil {
			return err
		}
		if in.Limit <= 0 {
			in.Limit = b.first()
		}
		if in.searches() {
			open = append(open, i)
			continue
		}
		in.Exhausted = true
		decided(i, b.Mine(*in))
		in.reset()
	}
	for len(open) > 0 {
		// The inputs with the lowest limit go first: those that need more join the inputs that wait for the
		// next limit.
		lowest := slices.MinFunc(open, func(i, j int) int { return cmp.Compare(inputs[i].Limit, inputs[j].Limit) })
		limit := inputs[lowest].Limit
		if limit >= mostLimit {
			return fmt.Errorf("mining: query %q needs more than %d candidates: does Search set Exhausted?", inputs[lowest].QueryID, limit/growth)
		}
		var now, later []int
		for _, i := range open {
			if inputs[i].Limit == limit {
				now = append(now, i)
			} else {
				later = append(later, i)
			}
		}
		open = later
		if b.Scan != nil && (b.ScanInstead == nil || b.ScanInstead(limit, len(now))) {
			if err := b.scan(ctx, inputs, now, decided); err != nil {
				return err
			}
			continue
		}
		for part := range slices.Chunk(now, max(1, b.held()/limit)) {
			more, err := b.search(ctx, inputs, part, limit, decided)
			if err != nil {
				return err
			}
			open = append(open, more...)
		}
	}
	return nil
}

// search decides what it can with so many candidates, and returns the places of the rest with a larger limit.
func (b *Batch) search(ctx context.Context, inputs []Input, places []int, limit int, decided func(int, Outcome)) (more []int, err error) {
	if err := b.Search(ctx, inputs, places, limit); err != nil {
		return nil, err
	}
	for _, i := range places {
		out, err := b.mine(&inputs[i])
		if err != nil {
			return nil, err
		}
		if out.More {
			inputs[i].Limit = limit * growth
			more = append(more, i)
			continue
		}
		decided(i, out)
	}
	return more, nil
}

func (b *Batch) scan(ctx context.Context, inputs []Input, places []int, decided func(int, Outcome)) error {
	if err := b.Scan(ctx, inputs, places); err != nil {
		return err
	}
	for _, i := range places {
		out, err := b.mine(&inputs[i])
		if err != nil {
			return err
		}
		if out.More {
			return fmt.Errorf("mining: query %q is open after a scan: does Scan set Exhausted?", inputs[i].QueryID)
		}
		decided(i, out)
	}
	return nil
}

// mine decides one input, and drops its candidates at once, so that their memory can be used for the next
// search.
func (b *Batch) mine(in *Input) (Outcome, error) {
	defer in.reset()
	if err := b.validate(in); err != nil {
		return Outcome{}, err
	}
	return b.Mine(*in), nil
}

func (in *Input) reset() { in.Candidates, in.Exhausted, in.Floor = nil, false, nil }

func (b *Batch) validate(in *Input) error {
	if b.Trusted {
		return nil
	}
	return in.Validate()
}

func (b *Batch) first() int {
	if b.First > 0 {
		return b.First
	}
	return defaultFirst
}

func (b *Batch) held() int {
	if b.Held > 0 {
		return b.Held
	}
	return defaultHeld
}
