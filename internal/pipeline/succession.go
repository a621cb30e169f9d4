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

// This file holds the work of the service when one generation takes the place of another. docs/generations.md
// gives the order of the steps and the reasons for it.

const (
	retireEvery  = 5 * time.Second // pause before another attempt to erase the previous generation
	succeedBatch = 256             // queries that go through refresh together

	notRetracted = "triplets that only the previous generation had are not retracted: hardneg audit --all --repair does it"

	// succeedPatience is the time for which a batch waits for a miner that is behind. If the load is too
	// large for the miner it is always behind, and the new generation must be published nevertheless.
	succeedPatience = 2 * time.Second
)

// successor publishes a generation that was promoted, and then erases the previous one.
type successor struct {
	catalog.Conn
	out         stages.Outputs
	collections *index.Index // of the generation that was promoted
	publication *stages.Successor
	record      *catalog.Generation // of the generation that was promoted, as last read
	now         func() time.Time
}

// takeOver ends the stages of the previous generation, before the first stage of the live one begins. It
// returns the live generation's publication, which knows how far the previous stages have reported malformed
// records, and its record. If not all triplets of the live generation are published yet, the publication also
// has the previous collections, which say what must be retracted.
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

// succeed publishes all triplets of the generation that was promoted, and retracts those that only the
// previous one had. It returns true when this is done, or was done before, and false when the context ends
// first.
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

// succeedOnce is one attempt of succeed.
func (s *successor) succeedOnce(ctx context.Context) error {
	known, err := catalog.ReadGenerations(ctx, s.Kafka, s.Config.Topics.Models) // another owner may have done it meanwhile
	if err != nil {
		return err
	}
	if now, ok := known[s.record.ID]; ok {
		s.record = now
	}
	if s.record.Phase == catalog.PhaseLive {
		s.publication.DropPrevious()
		return nil
	}
	if err := s.publishAll(ctx); err != nil {
		return err
	}
	s.record.Phase, s.record.LiveAt = catalog.PhaseLive, s.now().UTC()
	if err := s.record.Write(ctx, s.Kafka, s.Config.Topics.Models); err != nil {
		return err
	}
	s.publication.DropPrevious()
	s.Log.Info().Str("generation", s.record.ID).Msg("all triplets of the new generation are published")
	return nil
}

// publishAll sends every query through refresh that this generation or the previous one knows, and waits
// until the miners have processed them. The states that the rebuild stored were never published, so the
// miners publish all of them. publishAll keeps no position: after an interruption it begins again.
func (s *successor) publishAll(ctx context.Context) error {
	s.Log.Info().Str("generation", s.record.ID).Str("previous", s.record.Previous).Msg("publishing the new generation")
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
	// Then come the queries that only the previous generation knows. In the other order a query could be in
	// neither scan: the last miner of that generation, fenced in the middle of a batch, may store its state
	// between the two.
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
			s.publication.DropPrevious()
			s.Log.Warn().Err(err).Msg(notRetracted)
		} else if err != nil {
			return err
		}
	}
	offsets, err := s.Kafka.Offsets(ctx, s.out.Names.Topics.Refresh)
	if err != nil {
		return err
	}
	s.Log.Info().Int("queries", total).Msg("the new generation is on its way to the triplets topic")
	return s.out.Names.Await(ctx, s.Kafka, catalog.StageMiner, catalog.WrittenEnds(offsets), catalog.PollEvery, nil)
}

// touch sends queries through refresh when the miner is not far behind, or else after a short wait. So
// changes that come meanwhile do not have to wait for all queries.
func (s *successor) touch(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	for since := s.now(); ; {
		behind, _, err := backlog(ctx, s.Kafka, s.out.Names, maxBacklog)
		if err != nil {
			return err
		}
		if len(behind) == 0 || s.now().Sub(since) > succeedPatience {
			break
		}
		if err := wait.For(ctx, catalog.PollEvery); err != nil {
			return err
		}
	}
	outputs := make([]stream.Output, len(ids))
	for i, id := range ids {
		outputs[i] = s.out.Refresh(records.Refresh{
			Kind: records.KindRefresh, QueryID: id, Source: records.Source{Topic: records.SourceRebuild, Timestamp: s.now().UnixMilli()},
		}, nil)
	}
	return s.Kafka.Produce(ctx, outputs)
}

// retire erases the previous generation when the time for which it is kept has passed.
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

// retireNow erases the previous generation if this one has read as far as that one had. Until then the
// offsets of the previous generation are needed: they say which dead letters were sent.
func (s *successor) retireNow(ctx context.Context) error {
	_, err := s.Index.Existing(ctx, s.record.Previous)
	if errors.Is(err, index.ErrNoGeneration) {
		return nil // somebody erased it before
	}
	if err != nil {
		return err
	}
	reported := s.publication.Reported()
	for _, stage := range []string{catalog.StageIndexer, catalog.StageIntake} {
		if behind, err := s.out.Names.Behind(ctx, s.Kafka, stage, catalog.EndsAt(reported[stage])); err != nil {
			return err
		} else if behind > 0 {
			return fmt.Errorf("the %s still reads %d records that it had read", stage, behind)
		}
	}
	known, err := catalog.ReadGenerations(ctx, s.Kafka, s.Config.Topics.Models)
	if err != nil {
		return err
	}
	// The previous generation may have been replaced before it erased its own predecessor, and so on.
	line := []string{s.record.Previous}
	for g := known[s.record.Previous]; g != nil; g = known[g.Previous] {
		line = append(line, g.Previous)
	}
	for _, id := range slices.Backward(line) { // the oldest first, because the record of each leads to the one before it
		if err := s.Erase(ctx, id); err != nil {
			return err
		}
		s.Log.Info().Str("generation", id).Msg("the previous generation is erased")
	}
	return nil
}
