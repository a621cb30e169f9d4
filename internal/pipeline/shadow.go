package pipeline

import (
	"context"
	"time"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/model"
	"hardneg/internal/stages"
	"hardneg/internal/wait"
	"hardneg/mining"
	"hardneg/stream"
)

// Shadow runs the stages of a generation that rebuild is building beside the live one. They publish nothing.
type Shadow struct {
	Env         *stages.Env
	Collections *index.Index
	runner      *runner
	generation  *generation
	live        catalog.Names
}

// NewShadow returns the stages of a generation that has topics and collections. previous is the live generation beside it.
func NewShadow(o Options, m *model.Model, previous string, collections *index.Index) (*Shadow, error) {
	rules := catalog.RulesOf(o.Config)
	miner, err := mining.New(rules.Mining)
	if err != nil {
		return nil, err
	}
	id := collections.Generation()
	names := catalog.NamesOf(o.Config, id)
	env := &stages.Env{
		Outputs:    stages.Outputs{Names: names, Publication: stages.Shadow{}, Log: o.Log, Metrics: o.Metrics},
		Generation: id, Rules: rules, Mining: miner, Model: m, Kafka: o.Kafka, Now: time.Now,
	}
	return &Shadow{
		Env: env, Collections: collections,
		runner:     newRunner(o, newObserver(o), names, previous),
		generation: &generation{env: env, collections: collections, reader: stages.QueryReader{Weights: *rules.Evidence, Carries: m.Info().Definitions()}},
		live:       catalog.NamesOf(o.Config, previous),
	}, nil
}

// RunIndexer runs the indexer until the context ends. It stays behind the indexer of the live generation.
func (s *Shadow) RunIndexer(ctx context.Context) error { return s.follow(ctx, s.generation.indexer()) }

// RunIntake runs the intake until the context ends. It stays behind the intake of the live generation.
func (s *Shadow) RunIntake(ctx context.Context) error {
	return s.follow(ctx, intake(s.generation.intake()))
}

// RunMiner runs the miner until the context ends, without a sweep.
func (s *Shadow) RunMiner(ctx context.Context) error {
	return s.runner.run(ctx, stage{name: catalog.StageMiner, refused: s.Env.Unreadable(catalog.StageMiner), new: func(a stream.Assignment) stream.Processor {
		return stages.NewMiner(s.Env, s.Collections, a.Token)
	}})
}

// WatchLive returns ErrSuperseded when the live generation has changed, and nil when the context ends.
func (s *Shadow) WatchLive(ctx context.Context) error { return s.runner.watchLive(ctx) }

// follow runs a stage that stays behind the same stage of the live generation. So no record is passed over when the live generation
// ends, and this one sends no dead letter that the live one has sent.
func (s *Shadow) follow(ctx context.Context, st stage) error {
	st.until = func(ctx context.Context, partition int32, committed int64) (int64, error) {
		for {
			live, err := s.runner.Kafka.CommittedSoFar(ctx, s.live.Group(st.name), s.live.Input(st.name))
			if err != nil || live[partition] > committed {
				return live[partition], err
			}
			if err := wait.For(ctx, catalog.PollEvery); err != nil { // the live stage may be down
				return 0, err
			}
		}
	}
	return s.runner.run(ctx, st)
}
