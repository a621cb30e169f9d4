package replay

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"hardneg/index"
	"hardneg/internal/stages"
	"hardneg/internal/wait"
	"hardneg/stream"
)

// minedChunk is the outcome of a chunk of queries.
type minedChunk struct {
	outputs []stream.Output
	counts  Counts
	bad     []BadRecord
	after   string // point id of the last query of the chunk
}

// pass gathers as many queries as fit into the memory. It mines several chunks of them at a time, and writes
// the outcomes in order.
func (r *replayer) pass(ctx context.Context) error {
	var malformed func(BadRecord)
	if r.report.Passes == 0 { // every later pass finds the same malformed records again
		r.at.Counts.Unusable = 0
		malformed = func(b BadRecord) {
			r.at.Counts.Unusable++
			r.bad(b)
		}
	}
	g, err := r.gatherer.gather(ctx, r.plan.Window, r.at.After, func(share float64) {
		r.Progress(Status{Reading: true, Share: share, Queries: r.at.Counts.Queries})
	}, malformed)
	if err != nil {
		return err
	}
	r.report.Passes++
	queries := g.inOrder()
	end := g.end
	g = nil
	group, ctx := errgroup.WithContext(ctx)
	chunks := make(chan chan minedChunk, minesInFlight-1)
	group.Go(func() error {
		defer close(chunks)
		pace := pace{rate: r.Rate, start: time.Now()}
		size := stages.MineTogether
		if r.Rate > 0 {
			size = max(1, min(size, int(r.Rate)))
		}
		for len(queries) > 0 {
			chunk := queries[:min(size, len(queries))]
			queries = queries[len(chunk):]
			if err := pace.wait(ctx, len(chunk)); err != nil {
				return err
			}
			mined := make(chan minedChunk, 1)
			select {
			case chunks <- mined:
			case <-ctx.Done():
				return ctx.Err()
			}
			group.Go(func() error {
				c, err := r.mine(ctx, chunk)
				if err != nil {
					return err
				}
				clear(chunk) // frees the memory of queries that are mined
				mined <- c
				return nil
			})
		}
		return nil
	})
	group.Go(func() error {
		for mined := range chunks {
			select {
			case c := <-mined:
				r.at.After = c.after
				r.at.Counts.add(c.counts)
				for _, b := range c.bad {
					r.bad(b)
				}
				if err := r.write(ctx, c.outputs); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil || end != "" {
		return err
	}
	r.at.Done = true
	return r.Output.Write(context.WithoutCancel(ctx), nil, r.at)
}

// pace makes queries begin at a steady rate.
type pace struct {
	rate  float64 // queries a second; 0: no limit
	start time.Time
	done  int // queries that have begun
}

// wait returns when n more queries may begin. Time that was lost is not made up for by a higher rate.
func (p *pace) wait(ctx context.Context, n int) error {
	if p.rate > 0 {
		due := time.Until(p.start.Add(time.Duration(float64(p.done) / p.rate * float64(time.Second))))
		if due < 0 {
			p.start = p.start.Add(-due)
		}
		if err := wait.For(ctx, due); err != nil {
			return err
		}
	}
	p.done += n
	return ctx.Err()
}

// mine decides the lists of a chunk of queries. That takes one round of reads, unless documents change
// meanwhile. A document with evidence in the window or in the live view cannot become a negative.
func (r *replayer) mine(ctx context.Context, queries []*query) (minedChunk, error) {
	chunk := minedChunk{after: queries[len(queries)-1].point}
	ids := make([]string, len(queries))
	for i, q := range queries {
		ids[i] = q.id
	}
	live, err := r.live.States(ctx, ids)
	if err != nil {
		return chunk, err
	}
	if err := r.gatherer.settle(ctx, queries, live); err != nil {
		return chunk, err
	}
	var open []*undecided
	for _, q := range queries {
		chunk.counts.Refused += q.refusals
		chunk.bad = append(chunk.bad, q.refused...)
		if q.state.Text == "" {
			continue // forgotten, or none of its texts can be embedded
		}
		chunk.counts.Queries++
		base := barring(q.state, live[q.id])
		base.Revision, base.StoredAt = r.plan.Revision, r.plan.Revision
		open = append(open, &undecided{query: q, base: base})
	}
	for round := 1; len(open) > 0; round++ {
		if round > stages.MaxRounds {
			return chunk, fmt.Errorf("query %q: its documents changed during each of %d readings", open[0].query.id, stages.MaxRounds)
		}
		decisions := make([]*stages.Decision, len(open))
		for i, u := range open {
			u.decision.State = u.base
			u.decision.State.Positives = slices.Clone(u.base.Positives)
			decisions[i] = &u.decision
		}
		if err := r.lists.Decide(ctx, decisions); err != nil {
			return chunk, err
		}
		var decided []*undecided
		var releases []stages.Release
		for _, u := range open {
			if u.decision.Gap {
				continue
			}
			decided = append(decided, u)
			releases = append(releases, stages.Release{
				State: u.decision.State, Lists: stages.AllLists(u.decision.State), Cause: u.query.newest, Trace: u.query.trace,
			})
		}
		outputs, torn, err := r.triplets.Render(ctx, releases)
		if err != nil {
			return chunk, err
		}
		done := map[*undecided]bool{}
		for i, u := range decided {
			if torn[i] {
				continue
			}
			done[u] = true
			chunk.outputs = append(chunk.outputs, outputs[i]...)
			chunk.counts.count(u.decision.State)
		}
		again := slices.DeleteFunc(slices.Clone(open), func(u *undecided) bool { return done[u] })
		for _, u := range again {
			r.documents.forgetSlots(u.decision.State)
		}
		open = again
	}
	return chunk, nil
}

// undecided is a query whose lists are not decided yet.
type undecided struct {
	query    *query
	base     index.State // the evidence, from which each round begins
	decision stages.Decision
}

// barring returns a state with the evidence of the live view added, without weight. So no document that the
// live view knows for the query, and no copy of it, becomes a negative.
func barring(state, live index.State) index.State {
	state.Positives = slices.Clone(state.Positives)
	for _, p := range live.Positives {
		at, ok := slices.BinarySearchFunc(state.Positives, p.Document, func(x index.Positive, id string) int { return strings.Compare(x.Document, id) })
		if !ok {
			state.Positives = slices.Insert(state.Positives, at, index.Positive{Document: p.Document})
		}
	}
	return state
}

// count adds the lists of a query to the counts.
func (c *Counts) count(state index.State) {
	for _, p := range state.Positives {
		if !p.Paired {
			continue
		}
		c.Pairs++
		c.Triplets += len(p.Slots)
		policies := map[string]bool{}
		for _, s := range p.Slots {
			policies[s.Policy] = true
		}
		for policy := range policies {
			tally(&c.Covered, policy, 1)
		}
		if p.Reason != "" {
			tally(&c.Short, string(p.Reason), 1)
		}
	}
}

// add adds other counts.
func (c *Counts) add(more Counts) {
	c.Queries, c.Pairs, c.Triplets, c.Refused = c.Queries+more.Queries, c.Pairs+more.Pairs, c.Triplets+more.Triplets, c.Refused+more.Refused
	for policy, n := range more.Covered {
		tally(&c.Covered, policy, n)
	}
	for reason, n := range more.Short {
		tally(&c.Short, reason, n)
	}
}

// tally adds n to the value of a key. It makes the map if there is none.
func tally(m *map[string]int, key string, n int) {
	if *m == nil {
		*m = map[string]int{}
	}
	(*m)[key] += n
}
