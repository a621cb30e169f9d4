package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"hardneg/index"
	"hardneg/internal/records"
	"hardneg/stream"
)

// What happens in the service when a generation takes the place of another. docs/generations.md has the order of things,
// and why it is that one.

// errSuperseded says that the aliases point at another generation than this pipeline's.
var errSuperseded = errors.New("another generation is live")

const (
	watchEvery   = time.Second
	retireEvery  = 5 * time.Second
	succeedBatch = 256

	notRetracted = "triplets that only the previous generation had are not retracted: hardneg audit --all --repair does it"

	// succeedPatience is how long a batch waits for a miner that is behind. Under a load that it cannot follow it always is,
	// and the new generation must come out nevertheless.
	succeedPatience = 2 * time.Second
)

// superseded compares the live generation with the own one. A view that began without one makes the first.
func (p *Pipeline) superseded(ctx context.Context) error {
	live, ok, err := p.client.Active(ctx)
	if err != nil || !ok || live == p.live || p.live == "" && modelOf(live) == live {
		return err
	}
	return fmt.Errorf("%w: %s", errSuperseded, live)
}

// watchLive ends the pipeline when another generation is promoted.
func (p *Pipeline) watchLive(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-p.supersede:
			return err
		case <-tick.C:
		}
		if err := p.superseded(ctx); errors.Is(err, errSuperseded) {
			return err
		}
	}
}

// owner is a Processor that works only for as long as the generation is live that was when its pipeline began. Before its
// first batch it asks whether it still is. It does so after InitProducerId: so either it sees that it is not, or what fenced
// the old generation after the aliases had moved has fenced it. A stage of a generation that is being built ends likewise
// once that one is live: it is in the group of those that run then, and would keep from the triplets topic what it is given.
type owner struct {
	stream.Processor
	p       *Pipeline
	checked bool
}

func (o *owner) Process(ctx context.Context, batch []stream.Record) ([]stream.Output, error) {
	if !o.checked {
		if err := o.p.superseded(ctx); err != nil {
			if errors.Is(err, errSuperseded) {
				select {
				case o.p.supersede <- err:
				default:
				}
			}
			return nil, err
		}
		o.checked = true
	}
	return o.Processor.Process(ctx, batch)
}

func (o *owner) Close() error {
	if closer, ok := o.Processor.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// takeOver ends what the stages of the previous generation do, before the first of this one's begins, and notes how far
// they told of what cannot be used. Where this one is not published yet, a miner gets at hand what that one has published.
func (p *Pipeline) takeOver(ctx context.Context) error {
	if p.record == nil {
		return nil
	}
	known, err := readGenerations(ctx, p.kafka, p.cfg.Topics.Models) // it may have been long since it was adopted
	if err != nil {
		return err
	}
	if now := known[p.generation]; now != nil {
		p.record = now
	}
	previous := forGeneration(p.named, p.record.Previous)
	if p.record.Phase != phaseLive {
		if err := fence(ctx, p.kafka, previous); err != nil {
			return err
		}
		if slices.Contains(p.cfg.Stages, StageMiner) {
			before, err := p.client.Existing(ctx, p.record.Previous)
			if err == nil {
				p.previous.Store(before)
			} else if !errors.Is(err, index.ErrNoGeneration) {
				return err
			} else {
				p.log.Warn().Err(err).Msg(notRetracted)
			}
		}
	}
	p.told = map[string]map[int32]int64{}
	for _, stage := range []string{StageIndexer, StageIntake} {
		if p.told[stage], err = p.kafka.Committed(ctx, Group(previous, stage), inputTopic(previous, stage)); err != nil {
			return err
		}
	}
	return nil
}

// succeed publishes all triplets of a generation that was promoted, and retracts what only the one before it had. It
// tells whether it is done, or was before; it is not when the context ends.
func (p *Pipeline) succeed(ctx context.Context) bool {
	if p.record == nil {
		return false
	}
	for {
		err := p.succeedOnce(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		p.log.Warn().Err(err).Msg("publishing the new generation was interrupted; beginning again")
		if pause(ctx, 10*pollPause) != nil {
			return false
		}
	}
}

func (p *Pipeline) succeedOnce(ctx context.Context) error {
	known, err := readGenerations(ctx, p.kafka, p.cfg.Topics.Models) // another owner may have done it meanwhile
	if err != nil {
		return err
	}
	if now, ok := known[p.generation]; ok {
		p.record = now
	}
	if p.record.Phase == phaseLive {
		p.previous.Store(nil)
		return nil
	}
	if err := p.publishAll(ctx); err != nil {
		return err
	}
	p.record.Phase, p.record.LiveAt = phaseLive, p.now().UTC()
	if err := p.record.write(ctx, p.kafka, p.cfg.Topics.Models); err != nil {
		return err
	}
	p.previous.Store(nil)
	p.log.Info().Str("generation", p.generation).Msg("all triplets of the new generation are published")
	return nil
}

// inherit gives the queries that this owner has not published yet what the generation before has in the triplets topic of
// them, so that the old lists and the new ones change places in one transaction, whatever it is that touches a query
// first. The stages of that generation are fenced: what the topic holds of it does not change any more. A miner of it that was
// in the middle of a batch may still store states, which then say more than what was published, never less.
func (s miner) inherit(ctx context.Context, tasks []*task) error {
	previous := s.previous.Load()
	if previous == nil {
		return nil
	}
	var ids []string
	for _, t := range tasks {
		if t.forced {
			ids = append(ids, t.id)
		}
	}
	published, err := previous.Published(ctx, ids)
	if errors.Is(err, index.ErrNoGeneration) {
		s.previous.Store(nil) // it is erased: all of this one was published before
		return nil
	}
	if err != nil {
		return err
	}
	for _, t := range tasks {
		before, ok := published[t.id]
		if !ok || !t.known && !t.tells() && len(before.Ranks) == 0 {
			continue
		}
		t.records = append(t.records, records.Refresh{
			Kind: records.KindRefresh, QueryID: t.id, Force: true, Published: before.Ranks, Revision: before.Revision,
			Source: records.Source{Topic: records.SourceRebuild, Timestamp: s.now().UnixMilli()},
		})
		t.sources = append(t.sources, t.sources[len(t.sources)-1])
	}
	return nil
}

// publishAll sends every query through refresh that this generation or the previous one knows, and waits until the miners
// are through. No owner has published what the rebuild stored, so all of it goes out. It keeps no place: where it is
// interrupted all begins again.
func (p *Pipeline) publishAll(ctx context.Context) error {
	p.log.Info().Str("generation", p.generation).Str("previous", p.record.Previous).Msg("publishing the new generation")
	total := 0
	send := func(ids []string) error {
		total += len(ids)
		return p.touch(ctx, ids)
	}
	err := inBatches(succeedBatch, func(add func(string) error) error {
		return p.queries.ScanPublished(ctx, func(q index.Published) error { return add(q.QueryID) })
	}, send)
	if err != nil {
		return err
	}
	// Then those that only the previous one knows. The other way round, a query that its last miner, fenced in the middle of a
	// batch, stores between the two scans would be in neither.
	if previous := p.previous.Load(); previous != nil {
		err := inBatches(succeedBatch, func(add func(string) error) error {
			return previous.ScanPublished(ctx, func(q index.Published) error {
				if len(q.Ranks) == 0 {
					return nil
				}
				return add(q.QueryID)
			})
		}, func(ids []string) error {
			own, err := p.queries.Published(ctx, ids)
			if err != nil {
				return err
			}
			return send(slices.DeleteFunc(ids, func(id string) bool { _, known := own[id]; return known }))
		})
		if errors.Is(err, index.ErrNoGeneration) {
			p.previous.Store(nil)
			p.log.Warn().Err(err).Msg(notRetracted)
		} else if err != nil {
			return err
		}
	}
	offsets, err := p.kafka.Offsets(ctx, p.cfg.Topics.Refresh)
	if err != nil {
		return err
	}
	p.log.Info().Int("queries", total).Msg("the new generation is on its way to the triplets topic")
	return p.awaitStage(ctx, StageMiner, written(offsets))
}

// awaitStage waits until a stage has committed up to some ends.
func (p *Pipeline) awaitStage(ctx context.Context, stage string, ends []end) error {
	for {
		left, err := behind(ctx, p.kafka, p.cfg, stage, ends)
		if err != nil || left == 0 {
			return err
		}
		if err := pause(ctx, pollPause); err != nil {
			return err
		}
	}
}

// touch sends queries through refresh, when the miner is not far behind, or soon: what changes meanwhile must not wait for
// all of them.
func (p *Pipeline) touch(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	for since := p.now(); ; {
		behind, _, err := p.backlog(ctx, maxBacklog)
		if err != nil {
			return err
		}
		if len(behind) == 0 || p.now().Sub(since) > succeedPatience {
			break
		}
		if err := pause(ctx, pollPause); err != nil {
			return err
		}
	}
	outputs := make([]stream.Output, len(ids))
	for i, id := range ids {
		outputs[i] = p.refreshOutput(records.Refresh{
			Kind: records.KindRefresh, QueryID: id, Source: records.Source{Topic: records.SourceRebuild, Timestamp: p.now().UnixMilli()},
		}, nil)
	}
	return p.kafka.Produce(ctx, outputs)
}

// inBatches hands what a scan finds on in batches of n.
func inBatches[T any](n int, scan func(add func(T) error) error, use func([]T) error) error {
	batch := make([]T, 0, n)
	err := scan(func(item T) error {
		if batch = append(batch, item); len(batch) < n {
			return nil
		}
		err := use(batch)
		batch = make([]T, 0, n)
		return err
	})
	if err != nil || len(batch) == 0 {
		return err
	}
	return use(batch)
}

// retire erases the previous generation once it need not be kept any more.
func (p *Pipeline) retire(ctx context.Context) {
	for {
		if wait := time.Until(p.record.LiveAt.Add(p.record.Keep)); wait > 0 {
			if pause(ctx, wait) != nil {
				return
			}
		}
		err := p.retireNow(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		p.log.Warn().Err(err).Str("generation", p.record.Previous).Msg("the previous generation cannot be erased yet")
		if pause(ctx, retireEvery) != nil {
			return
		}
	}
}

// retireNow erases the previous generation where this one has come to what that one told of: until then its offsets say
// which dead letters are sent.
func (p *Pipeline) retireNow(ctx context.Context) error {
	_, err := p.client.Existing(ctx, p.record.Previous)
	if errors.Is(err, index.ErrNoGeneration) {
		return nil // erased before
	}
	if err != nil {
		return err
	}
	for _, stage := range []string{StageIndexer, StageIntake} {
		ends := make([]end, 0, len(p.told[stage]))
		for partition, offset := range p.told[stage] {
			ends = append(ends, end{partition: partition, offset: offset})
		}
		if left, err := behind(ctx, p.kafka, p.cfg, stage, ends); err != nil {
			return err
		} else if left > 0 {
			return fmt.Errorf("the %s still reads %d records that it had read", stage, left)
		}
	}
	known, err := readGenerations(ctx, p.kafka, p.cfg.Topics.Models)
	if err != nil {
		return err
	}
	// That one may have been replaced before it had erased the one before it.
	line := []string{p.record.Previous}
	for g := known[p.record.Previous]; g != nil; g = known[g.Previous] {
		line = append(line, g.Previous)
	}
	for _, id := range slices.Backward(line) { // the oldest first, or those before it would be forgotten
		if err := erase(ctx, Options{Config: p.named, Kafka: p.kafka, Index: p.client}, id); err != nil {
			return err
		}
		p.log.Info().Str("generation", id).Msg("the previous generation is erased")
	}
	return nil
}
