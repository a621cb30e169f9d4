// Package pipeline runs the stages of the live generation in this process. It finds that generation or makes
// the first one, keeps the stages running, sweeps, and changes to another generation when one is promoted.
// For a rebuild it also runs the stages of a generation that is not live yet (Shadow). Only packages of
// hardneg import it.
package pipeline

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/embed"
	"hardneg/internal/stages"
	"hardneg/internal/telemetry"
	"hardneg/mining"
	"hardneg/stream"
)

// Options says what an instance of the service works with.
type Options struct {
	catalog.Conn
	Cache   *embed.Cache // of vectors; nil: none
	Metrics *telemetry.Metrics
	Health  *telemetry.Health
}

// Run creates missing topics, model and collections, and then runs the configured stages until the context
// ends. At the end each stage finishes its transaction. When another generation is promoted, Run goes on with
// that one.
func Run(ctx context.Context, o Options) error {
	for {
		err := runLive(ctx, o)
		if !errors.Is(err, ErrSuperseded) || ctx.Err() != nil {
			return err
		}
		o.Log.Info().Err(err).Msg("going on with the generation that is live now")
	}
}

// runLive runs the stages of the live generation. If there is none it makes the first one. It returns
// ErrSuperseded when another generation is promoted.
func runLive(ctx context.Context, o Options) error {
	rules := catalog.RulesOf(o.Config)
	if _, err := mining.New(rules.Mining); err != nil { // before anything is created
		return err
	}
	b := newBootstrap(o)
	var live catalog.Live
	for _, step := range []func() error{
		func() (err error) { live, err = o.Live(ctx); return err },
		func() error { return catalog.EnsureTopics(ctx, o.Kafka, o.Config, live.Generation) },
		func() error { return catalog.KeepPartitions(ctx, o.Kafka, o.Config, live) },
	} {
		if err := b.untilReachable(ctx, step); err != nil {
			return UnlessEnded(ctx, err)
		}
	}
	r := newRunner(o, b.observer, catalog.NamesOf(o.Config, live.Generation), live.Generation)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.watchLive(ctx) })
	run := func(s stage) {
		if slices.Contains(o.Config.Stages, s.name) {
			group.Go(func() error { return r.run(ctx, s) })
		}
	}
	if live.Generation == "" { // the intake needs no model, so it works while the first one is fitted
		out := stages.Outputs{Names: r.names, Publication: stages.Live{}, Log: o.Log, Metrics: o.Metrics}
		run(intake(stages.Intake{Outputs: out, Reader: stages.QueryReader{Weights: *rules.Evidence, Carries: o.Config.Embedders}}))
	}
	group.Go(func() error {
		var g *liveGeneration
		err := b.untilReachable(ctx, func() (err error) {
			g, err = b.open(ctx, live, rules)
			return err
		})
		if err != nil {
			return UnlessEnded(ctx, err)
		}
		if live.Generation != "" {
			run(g.intake())
		}
		run(g.indexer())
		if !slices.Contains(o.Config.Stages, catalog.StageMiner) {
			return nil
		}
		for _, step := range []func() error{
			func() error { return b.awaitFirstLoad(ctx, g) },
			func() error { return rules.Publish(ctx, o.Kafka, o.Config.Topics.Models) },
		} {
			if err := b.untilReachable(ctx, step); err != nil {
				return UnlessEnded(ctx, err)
			}
		}
		return r.run(ctx, g.sweepingMiner(newSweep(o, g.env.Outputs, g.env.Rules.Fingerprint, g.collections)))
	})
	return group.Wait()
}

// stage says how the runner runs a stage.
type stage struct {
	name  string
	new   func(stream.Assignment) stream.Processor
	until func(ctx context.Context, partition int32, committed int64) (int64, error) // see stream.Stage.Until; nil: no bound

	refused func(stream.Record, error) []stream.Output // makes the dead letters of records that cannot be read
}

// runner runs stages of one generation in this process, and ends them when another generation is promoted.
type runner struct {
	Options
	observer   *observer
	names      catalog.Names
	live       string     // the generation that was live when the runner began; empty: there was none
	superseded chan error // gets ErrSuperseded when a stage finds that another generation is live
}

func newRunner(o Options, observer *observer, names catalog.Names, live string) *runner {
	return &runner{Options: o, observer: observer, names: names, live: live, superseded: make(chan error, 1)}
}

// run runs one stage until the context ends.
func (r *runner) run(ctx context.Context, s stage) error {
	kafka := r.Config.Kafka
	spec := stream.Stage{
		Name:                s.name,
		Group:               r.names.Group(s.name),
		Topic:               r.names.Input(s.name),
		TransactionalPrefix: r.names.TransactionalPrefix(s.name),
		MaxRecords:          kafka.MaxBatch,
		SessionTimeout:      kafka.SessionTimeout,
		TransactionTimeout:  kafka.TransactionTimeout,
		StallAfter:          kafka.StallAfter,
		AbandonAfter:        kafka.AbandonAfter,
		Observe:             r.observer.event,
		New:                 func(a stream.Assignment) stream.Processor { return &owner{Processor: s.new(a), runner: r} },
		Until:               s.until,
		Refused:             s.refused,
	}
	if s.name == catalog.StageMiner {
		spec.MaxRecords = min(kafka.MaxBatch, 2*stages.MineTogether) // one transaction holds all triplets of a batch with their texts, and a query can have many
		spec.PurgeEvery = r.Config.Topics.PurgeRefresh
	}
	r.observer.up(s.name, nil)
	defer r.Metrics.StageUp.WithLabelValues(s.name).Set(0)
	return UnlessEnded(ctx, r.Kafka.Run(ctx, spec))
}

// UnlessEnded returns err, or nil if err only says that the context has ended.
func UnlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// generation holds all that the stages of a generation need in this process.
type generation struct {
	env         *stages.Env
	collections *index.Index
	reader      stages.QueryReader
}

// liveGeneration is the live generation. Its miner also sweeps.
type liveGeneration struct {
	generation
	successor *successor // nil: it is the first generation, so it has no previous one to replace
}

// intake returns the intake as a stage to run.
func (g *generation) intake() stage {
	return intake(stages.Intake{Outputs: g.env.Outputs, Reader: g.reader})
}

// intake returns an intake as a stage to run. It needs no generation.
func intake(s stages.Intake) stage {
	return stage{
		name: catalog.StageIntake, refused: s.Unreadable(catalog.StageIntake),
		new: func(stream.Assignment) stream.Processor { return s },
	}
}

// indexer returns the indexer as a stage to run.
func (g *generation) indexer() stage {
	return stage{name: catalog.StageIndexer, refused: g.env.Unreadable(catalog.StageIndexer), new: func(a stream.Assignment) stream.Processor {
		return stages.NewIndexer(g.env, g.collections, a.Partition)
	}}
}

// miner returns the miner as a stage to run, without a sweep.
func (g *generation) miner() stage {
	return stage{name: catalog.StageMiner, refused: g.env.Unreadable(catalog.StageMiner), new: func(a stream.Assignment) stream.Processor {
		return stages.NewMiner(g.env, g.collections, a.Token)
	}}
}

// sweepingMiner returns the miner as a stage to run. The owner of partition 0, which is one in a view, also
// sweeps.
func (g *liveGeneration) sweepingMiner(s *sweep) stage {
	return stage{name: catalog.StageMiner, refused: g.env.Unreadable(catalog.StageMiner), new: func(a stream.Assignment) stream.Processor {
		m := stages.NewMiner(g.env, g.collections, a.Token)
		if a.Partition == 0 {
			return sweepBeside(m, s, g.successor)
		}
		return m
	}}
}

// retryEvery is the pause before something is tried again that a server could not do.
const retryEvery = 10 * catalog.PollEvery
