package stages

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/embed"
	"hardneg/internal/records"
	"hardneg/mining"
	"hardneg/stream"
)

// Indexer writes documents to the index. Then it asks which queries each change affects, and sends those
// through refresh. The look-ups always come after the write is complete: docs/architecture.md has the race.
type Indexer struct {
	*Env
	index     IndexerIndex
	partition int32
}

// NewIndexer returns the indexer of a partition of the documents topic.
func NewIndexer(e *Env, x IndexerIndex, partition int32) Indexer { return Indexer{e, x, partition} }

// change is the newest record of a document in a batch.
type change struct {
	record  stream.Record
	doc     records.Document
	deleted bool
	point   index.Document // what the index will hold; embed fills it in
}

// Process indexes a batch, and returns refresh records of the affected queries and dead letters.
func (s Indexer) Process(ctx context.Context, batch []stream.Record) ([]stream.Output, error) {
	changes, outputs := s.parse(batch)
	if len(changes) == 0 {
		return outputs, nil
	}
	refused, err := s.embed(ctx, changes)
	if err != nil {
		return nil, err
	}
	outputs = append(outputs, refused...)
	for _, c := range changes {
		if err := index.CheckDocument(c.point); err != nil { // else the write of the whole batch would fail, each time
			outputs = append(outputs, s.refuse(c, err))
		}
	}
	points := make([]index.Document, len(changes))
	for i, c := range changes {
		points[i] = c.point
	}
	if err := s.index.WriteDocuments(ctx, points, s.partition, batch[len(batch)-1].Offset); err != nil {
		return nil, err
	}
	refreshes, err := s.affected(ctx, changes)
	if err != nil {
		return nil, err
	}
	return append(outputs, refreshes...), nil
}

// CountsAsDeleted returns the reason of a refusal, with what it means for the document.
func CountsAsDeleted(id string, reason error) error {
	return fmt.Errorf("%w; until a good record comes, document %q counts as deleted", reason, id)
}

// parse returns the newest record of each document, in order of first mention, and dead letters. A record
// that cannot be used becomes a dead letter. If it still names its document it also counts as a delete: a
// view must not show what its source has replaced.
func (s Indexer) parse(batch []stream.Record) ([]*change, []stream.Output) {
	var changes []*change
	var outputs []stream.Output
	at := map[string]*change{}
	for _, r := range batch {
		doc, deleted, err := records.ParseDocument(r.Key, r.Value)
		if err != nil {
			if doc.ID != "" {
				err = CountsAsDeleted(doc.ID, err)
			}
			outputs = append(outputs, s.malformed(catalog.StageIndexer, r, err)...)
			if doc.ID == "" {
				continue
			}
			deleted = true
		}
		c, ok := at[doc.ID]
		if !ok {
			c = &change{}
			at[doc.ID] = c
			changes = append(changes, c)
		}
		*c = change{record: r, doc: doc, deleted: deleted}
	}
	return changes, outputs
}

// embed fills in the points, and returns dead letters. A document whose content the index has already keeps
// its vector, unless the new record or the stored one carries vectors, which may have changed.
func (s Indexer) embed(ctx context.Context, changes []*change) ([]stream.Output, error) {
	stored, err := s.index.Documents(ctx, documentIDs(changes), index.WithVector)
	if err != nil {
		return nil, err
	}
	if err := s.checkNotRecreated(ctx, stored, changes); err != nil {
		return nil, err
	}
	var toEmbed []*change
	var items []embed.Item // of toEmbed
	for _, c := range changes {
		c.point = index.Document{Partition: c.record.Partition, Offset: c.record.Offset, Deleted: c.deleted}
		c.point.ID = c.doc.ID
		if c.deleted {
			continue
		}
		c.point.Hash = c.doc.Hash()
		c.point.Title, c.point.Text = c.doc.Title, c.doc.Text
		c.point.UpdatedAt, c.point.Metadata = c.doc.UpdatedAt, c.doc.Metadata
		text := records.EmbeddedText(c.doc.Title, c.doc.Text)
		c.point.MinHash = mining.NewMinHash(text)
		if old, ok := stored[c.doc.ID]; ok && !old.Deleted && old.Hash == c.point.Hash && len(c.doc.Embeddings) == 0 && !old.Carried {
			c.point.Vector = old.Vector
			continue
		}
		c.point.Carried = len(c.doc.Embeddings) > 0
		toEmbed, items = append(toEmbed, c), append(items, embed.Item{Text: text, Carried: c.doc.Embeddings})
	}
	vectors, refusals, err := s.Vectors(ctx, embed.Passage, items)
	if err != nil {
		return nil, err
	}
	var outputs []stream.Output
	for i, c := range toEmbed {
		if refusals[i] != nil {
			outputs = append(outputs, s.refuse(c, refusals[i]))
			continue
		}
		c.point.Vector = vectors[i]
	}
	return outputs, nil
}

// refuse turns a change that cannot be indexed into a delete, and returns the dead letter of its record.
func (s Indexer) refuse(c *change, reason error) stream.Output {
	c.deleted = true
	c.point = index.Document{Document: mining.Document{ID: c.doc.ID}, Partition: c.record.Partition, Offset: c.record.Offset, Deleted: true}
	return s.DeadLetter(catalog.StageIndexer, c.record, CountsAsDeleted(c.doc.ID, reason))
}

// documentIDs returns the ids of the changed documents.
func documentIDs(changes []*change) []string {
	ids := make([]string, len(changes))
	for i, c := range changes {
		ids[i] = c.doc.ID
	}
	return ids
}

// checkNotRecreated looks at documents whose stored offset is above the one of their record. Either the
// records are read a second time, or somebody has deleted the topic and made it anew. In the second case it
// returns an error, because the guard of the index would silently refuse every new document.
func (s Indexer) checkNotRecreated(ctx context.Context, stored map[string]index.Document, changes []*change) error {
	at := map[int32]int64{}
	for _, c := range changes {
		if d, ok := stored[c.doc.ID]; ok && d.Partition == s.partition && d.Offset > c.record.Offset {
			at[s.partition] = max(at[s.partition], d.Offset)
		}
	}
	return s.checkNotPastEnd(ctx, s.Names.Topics.Documents, "the index holds documents", at)
}

// affected returns a refresh record for each query whose lists the changes can alter: queries that watch a
// changed document, and queries that its new vector reaches. The record names the newest change that reaches
// the query as its cause.
func (s Indexer) affected(ctx context.Context, changes []*change) ([]stream.Output, error) {
	var written []*change
	var vectors [][]float32
	for _, c := range changes {
		if !c.deleted {
			written, vectors = append(written, c), append(vectors, c.point.Vector)
		}
	}
	watching, err := s.index.Watching(ctx, documentIDs(changes))
	if err != nil {
		return nil, err
	}
	entering, err := s.index.Entering(ctx, vectors)
	if err != nil {
		return nil, err
	}
	newest := changes[0]
	for _, c := range changes {
		if c.record.Offset > newest.record.Offset {
			newest = c
		}
	}
	cause := map[string]*change{} // by query
	for _, id := range watching {
		cause[id] = newest // the index does not say which of the documents a query watches
	}
	s.Metrics.AffectedQueries.WithLabelValues("watch").Add(float64(len(watching)))
	for i, queries := range entering {
		for _, id := range queries {
			if c, ok := cause[id]; !ok || c.record.Offset < written[i].record.Offset {
				cause[id] = written[i]
			}
		}
		s.Metrics.AffectedQueries.WithLabelValues("entry").Add(float64(len(queries)))
	}
	queries := slices.Sorted(maps.Keys(cause))
	outputs := make([]stream.Output, len(queries))
	for i, id := range queries {
		r := cause[id].record
		outputs[i] = s.Refresh(records.Refresh{Kind: records.KindRefresh, QueryID: id, Source: sourceOf(r)}, r.Headers)
	}
	return outputs, nil
}
