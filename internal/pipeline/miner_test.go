package pipeline_test

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/records"
	"hardneg/internal/stages"
	"hardneg/internal/telemetry"
	"hardneg/mining"
	"hardneg/stream"
)

// restless is an index in which a document that a ranking has found is another one whenever it is read.
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

// TestRestlessDocuments: a query whose candidates change during each reading does not hold up its partition. It is mined
// without them, and comes again.
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
	var token int64 // the newest one of their partitions
	for _, q := range queries {
		token = max(token, states[q].Token)
	}
	rules := catalog.RulesOf(w.Config)
	policies, err := mining.New(rules.Mining)
	if err != nil {
		t.Fatal(err)
	}
	miner := func(x restless) stages.Miner {
		e := &stages.Env{
			Outputs:    stages.Outputs{Names: catalog.NamesOf(w.Config, ""), Publication: stages.Live{}, Log: w.Log, Metrics: telemetry.NewMetrics(prometheus.NewRegistry())},
			Generation: live.Generation(), Rules: rules, Mining: policies, Kafka: w.Kafka, Now: time.Now, WideLimit: 1,
		}
		return stages.NewMiner(e, x, token)
	}
	var batch []stream.Record
	for _, q := range queries {
		r := records.Refresh{Kind: records.KindRefresh, QueryID: q, Source: records.Source{Topic: records.SourceSweep}}
		batch = append(batch, stream.Record{Topic: w.Config.Topics.Refresh, Key: []byte(r.QueryID), Value: r.Encode()})
	}
	run := func(changes bool, batch []stream.Record) (triplets int, again []stream.Record) {
		t.Helper()
		outputs, err := miner(restless{live, changes}).Process(t.Context(), batch)
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
	token++ // another owner publishes everything
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
