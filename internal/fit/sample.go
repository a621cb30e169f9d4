package fit

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"math"
	"slices"

	"hardneg/index"
	"hardneg/internal/embed"
	"hardneg/internal/records"
	"hardneg/stream"
)

// sample is a uniform sample of documents that come and go: the documents with the smallest hashes of seed
// and id. It depends on the seed and on the documents, not on the order in which they came. So the same
// documents give the same model.
type sample struct {
	most  int // documents in the end
	seed  uint64
	kept  map[string]sampled // by document id
	bound uint64             // a document with a higher hash cannot be in the sample any more
}

// sampled is a document of the sample.
type sampled struct {
	hash uint64
	item embed.Item
}

// newSample returns an empty sample of most documents.
func newSample(most int, seed uint64) *sample {
	return &sample{most: most, seed: seed, kept: map[string]sampled{}, bound: math.MaxUint64}
}

// hash returns the hash by which a document is chosen.
func (s *sample) hash(id string) uint64 {
	sum := sha256.Sum256(append(binary.LittleEndian.AppendUint64(nil, s.seed), id...))
	return binary.LittleEndian.Uint64(sum[:])
}

// put adds or replaces a document. Meanwhile the sample keeps more documents than it needs, so that deletes
// seldom make it too small.
func (s *sample) put(id string, item embed.Item) {
	hash := s.hash(id)
	if hash > s.bound {
		return
	}
	s.kept[id] = sampled{hash, item}
	if len(s.kept) > 4*s.most {
		s.cut(2 * s.most)
	}
}

// remove removes a document.
func (s *sample) remove(id string) { delete(s.kept, id) }

// cut keeps the n documents with the smallest hashes.
func (s *sample) cut(n int) {
	if len(s.kept) <= n {
		return
	}
	lowest := slices.SortedFunc(maps.Values(s.kept), func(a, b sampled) int { return cmp.Compare(a.hash, b.hash) })
	s.bound = lowest[n-1].hash
	maps.DeleteFunc(s.kept, func(_ string, d sampled) bool { return d.hash > s.bound })
}

// ids returns the ids of the sample, in order.
func (s *sample) ids() []string {
	s.cut(s.most)
	return slices.Sorted(maps.Keys(s.kept))
}

// items returns the documents of the sample, in the order of their ids.
func (s *sample) items() []embed.Item {
	ids := s.ids()
	items := make([]embed.Item, len(ids))
	for i, id := range ids {
		items[i] = s.kept[id].item
	}
	return items
}

// SampleTopic returns a uniform sample of the documents that the documents topic holds now, at most most of
// them. It reads the whole topic, and calls read for every record. Like the indexer it takes a malformed
// record for a delete.
func SampleTopic(ctx context.Context, kafka *stream.Client, topic string, most int, seed uint64, read func()) ([]embed.Item, error) {
	s := newSample(most, seed)
	err := kafka.ReadToEnd(ctx, topic, func(r stream.Record) error {
		read()
		doc, deleted, err := records.ParseDocument(r.Key, r.Value)
		if err != nil || deleted {
			s.remove(doc.ID)
			return nil
		}
		s.put(doc.ID, embed.Item{Text: records.EmbeddedText(doc.Title, doc.Text), Carried: doc.Embeddings})
		return nil
	})
	return s.items(), err
}

// SampleIndex returns a uniform sample of the documents of a generation, at most most of them. It calls read
// for every document. A collection holds texts, but not the vectors that records carried.
func SampleIndex(ctx context.Context, x *index.Index, most int, seed uint64, read func()) ([]embed.Item, error) {
	s := newSample(most, seed)
	err := x.ScanDocuments(ctx, 0, func(d index.Document) error {
		read()
		if !d.Deleted {
			s.put(d.ID, embed.Item{})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	ids := s.ids()
	documents, err := x.Documents(ctx, ids, index.WithText)
	if err != nil {
		return nil, err
	}
	items := make([]embed.Item, 0, len(ids))
	for _, id := range ids {
		if d, ok := documents[id]; ok && !d.Deleted { // the document may have been deleted meanwhile
			items = append(items, embed.Item{Text: records.EmbeddedText(d.Title, d.Text)})
		}
	}
	return items, nil
}
