// Package stages holds the three stages of a view. The indexer writes documents to the index and finds the
// queries that a change affects. The intake turns the query log into evidence, keyed by query. The miner
// turns evidence and refreshes into triplets. A stage is a stream.Processor: a function from a batch of
// records to writes in Qdrant and outputs for Kafka. Package pipeline runs the stages. docs/architecture.md
// has the figure. Only packages of hardneg import it.
package stages

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/embed"
	"hardneg/internal/records"
	"hardneg/internal/telemetry"
	"hardneg/mining"
	"hardneg/stream"
)

// DocumentsIndex is the part of the index that gives documents by their ids.
type DocumentsIndex interface {
	Documents(ctx context.Context, ids []string, want index.Fields) (map[string]index.Document, error)
}

// IndexerIndex is the part of the index that the indexer uses: *index.Index, or a simulation. A write is
// visible to every call that begins after the write has returned. index.WriteDocuments says how documents are
// guarded.
type IndexerIndex interface {
	DocumentsIndex
	WriteDocuments(ctx context.Context, docs []index.Document, partition int32, highest int64) error
	Watching(ctx context.Context, documentIDs []string) ([]string, error)
	Entering(ctx context.Context, vectors [][]float32) ([][]string, error)
}

// MinerIndex is the part of the index that the miner uses: *index.Index, or a simulation. A write is visible
// to every call that begins after the write has returned. index.WriteStates says how states are guarded.
type MinerIndex interface {
	ListsIndex
	States(ctx context.Context, queryIDs []string) (map[string]index.State, error)
	WriteStates(ctx context.Context, states []index.State, token int64) error
}

// ListsIndex is the part of the index that Lists uses to decide lists.
type ListsIndex interface {
	DocumentsIndex
	DocumentsAt(ctx context.Context, points []string, want index.Fields) (map[string]index.Document, error)
	Search(ctx context.Context, queries [][]float32, limit int) ([]index.Hits, error)
	Rank(ctx context.Context, queries [][]float32, limit int) ([]index.Ranking, error)
}

// Broker is the part of Kafka that stages use directly: *stream.Client, or a simulation.
type Broker interface {
	Offsets(ctx context.Context, topic string) ([]stream.Offsets, error)
}

// Embedder turns texts into vectors: *model.Model, or a simulation. The slices have an entry for each item: a
// vector, or the error that refuses this item. The last result is an error of the whole call.
type Embedder interface {
	Vectors(ctx context.Context, kind embed.Kind, items []embed.Item) ([][]float32, []error, error)
}

// Outputs makes the records that every stage writes: refresh records and dead letters.
type Outputs struct {
	Names       catalog.Names
	Publication Publication
	Log         zerolog.Logger
	Metrics     *telemetry.Metrics
}

// Env is what the stages of one generation share once it has a model. NewEnv makes it.
type Env struct {
	Outputs
	Generation string
	Rules      catalog.Rules
	Mining     *mining.Miner // works by Rules
	Model      Embedder
	Kafka      Broker
	Now        func() time.Time
	WideLimit  int // a search for more candidates than this reads no vectors at first
}

// NewEnv returns the environment of a generation. It returns an error if the rules make no sense.
func NewEnv(out Outputs, generation string, rules catalog.Rules, model Embedder, kafka Broker) (*Env, error) {
	miner, err := mining.New(rules.Mining)
	if err != nil {
		return nil, err
	}
	return &Env{
		Outputs: out, Generation: generation, Rules: rules, Mining: miner, Model: model, Kafka: kafka, Now: time.Now, WideLimit: wideLimit,
	}, nil
}

// Refresh returns a record for the refresh topic. It carries on the trace of the record that caused it.
func (o Outputs) Refresh(r records.Refresh, cause []stream.Header) stream.Output {
	return stream.Output{
		Topic: o.Names.Topics.Refresh, Partition: stream.ByKey, Key: []byte(r.QueryID), Value: r.Encode(),
		Headers: Trace(cause),
	}
}

// DeadLetter returns the dead letter of a record that this generation cannot use, counts it and logs it.
func (o Outputs) DeadLetter(stage string, r stream.Record, reason error) stream.Output {
	o.Metrics.DeadLetters.WithLabelValues(stage).Inc()
	o.Log.Warn().Str("stage", stage).Str("at", r.Topic+"/"+strconv.Itoa(int(r.Partition))+"/"+strconv.FormatInt(r.Offset, 10)).
		Bytes("key", r.Key[:min(len(r.Key), 200)]).Err(reason).Msg("a record cannot be used: sent to the dead letters")
	return stream.NewDeadLetter(o.Names.Topics.DeadLetters, stage, r, reason)
}

// malformed returns the dead letter of a record that no generation can use, whatever its model. Several
// generations may read the record. The publication decides which one of them sends the dead letter; the
// others return nil.
func (o Outputs) malformed(stage string, r stream.Record, reason error) []stream.Output {
	if !o.Publication.ReportsMalformed(stage, r) {
		return nil
	}
	return []stream.Output{o.DeadLetter(stage, r, reason)}
}

// Unreadable returns what a stage makes of records that stream cannot read: dead letters, as for malformed
// records.
func (o Outputs) Unreadable(stage string) func(stream.Record, error) []stream.Output {
	return func(r stream.Record, reason error) []stream.Output { return o.malformed(stage, r, reason) }
}

// Vectors embeds texts as Embedder.Vectors does, and counts them in the metrics.
func (e *Env) Vectors(ctx context.Context, kind embed.Kind, items []embed.Item) ([][]float32, []error, error) {
	if len(items) == 0 {
		return nil, nil, nil
	}
	vectors, refusals, err := e.Model.Vectors(ctx, kind, items)
	if err != nil {
		return nil, nil, err
	}
	label := "passage"
	if kind == embed.Query {
		label = "query"
	}
	e.Metrics.EmbeddedTexts.WithLabelValues(label).Add(float64(len(items)))
	return vectors, refusals, nil
}

// checkNotPastEnd returns an error if the offset of something stored is beyond the end of its topic: somebody
// has deleted the topic and made it anew. stored is by partition; what names it in the error.
func (e *Env) checkNotPastEnd(ctx context.Context, topic, what string, stored map[int32]int64) error {
	if len(stored) == 0 {
		return nil
	}
	ends, err := e.Kafka.Offsets(ctx, topic)
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

// sourceOf returns the name of a record, for the records that it causes.
func sourceOf(r stream.Record) records.Source {
	return records.Source{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Time.UnixMilli()}
}

// PositionOf returns the position of a record in the query log.
func PositionOf(s records.Source) index.Position {
	return index.Position{Timestamp: s.Timestamp, Partition: s.Partition, Offset: s.Offset}
}
