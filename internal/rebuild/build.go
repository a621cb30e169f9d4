package rebuild

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"hardneg/internal/catalog"
	"hardneg/internal/pipeline"
	"hardneg/internal/wait"
)

// build runs the stages of the new generation until they have caught up with the live ones, and then promotes
// it.
func (r *rebuild) build(ctx context.Context) error {
	stages, running := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(running)
	defer stop()
	stages.Go(func() error { return r.next.WatchLive(running) })
	stages.Go(func() error { return r.next.RunIndexer(running) })
	stages.Go(func() error { return r.next.RunIntake(running) })
	stages.Go(func() error {
		if r.record.FromTopics { // without this wait a backlog of documents would mine each query over and over
			if err := r.awaitIndexed(running); err != nil {
				return pipeline.UnlessEnded(running, err)
			}
		}
		return r.next.RunMiner(running)
	})
	ready := make(chan error, 1)
	go func() {
		defer stop()
		ready <- r.ready(running)
	}()
	err := stages.Wait() // each stage finishes its transaction
	notReady := <-ready  // ready ends with the stages; it must not write into the report any more
	if err == nil {
		err = notReady
	}
	if err == nil && !r.Hold {
		err = ctx.Err()
	}
	if err == nil || errors.Is(err, pipeline.ErrSuperseded) {
		_, err = current(ctx, r.Conn, r.record)
	}
	if err != nil || r.Hold {
		return err
	}
	r.report.Promoted = true
	return r.Index.Promote(ctx, r.next.Collections)
}

// errPromoted means that the generation under construction is live already.
var errPromoted = errors.New("the generation is promoted")

// current reads the record of a generation anew. Another process may work at the same generation, and this
// one may have been frozen for long. The error says why the generation cannot be promoted any more.
func current(ctx context.Context, c catalog.Conn, record *catalog.Generation) (*catalog.Generation, error) {
	known, err := catalog.ReadGenerations(ctx, c.Kafka, c.Config.Topics.Models)
	if err != nil {
		return nil, err
	}
	live, _, err := c.Index.Active(ctx)
	switch now := known[record.ID]; {
	case err != nil:
		return nil, err
	case live == record.ID:
		return nil, errPromoted
	case live != record.Previous:
		return nil, fmt.Errorf("generation %s was built beside %s, but %s is live now: remove it with --abort, and begin again", record.ID, record.Previous, live)
	case now == nil:
		return nil, fmt.Errorf("generation %s was removed meanwhile", record.ID)
	default:
		return now, nil
	}
}

// ready waits until the new generation can take over, and verifies that it is complete.
func (r *rebuild) ready(ctx context.Context) error {
	var reached map[string]map[int32]int64
	err := r.step(StepMine, func() (err error) {
		if reached, err = r.catchUp(ctx); err == nil {
			err = r.forget(ctx)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := r.step(StepVerify, func() error { return r.verify(ctx, reached) }); err != nil {
		return err
	}
	return r.step(StepMine, func() error { // again, because verifying may take long
		_, err := r.catchUp(ctx)
		return err
	})
}

const (
	closeEnough = 5 * time.Second  // the new generation may be this far behind the live one
	mostBehind  = time.Minute      // or this far, under a load at which it comes no closer
	lookAfter   = 10 * time.Second // time between two looks at the models topic
	stuckAfter  = 30 * time.Second // time without progress, before the log says so
)

// catchUp waits until the new generation has read as far as the live one had a few seconds before, or a
// minute before if the load is so high that the new generation comes no closer. It returns the offsets that
// both have reached, by stage and partition.
func (r *rebuild) catchUp(ctx context.Context) (map[string]map[int32]int64, error) {
	for before := time.Duration(0); ; {
		start := time.Now()
		reached := map[string]map[int32]int64{}
		for _, stage := range []string{catalog.StageIndexer, catalog.StageIntake} {
			committed, ends, err := r.liveOffsets(ctx, stage)
			if err != nil {
				return nil, err
			}
			reached[stage] = committed
			if err := r.await(ctx, r.next.Env.Names, stage, ends); err != nil {
				return nil, err
			}
		}
		offsets, err := r.Kafka.Offsets(ctx, r.next.Env.Names.Topics.Refresh)
		if err != nil {
			return nil, err
		}
		if err := r.await(ctx, r.next.Env.Names, catalog.StageMiner, catalog.WrittenEnds(offsets)); err != nil {
			return nil, err
		}
		took := time.Since(start)
		if took < closeEnough || took < mostBehind && 4*took > 3*before && before > 0 {
			return reached, nil
		}
		before = took
	}
}

// liveOffsets returns the offsets that a stage of the live generation has committed, by partition, and the
// same as ends to wait for.
func (b *rebuilder) liveOffsets(ctx context.Context, stage string) (committed map[int32]int64, ends []catalog.End, err error) {
	committed, err = b.Kafka.CommittedSoFar(ctx, b.live.Names.Group(stage), b.live.Names.Input(stage))
	return committed, catalog.EndsAt(committed), err
}

// await waits until a stage has committed up to the ends, and reports its progress. If the stage makes no
// progress it says so in the log.
func (b *rebuilder) await(ctx context.Context, names catalog.Names, stage string, ends []catalog.End) error {
	progress, logged := time.Now(), time.Time{}
	first, last := int64(-1), int64(-1)
	return names.Await(ctx, b.Kafka, stage, ends, catalog.PollEvery, func(behind int64) error {
		if first < 0 {
			first = behind
		}
		if behind != last {
			last, progress = behind, time.Now()
		}
		b.Progress(Progress{Step: StepMine, Done: first - behind, Total: first})
		if now := time.Now(); now.Sub(progress) > stuckAfter && now.Sub(logged) > stuckAfter {
			logged = now
			b.Log.Warn().Str("stage", stage).Str("group", names.Group(stage)).Int64("records", behind).
				Msg(b.stuckReason(ctx))
		}
		return nil
	})
}

// awaitIndexed waits until the new generation has indexed the documents that the live one has indexed by now.
func (r *rebuild) awaitIndexed(ctx context.Context) error {
	_, ends, err := r.liveOffsets(ctx, catalog.StageIndexer)
	if err != nil {
		return err
	}
	return r.await(ctx, r.next.Env.Names, catalog.StageIndexer, ends)
}

// awaitPublished waits until the service has published the new generation.
func (b *rebuilder) awaitPublished(ctx context.Context, generation string) error {
	b.Log.Info().Str("generation", generation).Msg("promoted: the service publishes its triplets now")
	names := catalog.NamesOf(b.Config, generation)
	logged, pause, looked := time.Now(), 5*catalog.PollEvery, time.Now()
	for {
		offsets, err := b.Kafka.Offsets(ctx, names.Topics.Refresh)
		if err != nil {
			return err
		}
		behind, err := names.Behind(ctx, b.Kafka, catalog.StageMiner, catalog.WrittenEnds(offsets))
		if err != nil {
			return err
		}
		b.Progress(Progress{Step: StepPublish, Done: -behind})
		pause = min(2*pause, stuckAfter)
		if behind > 0 {
			pause = 5 * catalog.PollEvery
		}
		// The models topic may be large, so it is read seldom. Not only when nothing is left: records may
		// keep coming.
		if behind == 0 || time.Since(looked) > lookAfter {
			looked = time.Now()
			known, err := catalog.ReadGenerations(ctx, b.Kafka, b.Config.Topics.Models)
			if err != nil {
				return err
			}
			if g := known[generation]; g == nil || g.Phase == catalog.PhaseLive {
				return nil
			}
		}
		if now := time.Now(); now.Sub(logged) > stuckAfter {
			logged = now
			b.Log.Info().Msg("waiting for the service to publish the new generation; it does so whenever it runs, so waiting can be ended")
		}
		if err := wait.For(ctx, pause); err != nil {
			return err
		}
	}
}
