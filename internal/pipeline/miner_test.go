package pipeline

import (
	"context"
	"strconv"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"hardneg/index"
	"hardneg/internal/records"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// restless is an index whose documents change whenever they are read.
type restless struct {
	*index.Index
	texts, points bool // by id, for their texts; by point, as those that a ranking has found
}

func (r restless) Documents(ctx context.Context, ids []string, want index.Fields) (map[string]index.Document, error) {
	documents, err := r.Index.Documents(ctx, ids, want)
	if r.texts && want == index.WithText {
		for id, d := range documents {
			d.Hash += " changed"
			documents[id] = d
		}
	}
	return documents, err
}

func (r restless) DocumentsAt(ctx context.Context, points []string, want index.Fields) (map[string]index.Document, error) {
	documents, err := r.Index.DocumentsAt(ctx, points, want)
	if r.points && len(points) > 0 {
		delete(documents, points[0])
	}
	return documents, err
}

// TestRestlessDocuments: a query whose documents change during each reading does not hold up its partition. It comes again,
// and all of it is published once they rest.
func TestRestlessDocuments(t *testing.T) {
	t.Parallel()
	w := loadedWorld(t, 22, 4)
	stop := w.instance()
	w.settle()
	stop()
	live, err := w.index.Live(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	states, err := live.States(t.Context(), []string{"q0"})
	if err != nil {
		t.Fatal(err)
	}
	token := states["q0"].Token
	miner := func(x restless) miner {
		p, err := newPipeline(Options{Config: w.cfg, Kafka: w.kafka, Index: w.index, Log: w.log, Metrics: telemetry.NewMetrics(prometheus.NewRegistry()), Health: telemetry.NewHealth()})
		if err != nil {
			t.Fatal(err)
		}
		p.queries, p.index, p.generation, p.wide = live, x, live.Generation(), 1
		return miner{Pipeline: p, token: token}
	}
	var batch []stream.Record
	for i := range 4 {
		r := records.Refresh{Kind: records.KindRefresh, QueryID: "q" + strconv.Itoa(i), Source: records.Source{Topic: records.SourceSweep}}
		batch = append(batch, stream.Record{Topic: w.cfg.Topics.Refresh, Key: []byte(r.QueryID), Value: r.Encode()})
	}
	run := func(x restless, batch []stream.Record) (triplets int, again []stream.Record, force bool) {
		t.Helper()
		outputs, err := miner(x).Process(t.Context(), batch)
		if err != nil {
			t.Fatalf("%+v: %v", x, err)
		}
		for _, o := range outputs {
			if o.Topic == w.cfg.Topics.Triplets {
				triplets++
				continue
			}
			again = append(again, stream.Record{Topic: o.Topic, Key: o.Key, Value: o.Value, Headers: o.Headers})
			r, err := records.ParseRefresh(o.Key, o.Value)
			if err != nil {
				t.Fatal(err)
			}
			force = r.Force
		}
		return triplets, again, force
	}
	token++ // another owner publishes everything
	all, again, _ := run(restless{Index: live}, batch)
	if all < 12 || len(again) > 0 {
		t.Fatalf("at rest: %d triplets, %d queries come again", all, len(again))
	}
	for name, x := range map[string]restless{"texts": {live, true, false}, "points": {live, false, true}} {
		token++
		triplets, again, force := run(x, batch)
		if len(again) != 4 || x.texts && (triplets > 0 || !force) {
			t.Errorf("%s: %d triplets, and %d queries come again, force %v", name, triplets, len(again), force)
		}
		if triplets, again, _ = run(restless{Index: live}, again); len(again) > 0 || x.texts && triplets != all {
			t.Errorf("%s, at rest again: %d triplets, want %d; %d queries come again", name, triplets, all, len(again))
		}
	}
	stop = w.instance()
	defer func() { stop() }()
	w.settle()
	w.compare("in the end")
}
