package pipeline

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/rs/zerolog"

	"hardneg/internal/embed"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// observer turns the events of stages into metrics, health and log lines.
type observer struct {
	metrics *telemetry.Metrics
	health  *telemetry.Health
	log     zerolog.Logger

	mu      sync.Mutex
	failing map[string]map[int32]error // by stage and partition: the error of partitions that have failed and not committed since
	stalled map[string]map[int32]bool  // by stage and partition: those whose batch makes no progress
}

func newObserver(o Options) *observer {
	return &observer{metrics: o.Metrics, health: o.Health, log: o.Log, failing: map[string]map[int32]error{}, stalled: map[string]map[int32]bool{}}
}

// event records an event of a stage.
func (o *observer) event(e stream.Event) {
	partition := strconv.Itoa(int(e.Partition))
	log := o.log.With().Str("stage", e.Stage).Str("topic", e.Topic).Int32("partition", e.Partition).Logger()
	switch e.Kind {
	case stream.Committed:
		o.metrics.Records.WithLabelValues(e.Stage).Add(float64(e.Records))
		o.metrics.Outputs.WithLabelValues(e.Stage).Add(float64(e.Outputs))
		o.metrics.Batches.WithLabelValues(e.Stage).Inc()
		o.metrics.BatchSeconds.WithLabelValues(e.Stage).Observe(e.Took.Seconds())
		o.metrics.Lag.WithLabelValues(e.Stage, partition).Set(float64(max(0, e.End-e.Offset)))
		o.partitionUp(e)
		log.Debug().Int64("offset", e.Offset).Int("records", e.Records).Int("outputs", e.Outputs).Dur("took", e.Took).Msg("committed")
	case stream.Assigned:
		o.metrics.Lag.WithLabelValues(e.Stage, partition).Set(float64(max(0, e.End-e.Offset)))
		if e.Offset >= e.End { // it has no records to read, so it cannot be stuck
			o.partitionUp(e)
		}
		log.Info().Int64("offset", e.Offset).Int64("end", e.End).Int64("token", e.Token).Msg("partition assigned")
	case stream.Failed:
		o.metrics.Failures.WithLabelValues(e.Stage).Inc()
		o.partitionUp(e)
		log.Error().Err(e.Err).Msg("failed; starting again from the committed offset")
	case stream.Fenced:
		o.metrics.Failures.WithLabelValues(e.Stage).Inc()
		o.countStalled(e)
		log.Warn().Err(e.Err).Msg("no longer the owner; joining the group again")
	case stream.Stalled:
		o.partitionUp(e)
		log.Error().Err(e.Err).Int64("offset", e.Offset).Int("records", e.Records).Dur("took", e.Took).Msg("no progress: nothing that this batch waits for has failed")
	case stream.Skipped:
		log.Error().Err(e.Err).Int64("offset", e.Offset).Msg("the committed offset is out of range; going on elsewhere")
	case stream.Revoked:
		o.metrics.Lag.DeleteLabelValues(e.Stage, partition)
		o.partitionUp(e)
		log.Info().AnErr("error", e.Err).Msg("partition given back")
	case stream.Joined:
		o.partitionUp(e)
		log.Info().Int("partitions", e.Records).Msg("joined the group")
	}
}

// partitionUp records whether a partition makes progress. A stage is up if none of its partitions has failed
// since its last commit. So the progress of one partition does not hide that another one is stuck.
func (o *observer) partitionUp(e stream.Event) {
	o.countStalled(e)
	o.mu.Lock()
	defer o.mu.Unlock()
	stuck := ofStage(o.failing, e.Stage)
	delete(stuck, e.Partition)
	if e.Err != nil && (e.Kind == stream.Failed || e.Kind == stream.Stalled) {
		stuck[e.Partition] = e.Err
	}
	if e.Kind == stream.Joined {
		delete(stuck, -1)
	}
	for _, partition := range slices.Sorted(maps.Keys(stuck)) {
		o.up(e.Stage, stuck[partition])
		return
	}
	o.up(e.Stage, nil)
}

// countStalled counts the partitions whose batch makes no progress. A partition counts until its next event.
func (o *observer) countStalled(e stream.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	stalled := ofStage(o.stalled, e.Stage)
	delete(stalled, e.Partition)
	if e.Kind == stream.Stalled {
		stalled[e.Partition] = true
	}
	o.metrics.Stalled.WithLabelValues(e.Stage).Set(float64(len(stalled)))
}

// ofStage returns the map of a stage. If there is none it makes an empty one.
func ofStage[V any](byStage map[string]map[int32]V, stage string) map[int32]V {
	if byStage[stage] == nil {
		byStage[stage] = map[int32]V{}
	}
	return byStage[stage]
}

// up records that a stage makes progress, or with an error why it does not.
func (o *observer) up(stage string, err error) {
	value := 1.0
	if err != nil {
		value = 0
	}
	o.metrics.StageUp.WithLabelValues(stage).Set(value)
	o.health.Set(stage, err)
}

// Resources returns what embedders need: the cache, and how to reach their servers. A model says what to ask
// a server for; the configuration says where and how.
func (o Options) Resources() *embed.Resources {
	return &embed.Resources{Cache: o.Cache, Connections: o.Config.Embedders, Observe: o.observeEmbedder}
}

// introduceEmbedders creates the metrics of embedders that have a server, with value 0. Otherwise a rate
// would miss the first step of a counter.
func (o Options) introduceEmbedders() {
	for _, e := range o.Config.Embedders {
		if e.Type != embed.TypeOpenAI {
			continue
		}
		for _, outcome := range embed.Outcomes {
			o.Metrics.EmbedderRequests.WithLabelValues(e.Name, string(outcome))
		}
		o.Metrics.EmbedderRetries.WithLabelValues(e.Name)
		o.Metrics.EmbedderTexts.WithLabelValues(e.Name)
		o.Metrics.EmbedderSeconds.WithLabelValues(e.Name)
		o.Metrics.EmbedderLimit.WithLabelValues(e.Name).Set(float64(e.Concurrency))
	}
}

// observeEmbedder records a request of an embedder to its server. The request also shows the watchdog that
// the batch makes progress.
func (o Options) observeEmbedder(ctx context.Context, r embed.Request) {
	stream.Waiting(ctx)
	o.Metrics.EmbedderRequests.WithLabelValues(r.Embedder, string(r.Outcome)).Inc()
	o.Metrics.EmbedderSeconds.WithLabelValues(r.Embedder).Observe(r.Took.Seconds())
	o.Metrics.EmbedderTexts.WithLabelValues(r.Embedder).Add(float64(r.Texts))
	o.Metrics.EmbedderLimit.WithLabelValues(r.Embedder).Set(float64(r.Limit))
	if r.Again {
		o.Metrics.EmbedderRetries.WithLabelValues(r.Embedder).Inc()
	}
}
