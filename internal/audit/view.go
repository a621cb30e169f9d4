package audit

import (
	"context"
	"fmt"
	"slices"

	"hardneg/internal/records"
	"hardneg/internal/triplets"
	"hardneg/stream"
)

// publishedView is the compacted content of the triplets topic, for the queries that an audit checks. It goes
// on where it stopped, so reading again is cheap.
type publishedView struct {
	reader  *triplets.Reader
	keep    func(queryID string) bool              // whether the audit checks a query
	queries map[string]map[triplets.Slot]published // by query; only those that keep accepts
	strays  map[stray]published                    // records that no miner would write
}

// published is a triplet without its texts.
type published struct {
	triplet records.Triplet
	problem string // why the triplet is wrong, whatever the lists are; empty: it is well-formed
}

// stray names a record that no miner would write: its key names no slot, or its partition is not the one of
// the query.
type stray struct {
	partition int32
	key       string
}

// newPublishedView reads the triplets of the queries that keep accepts.
func newPublishedView(ctx context.Context, kafka *stream.Client, topic string, keep func(string) bool) (*publishedView, error) {
	reader, err := triplets.NewReader(ctx, kafka, topic)
	if err != nil {
		return nil, err
	}
	v := &publishedView{reader: reader, keep: keep, queries: map[string]map[triplets.Slot]published{}, strays: map[stray]published{}}
	return v, v.read(ctx)
}

// read reads on to the present stable end of the topic.
func (v *publishedView) read(ctx context.Context) error {
	return v.reader.Read(ctx, func(r stream.Record) error {
		v.add(r)
		return nil
	})
}

// add takes a record into account, after the earlier ones.
func (v *publishedView) add(r stream.Record) {
	slot, err := triplets.ParseSlot(r.Key)
	if home := stream.PartitionFor([]byte(slot.Query), v.reader.Partitions); err == nil && home != r.Partition {
		err = fmt.Errorf("in partition %d: the query's is %d, and a compacted topic keeps both", r.Partition, home)
	}
	if err != nil {
		at := stray{r.Partition, string(r.Key)}
		if delete(v.strays, at); r.Value != nil {
			v.strays[at] = published{records.Triplet{Query: records.TripletQuery{ID: slot.Query}, Positive: records.TripletDocument{ID: slot.Positive}, Rank: slot.Rank}, err.Error()}
		}
		return
	}
	query := slot.Query
	if !v.keep(query) {
		return
	}
	if r.Value == nil {
		if delete(v.queries[query], slot); len(v.queries[query]) == 0 {
			delete(v.queries, query)
		}
		return
	}
	if v.queries[query] == nil {
		v.queries[query] = map[triplets.Slot]published{}
	}
	v.queries[query][slot] = readPublished(slot, r.Value)
}

// readPublished decodes a triplet, checks it by itself, and drops its texts.
func readPublished(at triplets.Slot, value []byte) published {
	t, err := records.ParseTriplet(value)
	if err != nil {
		return published{problem: err.Error()}
	}
	p := published{triplet: t}
	switch {
	case t.Query.ID != at.Query || t.Positive.ID != at.Positive || t.Rank != at.Rank:
		p.problem = "its key names another slot than its value"
	case !hasVersion(t.Positive) || !hasVersion(t.Negative):
		p.problem = "a text is not that of its version"
	}
	for _, d := range []*records.TripletDocument{&p.triplet.Positive, &p.triplet.Negative} {
		d.Title, d.Text = "", ""
	}
	return p
}

// hasVersion reports whether the hash of the texts is the version. Texts that were cut cannot be checked.
func hasVersion(d records.TripletDocument) bool {
	return d.Truncated || records.ContentHash(d.Title, d.Text) == d.Version
}

// slots returns the published slots of a query, in order.
func (v *publishedView) slots(query string) []triplets.Slot {
	slots := make([]triplets.Slot, 0, len(v.queries[query]))
	for slot := range v.queries[query] {
		slots = append(slots, slot)
	}
	slices.SortFunc(slots, triplets.Slot.Compare)
	return slots
}
