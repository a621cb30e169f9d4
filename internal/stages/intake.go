package stages

import (
	"context"
	"fmt"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/records"
	"hardneg/stream"
)

// Intake re-keys the query log by query_id. It turns each record into one evidence or forget record, or into
// a dead letter. It keeps no state and calls no server.
type Intake struct {
	Outputs
	Reader QueryReader
}

// Process returns the refresh records of a batch, and its dead letters.
func (s Intake) Process(_ context.Context, batch []stream.Record) ([]stream.Output, error) {
	outputs := make([]stream.Output, 0, len(batch))
	for _, r := range batch {
		refresh, err := s.Reader.Read(r)
		if err != nil {
			outputs = append(outputs, s.malformed(catalog.StageIntake, r, err)...)
			continue
		}
		output := s.Refresh(refresh, r.Headers)
		if err := checkSize(output.Key, output.Value); err != nil {
			outputs = append(outputs, s.malformed(catalog.StageIntake, r, err)...)
			continue
		}
		outputs = append(outputs, output)
	}
	return outputs, nil
}

// QueryReader turns records of the query log into evidence.
type QueryReader struct {
	Weights catalog.Weights
	Carries []config.Embedder // vectors that records carry for these embedders are kept, others dropped
}

// Read returns the evidence in a record of the query log, or a forget. The error says what is malformed.
func (q QueryReader) Read(r stream.Record) (records.Refresh, error) {
	query, forgotten, err := records.ParseQuery(r.Key, r.Value)
	if err != nil {
		return records.Refresh{}, err
	}
	refresh := records.Refresh{Kind: records.KindEvidence, QueryID: query.QueryID, Source: sourceOf(r)}
	if forgotten {
		refresh.Kind = records.KindForget
		return refresh, nil
	}
	refresh.Text, refresh.Evidence, refresh.Embeddings = query.Query, q.evidence(query), q.configured(query.Embeddings)
	return refresh, nil
}

// ReadFitting is Read, and also returns an error if the intake would refuse the record because its evidence
// does not fit into the refresh topic.
func (q QueryReader) ReadFitting(r stream.Record) (records.Refresh, error) {
	refresh, err := q.Read(r)
	if err == nil && len(r.Value) > catalog.DefaultLimit { // a smaller record always fits, see catalog.MaxRefresh
		err = checkSize([]byte(refresh.QueryID), refresh.Encode())
	}
	return refresh, err
}

// checkSize returns an error for a refresh record that is too large for its topic. Kafka would refuse it each
// time, and every record behind it would wait.
func checkSize(key, value []byte) error {
	if n := len(key) + len(value); n > catalog.MaxRefresh {
		return fmt.Errorf("what comes of the record has %d bytes, at most %d are allowed: "+
			"its text, its vectors or the ids that it names are too long", n, catalog.MaxRefresh)
	}
	return nil
}

// configured returns the carried vectors that an embedder will ask for. Others would only make the query's
// state larger.
func (q QueryReader) configured(carried map[string][]float32) map[string][]float32 {
	var kept map[string][]float32
	for _, e := range q.Carries {
		if v, ok := carried[e.Name]; ok {
			if kept == nil {
				kept = map[string][]float32{}
			}
			kept[e.Name] = v
		}
	}
	return kept
}

// evidence returns the weights of judged positives and clicks: one entry for each document, in order of first
// mention.
func (q QueryReader) evidence(query records.Query) []records.Evidence {
	var evidence []records.Evidence
	at := map[string]int{}
	add := func(id string, weight float64) {
		if records.Millionths(weight) == 0 { // if positive_weight is zero, a judgement is no evidence
			return
		}
		if i, ok := at[id]; ok {
			evidence[i].Weight = records.AddMillionths(evidence[i].Weight, records.Millionths(weight))
			return
		}
		at[id] = len(evidence)
		evidence = append(evidence, records.Evidence{Document: id, Weight: records.Millionths(weight)})
	}
	for _, id := range query.Positives {
		add(id, q.Weights.PositiveWeight)
	}
	for _, c := range query.Clicks {
		switch {
		case c.DwellMS < q.Weights.MinDwell.Milliseconds():
		case c.Weight != nil:
			add(c.DocID, *c.Weight)
		default:
			add(c.DocID, 1)
		}
	}
	return evidence
}
