package pipeline

import (
	"context"
	"fmt"

	"hardneg/internal/records"
	"hardneg/stream"
)

// intake re-keys the query log by query_id: one evidence or forget record for each, and dead letters. It keeps no
// state and calls nothing.
type intake struct{ *Pipeline }

func (s intake) Process(_ context.Context, batch []stream.Record) ([]stream.Output, error) {
	outputs := make([]stream.Output, 0, len(batch))
	for _, r := range batch {
		refresh, err := s.read(r)
		if err != nil {
			outputs = append(outputs, s.malformed(StageIntake, r, err)...)
			continue
		}
		output := s.refreshOutput(refresh, r.Headers)
		if err := checkRefresh(output); err != nil {
			outputs = append(outputs, s.malformed(StageIntake, r, err)...)
			continue
		}
		outputs = append(outputs, output)
	}
	return outputs, nil
}

// read is what a record of the query log says of its query.
func (s intake) read(r stream.Record) (records.Refresh, error) {
	query, forgotten, err := records.ParseQuery(r.Key, r.Value)
	if err != nil {
		return records.Refresh{}, err
	}
	refresh := records.Refresh{Kind: records.KindEvidence, QueryID: query.QueryID, Source: sourceOf(r)}
	if forgotten {
		refresh.Kind = records.KindForget
		return refresh, nil
	}
	refresh.Text, refresh.Evidence, refresh.Embeddings = query.Query, s.evidence(query), s.configured(query.Embeddings)
	return refresh, nil
}

// checkRefresh refuses what Kafka would not take, for all that comes after it would wait.
func checkRefresh(output stream.Output) error {
	if n := len(output.Key) + len(output.Value); n > maxRefresh {
		return fmt.Errorf("what comes of the record has %d bytes, at most %d are allowed: "+
			"its text, its vectors or the ids that it names are too long", n, maxRefresh)
	}
	return nil
}

// configured keeps the vectors that an embedder will ask for: others would only swell the query's state.
func (s intake) configured(carried map[string][]float32) map[string][]float32 {
	var kept map[string][]float32
	for _, e := range s.carries {
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
func (s intake) evidence(q records.Query) []records.Evidence {
	var found []records.Evidence
	at := map[string]int{}
	add := func(id string, weight float64) {
		if records.Millionths(weight) == 0 { // positive_weight may be zero: that is no evidence
			return
		}
		if i, ok := at[id]; ok {
			found[i].Weight += records.Millionths(weight)
			return
		}
		at[id] = len(found)
		found = append(found, records.Evidence{Document: id, Weight: records.Millionths(weight)})
	}
	for _, id := range q.Positives {
		add(id, s.cfg.Queries.PositiveWeight)
	}
	for _, c := range q.Clicks {
		switch {
		case c.DwellMS < s.cfg.Queries.MinDwell.Milliseconds():
		case c.Weight != nil:
			add(c.DocID, *c.Weight)
		default:
			add(c.DocID, 1)
		}
	}
	return found
}
