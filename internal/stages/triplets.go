package stages

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/records"
	"hardneg/internal/telemetry"
	"hardneg/mining"
	"hardneg/stream"
)

// Triplets turns lists into records of the triplets topic. It reads the texts of documents from the index.
type Triplets struct {
	index      DocumentsIndex
	topic      string
	generation string
	negatives  int // length of a list
	maxText    int // bytes of a text, at most
	metrics    *telemetry.Metrics
}

// NewTriplets returns a Triplets that renders the lists of a generation as records of a topic.
func NewTriplets(x DocumentsIndex, topic, generation string, rules catalog.Rules, metrics *telemetry.Metrics) *Triplets {
	return &Triplets{x, topic, generation, rules.Mining.Negatives, rules.MaxText, metrics}
}

// Release holds the lists of a query that are published together.
type Release struct {
	State index.State      // the miner has confirmed it; a replay has decided it once
	Lists []index.Positive // the lists of the state that go out, and lists that are retracted
	Cause records.Source   // the record that its triplets name as their source
	Trace []stream.Header  // of that record
}

// Reasons of null slots. Package mining has the others.
const (
	reasonNoEvidence mining.Reason = "no_evidence"      // the query is forgotten, or its evidence for this document is
	reasonWeight     mining.Reason = "below_min_weight" // the evidence does not suffice
)

// AllLists returns every list of a state that is or ever was published, in the order of document ids.
func AllLists(state index.State) []index.Positive { return changedLists(index.State{}, state, true) }

// changedLists returns the lists of a state that must go out, in the order of document ids. before is the
// state that this owner has published. With force, or if the text of the query has changed, they are all
// lists that are or ever were published.
func changedLists(before, state index.State, force bool) []index.Positive {
	force = force || before.Text != state.Text
	old := make(map[string]index.Positive, len(before.Positives))
	for _, p := range before.Positives {
		old[p.Document] = p
	}
	var lists []index.Positive
	ended := maps.Clone(state.Published) // what stays in it are published lists without evidence
	for _, p := range state.Positives {
		published := ended[p.Document] > 0
		delete(ended, p.Document)
		switch was := old[p.Document]; {
		case p.Paired && (force || !was.Paired || !mining.SamePair(was.Pair(), p.Pair())):
			lists = append(lists, p)
		case !p.Paired && (was.Paired || force && published):
			p.Reason = reasonWeight
			lists = append(lists, p)
		}
	}
	for id := range ended {
		if force || old[id].Paired {
			lists = append(lists, index.Positive{Document: id, Reason: reasonNoEvidence})
		}
	}
	slices.SortFunc(lists, func(a, b index.Positive) int { return strings.Compare(a.Document, b.Document) })
	return lists
}

// Render returns the records of each release: triplets and retractions. A release is torn if its documents
// have changed since the lists were decided, so the rules did not see their present texts. Then it has no
// records, and its lists must be decided again.
func (t *Triplets) Render(ctx context.Context, releases []Release) (outputs [][]stream.Output, torn []bool, err error) {
	var ids []string
	for _, r := range releases {
		for _, p := range r.Lists {
			if len(p.Slots) > 0 {
				ids = append(ids, p.Document)
			}
			for _, slot := range p.Slots {
				ids = append(ids, slot.Document)
			}
		}
	}
	slices.Sort(ids)
	documents, err := t.index.Documents(ctx, slices.Compact(ids), index.WithText)
	if err != nil {
		return nil, nil, err
	}
	outputs, torn = make([][]stream.Output, len(releases)), make([]bool, len(releases))
	for i, r := range releases {
		if torn[i] = !intact(r.Lists, documents); torn[i] {
			continue
		}
		for _, p := range r.Lists {
			outputs[i] = append(outputs[i], t.slots(r, p, documents)...)
		}
	}
	return outputs, torn, nil
}

// intact reports whether the documents still have the contents on which the slots were decided.
func intact(lists []index.Positive, documents map[string]index.Document) bool {
	same := func(id, hash string) bool {
		d, ok := documents[id]
		return ok && !d.Deleted && d.Hash == hash
	}
	return !slices.ContainsFunc(lists, func(p index.Positive) bool {
		return len(p.Slots) > 0 && !same(p.Document, p.Hash) ||
			slices.ContainsFunc(p.Slots, func(x mining.Slot) bool { return !same(x.Document, x.Hash) })
	})
}

// slots returns a record for every rank of a list that is or ever was in use: a triplet, or a null that
// retracts it.
func (t *Triplets) slots(r Release, list index.Positive, documents map[string]index.Document) []stream.Output {
	positive := list.Document
	headers := []stream.Header{
		{Key: records.HeaderSchema, Value: []byte("1")},
		{Key: records.HeaderGeneration, Value: []byte(t.generation)},
		{Key: records.HeaderSource, Value: fmt.Appendf(nil, "%s/%d/%d", r.Cause.Topic, r.Cause.Partition, r.Cause.Offset)},
	}
	headers = append(headers, Trace(r.Trace)...)
	minedAt := time.UnixMilli(r.State.StoredAt).UTC().Format(time.RFC3339Nano)
	ranks := max(t.negatives, r.State.Published[positive])
	outputs := make([]stream.Output, 0, ranks)
	for rank := 1; rank <= ranks; rank++ {
		out := stream.Output{
			Topic: t.topic, Partition: stream.ByKey, Hash: []byte(r.State.QueryID),
			Key: records.TripletKey(r.State.QueryID, positive, rank), Headers: headers,
		}
		if rank > len(list.Slots) {
			out.Headers = append(slices.Clone(headers), stream.Header{Key: records.HeaderReason, Value: []byte(list.Reason)})
			t.metrics.Triplets.WithLabelValues("retracted").Inc()
			outputs = append(outputs, out)
			continue
		}
		slot := list.Slots[rank-1]
		out.Value = records.Triplet{
			Schema:   1,
			ID:       records.TripletID(r.State.QueryID, positive, slot.Document, r.State.Revision),
			Query:    records.TripletQuery{ID: r.State.QueryID, Text: r.State.Text},
			Positive: tripletDocument(positive, documents[positive]),
			Negative: tripletDocument(slot.Document, documents[slot.Document]),
			Rank:     rank,
			Policy:   slot.Policy,
			Similarity: records.Similarity{
				QueryPositive: list.Similarity, QueryNegative: slot.QueryNegative, PositiveNegative: slot.PositiveNegative,
			},
			Generation: t.generation,
			Revision:   r.State.Revision,
			MinedAt:    minedAt,
		}.Encode(t.maxText)
		t.metrics.Triplets.WithLabelValues("written").Inc()
		outputs = append(outputs, out)
	}
	return outputs
}

// tripletDocument returns a document as a triplet shows it.
func tripletDocument(id string, d index.Document) records.TripletDocument {
	return records.TripletDocument{ID: id, Title: d.Title, Text: d.Text, Version: d.Hash}
}
