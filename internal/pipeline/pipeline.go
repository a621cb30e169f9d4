// Package pipeline joins Kafka, the index and the rules into the three stages: the indexer (documents to index and
// affected queries), the intake (query log to evidence, keyed by query) and the miner (evidence and refreshes to
// triplets). docs/architecture.md has the figure.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"hardneg/index"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/records"
	"hardneg/internal/telemetry"
	"hardneg/mining"
	"hardneg/stream"
)

// Options is what a pipeline is made of.
type Options struct {
	Config  *config.Config
	Kafka   *stream.Client
	Index   *index.Client
	Cache   *embed.Cache // of vectors; nil: none
	Log     zerolog.Logger
	Metrics *telemetry.Metrics
	Health  *telemetry.Health
}

// store is what the stages ask of the index: *index.Index, or a simulation of it. Every write is visible to each
// call that begins after it returned; documents and states are guarded as index.WriteDocuments and WriteStates say.
type store interface {
	WriteDocuments(ctx context.Context, docs []index.Document, partition int32, highest int64) error
	Documents(ctx context.Context, ids []string, want index.Fields) (map[string]index.Document, error)
	Search(ctx context.Context, queries [][]float32, limit int) ([]index.Hits, error)
	Watching(ctx context.Context, documentIDs []string) ([]string, error)
	Entering(ctx context.Context, vectors [][]float32) ([][]string, error)
	States(ctx context.Context, queryIDs []string) (map[string]index.State, error)
	WriteStates(ctx context.Context, states []index.State, token int64) error
	Rank(ctx context.Context, queries [][]float32, limit int) ([]index.Ranking, error)
	DocumentsAt(ctx context.Context, points []string, want index.Fields) (map[string]index.Document, error)
	Counts(ctx context.Context) (documents, queries uint64, err error)
}

// broker is what the stages ask of Kafka beside the records they are given: *stream.Client, or a simulation.
type broker interface {
	Offsets(ctx context.Context, topic string) ([]stream.Offsets, error)
}

// vectors embeds texts: *model.Model, or a simulation. The errors are those of single items.
type vectors interface {
	Vectors(ctx context.Context, kind embed.Kind, items []embed.Item) ([][]float32, []error, error)
}

// Pipeline is what the stages share once there is a model.
type Pipeline struct {
	named       *config.Config // as the user gave it
	cfg         *config.Config // with the names of the generation
	kafka       *stream.Client // nil in a simulation
	broker      broker
	client      *index.Client // likewise
	index       store
	queries     *index.Index // what the sweep goes through: index itself; nil in a simulation
	swept       sweptTo
	leftOut     []swept // by the sweep, until their partitions have caught up
	cache       *embed.Cache
	model       vectors
	generation  string
	live        string                      // the generation that was live at start; empty: none yet
	record      *generation                 // what is known of it; nil: it was not made by rebuild
	previous    atomic.Pointer[index.Index] // the generation before, until all of this one is known to be published; else it holds nil
	shadow      *shadow                     // the generation is being built beside the live one; nil: it is live
	supersede   chan error                  // another generation is live
	told        map[string]map[int32]int64  // by stage: before these offsets an earlier generation sent the dead letters
	carries     []config.Embedder           // whose vectors the intake keeps
	mining      *mining.Miner
	fingerprint string // of everything that decides a list, the model aside
	minWeight   int64  // millionths
	wide        int    // wideLimit, but in tests
	now         func() time.Time
	log         zerolog.Logger
	metrics     *telemetry.Metrics
	health      *telemetry.Health

	unfitted error // why no model can be fitted, for as long as its embedders are to blame

	failing struct { // errors of partitions that have not committed since, by stage
		sync.Mutex
		partitions map[string]map[int32]error
		stalled    map[string]map[int32]bool // those whose batch makes no progress
	}
}

// Run brings the topics, the model and the collections into being where they are missing, and then runs the
// configured stages until the context ends, when each finishes the transaction under way. When another generation is
// promoted it goes on with that one.
func Run(ctx context.Context, o Options) error {
	for {
		err := runLive(ctx, o)
		if !errors.Is(err, errSuperseded) || ctx.Err() != nil {
			return err
		}
		o.Log.Info().Err(err).Msg("going on with the generation that is live now")
	}
}

// runLive runs the stages of the generation that is live, or makes the first one.
func runLive(ctx context.Context, o Options) error {
	p, err := newPipeline(o)
	if err != nil {
		return err
	}
	p.introduceEmbedders()
	for _, begin := range []func() error{
		func() error { return p.adopt(ctx) },
		func() error { return EnsureTopics(ctx, p.kafka, p.cfg) },
		func() error { return p.keepPartitions(ctx) },
	} {
		if err := p.persist(ctx, begin); err != nil {
			return quiet(ctx, err)
		}
	}
	stages, ctx := errgroup.WithContext(ctx)
	stages.Go(func() error { return p.watchLive(ctx) })
	intake := func() {
		if slices.Contains(p.cfg.Stages, StageIntake) {
			stages.Go(func() error { return p.run(ctx, StageIntake) })
		}
	}
	if p.live == "" { // the log flows while the documents are read that the first model is fitted on
		intake()
	}
	stages.Go(func() error {
		if err := p.persist(ctx, func() error { return p.open(ctx) }); err != nil {
			return quiet(ctx, err)
		}
		if p.live != "" {
			intake()
		}
		if slices.Contains(p.cfg.Stages, StageIndexer) {
			stages.Go(func() error { return p.run(ctx, StageIndexer) })
		}
		if !slices.Contains(p.cfg.Stages, StageMiner) {
			return nil
		}
		if err := p.persist(ctx, func() error { return p.awaitFirstLoad(ctx) }); err != nil {
			return quiet(ctx, err)
		}
		if err := p.persist(ctx, func() error { return p.publishRules(ctx) }); err != nil {
			return quiet(ctx, err)
		}
		return p.run(ctx, StageMiner)
	})
	return stages.Wait()
}

func newPipeline(o Options) (*Pipeline, error) {
	rules, err := mining.New(rules(o.Config.Mining))
	if err != nil {
		return nil, err
	}
	p := &Pipeline{
		named: o.Config, cfg: o.Config, wide: wideLimit, cache: o.Cache, kafka: o.Kafka, broker: o.Kafka, client: o.Index, mining: rules, now: time.Now,
		carries: o.Config.Embedders, supersede: make(chan error, 1),
		log: o.Log, metrics: o.Metrics, health: o.Health,
		minWeight: records.Millionths(o.Config.Queries.MinWeight), fingerprint: newRuleset(o.Config).Fingerprint,
	}
	p.failing.partitions, p.failing.stalled = map[string]map[int32]error{}, map[string]map[int32]bool{}
	return p, nil
}

// persist repeats what comes before the stages for as long as a server cannot be reached or is not ready, or one of an
// embedder's denies what it is asked, and says so.
func (p *Pipeline) persist(ctx context.Context, f func() error) error {
	for {
		err := f()
		p.unfitted = nil
		switch {
		case ctx.Err() != nil:
			return err
		case errors.Is(err, index.ErrUnavailable), stream.Transient(err):
		case errors.Is(err, embed.ErrUnavailable), errors.Is(err, embed.ErrDenied):
			p.unfitted = err
		default:
			return err
		}
		p.metrics.Failures.WithLabelValues(StageMiner).Inc()
		p.await(err)
		p.log.Error().Err(err).Msg("cannot begin; trying again")
		if err := pause(ctx, 10*pollPause); err != nil {
			return err
		}
	}
}

// quiet drops an error that only says that the context ended.
func quiet(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// run runs one stage.
func (p *Pipeline) run(ctx context.Context, stage string) error {
	s := stream.Stage{
		Name:                stage,
		Group:               Group(p.cfg, stage),
		Topic:               inputTopic(p.cfg, stage),
		TransactionalPrefix: transactionalPrefix(p.cfg, stage),
		MaxRecords:          p.maxRecords(stage),
		SessionTimeout:      p.cfg.Kafka.SessionTimeout,
		TransactionTimeout:  p.cfg.Kafka.TransactionTimeout,
		StallAfter:          p.cfg.Kafka.StallAfter,
		AbandonAfter:        p.cfg.Kafka.AbandonAfter,
		Observe:             p.observe,
		New:                 func(a stream.Assignment) stream.Processor { return p.processor(stage, a) },
	}
	switch {
	case stage == StageMiner:
		s.PurgeEvery = p.cfg.Topics.PurgeRefresh
	case p.shadow != nil:
		s.Until = p.follow(stage)
	}
	p.up(stage, nil)
	defer p.metrics.StageUp.WithLabelValues(stage).Set(0)
	return quiet(ctx, p.kafka.Run(ctx, s))
}

// maxRecords bounds a transaction. A query can mean many triplets with their texts, all in one.
func (p *Pipeline) maxRecords(stage string) int {
	if stage == StageMiner {
		return min(p.cfg.Kafka.MaxBatch, 2*mineTogether)
	}
	return p.cfg.Kafka.MaxBatch
}

// processor is what a stage does with a partition while it owns it.
func (p *Pipeline) processor(stage string, a stream.Assignment) stream.Processor {
	var processor stream.Processor
	switch stage {
	case StageIndexer:
		processor = indexer{p, a.Partition}
	case StageIntake:
		processor = intake{p}
	default:
		m := miner{p, a.Token}
		processor = m
		if a.Partition == 0 && p.queries != nil && p.shadow == nil {
			processor = p.sweeping(m)
		}
	}
	if p.client != nil {
		processor = &owner{processor, p, false}
	}
	return processor
}

// vectors embeds texts, and counts them.
func (p *Pipeline) vectors(ctx context.Context, kind embed.Kind, items []embed.Item) ([][]float32, []error, error) {
	if len(items) == 0 {
		return nil, nil, nil
	}
	vectors, refusals, err := p.model.Vectors(ctx, kind, items)
	if err != nil {
		return nil, nil, err
	}
	label := "passage"
	if kind == embed.Query {
		label = "query"
	}
	p.metrics.EmbeddedTexts.WithLabelValues(label).Add(float64(len(items)))
	return vectors, refusals, nil
}

// notPastEnd refuses to go on when something was stored from an offset that its topic does not reach.
func (p *Pipeline) notPastEnd(ctx context.Context, topic, what string, stored map[int32]int64) error {
	if len(stored) == 0 {
		return nil
	}
	ends, err := p.broker.Offsets(ctx, topic)
	if err != nil {
		return err
	}
	for _, end := range ends {
		if at, ok := stored[end.Partition]; ok && at >= end.HighWatermark {
			return fmt.Errorf("%w: %s from %s/%d at offset %d, but the partition ends at %d: the topic was deleted and made anew; "+
				"give the new one another name, or start a new view with another name, qdrant.prefix and triplets topic",
				stream.ErrOffsetOutOfRange, what, topic, end.Partition, at, end.HighWatermark)
		}
	}
	return nil
}

// rules translates the configuration into the terms of package mining.
func rules(c config.Mining) mining.Config {
	m := mining.Config{Negatives: c.Negatives, NearDuplicate: c.NearDuplicate, NearText: c.NearText, Depth: c.Depth}
	for _, t := range c.Tiers {
		m.Tiers = append(m.Tiers, mining.Tier{
			Policy: t.Policy, UpTo: t.UpTo, RelativeMargin: t.RelativeMargin, AbsoluteMargin: t.AbsoluteMargin,
			MaxScore: t.MaxScore, MinScore: t.MinScore, Skip: t.Skip, Depth: t.Depth, Sampling: t.Sampling,
		})
	}
	return m
}
