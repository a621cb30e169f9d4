package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"hardneg/index"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/model"
	"hardneg/internal/records"
	"hardneg/stream"
)

const (
	pollPause  = 200 * time.Millisecond
	tellEvery  = 30 * time.Second
	quietAfter = time.Second // without a new document: the end of the log is reached, and no load is under way
)

// Keys of the models topic: "<model id>/<chunk number>" in order, then "<model id>/manifest". A model is complete
// when its manifest is there and its chunks match the checksum; the first complete one wins.
const (
	manifestKey   = "/manifest"
	partitionsKey = "partitions"
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
	m, err := p.readModel(ctx, generation)
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

// readModel returns the model of that id, or for an empty id the first complete one; nil if there is none.
func (p *Pipeline) readModel(ctx context.Context, id string) (*model.Model, error) {
	var found *model.Model
	chunks := map[string]map[string][]byte{} // by model id, then chunk number: instances may publish at the same time
	err := p.kafka.ReadToEnd(ctx, p.cfg.Topics.Models, func(r stream.Record) error {
		key := string(r.Key)
		of, part, ok := strings.Cut(key, "/")
		if !ok || found != nil || id != "" && of != id {
			return nil
		}
		if part != manifestKey[1:] {
			if chunks[of] == nil {
				chunks[of] = map[string][]byte{}
			}
			chunks[of][part] = r.Value
			return nil
		}
		parts := make([][]byte, 0, len(chunks[of]))
		for _, number := range slices.Sorted(maps.Keys(chunks[of])) {
			parts = append(parts, chunks[of][number])
		}
		m, err := model.Decode(r.Value, parts)
		if err != nil {
			p.log.Warn().Err(err).Str("model", of).Int64("offset", r.Offset).Msg("passing over a model that is not complete")
			return nil
		}
		found = m
		return nil
	})
	return found, err
}

func chunkNumber(n int) string { return fmt.Sprintf("%06d", n) }

// fit samples the documents topic, fits a model and publishes it. When several instances do so at once, all of
// them go on with the one whose manifest came first.
func (p *Pipeline) fit(ctx context.Context) (*model.Model, error) {
	m, err := p.fitSample(ctx, 0)
	if err != nil {
		return nil, err
	}
	manifest, chunks, err := m.Encode()
	if err != nil {
		return nil, err
	}
	outputs := make([]stream.Output, 0, len(chunks)+1)
	for i, c := range chunks {
		outputs = append(outputs, stream.Output{Topic: p.cfg.Topics.Models, Key: []byte(m.ID() + "/" + chunkNumber(i)), Value: c})
	}
	if err := p.kafka.Produce(ctx, outputs); err != nil {
		return nil, err
	}
	err = p.kafka.Produce(ctx, []stream.Output{{Topic: p.cfg.Topics.Models, Key: []byte(m.ID() + manifestKey), Value: manifest}})
	if err != nil {
		return nil, err
	}
	first, err := p.readModel(ctx, "")
	if err == nil && first == nil {
		err = fmt.Errorf("topic %s does not give back the model that was just published: check its cleanup.policy and retention", p.cfg.Topics.Models)
	}
	return first, err
}

// fitSample fits on the documents that are there, once there are more than a number that was of no use.
func (p *Pipeline) fitSample(ctx context.Context, useless int) (*model.Model, error) {
	sample, err := p.sample(ctx, useless)
	if err != nil {
		return nil, err
	}
	p.log.Info().Int("documents", len(sample)).Msg("fitting a model")
	start := p.now()
	m, err := model.Fit(ctx, p.cfg.Embedders, p.cfg.Reduce, p.cfg.Fit.Minimum, sample)
	if errors.Is(err, model.ErrSample) {
		p.log.Warn().Err(err).Msg("waiting for documents that can be embedded")
		return p.fitSample(ctx, len(sample))
	}
	if err != nil {
		return nil, fmt.Errorf("fitting a model on %d documents: %w", len(sample), err)
	}
	p.log.Info().Dur("took", p.now().Sub(start)).Str("model", m.ID()).Int("dimensions", m.Dimensions()).Msg("fitted")
	return m, nil
}

// sample reads documents until there are fit.sample of them, or at least fit.minimum and no more are coming, or
// fit.wait has passed since the first; and more than a number that was of no use.
func (p *Pipeline) sample(ctx context.Context, useless int) ([]embed.Item, error) {
	topic := p.cfg.Topics.Documents
	offsets, err := p.kafka.Offsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	next := map[int32]int64{}
	for _, o := range offsets {
		next[o.Partition] = o.Start
	}
	documents := map[string]embed.Item{}
	var first, last, told time.Time
	for {
		atEnd := true
		for partition := range next {
			f, err := p.kafka.Fetch(ctx, topic, partition, next[partition], stream.FetchOptions{MaxWait: pollPause / 4})
			p.await(err)
			if err != nil {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				p.log.Warn().Err(err).Msg("cannot read the documents to fit a model on; trying again")
				if err := pause(ctx, 5*pollPause); err != nil {
					return nil, err
				}
				atEnd = false
				continue
			}
			for _, r := range f.Records {
				doc, deleted, err := records.ParseDocument(r.Key, r.Value)
				if err != nil || deleted {
					delete(documents, doc.ID) // the indexer says what is wrong with it
					continue
				}
				documents[doc.ID] = embed.Item{Text: records.EmbeddedText(doc.Title, doc.Text), Carried: doc.Embeddings}
				last = p.now()
				if first.IsZero() {
					first = last
				}
			}
			next[partition] = f.Next
			atEnd = atEnd && f.Next >= f.LastStable
		}
		n := len(documents)
		switch {
		case n <= useless:
		case n >= p.cfg.Fit.Sample,
			n >= p.cfg.Fit.Minimum && atEnd && p.now().Sub(last) >= quietAfter,
			n > 0 && p.now().Sub(first) >= p.cfg.Fit.Wait:
			return inOrder(documents, p.cfg.Fit.Sample), nil
		}
		if atEnd {
			if now := p.now(); now.Sub(told) > tellEvery {
				told = now
				note := p.log.Info().Int("documents", n).Int("minimum", p.cfg.Fit.Minimum)
				if n > 0 {
					note = note.Str("fit_in", max(0, p.cfg.Fit.Wait-now.Sub(first)).Round(time.Second).String())
				}
				note.Msg("waiting for documents to fit a model on; after fit.wait those that are there have to do")
			}
			if err := pause(ctx, pollPause); err != nil {
				return nil, err
			}
		}
	}
}

// await tells that the stages behind the model wait for documents, which is their work by now, or why they cannot.
func (p *Pipeline) await(err error) {
	for _, stage := range p.cfg.Stages {
		if stage != StageIntake {
			p.up(stage, err)
		}
	}
}

// inOrder lists the sample by document id, so that the same documents give the same model.
func inOrder(documents map[string]embed.Item, most int) []embed.Item {
	ids := make([]string, 0, len(documents))
	for id := range documents {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	sample := make([]embed.Item, 0, min(len(ids), most))
	for _, id := range ids[:min(len(ids), most)] {
		sample = append(sample, documents[id])
	}
	return sample
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
