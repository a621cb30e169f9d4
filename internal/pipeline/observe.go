package pipeline

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"hardneg/internal/embed"
	"hardneg/stream"
)

// observe turns what happens to a stage into metrics, health and log lines.
func (p *Pipeline) observe(e stream.Event) {
	partition := strconv.Itoa(int(e.Partition))
	log := p.log.With().Str("stage", e.Stage).Str("topic", e.Topic).Int32("partition", e.Partition).Logger()
	switch e.Kind {
	case stream.Committed:
		p.metrics.Records.WithLabelValues(e.Stage).Add(float64(e.Records))
		p.metrics.Outputs.WithLabelValues(e.Stage).Add(float64(e.Outputs))
		p.metrics.Batches.WithLabelValues(e.Stage).Inc()
		p.metrics.BatchSeconds.WithLabelValues(e.Stage).Observe(e.Took.Seconds())
		p.metrics.Lag.WithLabelValues(e.Stage, partition).Set(float64(max(0, e.End-e.Offset)))
		p.partitionUp(e)
		log.Debug().Int64("offset", e.Offset).Int("records", e.Records).Int("outputs", e.Outputs).Dur("took", e.Took).Msg("committed")
	case stream.Assigned:
		p.metrics.Lag.WithLabelValues(e.Stage, partition).Set(float64(max(0, e.End-e.Offset)))
		if e.Offset >= e.End { // nothing that it could be stuck at
			p.partitionUp(e)
		}
		log.Info().Int64("offset", e.Offset).Int64("end", e.End).Int64("token", e.Token).Msg("partition assigned")
	case stream.Failed:
		p.metrics.Failures.WithLabelValues(e.Stage).Inc()
		p.partitionUp(e)
		log.Error().Err(e.Err).Msg("failed; starting again from the committed offset")
	case stream.Fenced:
		p.metrics.Failures.WithLabelValues(e.Stage).Inc()
		p.stalled(e)
		log.Warn().Err(e.Err).Msg("no longer the owner; joining the group again")
	case stream.Stalled:
		p.partitionUp(e)
		log.Error().Err(e.Err).Int64("offset", e.Offset).Int("records", e.Records).Dur("took", e.Took).Msg("no progress: nothing that this batch waits for has failed")
	case stream.Skipped:
		log.Error().Err(e.Err).Int64("offset", e.Offset).Msg("the committed offset is out of range; going on elsewhere")
	case stream.Revoked:
		p.metrics.Lag.DeleteLabelValues(e.Stage, partition)
		p.partitionUp(e)
		log.Info().AnErr("error", e.Err).Msg("partition given back")
	case stream.Joined:
		p.partitionUp(e)
		log.Info().Int("partitions", e.Records).Msg("joined the group")
	}
}

// partitionUp tells whether a partition makes progress. A stage is up when none of its partitions failed since it last
// committed: what one of them does must not hide that another is stuck.
func (p *Pipeline) partitionUp(e stream.Event) {
	p.stalled(e)
	p.failing.Lock()
	defer p.failing.Unlock()
	stuck := p.failing.partitions[e.Stage]
	if stuck == nil {
		stuck = map[int32]error{}
		p.failing.partitions[e.Stage] = stuck
	}
	delete(stuck, e.Partition)
	if e.Err != nil && (e.Kind == stream.Failed || e.Kind == stream.Stalled) {
		stuck[e.Partition] = e.Err
	}
	if e.Kind == stream.Joined {
		delete(stuck, -1)
	}
	for _, partition := range slices.Sorted(maps.Keys(stuck)) {
		p.up(e.Stage, stuck[partition])
		return
	}
	p.up(e.Stage, nil)
}

// stalled counts the partitions whose batch makes no progress: until whatever happens to them next.
func (p *Pipeline) stalled(e stream.Event) {
	p.failing.Lock()
	defer p.failing.Unlock()
	in := p.failing.stalled[e.Stage]
	if in == nil {
		in = map[int32]bool{}
		p.failing.stalled[e.Stage] = in
	}
	delete(in, e.Partition)
	if e.Kind == stream.Stalled {
		in[e.Partition] = true
	}
	p.metrics.Stalled.WithLabelValues(e.Stage).Set(float64(len(in)))
}

// up tells whether a stage makes progress.
func (p *Pipeline) up(stage string, err error) {
	value := 1.0
	if err != nil {
		value = 0
	}
	p.metrics.StageUp.WithLabelValues(stage).Set(value)
	p.health.Set(stage, err)
}

// introduceEmbedders makes the metrics of embedders with a server exist from the start, so that a rate over a counter's
// first step is right.
func (p *Pipeline) introduceEmbedders() {
	for _, e := range p.cfg.Embedders {
		if e.Type != embed.TypeOpenAI {
			continue
		}
		for _, outcome := range embed.Outcomes {
			p.metrics.EmbedderRequests.WithLabelValues(e.Name, string(outcome))
		}
		p.metrics.EmbedderRetries.WithLabelValues(e.Name)
		p.metrics.EmbedderTexts.WithLabelValues(e.Name)
		p.metrics.EmbedderSeconds.WithLabelValues(e.Name)
		p.metrics.EmbedderLimit.WithLabelValues(e.Name).Set(float64(e.Concurrency))
	}
}

// observeEmbedder turns the requests of embedders to their servers into metrics, and into signs that a batch which
// makes many of them goes on.
func (p *Pipeline) observeEmbedder(ctx context.Context, r embed.Request) {
	stream.Waiting(ctx)
	p.metrics.EmbedderRequests.WithLabelValues(r.Embedder, string(r.Outcome)).Inc()
	p.metrics.EmbedderSeconds.WithLabelValues(r.Embedder).Observe(r.Took.Seconds())
	p.metrics.EmbedderTexts.WithLabelValues(r.Embedder).Add(float64(r.Texts))
	p.metrics.EmbedderLimit.WithLabelValues(r.Embedder).Set(float64(r.Limit))
	if r.Again {
		p.metrics.EmbedderRetries.WithLabelValues(r.Embedder).Inc()
	}
}
