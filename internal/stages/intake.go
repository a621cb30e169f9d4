package stages

import (
	"context"
	"fmt"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/records"
	"hardneg/stream"
)

// Intake re-keys the query log by query_id: it makes one evidence or forget record of each record, or a dead letter. It keeps no
// state and calls no server.
type Intake struct {
	Outputs
	Reader QueryReader
}

// Process makes the refresh records of a batch.
func (s Intake) Process(_ context.Context, batch []stream.Record) ([]stream.Output, error) {
	outputs := make([]stream.Output, 0, len(batch))
	for _, r := range batch {
		refresh, err := s.Reader.Read(r)
		if err != nil {
			outputs = append(outputs, s.malformed(catalog.StageIntake, r, err)...)
			continue
		}
		output := s.Refresh(refresh, r.Headers)
		if err := fits(output.Key, output.Value); err != nil {
			outputs = append(outputs, s.malformed(catalog.StageIntake, r, err)...)
			continue
		}
		outputs = append(outputs, output)
	}
	return outputs, nil
}

// QueryReader reads records of the query log.
type QueryReader struct {
	Weights catalog.Weights
	Carries []config.Embedder // keep the vectors that records carry for these embedders
}

// Read turns a record of the query log into evidence, or into a forget. The error says what is malformed.
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

// ReadFitting is Read, and refuses what the intake would refuse because it does not fit into the refresh topic.
func (q QueryReader) ReadFitting(r stream.Record) (records.Refresh, error) {
	refresh, err := q.Read(r)
	if err == nil && len(r.Value) > catalog.DefaultLimit { // a smaller record always fits, see catalog.MaxRefresh
		err = fits([]byte(refresh.QueryID), refresh.Encode())
	}
	return refresh, err
}

// fits refuses a refresh record that Kafka would not take: every record behind it would wait.
func fits(key, value []byte) error {
	if n := len(key) + len(value); n > catalog.MaxRefresh {
		return fmt.Errorf("what comes of the record has %d bytes, at most %d are allowed: "+
			"its text, its vectors or the ids that it names are too long", n, catalog.MaxRefresh)
	}
	return nil
}

// configured keeps the vectors that an embedder will ask for. Others would only make the query's state larger.
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

// evidence weighs judged positives and clicks, one entry for each document, in order of first mention.
func (q QueryReader) evidence(query records.Query) []records.Evidence {
	var evidence []records.Evidence
	at := map[string]int{}
	add := func(id string, weight float64) {
		if records.Millionths(weight) == 0 { // positive_weight may be zero: then a judgement is no evidence
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
