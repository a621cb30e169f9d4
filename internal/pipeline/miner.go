package pipeline

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"hardneg/index"
	"hardneg/internal/embed"
	"hardneg/internal/records"
	"hardneg/mining"
	"hardneg/stream"
)

const (
	mineTogether  = 64 // queries whose reads share a round trip
	confirmRounds = 3  // rounds that may store; then what is stored is published, and the query comes again
	maxRounds     = 20 // rounds in which documents change between their decision and the reading of their texts
)

// miner keeps the state of queries and publishes their triplets. It stores, then confirms: what it publishes is the
// outcome of reads that began after that state was stored. docs/architecture.md says why nothing less will do.
type miner struct {
	*Pipeline
	token int64
}

// task is one query of a batch.
type task struct {
	id      string
	records []records.Refresh
	sources []stream.Record // the records behind them
	vectors map[index.Place][]float32
	first   index.State // as found, before this batch stored anything
	known   bool        // it was found
	forced  bool        // found with another owner's token or configuration, or told to: publish everything
	state   index.State // confirmed
	limit   int         // candidates that sufficed last time
	again   bool        // published unconfirmed: must come again
	torn    bool        // its documents changed between decision and publication: what is stored is out of date
	gap     bool        // its candidates were not to be had without a gap
}

func (s miner) Process(ctx context.Context, batch []stream.Record) ([]stream.Output, error) {
	tasks, outputs := s.coalesce(batch)
	for chunk := range slices.Chunk(tasks, mineTogether) {
		mined, err := s.mine(ctx, chunk)
		if err != nil {
			return nil, err
		}
		outputs = append(outputs, mined...)
	}
	return outputs, nil
}

// coalesce gathers the records of each query, queries in order of first mention.
func (s miner) coalesce(batch []stream.Record) ([]*task, []stream.Output) {
	var tasks []*task
	var outputs []stream.Output
	at := map[string]*task{}
	for _, r := range batch {
		refresh, err := records.ParseRefresh(r.Key, r.Value)
		if err != nil {
			outputs = append(outputs, s.deadLetter(StageMiner, r, err))
			continue
		}
		t, ok := at[refresh.QueryID]
		if !ok {
			t = &task{id: refresh.QueryID, limit: firstLimit, vectors: map[index.Place][]float32{}}
			at[refresh.QueryID] = t
			tasks = append(tasks, t)
		}
		t.records, t.sources = append(t.records, refresh), append(t.sources, r)
	}
	return tasks, outputs
}

// mine brings the states of a few queries up to date and returns the triplets to publish.
func (s miner) mine(ctx context.Context, tasks []*task) ([]stream.Output, error) {
	stored, err := s.states(ctx, tasks)
	if err != nil {
		return nil, err
	}
	for _, t := range tasks {
		t.first, t.known = stored[t.id]
		t.forced = !t.known || t.first.Token != s.token || t.first.Fingerprint != s.fingerprint || t.told()
	}
	if err := s.notRecreated(ctx, tasks); err != nil {
		return nil, err
	}
	if err := s.inherit(ctx, tasks); err != nil {
		return nil, err
	}
	outputs, err := s.embed(ctx, tasks)
	if err != nil {
		return nil, err
	}
	pending := slices.DeleteFunc(tasks, func(t *task) bool { return len(t.records) == 0 || !t.known && !t.tells() })
	for round := 1; len(pending) > 0; round++ {
		if round > maxRounds { // not to be left to another batch: a state under this token says that it was published
			return nil, fmt.Errorf("query %q: its documents changed during each of %d readings; trying again later", pending[0].id, maxRounds)
		}
		if round > 1 {
			if stored, err = s.states(ctx, pending); err != nil {
				return nil, err
			}
		}
		confirmed, open, err := s.confirm(ctx, pending, stored, round)
		if err != nil {
			return nil, err
		}
		published, torn, err := s.publish(ctx, confirmed)
		if err != nil {
			return nil, err
		}
		for range len(confirmed) - len(torn) {
			s.metrics.ConfirmRounds.Observe(float64(round))
		}
		outputs = append(outputs, published...)
		pending = append(open, torn...)
	}
	s.metrics.MinedQueries.Add(float64(len(tasks)))
	return outputs, nil
}

// tells reports whether the records say anything of the query by themselves.
func (t *task) tells() bool {
	return slices.ContainsFunc(t.records, func(r records.Refresh) bool { return r.Kind != records.KindRefresh || r.Force })
}

// told reports whether a record asks for the state to be stored and published anew.
func (t *task) told() bool {
	return slices.ContainsFunc(t.records, func(r records.Refresh) bool { return r.Force })
}

// published is the highest revision that the records know of, beside the state's.
func (t *task) published() (revision int64) {
	for _, r := range t.records {
		revision = max(revision, r.Revision)
	}
	return revision
}

// states reads what is stored of the queries. A token above one's own is a newer owner's.
func (s miner) states(ctx context.Context, tasks []*task) (map[string]index.State, error) {
	ids := make([]string, len(tasks))
	for i, t := range tasks {
		ids[i] = t.id
	}
	states, err := s.index.States(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if state := states[id]; state.Token > s.token {
			return nil, fmt.Errorf("the state of query %q: %w", id, &stream.FencedError{Token: state.Token})
		}
	}
	return states, nil
}

// notRecreated looks at evidence that the states hold already: this is a replay, or the query log was deleted and
// made anew, and then new evidence would silently pass for old.
func (s miner) notRecreated(ctx context.Context, tasks []*task) error {
	at := map[int32]int64{}
	for _, t := range tasks {
		for _, r := range t.records {
			if last, ok := t.first.Applied[r.Source.Partition]; ok && r.Kind != records.KindRefresh && r.Source.Offset <= last {
				at[r.Source.Partition] = max(at[r.Source.Partition], last)
			}
		}
	}
	return s.notPastEnd(ctx, s.cfg.Topics.Queries, "the states hold evidence", at)
}

// embed embeds the texts that the records bring and the states do not have yet. A record whose text cannot be
// embedded is a dead letter, whether or not it is the newest, so that the order of arrival does not matter, and whether
// or not a state covers it: the transaction that held its dead letter may have been aborted behind the store.
func (s miner) embed(ctx context.Context, tasks []*task) ([]stream.Output, error) {
	type place struct {
		t *task
		i int
	}
	var items []embed.Item
	var places []place
	for _, t := range tasks {
		for i, r := range t.records {
			if r.Kind != records.KindEvidence {
				continue
			}
			if r.Text == t.first.Text && t.first.Vector != nil && len(r.Embeddings) == 0 && len(t.first.Carried) == 0 {
				t.vectors[placeOf(r)] = t.first.Vector
				continue
			}
			items, places = append(items, embed.Item{Text: r.Text, Carried: r.Embeddings}), append(places, place{t, i})
		}
	}
	vectors, refusals, err := s.vectors(ctx, embed.Query, items)
	if err != nil {
		return nil, err
	}
	var outputs []stream.Output
	for k, at := range slices.Backward(places) { // backward, so that removing one leaves the earlier in place
		r := at.t.records[at.i]
		if refusals[k] == nil {
			at.t.vectors[placeOf(r)] = vectors[k]
			continue
		}
		reason := fmt.Errorf("record %s/%d/%d: %w", r.Source.Topic, r.Source.Partition, r.Source.Offset, refusals[k])
		outputs = append(outputs, s.deadLetter(StageMiner, at.t.sources[at.i], reason))
		at.t.records = slices.Delete(at.t.records, at.i, at.i+1)
		at.t.sources = slices.Delete(at.t.sources, at.i, at.i+1)
	}
	return outputs, nil
}

// confirm reads for each query and compares with what is stored. Equal states are confirmed; the others are stored
// and stay open, to be read again.
func (s miner) confirm(ctx context.Context, tasks []*task, stored map[string]index.State, round int) (confirmed, open []*task, err error) {
	next := make([]index.State, len(tasks))
	for i, t := range tasks {
		state := stored[t.id]
		state.QueryID = t.id
		next[i] = advance(state, t.records)
		switch vector, ok := t.vectors[next[i].Newest]; {
		case next[i].Text == "":
			next[i].Vector = nil
		case ok:
			next[i].Vector = vector
		}
	}
	if err := s.decide(ctx, tasks, next); err != nil {
		return nil, nil, err
	}
	var writes []index.State
	for i, t := range tasks {
		state, known := stored[t.id]
		if known && state.Token == s.token && state.Fingerprint == s.fingerprint && !(t.forced && round == 1) {
			same := sameState(state, next[i])
			if same || round > confirmRounds && !t.torn {
				t.state, t.again = state, !same || t.gap
				confirmed = append(confirmed, t)
				continue
			}
		}
		if !t.forced && s.shadow == nil {
			next[i].Published = stillPublished(t.first, next[i])
		}
		next[i].Token, next[i].Fingerprint = s.token, s.fingerprint
		now := s.now().UnixMilli()
		next[i].Revision, next[i].StoredAt = max(state.Revision+1, t.published()+1, now), now
		writes, open = append(writes, next[i]), append(open, t)
	}
	if len(writes) > 0 {
		if err := s.index.WriteStates(ctx, writes, s.token); err != nil {
			return nil, nil, err
		}
	}
	return confirmed, open, nil
}

// stillPublished is what a state keeps of Published when it is written anyway. first is what this owner found, under its
// own token, so an earlier batch of its own published all of it, in a transaction that was committed: every pair that had
// ended by then is retracted for good, and only what has a pair now, or had one then, may need a null some day.
func stillPublished(first, next index.State) map[string]int {
	kept := map[string]int{}
	for _, state := range []index.State{first, next} {
		for _, p := range state.Positives {
			if rank := next.Published[p.Document]; p.Paired && rank > 0 {
				kept[p.Document] = rank
			}
		}
	}
	return kept
}

// fill puts an outcome into a state. Published grows here: whatever rank was ever stored may have been published,
// by whom ever, and a forced publication must be able to retract it.
func (s miner) fill(state *index.State, outcome mining.Outcome) {
	pairs := map[string]mining.Pair{}
	for _, p := range outcome.Pairs {
		pairs[p.Positive] = p
	}
	state.Published = maps.Clone(state.Published)
	if state.Published == nil {
		state.Published = map[string]int{}
	}
	for i := range state.Positives {
		p := &state.Positives[i]
		pair, ok := pairs[p.Document]
		if ok && p.Paired && mining.SamePair(p.Pair(), pair) {
			continue // the cosines as published, or they would drift away from those unnoticed, slack by slack
		}
		p.Paired, p.Hash, p.Similarity, p.Slots, p.Reason = ok, pair.Hash, pair.Similarity, pair.Slots, pair.Reason
		if len(pair.Slots) > state.Published[p.Document] {
			state.Published[p.Document] = len(pair.Slots)
		}
	}
	state.Watch, state.Entry = outcome.Watch, outcome.Entry
}

// sameState compares what decides the triplets and the look-ups; cosines may differ by mining.Slack.
func sameState(a, b index.State) bool {
	return a.Text == b.Text && a.Newest == b.Newest && samePlace(a.Forgotten, b.Forgotten) &&
		maps.Equal(a.Applied, b.Applied) && maps.Equal(a.Published, b.Published) &&
		slices.EqualFunc(a.Positives, b.Positives, samePositive) &&
		slices.Equal(a.Watch, b.Watch) && mining.SameEntry(a.Entry, b.Entry)
}

func samePlace(a, b *index.Place) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

func samePositive(a, b index.Positive) bool {
	return a.Document == b.Document && a.Weight == b.Weight && a.Paired == b.Paired && slices.Equal(a.Log, b.Log) &&
		mining.SamePair(a.Pair(), b.Pair())
}
