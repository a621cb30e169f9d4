package pipeline

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"hardneg/index"
	"hardneg/internal/records"
	"hardneg/mining"
	"hardneg/stream"
)

// Header names on what hardneg produces.
const (
	HeaderSchema      = "hardneg-schema"
	HeaderGeneration  = "hardneg-generation"
	HeaderSource      = "hardneg-source"
	HeaderReason      = "hardneg-reason" // on a null slot: why it is empty
	headerTraceparent = "traceparent"
)

// publish turns confirmed states into triplets and retractions. A state whose documents have changed since is
// torn: its texts are no longer those that the rules saw, and it must be read again.
//
// A generation that is being built publishes nothing: once it is promoted all of its states go out, under another token.
func (s miner) publish(ctx context.Context, tasks []*task) (outputs []stream.Output, torn []*task, err error) {
	if s.shadow != nil {
		for _, t := range tasks {
			if t.again {
				outputs = append(outputs, s.comeAgain(t))
			}
		}
		return outputs, nil, nil
	}
	pairs := make([][]index.Positive, len(tasks))
	var ids []string
	for i, t := range tasks {
		pairs[i] = changed(t)
		for _, p := range pairs[i] {
			if len(p.Slots) > 0 {
				ids = append(ids, p.Document)
			}
			for _, slot := range p.Slots {
				ids = append(ids, slot.Document)
			}
		}
	}
	slices.Sort(ids)
	documents, err := s.index.Documents(ctx, slices.Compact(ids), index.WithText)
	if err != nil {
		return nil, nil, err
	}
	for i, t := range tasks {
		if !intact(pairs[i], documents) {
			t.torn = true
			torn = append(torn, t)
			continue
		}
		for _, p := range pairs[i] {
			outputs = append(outputs, s.slots(t, p, documents)...)
		}
		if t.again {
			outputs = append(outputs, s.comeAgain(t))
		}
	}
	return outputs, torn, nil
}

// comeAgain sends the query through refresh once more.
func (s miner) comeAgain(t *task) stream.Output {
	cause := t.cause()
	again := records.Refresh{Kind: records.KindRefresh, QueryID: t.id, Source: t.records[cause].Source}
	return s.refreshOutput(again, t.sources[cause].Headers)
}

// cause is the index of the record that the query's triplets name as their source: the newest that a change of the
// inputs made, for those of the sweep, the audit and a rebuild ask without knowing of any.
func (t *task) cause() int {
	for i, r := range slices.Backward(t.records) {
		if !r.Source.None() {
			return i
		}
	}
	return len(t.records) - 1
}

// Reasons of null slots beside those of package mining.
const (
	reasonNoEvidence mining.Reason = "no_evidence"      // the query is forgotten, or its evidence for this document is
	reasonWeight     mining.Reason = "below_min_weight" // the evidence does not suffice
)

// changed lists, by document id, the pairs whose slots must go out: all that are or were ever published when the
// state was another owner's or the query's text is new, else those whose list differs from what this owner found.
func changed(t *task) []index.Positive {
	all := t.forced || t.first.Text != t.state.Text
	before := make(map[string]index.Positive, len(t.first.Positives))
	for _, p := range t.first.Positives {
		before[p.Document] = p
	}
	var pairs []index.Positive
	ended := maps.Clone(t.state.Published) // what is published and has no evidence
	for _, p := range t.state.Positives {
		old, published := before[p.Document], ended[p.Document] > 0
		delete(ended, p.Document)
		switch {
		case p.Paired && (all || !old.Paired || !mining.SamePair(old.Pair(), p.Pair())):
			pairs = append(pairs, p)
		case !p.Paired && (old.Paired || all && published):
			p.Reason = reasonWeight
			pairs = append(pairs, p)
		}
	}
	for id := range ended {
		if all || before[id].Paired {
			pairs = append(pairs, index.Positive{Document: id, Reason: reasonNoEvidence})
		}
	}
	slices.SortFunc(pairs, func(a, b index.Positive) int { return strings.Compare(a.Document, b.Document) })
	return pairs
}

// intact tells whether the texts at hand are those that the slots were decided on.
func intact(pairs []index.Positive, documents map[string]index.Document) bool {
	same := func(id, hash string) bool {
		d, ok := documents[id]
		return ok && !d.Deleted && d.Hash == hash
	}
	return !slices.ContainsFunc(pairs, func(p index.Positive) bool {
		return len(p.Slots) > 0 && !same(p.Document, p.Hash) ||
			slices.ContainsFunc(p.Slots, func(x mining.Slot) bool { return !same(x.Document, x.Hash) })
	})
}

// slots renders every rank of a pair that is, or ever was, in use: a triplet, or a null that retracts it.
func (s miner) slots(t *task, pair index.Positive, documents map[string]index.Document) []stream.Output {
	positive := pair.Document
	cause := t.cause()
	source := t.records[cause].Source
	headers := []stream.Header{
		{Key: HeaderSchema, Value: []byte("1")},
		{Key: HeaderGeneration, Value: []byte(s.generation)},
		{Key: HeaderSource, Value: fmt.Appendf(nil, "%s/%d/%d", source.Topic, source.Partition, source.Offset)},
	}
	headers = append(headers, traceparent(t.sources[cause].Headers)...)
	minedAt := time.UnixMilli(t.state.StoredAt).UTC().Format(time.RFC3339Nano)
	ranks := max(s.cfg.Mining.Negatives, t.state.Published[positive])
	outputs := make([]stream.Output, 0, ranks)
	for rank := 1; rank <= ranks; rank++ {
		out := stream.Output{
			Topic: s.cfg.Topics.Triplets, Partition: stream.ByKey, Hash: []byte(t.id),
			Key: records.TripletKey(t.id, positive, rank), Headers: headers,
		}
		if rank > len(pair.Slots) {
			out.Headers = append(slices.Clone(headers), stream.Header{Key: HeaderReason, Value: []byte(pair.Reason)})
			s.metrics.Triplets.WithLabelValues("retracted").Inc()
			outputs = append(outputs, out)
			continue
		}
		slot := pair.Slots[rank-1]
		out.Value = records.Triplet{
			Schema:   1,
			ID:       records.TripletID(t.id, positive, slot.Document, t.state.Revision),
			Query:    records.TripletQuery{ID: t.id, Text: t.state.Text},
			Positive: side(positive, documents[positive]),
			Negative: side(slot.Document, documents[slot.Document]),
			Rank:     rank,
			Policy:   slot.Policy,
			Similarity: records.Similarity{
				QueryPositive: pair.Similarity, QueryNegative: slot.QueryNegative, PositiveNegative: slot.PositiveNegative,
			},
			Generation: s.generation,
			Revision:   t.state.Revision,
			MinedAt:    minedAt,
		}.Encode(s.cfg.Triplets.MaxText)
		s.metrics.Triplets.WithLabelValues("written").Inc()
		outputs = append(outputs, out)
	}
	return outputs
}

func side(id string, d index.Document) records.TripletDocument {
	return records.TripletDocument{ID: id, Title: d.Title, Text: d.Text, Version: d.Hash}
}

// refreshOutput is a record for the refresh topic; it hands on the trace of its cause.
func (p *Pipeline) refreshOutput(r records.Refresh, cause []stream.Header) stream.Output {
	return stream.Output{
		Topic: p.cfg.Topics.Refresh, Partition: stream.ByKey, Key: []byte(r.QueryID), Value: r.Encode(),
		Headers: traceparent(cause),
	}
}

func (p *Pipeline) deadLetter(stage string, r stream.Record, reason error) stream.Output {
	p.metrics.DeadLetters.WithLabelValues(stage).Inc()
	p.log.Warn().Str("stage", stage).Str("at", r.Topic+"/"+strconv.Itoa(int(r.Partition))+"/"+strconv.FormatInt(r.Offset, 10)).
		Bytes("key", r.Key[:min(len(r.Key), 200)]).Err(reason).Msg("a record cannot be used: sent to the dead letters")
	return stream.DeadLetter(p.cfg.Topics.DeadLetters, stage, r, reason)
}

// malformed is the dead letter of a record that is unusable whatever the model: one, however many generations read it.
func (p *Pipeline) malformed(stage string, r stream.Record, reason error) []stream.Output {
	if p.shadow != nil || r.Offset < p.told[stage][r.Partition] {
		return nil
	}
	return []stream.Output{p.deadLetter(stage, r, reason)}
}

// maxTraceparent bounds the header of a later version, which may be longer than the 55 bytes of version 00.
const maxTraceparent = 128

// traceContext is a traceparent as W3C Trace Context has it: version, trace, parent, flags, and what later versions add.
var traceContext = regexp.MustCompile(`^([0-9a-f]{2})-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$`)

// traceparent hands on the trace of a cause, where the header is one: whatever else stands there, of any size, would go
// into every record that comes of it.
func traceparent(headers []stream.Header) []stream.Header {
	for _, h := range headers {
		if h.Key != headerTraceparent || len(h.Value) > maxTraceparent {
			continue
		}
		found := traceContext.FindSubmatch(h.Value)
		if found == nil {
			continue
		}
		version, more := string(found[1]), found[2]
		if version == "ff" || version == "00" && more != nil {
			continue
		}
		return []stream.Header{h}
	}
	return nil
}

func sourceOf(r stream.Record) records.Source {
	return records.Source{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Time.UnixMilli()}
}
