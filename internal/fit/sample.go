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

// sample is a uniform sample of documents that come and go: the documents with the smallest hashes of seed and id. It depends on
// the seed and on the documents, and not on the order in which they came. So the same documents give the same model.
type sample struct {
	most  int
	seed  uint64
	kept  map[string]sampled
	bound uint64 // a document with a higher hash is out for good: there are enough below
}

type sampled struct {
	hash uint64
	item embed.Item
}

func newSample(most int, seed uint64) *sample {
	return &sample{most: most, seed: seed, kept: map[string]sampled{}, bound: math.MaxUint64}
}

func (s *sample) hash(id string) uint64 {
	sum := sha256.Sum256(append(binary.LittleEndian.AppendUint64(nil, s.seed), id...))
	return binary.LittleEndian.Uint64(sum[:])
}

// put adds a document, or replaces it. The sample keeps more documents than it needs, so that deletes seldom make it too small.
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

func (s *sample) remove(id string) { delete(s.kept, id) }

// cut keeps the smallest hashes.
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

func (s *sample) items() []embed.Item {
	ids := s.ids()
	items := make([]embed.Item, len(ids))
	for i, id := range ids {
		items[i] = s.kept[id].item
	}
	return items
}

// SampleTopic samples the documents that the documents topic holds now. It reads the whole topic, and calls read for every
// record. A record that counts as a delete for the indexer counts as one here, too.
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

// SampleIndex samples the documents of a collection. A collection holds texts, but not the vectors that records carried.
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
		if d, ok := documents[id]; ok && !d.Deleted { // a delete may have come meanwhile
			items = append(items, embed.Item{Text: records.EmbeddedText(d.Title, d.Text)})
		}
	}
	return items, nil
}
