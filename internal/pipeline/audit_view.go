package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hardneg/internal/records"
	"hardneg/stream"
)

// auditView is what compaction leaves of the triplets topic, as far as an audit wants it. It reads on from where it
// was, so that looking again is cheap.
type auditView struct {
	kafka      *stream.Client
	topic      string
	partitions int
	next       map[int32]int64 // by partition
	keep       func(queryID string) bool
	queries    map[string]map[slotKey]published // by query, where keep says so
	strays     map[stray]published              // what no miner writes
}

// slotKey is a place in the lists of a query.
type slotKey struct {
	positive string
	rank     int
}

func (a slotKey) compare(b slotKey) int {
	if c := strings.Compare(a.positive, b.positive); c != 0 {
		return c
	}
	return a.rank - b.rank
}

// published is a triplet without its texts.
type published struct {
	triplet records.Triplet
	problem string // why it is wrong whatever the lists are; empty: it is well-formed
}

// stray is the place of a record that no miner writes: the key is none of a triplet, or its partition another than
// the query's.
type stray struct {
	partition int32
	key       string
}

func newAuditView(ctx context.Context, kafka *stream.Client, topic string, keep func(string) bool) (*auditView, error) {
	v := &auditView{
		kafka: kafka, topic: topic, next: map[int32]int64{}, keep: keep,
		queries: map[string]map[slotKey]published{}, strays: map[stray]published{},
	}
	ends, err := kafka.Offsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	v.partitions = len(ends)
	for _, end := range ends {
		v.next[end.Partition] = end.Start
	}
	return v, v.read(ctx)
}

// read goes on to the stable end of the topic.
func (v *auditView) read(ctx context.Context) error {
	ends, err := v.kafka.Offsets(ctx, v.topic)
	if err != nil {
		return err
	}
	for _, end := range ends {
		for v.next[end.Partition] < end.LastStable {
			got, err := v.kafka.Fetch(ctx, v.topic, end.Partition, v.next[end.Partition], stream.FetchOptions{})
			if errors.Is(err, stream.ErrOffsetOutOfRange) && v.next[end.Partition] < got.Start {
				got.Next, err = got.Start, nil // deleted under the reader, which keeps no place
			}
			if err != nil {
				return err
			}
			for _, r := range got.Records {
				v.add(r)
			}
			v.next[end.Partition] = got.Next
		}
	}
	return nil
}

func (v *auditView) add(r stream.Record) {
	query, positive, rank, err := records.ParseTripletKey(r.Key)
	if home := stream.PartitionFor([]byte(query), v.partitions); err == nil && home != r.Partition {
		err = fmt.Errorf("in partition %d: the query's is %d, and a compacted topic keeps both", r.Partition, home)
	}
	if err != nil {
		at := stray{r.Partition, string(r.Key)}
		if delete(v.strays, at); r.Value != nil {
			v.strays[at] = published{records.Triplet{Query: records.TripletQuery{ID: query}, Positive: records.TripletDocument{ID: positive}, Rank: rank}, err.Error()}
		}
		return
	}
	if !v.keep(query) {
		return
	}
	slot := slotKey{positive, rank}
	if r.Value == nil {
		if delete(v.queries[query], slot); len(v.queries[query]) == 0 {
			delete(v.queries, query)
		}
		return
	}
	if v.queries[query] == nil {
		v.queries[query] = map[slotKey]published{}
	}
	v.queries[query][slot] = readPublished(query, slot, r.Value)
}

// readPublished checks a triplet by itself, and drops its texts.
func readPublished(query string, at slotKey, value []byte) published {
	t, err := records.ParseTriplet(value)
	if err != nil {
		return published{problem: err.Error()}
	}
	p := published{triplet: t}
	switch {
	case t.Query.ID != query || t.Positive.ID != at.positive || t.Rank != at.rank:
		p.problem = "its key names another slot than its value"
	case !honest(t.Positive) || !honest(t.Negative):
		p.problem = "a text is not that of its version"
	}
	for _, d := range []*records.TripletDocument{&p.triplet.Positive, &p.triplet.Negative} {
		d.Title, d.Text = "", ""
	}
	return p
}

// honest tells whether the texts are those of the version, where they were not cut.
func honest(d records.TripletDocument) bool {
	return d.Truncated || records.ContentHash(d.Title, d.Text) == d.Version
}

// slots lists the published slots of a query in order.
func (v *auditView) slots(query string) []slotKey {
	slots := make([]slotKey, 0, len(v.queries[query]))
	for slot := range v.queries[query] {
		slots = append(slots, slot)
	}
	slices.SortFunc(slots, slotKey.compare)
	return slots
}
