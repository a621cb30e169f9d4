package pipeline

import (
	"context"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/model"
	"hardneg/internal/stages"
	"hardneg/internal/wait"
)

// Shadow runs the stages of a generation that rebuild is building beside the live one. They publish nothing.
type Shadow struct {
	Env         *stages.Env
	Collections *index.Index
	runner      *runner
	generation  *generation
	live        catalog.Names // of the live generation
}

// NewShadow returns the Shadow of a generation that has topics and collections already. m is its model.
// previous is the id of the live generation beside it.
func NewShadow(o Options, m *model.Model, previous string, collections *index.Index) (*Shadow, error) {
	rules := catalog.RulesOf(o.Config)
	id := collections.Generation()
	names := catalog.NamesOf(o.Config, id)
	out := stages.Outputs{Names: names, Publication: stages.Shadow{}, Log: o.Log, Metrics: o.Metrics}
	env, err := stages.NewEnv(out, id, rules, m, o.Kafka)
	if err != nil {
		return nil, err
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
	return s.follow(ctx, s.generation.intake())
}

// RunMiner runs the miner until the context ends, without a sweep.
func (s *Shadow) RunMiner(ctx context.Context) error {
	return s.runner.run(ctx, s.generation.miner())
}

// WatchLive returns ErrSuperseded when another generation is promoted, and nil when the context ends.
func (s *Shadow) WatchLive(ctx context.Context) error { return s.runner.watchLive(ctx) }

// follow runs a stage, and keeps it behind the same stage of the live generation. The live stage reports each
// malformed record that it reads. So this stage need not report it, and no malformed record goes unreported
// when the live generation ends.
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
