package pipeline_test

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/records"
	"hardneg/internal/stages"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// restless is an index in which, if changes is set, a document of each ranking is gone when it is read.
type restless struct {
	*index.Index
	changes bool
}

func (r restless) DocumentsAt(ctx context.Context, points []string, want index.Fields) (map[string]index.Document, error) {
	documents, err := r.Index.DocumentsAt(ctx, points, want)
	if r.changes && len(points) > 0 {
		delete(documents, points[0])
	}
	return documents, err
}

// TestRestlessDocuments mines queries whose candidates change during each reading. They must not hold up
// their partition: they are mined without those candidates, and come again.
func TestRestlessDocuments(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 22, 4)
	stop := w.Instance()
	w.Settle()
	stop()
	live := w.Live()
	queries := []string{"q0", "q1", "q2", "q3"}
	states, err := live.States(t.Context(), queries)
	if err != nil {
		t.Fatal(err)
	}
	var token int64 // the highest token among the owners of their partitions
	for _, q := range queries {
		token = max(token, states[q].Token)
	}
	m, err := w.Conn().ModelOf(t.Context(), live.Generation(), nil)
	if err != nil {
		t.Fatal(err)
	}
	out := stages.Outputs{Names: catalog.NamesOf(w.Config, ""), Publication: stages.Live{}, Log: w.Log, Metrics: telemetry.NewMetrics(prometheus.NewRegistry())}
	env, err := stages.NewEnv(out, live.Generation(), catalog.RulesOf(w.Config), m, w.Kafka)
	if err != nil {
		t.Fatal(err)
	}
	env.WideLimit = 1
	var batch []stream.Record
	for _, q := range queries {
		r := records.Refresh{Kind: records.KindRefresh, QueryID: q, Source: records.Source{Topic: records.SourceSweep}}
		batch = append(batch, stream.Record{Topic: w.Config.Topics.Refresh, Key: []byte(r.QueryID), Value: r.Encode()})
	}
	run := func(changes bool, batch []stream.Record) (triplets int, again []stream.Record) {
		t.Helper()
		outputs, err := stages.NewMiner(env, restless{live, changes}, token).Process(t.Context(), batch)
		if err != nil {
			t.Fatalf("changes %v: %v", changes, err)
		}
		for _, o := range outputs {
			if o.Topic == w.Config.Topics.Triplets {
				triplets++
			} else {
				again = append(again, stream.Record{Topic: o.Topic, Key: o.Key, Value: o.Value, Headers: o.Headers})
			}
		}
		return triplets, again
	}
	token++ // a new owner publishes everything
	if triplets, again := run(false, batch); triplets < 12 || len(again) > 0 {
		t.Fatalf("at rest: %d triplets, %d queries come again", triplets, len(again))
	}
	token++
	triplets, again := run(true, batch)
	if triplets < 12 || len(again) != 4 {
		t.Errorf("%d triplets, and %d queries come again, want 4", triplets, len(again))
	}
	if _, again = run(false, again); len(again) > 0 {
		t.Errorf("at rest again: %d queries come again", len(again))
	}
	stop = w.Instance()
	defer func() { stop() }()
	w.Settle()
	w.Compare("in the end")
}
