package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hardneg/index"
	"hardneg/internal/batches"
	"hardneg/internal/catalog"
	"hardneg/internal/records"
	"hardneg/internal/stages"
	"hardneg/internal/wait"
	"hardneg/stream"
)

// This file is what the service does when one generation takes the place of another. docs/generations.md gives the order of the
// steps and its reasons.

const (
	retireEvery  = 5 * time.Second
	succeedBatch = 256

	notRetracted = "triplets that only the previous generation had are not retracted: hardneg audit --all --repair does it"

	// succeedPatience is how long a batch waits for a miner that is behind. Under a load that the miner cannot follow it is always
	// behind, and the new generation must be published nevertheless.
	succeedPatience = 2 * time.Second
)

// successor publishes a generation that was promoted, and then erases the previous one.
type successor struct {
	catalog.Conn
	env         *stages.Env
	collections *index.Index
	publication *stages.Successor
	record      *catalog.Generation // as last read
}

// takeOver ends the stages of the previous generation, before the first stage of this one begins, and notes how far they have reported
// malformed records. If this generation is not published yet, its miners need the collections of the previous one: they
// say what must be retracted.
func (b *bootstrap) takeOver(ctx context.Context, live catalog.Live) (*stages.Successor, *catalog.Generation, error) {
	known, err := catalog.ReadGenerations(ctx, b.Kafka, b.Config.Topics.Models) // the record may have changed since the start
	if err != nil {
		return nil, nil, err
	}
	record := live.Record
	if now := known[live.Generation]; now != nil {
		record = now
	}
	names := catalog.NamesOf(b.Config, record.Previous)
	var previous *index.Index
	if record.Phase != catalog.PhaseLive {
		if err := catalog.Fence(ctx, b.Kafka, names); err != nil {
			return nil, nil, err
		}
		if slices.Contains(b.Config.Stages, catalog.StageMiner) {
			previous, err = b.Index.Existing(ctx, record.Previous)
			if errors.Is(err, index.ErrNoGeneration) {
				b.Log.Warn().Err(err).Msg(notRetracted)
			} else if err != nil {
				return nil, nil, err
			}
		}
	}
	reported := map[string]map[int32]int64{}
	for _, stage := range []string{catalog.StageIndexer, catalog.StageIntake} {
		if reported[stage], err = b.Kafka.Committed(ctx, names.Group(stage), names.Input(stage)); err != nil {
			return nil, nil, err
		}
	}
	return stages.NewSuccessor(reported, previous), record, nil
}

// succeed publishes all triplets of a generation that was promoted, and retracts those that only the previous one had. It returns true
// when this is done, or was done before, and false when the context ends first.
func (s *successor) succeed(ctx context.Context) bool {
	for {
		err := s.succeedOnce(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		s.Log.Warn().Err(err).Msg("publishing the new generation was interrupted; beginning again")
		if wait.For(ctx, retryEvery) != nil {
			return false
		}
	}
}

func (s *successor) succeedOnce(ctx context.Context) error {
	known, err := catalog.ReadGenerations(ctx, s.Kafka, s.Config.Topics.Models) // another owner may have done it meanwhile
	if err != nil {
		return err
	}
	if now, ok := known[s.env.Generation]; ok {
		s.record = now
	}
	if s.record.Phase == catalog.PhaseLive {
		s.publication.Complete()
		return nil
	}
	if err := s.publishAll(ctx); err != nil {
		return err
	}
	s.record.Phase, s.record.LiveAt = catalog.PhaseLive, s.env.Now().UTC()
	if err := s.record.Write(ctx, s.Kafka, s.Config.Topics.Models); err != nil {
		return err
	}
	s.publication.Complete()
	s.Log.Info().Str("generation", s.env.Generation).Msg("all triplets of the new generation are published")
	return nil
}

// publishAll sends every query through refresh that this generation or the previous one knows, and waits until the miners have
// processed them. No owner has published what the rebuild stored, so the miners publish all of it. publishAll keeps no
// position: after an interruption it begins again.
func (s *successor) publishAll(ctx context.Context) error {
	s.Log.Info().Str("generation", s.env.Generation).Str("previous", s.record.Previous).Msg("publishing the new generation")
	total := 0
	send := func(ids []string) error {
		total += len(ids)
		return s.touch(ctx, ids)
	}
	err := batches.Each(succeedBatch, func(add func(string) error) error {
		return s.collections.ScanPublished(ctx, func(q index.Published) error { return add(q.QueryID) })
	}, send)
	if err != nil {
		return err
	}
	// Then the queries that only the previous generation knows. In the other order, a query could be in neither scan: one that the
	// last miner of that generation, fenced in the middle of a batch, stores between the two.
	if previous := s.publication.Previous(); previous != nil {
		err := batches.Each(succeedBatch, func(add func(string) error) error {
			return previous.ScanPublished(ctx, func(q index.Published) error {
				if len(q.Ranks) == 0 {
					return nil
				}
				return add(q.QueryID)
			})
		}, func(ids []string) error {
			own, err := s.collections.Published(ctx, ids)
			if err != nil {
				return err
			}
			return send(slices.DeleteFunc(ids, func(id string) bool { _, known := own[id]; return known }))
		})
		if errors.Is(err, index.ErrNoGeneration) {
			s.publication.Complete()
			s.Log.Warn().Err(err).Msg(notRetracted)
		} else if err != nil {
			return err
		}
	}
	offsets, err := s.Kafka.Offsets(ctx, s.env.Names.Topics.Refresh)
	if err != nil {
		return err
	}
	s.Log.Info().Int("queries", total).Msg("the new generation is on its way to the triplets topic")
	return s.env.Names.Await(ctx, s.Kafka, catalog.StageMiner, catalog.WrittenEnds(offsets), catalog.PollEvery, nil)
}

// touch sends queries through refresh when the miner is not far behind, or after a short wait: changes that come meanwhile must not
// wait for all of the queries.
func (s *successor) touch(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	for since := s.env.Now(); ; {
		behind, _, err := backlog(ctx, s.Kafka, s.env.Names, maxBacklog)
		if err != nil {
			return err
		}
		if len(behind) == 0 || s.env.Now().Sub(since) > succeedPatience {
			break
		}
		if err := wait.For(ctx, catalog.PollEvery); err != nil {
			return err
		}
	}
	outputs := make([]stream.Output, len(ids))
	for i, id := range ids {
		outputs[i] = s.env.Refresh(records.Refresh{
			Kind: records.KindRefresh, QueryID: id, Source: records.Source{Topic: records.SourceRebuild, Timestamp: s.env.Now().UnixMilli()},
		}, nil)
	}
	return s.Kafka.Produce(ctx, outputs)
}

// retire erases the previous generation once it need not be kept any more.
func (s *successor) retire(ctx context.Context) {
	for {
		if rest := time.Until(s.record.LiveAt.Add(s.record.Keep)); rest > 0 {
			if wait.For(ctx, rest) != nil {
				return
			}
		}
		err := s.retireNow(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		s.Log.Warn().Err(err).Str("generation", s.record.Previous).Msg("the previous generation cannot be erased yet")
		if wait.For(ctx, retireEvery) != nil {
			return
		}
	}
}

// retireNow erases the previous generation if this one has read as far as that one. Until then the offsets of the previous generation
// say which dead letters were sent.
func (s *successor) retireNow(ctx context.Context) error {
	_, err := s.Index.Existing(ctx, s.record.Previous)
	if errors.Is(err, index.ErrNoGeneration) {
		return nil // somebody erased it before
	}
	if err != nil {
		return err
	}
	for stage, offsets := range s.publication.Reported() {
		if left, err := s.env.Names.Behind(ctx, s.Kafka, stage, catalog.EndsAt(offsets)); err != nil {
			return err
		} else if left > 0 {
			return fmt.Errorf("the %s still reads %d records that it had read", stage, left)
		}
	}
	known, err := catalog.ReadGenerations(ctx, s.Kafka, s.Config.Topics.Models)
	if err != nil {
		return err
	}
	// That generation may have been replaced before it had erased its own predecessor.
	line := []string{s.record.Previous}
	for g := known[s.record.Previous]; g != nil; g = known[g.Previous] {
		line = append(line, g.Previous)
	}
	for _, id := range slices.Backward(line) { // the oldest first: its record leads to those before it
		if err := s.Erase(ctx, id); err != nil {
			return err
		}
		s.Log.Info().Str("generation", id).Msg("the previous generation is erased")
	}
	return nil
}
