package pipeline

import (
	"context"

	"hardneg/internal/records"
	"hardneg/stream"
)

// intake re-keys the query log by query_id: one evidence or forget record for each, and dead letters. It keeps no
// state and calls nothing.
type intake struct{ *Pipeline }

func (s intake) Process(_ context.Context, batch []stream.Record) ([]stream.Output, error) {
	outputs := make([]stream.Output, 0, len(batch))
	for _, r := range batch {
		query, forgotten, err := records.ParseQuery(r.Key, r.Value)
		if err != nil {
			outputs = append(outputs, s.deadLetter(StageIntake, r, err))
			continue
		}
		refresh := records.Refresh{Kind: records.KindEvidence, QueryID: query.QueryID, Source: sourceOf(r)}
		if forgotten {
			refresh.Kind = records.KindForget
		} else {
			refresh.Text, refresh.Evidence, refresh.Embeddings = query.Query, s.evidence(query), query.Embeddings
		}
		outputs = append(outputs, s.refreshOutput(refresh, r.Headers))
	}
	return outputs, nil
}

// evidence weighs judged positives and clicks, one entry for each document, in order of first mention.
func (s intake) evidence(q records.Query) []records.Evidence {
	var found []records.Evidence
	at := map[string]int{}
	add := func(id string, weight float64) {
		if millionths(weight) == 0 { // positive_weight may be zero: that is no evidence
			return
		}
		if i, ok := at[id]; ok {
			found[i].Weight += millionths(weight)
			return
		}
		at[id] = len(found)
		found = append(found, records.Evidence{Document: id, Weight: millionths(weight)})
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
