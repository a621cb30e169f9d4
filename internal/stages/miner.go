package stages

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/embed"
	"hardneg/internal/records"
	"hardneg/mining"
	"hardneg/stream"
)

const (
	// MineTogether is how many queries share the round trips of their reads.
	MineTogether = 64
	// MaxRounds bounds the rounds for queries whose documents change between the decision and the reading of
	// their texts.
	MaxRounds = 20

	confirmRounds = 3 // rounds that may store a state; then the miner publishes the stored one, and the query comes again
)

// Miner keeps the states of queries and publishes their triplets. It stores a state and then confirms it: it
// publishes a state only if reads that began after the state was stored give the same state.
// docs/architecture.md says why less is not enough.
type Miner struct {
	*Env
	index    MinerIndex
	lists    *Lists
	triplets *Triplets
	token    int64
}

// NewMiner returns the miner of a partition of the refresh topic. token is the fencing token of the
// partition's owner.
func NewMiner(e *Env, x MinerIndex, token int64) Miner {
	lists := NewLists(x, e.Rules, e.Mining, e.Log)
	lists.wide = e.WideLimit
	return Miner{
		Env: e, index: x, token: token,
		lists:    lists,
		triplets: NewTriplets(x, e.Names.Topics.Triplets, e.Generation, e.Rules, e.Metrics),
	}
}

// task is the work on one query of a batch.
type task struct {
	id      string
	records []records.Refresh
	sources []stream.Record              // for each of records, the Kafka record that it came in
	vectors map[index.Position][]float32 // of the texts of records

	before index.State // the state as this owner read it, before this batch stored anything
	known  bool        // the index had a state
	forced bool        // publish everything: the state has another owner's token or other rules, or a record asks for it

	decision  Decision    // of the current round
	confirmed index.State // the state to publish
	requeue   bool        // the state is published without confirmation: the query must come again
	torn      bool        // documents changed between decision and publication: the stored state is out of date
}

// Process mines the queries of a batch. It returns the triplets that change, queries that must come again,
// and dead letters.
func (s Miner) Process(ctx context.Context, batch []stream.Record) ([]stream.Output, error) {
	tasks, outputs := s.coalesce(batch)
	for chunk := range slices.Chunk(tasks, MineTogether) {
		mined, err := s.mine(ctx, chunk)
		if err != nil {
			return nil, err
		}
		outputs = append(outputs, mined...)
	}
	return outputs, nil
}

// coalesce returns a task for each query of a batch, in order of first mention, and dead letters.
func (s Miner) coalesce(batch []stream.Record) ([]*task, []stream.Output) {
	var tasks []*task
	var outputs []stream.Output
	at := map[string]*task{}
	for _, r := range batch {
		refresh, err := records.ParseRefresh(r.Key, r.Value)
		if err != nil {
			outputs = append(outputs, s.DeadLetter(catalog.StageMiner, r, err))
			continue
		}
		t, ok := at[refresh.QueryID]
		if !ok {
			t = &task{id: refresh.QueryID, vectors: map[index.Position][]float32{}}
			at[refresh.QueryID] = t
			tasks = append(tasks, t)
		}
		t.records, t.sources = append(t.records, refresh), append(t.sources, r)
	}
	return tasks, outputs
}

// mine brings the states of a few queries up to date, and returns what Process returns of them.
func (s Miner) mine(ctx context.Context, tasks []*task) ([]stream.Output, error) {
	stored, err := s.states(ctx, tasks)
	if err != nil {
		return nil, err
	}
	for _, t := range tasks {
		t.before, t.known = stored[t.id]
		t.forced = !t.known || t.before.Token != s.token || t.before.Fingerprint != s.Rules.Fingerprint || t.asksForAll()
	}
	if err := s.checkNotRecreated(ctx, tasks); err != nil {
		return nil, err
	}
	if err := s.inherit(ctx, tasks); err != nil {
		return nil, err
	}
	outputs, err := s.embed(ctx, tasks)
	if err != nil {
		return nil, err
	}
	pending := slices.DeleteFunc(tasks, func(t *task) bool { return len(t.records) == 0 || !t.known && !t.hasContent() })
	for round := 1; len(pending) > 0; round++ {
		if round > MaxRounds { // an error, so that the task begins again with a new token: under this one the state would count as published
			return nil, fmt.Errorf("query %q: its documents changed during each of %d readings; trying again later", pending[0].id, MaxRounds)
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
			s.Metrics.ConfirmRounds.Observe(float64(round))
		}
		outputs = append(outputs, published...)
		pending = append(open, torn...)
	}
	s.Metrics.MinedQueries.Add(float64(len(tasks)))
	return outputs, nil
}

// hasContent reports whether a record says something about a query that has no state.
func (t *task) hasContent() bool {
	return slices.ContainsFunc(t.records, func(r records.Refresh) bool { return r.Kind != records.KindRefresh || r.Force })
}

// asksForAll reports whether a record asks the miner to store and publish everything anew.
func (t *task) asksForAll() bool {
	return slices.ContainsFunc(t.records, func(r records.Refresh) bool { return r.Force })
}

// publishedRevision returns the highest revision in the records. The state may have a higher one.
func (t *task) publishedRevision() (revision int64) {
	for _, r := range t.records {
		revision = max(revision, r.Revision)
	}
	return revision
}

// states reads the stored states of the queries. If a state has a token above this owner's, a newer owner is
// at work: states returns a stream.FencedError.
func (s Miner) states(ctx context.Context, tasks []*task) (map[string]index.State, error) {
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

// checkNotRecreated looks at evidence that the states have already. Either the records are read a second
// time, or somebody has deleted the query log and made it anew. In the second case it returns an error,
// because new evidence would silently count as old.
func (s Miner) checkNotRecreated(ctx context.Context, tasks []*task) error {
	at := map[int32]int64{}
	for _, t := range tasks {
		for _, r := range t.records {
			if last, ok := t.before.Applied[r.Source.Partition]; ok && r.Kind != records.KindRefresh && r.Source.Offset <= last {
				at[r.Source.Partition] = max(at[r.Source.Partition], last)
			}
		}
	}
	return s.checkNotPastEnd(ctx, s.Names.Topics.Queries, "the states hold evidence", at)
}

// inherit adds a record to each query that this owner has not published yet. The record names the triplets
// that the previous generation has published of the query. So one transaction replaces the old lists by the
// new ones, whichever record touches the query first.
func (s Miner) inherit(ctx context.Context, tasks []*task) error {
	var ids []string
	for _, t := range tasks {
		if t.forced {
			ids = append(ids, t.id)
		}
	}
	published, err := s.Publication.Inherited(ctx, ids)
	if err != nil {
		return err
	}
	for _, t := range tasks {
		inherited, ok := published[t.id]
		if !ok || !t.known && !t.hasContent() && len(inherited.Ranks) == 0 {
			continue
		}
		t.records = append(t.records, records.Refresh{
			Kind: records.KindRefresh, QueryID: t.id, Force: true, Published: inherited.Ranks, Revision: inherited.Revision,
			Source: records.Source{Topic: records.SourceRebuild, Timestamp: s.Now().UnixMilli()},
		})
		t.sources = append(t.sources, t.sources[len(t.sources)-1])
	}
	return nil
}

// embed embeds the texts that the records bring and the states do not have yet. A record whose text cannot be
// embedded is removed and becomes a dead letter, even if it is not the newest record. Otherwise the outcome
// would depend on the order of arrival. It also becomes one if the state has applied it already: the
// transaction of its dead letter may have been aborted after the state was stored.
func (s Miner) embed(ctx context.Context, tasks []*task) ([]stream.Output, error) {
	type asked struct {
		t *task
		i int // index in its records
	}
	var items []embed.Item
	var from []asked
	for _, t := range tasks {
		for i, r := range t.records {
			if r.Kind != records.KindEvidence {
				continue
			}
			if v := KnownVector(r, t.before); v != nil {
				t.vectors[PositionOf(r.Source)] = v
				continue
			}
			items, from = append(items, embed.Item{Text: r.Text, Carried: r.Embeddings}), append(from, asked{t, i})
		}
	}
	vectors, refusals, err := s.Vectors(ctx, embed.Query, items)
	if err != nil {
		return nil, err
	}
	var outputs []stream.Output
	for k, at := range slices.Backward(from) { // backward, so that a deletion leaves the earlier indexes right
		r := at.t.records[at.i]
		if refusals[k] == nil {
			at.t.vectors[PositionOf(r.Source)] = vectors[k]
			continue
		}
		reason := fmt.Errorf("record %s/%d/%d: %w", r.Source.Topic, r.Source.Partition, r.Source.Offset, refusals[k])
		outputs = append(outputs, s.DeadLetter(catalog.StageMiner, at.t.sources[at.i], reason))
		at.t.records = slices.Delete(at.t.records, at.i, at.i+1)
		at.t.sources = slices.Delete(at.t.sources, at.i, at.i+1)
	}
	return outputs, nil
}

// KnownVector returns the vector of a record's text if one of the states has it; nil if none has. A vector
// that a record carried is of no use for other records with the same text.
func KnownVector(r records.Refresh, states ...index.State) []float32 {
	for _, s := range states {
		if r.Text == s.Text && s.Vector != nil && len(r.Embeddings) == 0 && len(s.Carried) == 0 {
			return s.Vector
		}
	}
	return nil
}

// confirm decides each query and compares the outcome with the stored state. If they are equal the query is
// confirmed. Otherwise the outcome is stored and the query stays open: the next round reads it again.
func (s Miner) confirm(ctx context.Context, tasks []*task, stored map[string]index.State, round int) (confirmed, open []*task, err error) {
	decisions := make([]*Decision, len(tasks))
	for i, t := range tasks {
		state := stored[t.id]
		state.QueryID = t.id
		next := Advance(state, t.records)
		switch vector, ok := t.vectors[next.Newest]; {
		case next.Text == "":
			next.Vector = nil
		case ok:
			next.Vector = vector
		}
		t.decision.State, decisions[i] = next, &t.decision
	}
	if err := s.lists.Decide(ctx, decisions); err != nil {
		return nil, nil, err
	}
	var writes []index.State
	for _, t := range tasks {
		state, known := stored[t.id]
		next := &t.decision.State
		if known && state.Token == s.token && state.Fingerprint == s.Rules.Fingerprint && !(t.forced && round == 1) {
			same := sameState(state, *next)
			if same || round > confirmRounds && !t.torn {
				t.confirmed, t.requeue = state, !same || t.decision.Gap
				confirmed = append(confirmed, t)
				continue
			}
		}
		if !t.forced && s.Publication.Publishes() {
			next.Published = stillPublished(t.before, *next)
		}
		next.Token, next.Fingerprint = s.token, s.Rules.Fingerprint
		now := s.Now().UnixMilli()
		next.Revision, next.StoredAt = max(state.Revision+1, t.publishedRevision()+1, now), now
		writes, open = append(writes, *next), append(open, t)
	}
	if len(writes) > 0 {
		if err := s.index.WriteStates(ctx, writes, s.token); err != nil {
			return nil, nil, err
		}
	}
	return confirmed, open, nil
}

// stillPublished returns the entries of next.Published that may still matter, for a state that is written
// anyway. This owner read the state before under its own token. So an earlier batch of this owner has
// published all of it, in a transaction that committed, and every list that had ended by then is retracted
// for good. Only a list that exists in before or in next may need a retraction later.
func stillPublished(before, next index.State) map[string]int {
	kept := map[string]int{}
	for _, state := range []index.State{before, next} {
		for _, p := range state.Positives {
			if rank := next.Published[p.Document]; p.Paired && rank > 0 {
				kept[p.Document] = rank
			}
		}
	}
	return kept
}

// sameState reports whether two states give the same triplets and look-ups. Cosines may differ by
// mining.Slack.
func sameState(a, b index.State) bool {
	return a.Text == b.Text && a.Newest == b.Newest && samePosition(a.Forgotten, b.Forgotten) &&
		maps.Equal(a.Applied, b.Applied) && maps.Equal(a.Published, b.Published) &&
		slices.EqualFunc(a.Positives, b.Positives, samePositive) &&
		slices.Equal(a.Watch, b.Watch) && mining.SameEntry(a.Entry, b.Entry)
}

// samePosition reports whether two positions are equal, or both are missing.
func samePosition(a, b *index.Position) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// samePositive reports whether two positives have the same evidence and the same list.
func samePositive(a, b index.Positive) bool {
	return a.Document == b.Document && a.Weight == b.Weight && a.Paired == b.Paired && slices.Equal(a.Log, b.Log) &&
		mining.SamePair(a.Pair(), b.Pair())
}

// publish returns the triplets and retractions of confirmed states, and the torn tasks: those whose documents
// have changed since the decision. A generation that publishes nothing yet only requeues the queries that
// must come again.
func (s Miner) publish(ctx context.Context, tasks []*task) (outputs []stream.Output, torn []*task, err error) {
	if !s.Publication.Publishes() {
		for _, t := range tasks {
			if t.requeue {
				outputs = append(outputs, s.requeue(t))
			}
		}
		return outputs, nil, nil
	}
	releases := make([]Release, len(tasks))
	for i, t := range tasks {
		cause := t.causeIndex()
		releases[i] = Release{
			State: t.confirmed, Lists: changedLists(t.before, t.confirmed, t.forced),
			Cause: t.records[cause].Source, Trace: t.sources[cause].Headers,
		}
	}
	rendered, isTorn, err := s.triplets.Render(ctx, releases)
	if err != nil {
		return nil, nil, err
	}
	for i, t := range tasks {
		if isTorn[i] {
			t.torn = true
			torn = append(torn, t)
			continue
		}
		outputs = append(outputs, rendered[i]...)
		if t.requeue {
			outputs = append(outputs, s.requeue(t))
		}
	}
	return outputs, torn, nil
}

// requeue returns a refresh record that sends the query through refresh once more.
func (s Miner) requeue(t *task) stream.Output {
	cause := t.causeIndex()
	again := records.Refresh{Kind: records.KindRefresh, QueryID: t.id, Source: t.records[cause].Source}
	return s.Refresh(again, t.sources[cause].Headers)
}

// causeIndex returns the index of the record that the query's triplets name as their source: the newest
// record that comes from a change of the inputs. If all come from the sweep, an audit or a rebuild, it is the
// last record.
func (t *task) causeIndex() int {
	for i, r := range slices.Backward(t.records) {
		if !r.Source.None() {
			return i
		}
	}
	return len(t.records) - 1
}
