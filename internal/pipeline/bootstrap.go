package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/fit"
	"hardneg/internal/model"
	"hardneg/internal/stages"
	"hardneg/internal/wait"
	"hardneg/stream"
)

const logEvery = 30 * time.Second

// ErrIndexLost means that Qdrant does not have what the stages have written into it.
var ErrIndexLost = errors.New("the index is lost")

// bootstrap prepares the stages: it waits for servers, finds or fits the model, and opens the collections.
type bootstrap struct {
	Options
	observer *observer
	problem  error // the embedder's error, while an embedder is the reason why no model can be fitted
}

func newBootstrap(o Options) *bootstrap {
	o.introduceEmbedders()
	return &bootstrap{Options: o, observer: newObserver(o)}
}

// untilReachable calls f until it succeeds. It tries again while a server cannot be reached or is not ready,
// or while the server of an embedder denies a request; log and health say so. It returns any other error of
// f.
func (b *bootstrap) untilReachable(ctx context.Context, f func() error) error {
	for {
		err := f()
		b.problem = nil
		switch {
		case ctx.Err() != nil:
			return err
		case errors.Is(err, index.ErrUnavailable), stream.Transient(err):
		case errors.Is(err, embed.ErrUnavailable), errors.Is(err, embed.ErrDenied):
			b.problem = err
		default:
			return err
		}
		b.Metrics.Failures.WithLabelValues(catalog.StageMiner).Inc()
		b.waiting(err)
		b.Log.Error().Err(err).Msg("cannot begin; trying again")
		if err := wait.For(ctx, retryEvery); err != nil {
			return err
		}
	}
}

// waiting records in health that the stages which need the model wait. With a nil err they wait for
// documents, which counts as work; otherwise err says why they cannot work.
func (b *bootstrap) waiting(err error) {
	for _, stage := range b.Config.Stages {
		if stage != catalog.StageIntake {
			b.observer.up(stage, err)
		}
	}
}

// open opens the live generation: its model and its collections. If it was promoted, open ends the stages of
// the previous one. If there is no generation yet, open makes the first one.
func (b *bootstrap) open(ctx context.Context, live catalog.Live, rules catalog.Rules) (*liveGeneration, error) {
	if live.Generation == "" {
		if err := b.checkNotLost(ctx); err != nil {
			return nil, err
		}
	}
	m, err := b.model(ctx, live)
	if err != nil {
		return nil, err
	}
	observeDrift(m, b.Metrics, b.Log)
	info := m.Info()
	id := cmp.Or(live.Generation, m.ID())
	carries := b.Config.Embedders
	if live.Generation != "" {
		carries = info.Definitions()
	}
	collections, err := b.Index.Open(ctx, id, m.Dimensions())
	if err != nil {
		return nil, err
	}
	out := stages.Outputs{Names: catalog.NamesOf(b.Config, id), Publication: stages.Live{}, Log: b.Log, Metrics: b.Metrics}
	var next *successor
	if live.Record != nil {
		publication, record, err := b.takeOver(ctx, live)
		if err != nil {
			return nil, err
		}
		out.Publication = publication
		next = &successor{Conn: b.Conn, out: out, collections: collections, publication: publication, record: record, now: time.Now}
	}
	env, err := stages.NewEnv(out, id, rules, m, b.Kafka)
	if err != nil {
		return nil, err
	}
	reader := stages.QueryReader{Weights: *rules.Evidence, Carries: carries}
	b.Log.Info().Str("generation", id).Int("dimensions", m.Dimensions()).Int("fitted_on", info.Samples).Msg("model ready")
	if !Describes(b.Config, info) {
		b.Log.Warn().Str("generation", id).
			Msg("embedders or reduce differ from what the model was fitted with: the model's are used; hardneg rebuild makes a generation with the configured ones")
	}
	if info.Samples < b.Config.Fit.Minimum {
		b.Log.Warn().Int("documents", info.Samples).Int("minimum", b.Config.Fit.Minimum).
			Msg("the model was fitted on few documents and stays as it is: run hardneg rebuild when more documents have come")
	}
	return &liveGeneration{generation: generation{env: env, collections: collections, reader: reader}, successor: next}, nil
}

// checkNotLost returns an error if Qdrant has no collections although an indexer of this view has committed offsets:
// then Qdrant has lost them, or the configuration names another Qdrant. New collections would lack every document
// before these offsets, and nobody would notice. An indexer commits only after the aliases exist, so the aliases are
// read last.
func (b *bootstrap) checkNotLost(ctx context.Context) error {
	generations, err := catalog.ReadGenerations(ctx, b.Kafka, b.Config.Topics.Models)
	if err != nil {
		return err
	}
	ids := append([]string{""}, slices.Sorted(maps.Keys(generations))...)
	for _, id := range ids {
		names := catalog.NamesOf(b.Config, id)
		group, topic := names.Group(catalog.StageIndexer), names.Input(catalog.StageIndexer)
		committed, err := b.Kafka.CommittedSoFar(ctx, group, topic)
		if err != nil {
			return err
		}
		for partition, offset := range committed {
			if offset <= 0 {
				continue
			}
			if _, live, err := b.Index.Active(ctx); err != nil || live {
				return err
			}
			return fmt.Errorf("%w: qdrant at %s has no collections with the prefix %q, but group %s has read %s/%d up to offset %d. "+
				"If qdrant.address or qdrant.prefix is wrong, correct it. If Qdrant has lost them, stop every instance and run hardneg reset: "+
				"the next start then makes the view anew from the topics", ErrIndexLost, b.Config.Qdrant.Address, b.Config.Qdrant.Prefix, group, topic, partition, offset)
		}
	}
	return nil
}

// model returns the model of the live generation. If there is none it takes the first published model, or
// fits one.
func (b *bootstrap) model(ctx context.Context, live catalog.Live) (*model.Model, error) {
	if live.Generation != "" {
		return b.ModelOf(ctx, live.Generation, b.Resources())
	}
	m, err := b.Models(b.Resources()).Read(ctx, "")
	if err == nil && m == nil {
		return b.fit(ctx)
	}
	return m, err
}

// Describes reports whether a configuration asks for the embedders and the reduction of a model, as far as
// the manifest shows them.
func Describes(cfg *config.Config, info model.Manifest) bool {
	reduced := len(info.Variance) > 0
	return reduced == (cfg.Reduce.Method == "pca") && (!reduced || info.Dimensions <= cfg.Reduce.MaxDimensions) &&
		slices.EqualFunc(cfg.Embedders, info.Embedders, func(c config.Embedder, m model.Embedder) bool { return m.Is(c) })
}

// fit fits the first model on the documents that arrive, and publishes it. If several instances do this at
// once, all of them go on with the model whose manifest came first.
func (b *bootstrap) fit(ctx context.Context) (*model.Model, error) {
	models := b.Models(b.Resources())
	silent := models // called again and again, it would log the same each time
	silent.Log = zerolog.Nop()
	arrivals := fit.Arrivals{Conn: b.Conn, Waiting: func(err error) { b.waiting(cmp.Or(err, b.problem)) }, First: silent.First}
	m, err := fit.Model(ctx, b.Config, b.Resources(), arrivals.Sample, b.Log)
	if err == nil {
		_, err = models.Publish(ctx, m)
	}
	if err != nil && !errors.Is(err, fit.ErrPublished) {
		return nil, err
	}
	first, err := models.Read(ctx, "")
	if err == nil && first == nil {
		err = fmt.Errorf("topic %s does not give back the model that was just published: check its cleanup.policy and retention", b.Config.Topics.Models)
	}
	return first, err
}

// awaitFirstLoad waits, in a view without queries, until the documents that are in the log now are indexed.
// Otherwise each batch of a backlog of documents would make the miner mine the same queries again.
func (b *bootstrap) awaitFirstLoad(ctx context.Context, g *liveGeneration) error {
	if !b.Config.Bootstrap.Wait {
		return nil
	}
	if _, queries, err := g.collections.Counts(ctx); err != nil || queries > 0 {
		return err
	}
	b.observer.up(catalog.StageMiner, nil) // waiting is its work now
	offsets, err := b.Kafka.Offsets(ctx, b.Config.Topics.Documents)
	if err != nil {
		return err
	}
	var logged time.Time
	return g.env.Names.Await(ctx, b.Kafka, catalog.StageIndexer, catalog.StableEnds(offsets), catalog.PollEvery, func(behind int64) error {
		if now := time.Now(); now.Sub(logged) > logEvery {
			logged = now
			b.Log.Info().Int64("records", behind).Msg("mining waits for an indexer to index the first documents")
		}
		return nil
	})
}
