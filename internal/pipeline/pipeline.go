// Package pipeline runs the stages of the live generation in this process: it finds that generation or makes the first one, keeps
// the stages running, sweeps, and hands over when another generation is promoted. For a rebuild it also runs the stages of
// a generation that is not live yet (Shadow). Only packages of hardneg import it.
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

// Options say what an instance of the service works with.
type Options struct {
	catalog.Conn
	Cache   *embed.Cache // of vectors; nil: none
	Metrics *telemetry.Metrics
	Health  *telemetry.Health
}

// Run creates the topics, the model and the collections that are missing, and then runs the configured stages until the context
// ends. Each stage then finishes its transaction. When another generation is promoted, Run goes on with that one.
func Run(ctx context.Context, o Options) error {
	for {
		err := runLive(ctx, o)
		if !errors.Is(err, ErrSuperseded) || ctx.Err() != nil {
			return err
		}
		o.Log.Info().Err(err).Msg("going on with the generation that is live now")
	}
}

// runLive runs the stages of the live generation, or makes the first generation.
func runLive(ctx context.Context, o Options) error {
	rules := catalog.RulesOf(o.Config)
	miner, err := mining.New(rules.Mining)
	if err != nil {
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
	if live.Generation == "" { // the first model is fitted on documents; the query log flows meanwhile
		out := stages.Outputs{Names: r.names, Publication: stages.Live{}, Log: o.Log, Metrics: o.Metrics}
		run(intake(stages.Intake{Outputs: out, Reader: stages.QueryReader{Weights: *rules.Evidence, Carries: o.Config.Embedders}}))
	}
	group.Go(func() error {
		var g *generation
		err := b.untilReachable(ctx, func() (err error) {
			g, err = b.open(ctx, live, rules, miner)
			return err
		})
		if err != nil {
			return UnlessEnded(ctx, err)
		}
		if live.Generation != "" {
			run(intake(g.intake()))
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
		return r.run(ctx, g.miner(newSweep(g, o)))
	})
	return group.Wait()
}

// stage is a stage as the runner runs it.
type stage struct {
	name  string
	new   func(stream.Assignment) stream.Processor
	until func(ctx context.Context, partition int32, committed int64) (int64, error) // nil: it reads without a bound

	refused func(stream.Record, error) []stream.Output // for records that cannot be read
}

// runner runs stages of one generation in this process, and stops them when another generation is promoted.
type runner struct {
	Options
	observer   *observer
	names      catalog.Names
	live       string     // the generation that was live when the runner began; empty: none was
	superseded chan error // gets an error when a stage finds that another generation is live
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
		spec.MaxRecords = min(kafka.MaxBatch, 2*stages.MineTogether) // one query can mean many triplets with their texts, all in one transaction
		spec.PurgeEvery = r.Config.Topics.PurgeRefresh
	}
	r.observer.up(s.name, nil)
	defer r.Metrics.StageUp.WithLabelValues(s.name).Set(0)
	return UnlessEnded(ctx, r.Kafka.Run(ctx, spec))
}

// UnlessEnded drops an error that only says that the context ended.
func UnlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// generation is a generation whose stages run in this process.
type generation struct {
	env         *stages.Env
	collections *index.Index
	reader      stages.QueryReader
	successor   *successor // nil: rebuild did not make the generation, so nothing is left to take over
}

func (g *generation) intake() stages.Intake {
	return stages.Intake{Outputs: g.env.Outputs, Reader: g.reader}
}

func intake(s stages.Intake) stage {
	return stage{
		name: catalog.StageIntake, refused: s.Unreadable(catalog.StageIntake),
		new: func(stream.Assignment) stream.Processor { return s },
	}
}

func (g *generation) indexer() stage {
	return stage{name: catalog.StageIndexer, refused: g.env.Unreadable(catalog.StageIndexer), new: func(a stream.Assignment) stream.Processor {
		return stages.NewIndexer(g.env, g.collections, a.Partition)
	}}
}

// miner returns the miner. In partition 0, of which a view has one owner, the sweep runs beside it.
func (g *generation) miner(s *sweep) stage {
	return stage{name: catalog.StageMiner, refused: g.env.Unreadable(catalog.StageMiner), new: func(a stream.Assignment) stream.Processor {
		m := stages.NewMiner(g.env, g.collections, a.Token)
		if a.Partition == 0 {
			return sweepBeside(m, s, g.successor)
		}
		return m
	}}
}

const retryEvery = 10 * catalog.PollEvery
