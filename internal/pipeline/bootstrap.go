package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"hardneg/index"
	"hardneg/internal/config"
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
	var began map[string]int
	err := p.kafka.ReadToEnd(ctx, p.cfg.Topics.Models, func(r stream.Record) error {
		if string(r.Key) == partitionsKey && began == nil {
			return json.Unmarshal(r.Value, &began)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for topic, n := range began {
		if got, ok := now[topic]; ok && got != n {
			return fmt.Errorf("topic %s has %d partitions, but the view began with %d: a query's records would be split over two partitions; "+
				"produce the view into a new topic with the partitions you want", topic, got, n)
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

// open finds the model of the live generation, or fits and publishes the first one, and opens its collections.
func (p *Pipeline) open(ctx context.Context, client *index.Client) error {
	generation, live, err := client.Active(ctx)
	if err != nil {
		return err
	}
	m, err := p.models().Read(ctx, generation)
	if err != nil {
		return err
	}
	if m == nil && live {
		return fmt.Errorf("the live collections are of model %s, which topic %s does not have: was the topic deleted, or is qdrant.prefix that of another installation?",
			generation, p.cfg.Topics.Models)
	}
	if m == nil {
		if m, err = p.fit(ctx); err != nil {
			return err
		}
	}
	p.model, p.generation = m, m.ID()
	p.queries, err = client.Open(ctx, p.generation, m.Dimensions())
	if err != nil {
		return err
	}
	p.index = p.queries
	info := m.Info()
	p.log.Info().Str("generation", p.generation).Int("dimensions", m.Dimensions()).Int("fitted_on", info.Samples).Msg("model ready")
	if !p.describes(info) {
		p.log.Warn().Str("generation", p.generation).
			Msg("embedders or reduce differ from what the model was fitted with: the model's are used, and a new view is needed for the configured ones (README.md says how to begin one)")
	}
	if info.Samples < p.cfg.Fit.Minimum {
		p.log.Warn().Int("documents", info.Samples).Int("minimum", p.cfg.Fit.Minimum).
			Msg("the model was fitted on few documents and stays as it is: begin a new view once there are more (README.md says how)")
	}
	return nil
}

// describes tells whether the configuration is that of the model, as far as the manifest says.
func (p *Pipeline) describes(info model.Manifest) bool {
	reduced := len(info.Variance) > 0
	return reduced == (p.cfg.Reduce.Method == "pca") && (!reduced || info.Dimensions <= p.cfg.Reduce.MaxDimensions) &&
		slices.EqualFunc(p.cfg.Embedders, info.Embedders, func(c config.Embedder, m model.Embedder) bool {
			return c.Name == m.Name && c.Type == m.Type && c.Weight == m.Weight && c.Dimensions == m.Dimensions
		})
}

func (p *Pipeline) models() Models {
	return Models{Kafka: p.kafka, Topic: p.cfg.Topics.Models, Log: p.log}
}

// fit fits the first model on the documents that arrive, and publishes it. When several instances do so at once, all
// of them go on with the one whose manifest came first.
func (p *Pipeline) fit(ctx context.Context) (*model.Model, error) {
	documents := arrivals{cfg: p.cfg, kafka: p.kafka, log: p.log, await: p.await}
	m, err := FitModel(ctx, p.cfg, documents.sample, p.log)
	if err != nil {
		return nil, err
	}
	if err := p.models().Publish(ctx, m); err != nil {
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
	topic := p.cfg.Topics.Documents
	ends, err := p.kafka.Offsets(ctx, topic)
	if err != nil {
		return err
	}
	for told := (time.Time{}); ; {
		committed, err := p.kafka.Committed(ctx, Group(p.cfg, StageIndexer), topic)
		if err != nil {
			return err
		}
		var left int64
		for _, end := range ends {
			at, ok := committed[end.Partition]
			if !ok {
				at = end.Start
			}
			left += max(0, end.LastStable-at)
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
