package rebuild

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"hardneg/index"
	"hardneg/internal/batches"
	"hardneg/internal/catalog"
	"hardneg/internal/embed"
	"hardneg/internal/fit"
	"hardneg/internal/records"
	"hardneg/internal/stages"
	"hardneg/mining"
	"hardneg/stream"
)

const seedTogether = 256 // documents or queries that are read and embedded at a time

// errCarried means that a document's record carried vectors, which the live collections do not have.
var errCarried = errors.New("came with vectors of its own, for whichever embedder, which the index does not keep: rebuild with --from-topics")

// sample is a fit.Source. It returns documents spread over the live generation, or over the documents topic.
func (b *rebuilder) sample(ctx context.Context, useless int) (sample []embed.Item, err error) {
	most, seed, read := b.Config.Fit.Sample, b.Config.Reduce.Seed, func() {}
	if b.FromTopics {
		sample, err = fit.SampleTopic(ctx, b.Kafka, b.Config.Topics.Documents, most, seed, read)
	} else {
		sample, err = fit.SampleIndex(ctx, b.live.Collections, most, seed, read)
	}
	if err == nil && len(sample) <= useless {
		err = fmt.Errorf("%d documents are there, and none can be embedded", len(sample))
	}
	return sample, err
}

// checkContent returns an error if the live collections lack something that the new generation needs.
func (b *rebuilder) checkContent(ctx context.Context) error {
	return b.live.Collections.ScanDocuments(ctx, 0, func(d index.Document) error {
		if d.Carried && !d.Deleted {
			return fmt.Errorf("document %q %w", d.ID, errCarried)
		}
		return nil
	})
}

// start notes the offsets from which the new stages will read. Everything before them is in the live
// collections: documents at once, evidence as soon as the live miner has processed what the live intake has
// written. start waits for that.
func (r *rebuild) start(ctx context.Context) (err error) {
	if r.record.Partitions, err = r.Kafka.Partitions(ctx, r.next.Env.Names.Topics.Refresh); err != nil {
		return err
	}
	if r.FromTopics {
		r.record.Phase = catalog.PhaseBuilding
		return r.write(ctx, r.record)
	}
	r.record.Phase, r.record.StartedAt = catalog.PhaseSeeding, time.Now().UTC()
	for _, from := range []struct {
		stage string
		to    *map[int32]int64
	}{{catalog.StageIndexer, &r.record.Documents}, {catalog.StageIntake, &r.record.Queries}} {
		if *from.to, err = r.Kafka.CommittedSoFar(ctx, r.live.Names.Group(from.stage), r.live.Names.Input(from.stage)); err != nil {
			return err
		}
	}
	offsets, err := r.Kafka.Offsets(ctx, r.live.Names.Topics.Refresh)
	if err != nil {
		return err
	}
	if err := r.await(ctx, r.live.Names, catalog.StageMiner, catalog.WrittenEnds(offsets)); err != nil {
		return err
	}
	return r.write(ctx, r.record)
}

// seed fills the collections of the new generation from the live ones: it copies content and evidence, and
// embeds them anew. It leaves alone what is there already, so it can be interrupted. When it is done the
// stages can begin, at the offsets that start has noted.
func (r *rebuild) seed(ctx context.Context) error {
	if err := r.step(StepDocuments, func() error { return r.seedDocuments(ctx) }); err != nil {
		return err
	}
	if err := r.step(StepQueries, func() error { return r.seedQueries(ctx) }); err != nil {
		return err
	}
	if err := r.checkInTime(ctx); err != nil {
		return err
	}
	if now, err := current(ctx, r.Conn, r.record); err != nil {
		return err
	} else if now.Phase != catalog.PhaseSeeding { // another process has seeded, and its stages have gone on from there
		r.record.Phase = now.Phase
		return nil
	}
	for _, s := range []struct {
		stage string
		from  map[int32]int64
	}{{catalog.StageIndexer, r.record.Documents}, {catalog.StageIntake, r.record.Queries}} {
		if err := r.Kafka.CommitOffsets(ctx, r.next.Env.Names.Group(s.stage), r.next.Env.Names.Input(s.stage), s.from); err != nil {
			return err
		}
	}
	r.record.Phase = catalog.PhaseBuilding
	return r.write(ctx, r.record)
}

// checkInTime returns an error if Kafka may have compacted away a tombstone that was written since start. The
// document of that tombstone would stay in the new generation for ever.
func (r *rebuild) checkInTime(ctx context.Context) error {
	value, err := r.Kafka.Setting(ctx, r.Config.Topics.Documents, "delete.retention.ms")
	if err != nil {
		return err
	}
	ms, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return nil // the broker does not say
	}
	if took := time.Since(r.record.StartedAt); ms >= 0 && took > time.Duration(ms)*time.Millisecond {
		return fmt.Errorf("filling the new generation took %s, longer than delete.retention.ms of topic %s (%s): deletes may be lost; "+
			"remove it with --abort, and raise delete.retention.ms or rebuild with --from-topics", took.Round(time.Second), r.Config.Topics.Documents, time.Duration(ms)*time.Millisecond)
	}
	return nil
}

// seedDocuments copies the documents that the new collections do not have yet.
func (r *rebuild) seedDocuments(ctx context.Context) error {
	total, _, err := r.live.Collections.Counts(ctx)
	if err != nil {
		return err
	}
	done := 0
	return batches.Each(seedTogether, func(add func(index.Document) error) error {
		return r.live.Collections.ScanDocuments(ctx, index.WithText|index.WithMetadata, func(d index.Document) error {
			if d.Deleted {
				return nil
			}
			return add(d)
		})
	}, func(documents []index.Document) error {
		done += len(documents)
		r.Progress(Progress{Step: StepDocuments, Done: int64(done), Total: int64(total)})
		there, err := r.next.Collections.Documents(ctx, documentIDs(documents), 0)
		if err != nil {
			return err
		}
		return r.embedDocuments(ctx, slices.DeleteFunc(documents, func(d index.Document) bool { _, ok := there[d.ID]; return ok }))
	})
}

// documentIDs returns the ids of documents.
func documentIDs(documents []index.Document) []string {
	ids := make([]string, len(documents))
	for i, d := range documents {
		ids[i] = d.ID
	}
	return ids
}

// embedDocuments embeds documents and writes them into the new collections. As in the indexer, a document
// that the new model refuses becomes a delete marker, and its record a dead letter.
func (r *rebuild) embedDocuments(ctx context.Context, documents []index.Document) error {
	items := make([]embed.Item, len(documents))
	for i, d := range documents {
		if d.Carried {
			return fmt.Errorf("document %q %w", d.ID, errCarried)
		}
		items[i] = embed.Item{Text: records.EmbeddedText(d.Title, d.Text)}
	}
	vectors, refusals, err := r.next.Env.Vectors(ctx, embed.Passage, items)
	if err != nil {
		return err
	}
	for i := range documents {
		d := &documents[i]
		if refusals[i] == nil {
			d.Vector, d.MinHash = vectors[i], mining.NewMinHash(items[i].Text)
			continue
		}
		if d.Offset < r.record.Documents[d.Partition] { // otherwise the new indexer reads the record, and reports it
			if err := r.reportRefused(ctx, catalog.StageIndexer, r.Config.Topics.Documents, d.Partition, d.Offset, stages.CountsAsDeleted(d.ID, refusals[i])); err != nil {
				return err
			}
		}
		*d = index.Document{Document: mining.Document{ID: d.ID}, Partition: d.Partition, Offset: d.Offset, Deleted: true}
	}
	return r.next.Collections.SeedDocuments(ctx, documents)
}

// reportRefused sends a record that the new model refuses to the dead letters, if its topic still has it.
func (r *rebuild) reportRefused(ctx context.Context, stage, topic string, partition int32, offset int64, reason error) error {
	got, err := r.Kafka.Fetch(ctx, topic, partition, offset, stream.FetchOptions{MaxBytes: 1})
	if errors.Is(err, stream.ErrOffsetOutOfRange) {
		err = nil
	}
	if err != nil {
		return err
	}
	if len(got.Records) == 0 || got.Records[0].Offset != offset {
		r.Log.Warn().Err(reason).Str("stage", stage).Msgf("record %s/%d/%d is refused by the new model, and no longer in its topic", topic, partition, offset)
		return nil
	}
	return r.Kafka.Produce(ctx, []stream.Output{r.next.Env.DeadLetter(stage, got.Records[0], reason)})
}

// seedQueries copies text and evidence of every query, and sends the query through refresh so that the new
// miner mines it.
func (r *rebuild) seedQueries(ctx context.Context) error {
	_, total, err := r.live.Collections.Counts(ctx)
	if err != nil {
		return err
	}
	done := 0
	return batches.Each(seedTogether, func(add func(index.State) error) error {
		return r.live.Collections.ScanStates(ctx, add)
	}, func(states []index.State) error {
		done += len(states)
		r.Progress(Progress{Step: StepQueries, Done: int64(min(done, int(total))), Total: int64(total)})
		items := make([]embed.Item, 0, len(states))
		for _, s := range states {
			if s.Text != "" {
				items = append(items, embed.Item{Text: s.Text, Carried: s.Carried})
			}
		}
		vectors, refusals, err := r.next.Env.Vectors(ctx, embed.Query, items)
		if err != nil {
			return err
		}
		var seeds []index.State
		var outputs []stream.Output
		at := 0 // index in vectors and refusals of the next query that has a text
		for _, s := range states {
			seed := index.State{
				QueryID: s.QueryID, Text: s.Text, Newest: s.Newest, Carried: s.Carried, Forgotten: s.Forgotten,
				Applied: maps.Clone(s.Applied), Revision: s.Revision, StoredAt: s.StoredAt,
			}
			for _, p := range s.Positives {
				seed.Positives = append(seed.Positives, index.Positive{Document: p.Document, Weight: p.Weight, Log: p.Log})
			}
			if s.Text != "" {
				if refusals[at] != nil {
					if err := r.reportRefusedQuery(ctx, s, refusals[at]); err != nil {
						return err
					}
					// The query begins anew with the records that the new intake reads. Its empty state shows
					// a later run that the dead letter was sent.
					seed = index.State{QueryID: s.QueryID, Forgotten: s.Forgotten, Revision: s.Revision, StoredAt: s.StoredAt}
					seeds = append(seeds, seed)
					at++
					continue
				}
				seed.Vector = vectors[at]
				at++
			}
			seeds = append(seeds, seed)
			outputs = append(outputs, r.next.Env.Refresh(records.Refresh{
				Kind: records.KindRefresh, QueryID: s.QueryID, Source: records.Source{Topic: records.SourceRebuild, Timestamp: time.Now().UnixMilli()},
			}, nil))
		}
		if err := r.next.Collections.SeedStates(ctx, seeds); err != nil {
			return err
		}
		return r.Kafka.Produce(ctx, outputs)
	})
}

// reportRefusedQuery sends the record from which a query has its text to the dead letters. It does not if an
// interrupted run has sent it, or if the new stages will read the record and report it.
func (r *rebuild) reportRefusedQuery(ctx context.Context, s index.State, reason error) error {
	if s.Newest.Offset >= r.record.Queries[s.Newest.Partition] {
		return nil
	}
	there, err := r.next.Collections.Published(ctx, []string{s.QueryID})
	if _, ok := there[s.QueryID]; ok || err != nil {
		return err
	}
	return r.reportRefused(ctx, catalog.StageMiner, r.Config.Topics.Queries, s.Newest.Partition, s.Newest.Offset, fmt.Errorf("query %q: %w", s.QueryID, reason))
}
