package pipeline

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"hardneg/index"
	"hardneg/internal/records"
	"hardneg/internal/telemetry"
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
	w := loadedWorld(t, 22, 4)
	stop := w.instance()
	w.settle()
	stop()
	live := w.live()
	queries := []string{"q0", "q1", "q2", "q3"}
	states, err := live.States(t.Context(), queries)
	if err != nil {
		t.Fatal(err)
	}
	var token int64 // the newest one of their partitions
	for _, q := range queries {
		token = max(token, states[q].Token)
	}
	miner := func(x restless) miner {
		p, err := newPipeline(Options{Config: w.cfg, Kafka: w.kafka, Index: w.index, Log: w.log, Metrics: telemetry.NewMetrics(prometheus.NewRegistry()), Health: telemetry.NewHealth()})
		if err != nil {
			t.Fatal(err)
		}
		p.queries, p.index, p.generation, p.wide = live, x, live.Generation(), 1
		return miner{Pipeline: p, token: token}
	}
	var batch []stream.Record
	for _, q := range queries {
		r := records.Refresh{Kind: records.KindRefresh, QueryID: q, Source: records.Source{Topic: records.SourceSweep}}
		batch = append(batch, stream.Record{Topic: w.cfg.Topics.Refresh, Key: []byte(r.QueryID), Value: r.Encode()})
	}
	run := func(changes bool, batch []stream.Record) (triplets int, again []stream.Record) {
		t.Helper()
		outputs, err := miner(restless{live, changes}).Process(t.Context(), batch)
		if err != nil {
			t.Fatalf("changes %v: %v", changes, err)
		}
		for _, o := range outputs {
			if o.Topic == w.cfg.Topics.Triplets {
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
	stop = w.instance()
	defer func() { stop() }()
	w.settle()
	w.compare("in the end")
}
