package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"hardneg/index"
	"hardneg/internal/records"
	"hardneg/stream"
)

// minedChunk is the outcome of a few queries.
type minedChunk struct {
	outputs []stream.Output
	counts  ReplayCounts
	bad     []BadRecord
	after   string // the last one's point id
}

// pass gathers as many queries as fit, mines them, several chunks at a time, and writes what comes of them in order.
func (r *replayer) pass(ctx context.Context) error {
	g, err := r.gather(ctx)
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
		size := replayTogether
		if r.Rate > 0 {
			size = max(1, min(size, int(r.Rate)))
		}
		for len(queries) > 0 {
			some := queries[:min(size, len(queries))]
			queries = queries[len(some):]
			if err := pace.wait(ctx, len(some)); err != nil {
				return err
			}
			mined := make(chan minedChunk, 1)
			select {
			case chunks <- mined:
			case <-ctx.Done():
				return ctx.Err()
			}
			group.Go(func() error {
				c, err := r.mine(ctx, some)
				if err != nil {
					return err
				}
				clear(some) // what is written need not be held
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

// pace spreads queries over time.
type pace struct {
	rate  float64 // a second; 0: as fast as it goes
	start time.Time
	done  int
}

// wait returns when n more may begin. Time that was lost is not made up for.
func (p *pace) wait(ctx context.Context, n int) error {
	if p.rate > 0 {
		due := time.Until(p.start.Add(time.Duration(float64(p.done) / p.rate * float64(time.Second))))
		if due < 0 {
			p.start = p.start.Add(-due)
		}
		if err := pause(ctx, due); err != nil {
			return err
		}
	}
	p.done += n
	return ctx.Err()
}

// mine decides the lists of a few queries, by one round of reads unless documents change under it. What the live view
// knows of a query bars, beside the evidence of the window.
func (r *replayer) mine(ctx context.Context, queries []*replayed) (minedChunk, error) {
	chunk := minedChunk{after: queries[len(queries)-1].point}
	ids := make([]string, len(queries))
	for i, q := range queries {
		ids[i] = q.id
	}
	live, err := r.live.States(ctx, ids)
	if err != nil {
		return chunk, err
	}
	if err := r.settle(ctx, queries, live); err != nil {
		return chunk, err
	}
	var tasks []*task
	var bases []index.State
	for _, q := range queries {
		chunk.counts.Refused += q.refusals
		chunk.bad = append(chunk.bad, q.refused...)
		if q.state.Text == "" {
			continue // forgotten, or nothing of it can be embedded
		}
		chunk.counts.Queries++
		base := barring(q.state, live[q.id])
		base.Revision, base.StoredAt = r.plan.Revision, r.plan.Revision
		bases = append(bases, base)
		tasks = append(tasks, &task{
			id: q.id, limit: firstLimit, forced: true,
			records: []records.Refresh{{QueryID: q.id, Source: q.newest}}, sources: []stream.Record{{Headers: q.headers}},
		})
	}
	for round := 1; len(tasks) > 0; round++ {
		if round > maxRounds {
			return chunk, fmt.Errorf("query %q: its documents changed during each of %d readings", tasks[0].id, maxRounds)
		}
		next := slices.Clone(bases)
		for i := range next {
			next[i].Positives = slices.Clone(next[i].Positives)
		}
		if err := r.miner.decide(ctx, tasks, next); err != nil {
			return chunk, err
		}
		for i, t := range tasks {
			t.state = next[i]
		}
		whole := slices.DeleteFunc(slices.Clone(tasks), func(t *task) bool { return t.gap })
		outputs, torn, err := r.miner.publish(ctx, whole)
		if err != nil {
			return chunk, err
		}
		chunk.outputs = append(chunk.outputs, outputs...)
		var left []*task
		var again []index.State
		for i, t := range tasks {
			if t.gap || slices.Contains(torn, t) {
				left, again = append(left, t), append(again, bases[i])
				r.found.forgetSlots(t.state)
			} else {
				chunk.counts.count(t.state)
			}
		}
		tasks, bases = left, again
	}
	return chunk, nil
}

// barring adds what the live view knows of a query as evidence without weight, which keeps it and its copies from being
// a negative.
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

// count adds what was decided for a query.
func (c *ReplayCounts) count(state index.State) {
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

func (c *ReplayCounts) add(more ReplayCounts) {
	c.Queries, c.Pairs, c.Triplets, c.Refused = c.Queries+more.Queries, c.Pairs+more.Pairs, c.Triplets+more.Triplets, c.Refused+more.Refused
	for policy, n := range more.Covered {
		tally(&c.Covered, policy, n)
	}
	for reason, n := range more.Short {
		tally(&c.Short, reason, n)
	}
}

func tally(m *map[string]int, key string, n int) {
	if *m == nil {
		*m = map[string]int{}
	}
	(*m)[key] += n
}
