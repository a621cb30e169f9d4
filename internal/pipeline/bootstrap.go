package pipeline

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/model"
	"hardneg/stream"
)

const (
	pollPause  = 200 * time.Millisecond
	tellEvery  = 30 * time.Second
	quietAfter = time.Second // without a new document: the end of the log is reached, and no load is under way
)

// keepPartitions refuses to start when refresh or triplets have another number of partitions than the view began
// with: the records of a query would be split over two partitions, and the older ones would never be replaced.
func (p *Pipeline) keepPartitions(ctx context.Context) error {
	now := map[string]int{}
	for _, topic := range []string{p.cfg.Topics.Refresh, p.cfg.Topics.Triplets} {
		n, err := p.kafka.Partitions(ctx, topic)
		if err != nil {
			return err
		}
		now[topic] = n
	}
	began, err := partitionsAtFirst(ctx, p.kafka, p.cfg)
	if err != nil {
		return err
	}
	want := map[string]int{}
	maps.Copy(want, began)
	if p.record != nil { // whose refresh topic is not the first one's
		want[p.cfg.Topics.Refresh] = p.record.Partitions
	}
	for topic, n := range want {
		if got, ok := now[topic]; ok && got != n {
			return splitView(topic, got, n)
		}
	}
	if began != nil {
		return nil
	}
	value, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return p.kafka.Produce(ctx, []stream.Output{{Topic: p.cfg.Topics.Models, Key: []byte(partitionsKey), Value: value}})
}

// partitionsAtFirst is the number of partitions that topics had when the view began; nil: it has not.
func partitionsAtFirst(ctx context.Context, kafka *stream.Client, cfg *config.Config) (began map[string]int, err error) {
	err = kafka.ReadToEnd(ctx, cfg.Topics.Models, func(r stream.Record) error {
		if string(r.Key) == partitionsKey && began == nil {
			return json.Unmarshal(r.Value, &began)
		}
		return nil
	})
	return began, err
}

func splitView(topic string, got, began int) error {
	return fmt.Errorf("topic %s has %d partitions, but the view began with %d: a query's records would be split over two partitions; "+
		"produce the view into a new topic with the partitions you want", topic, got, began)
}

// adopt finds which generation is live, and takes on its names.
func (p *Pipeline) adopt(ctx context.Context) error {
	live, _, err := p.client.Active(ctx)
	if err != nil {
		return err
	}
	generations, err := readGenerations(ctx, p.kafka, p.cfg.Topics.Models)
	if err != nil {
		return err
	}
	p.live, p.record, p.cfg = live, generations[live], forGeneration(p.cfg, live)
	return nil
}

// open finds the model of the live generation, or fits and publishes the first one, and opens its collections.
func (p *Pipeline) open(ctx context.Context) error {
	m, err := p.models().Read(ctx, modelOf(p.live))
	if err != nil {
		return err
	}
	if m == nil && p.live != "" {
		return fmt.Errorf("the live collections are of model %s, which topic %s does not have: was the topic deleted, or is qdrant.prefix that of another installation?",
			modelOf(p.live), p.cfg.Topics.Models)
	}
	if m == nil {
		if m, err = p.fit(ctx); err != nil {
			return err
		}
	}
	observeDrift(m, p.metrics, p.log)
	info := m.Info()
	p.model, p.generation = m, cmp.Or(p.live, m.ID())
	if p.live != "" {
		p.carries = info.Definitions()
	}
	p.queries, err = p.client.Open(ctx, p.generation, m.Dimensions())
	if err != nil {
		return err
	}
	p.index = p.queries
	if err := p.takeOver(ctx); err != nil {
		return err
	}
	p.log.Info().Str("generation", p.generation).Int("dimensions", m.Dimensions()).Int("fitted_on", info.Samples).Msg("model ready")
	if !describes(p.cfg, info) {
		p.log.Warn().Str("generation", p.generation).
			Msg("embedders or reduce differ from what the model was fitted with: the model's are used; hardneg rebuild makes a generation with the configured ones")
	}
	if info.Samples < p.cfg.Fit.Minimum {
		p.log.Warn().Int("documents", info.Samples).Int("minimum", p.cfg.Fit.Minimum).
			Msg("the model was fitted on few documents and stays as it is: run hardneg rebuild once there are more")
	}
	return nil
}

// describes tells whether the configuration is that of the model, as far as the manifest says.
func describes(cfg *config.Config, info model.Manifest) bool {
	reduced := len(info.Variance) > 0
	return reduced == (cfg.Reduce.Method == "pca") && (!reduced || info.Dimensions <= cfg.Reduce.MaxDimensions) &&
		slices.EqualFunc(cfg.Embedders, info.Embedders, func(c config.Embedder, m model.Embedder) bool { return m.Is(c) })
}

// resources are what embedders draw on: a model says what to ask a server for, the configuration where and how.
func (p *Pipeline) resources() *embed.Resources {
	return &embed.Resources{Cache: p.cache, Connections: p.cfg.Embedders, Observe: p.observeEmbedder}
}

func (p *Pipeline) models() Models {
	return Models{Kafka: p.kafka, Topic: p.cfg.Topics.Models, Resources: p.resources(), Log: p.log}
}

// fit fits the first model on the documents that arrive, and publishes it. When several instances do so at once, all
// of them go on with the one whose manifest came first.
func (p *Pipeline) fit(ctx context.Context) (*model.Model, error) {
	silent := p.models() // it is asked again and again
	silent.Log = zerolog.Nop()
	documents := arrivals{cfg: p.cfg, kafka: p.kafka, log: p.log, await: func(err error) { p.await(cmp.Or(err, p.unfitted)) }, first: silent.First}
	m, err := FitModel(ctx, p.cfg, p.resources(), documents.sample, p.log)
	if err == nil {
		err = p.models().Publish(ctx, m)
	}
	if err != nil && !errors.Is(err, errPublished) {
		return nil, err
	}
	first, err := p.models().Read(ctx, "")
	if err == nil && first == nil {
		err = fmt.Errorf("topic %s does not give back the model that was just published: check its cleanup.policy and retention", p.cfg.Topics.Models)
	}
	return first, err
}

// await tells that the stages behind the model wait for documents, which is their work by now, or why they cannot.
func (p *Pipeline) await(err error) {
	for _, stage := range p.cfg.Stages {
		if stage != StageIntake {
			p.up(stage, err)
		}
	}
}

// awaitFirstLoad lets a fresh view wait until the documents that are in the log now are indexed, so that a backlog
// does not mine every query over and over.
func (p *Pipeline) awaitFirstLoad(ctx context.Context) error {
	if !p.cfg.Bootstrap.Wait {
		return nil
	}
	if _, queries, err := p.index.Counts(ctx); err != nil || queries > 0 {
		return err
	}
	p.up(StageMiner, nil) // waiting is its work now
	ends, err := p.kafka.Offsets(ctx, p.cfg.Topics.Documents)
	if err != nil {
		return err
	}
	for told := (time.Time{}); ; {
		left, err := behind(ctx, p.kafka, p.cfg, StageIndexer, stable(ends))
		if err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
		if now := p.now(); now.Sub(told) > tellEvery {
			told = now
			p.log.Info().Int64("records", left).Msg("mining waits for an indexer to index the first documents")
		}
		if err := pause(ctx, pollPause); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
