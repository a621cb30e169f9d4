package pipeline_test

import (
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hardneg/index"
	"hardneg/internal/audit/audittest"
	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/pipeline"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/records"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// TestSweepMendsALostLookUp changes documents without the indexer. The sweep must mend the lists that should
// have changed.
func TestSweepMendsALostLookUp(t *testing.T) {
	t.Parallel()
	const rate = 5 // a second; there are 15 queries, so a round takes three seconds
	w := pipelinetest.Loaded(t, 5, 15)
	stop := w.Instance()
	defer func() { stop() }()
	w.Settle()
	live := w.Live()
	lost := func() {
		// d39 moves, perhaps into lists, and no query is sent through refresh.
		documents, err := live.Documents(t.Context(), []string{"d39", "d3"}, index.WithVector|index.WithMinHash|index.WithText)
		if err != nil {
			t.Fatal(err)
		}
		d := documents["d39"]
		d.Vector = w.Random()
		w.Docs["d39"] = pipelinetest.Document{Text: d.Text, Vector: d.Vector}
		if err := live.WriteDocuments(t.Context(), []index.Document{d}, d.Partition, d.Offset); err != nil {
			t.Fatal(err)
		}
	}
	for maps.Equal(w.Got(), w.Want()) {
		lost()
	}
	if r := audittest.Run(w); len(r.Differences) == 0 {
		t.Error("the audit does not find what a lost look-up left")
	}
	var metrics *telemetry.Metrics
	stop, metrics = w.Reconfigured(stop, func(c *config.Config) { c.Sweep.Rate = rate })
	w.Await(time.Minute, "first sweep", func() bool { return maps.Equal(w.Got(), w.Want()) })
	w.Await(time.Minute, "a complete sweep", func() bool { return pipelinetest.Value(t, metrics.SweepCompleted) > 0 })

	// While the sweep runs the lists are mended, at the latest, when all queries have been swept once more.
	swept := func() float64 { return pipelinetest.Value(t, metrics.SweptQueries.WithLabelValues(pipeline.SweptAge)) }
	for maps.Equal(w.Got(), w.Want()) {
		lost()
	}
	before := swept()
	w.Await(time.Minute, "all queries to be swept once more", func() bool { return swept() >= before+2*15 })
	w.Settle()
	if !maps.Equal(w.Got(), w.Want()) {
		t.Error("what the look-up lost is not mended after a whole sweep")
	}
	t.Logf("a sweep takes %v s", pipelinetest.Value(t, metrics.SweepSeconds))
	audittest.Clean(w, "after the sweep")
	if n := pipelinetest.Value(t, metrics.SweptQueries.WithLabelValues(pipeline.SweptAge)); n < 15 {
		t.Errorf("%v queries were swept", n)
	}
}

// TestChangedRules changes the rules of a view. Every list must follow, slots that fall away must be
// retracted, and nothing is embedded.
func TestChangedRules(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 6, 12)
	stop := w.Instance()
	defer func() { stop() }()
	w.Settle()
	before := len(w.Got())
	margin := 0.3
	var metrics *telemetry.Metrics
	stop, metrics = w.Reconfigured(stop, func(c *config.Config) {
		c.Sweep.Rate = 6
		c.Mining.Negatives = 2
		c.Mining.Tiers = []config.Tier{{Policy: "semantic", UpTo: 1}, {Policy: "positive-aware", UpTo: 2, RelativeMargin: &margin}}
	})
	live := w.Live()
	fingerprint := catalog.RulesOf(w.Config).Fingerprint
	changed := func() float64 {
		return pipelinetest.Value(t, metrics.SweptQueries.WithLabelValues(pipeline.SweptFingerprint))
	}
	w.Await(3*time.Minute, "the queries of other rules to be swept", func() bool { return changed() >= 12 })
	// They come first. Of six queries a turn, only the rest of the second turn and queries of the next turns
	// may be others.
	if n := pipelinetest.Value(t, metrics.SweptQueries.WithLabelValues(pipeline.SweptAge)); n > 12 {
		t.Errorf("%v others were swept before them", n)
	}
	w.Await(3*time.Minute, "changed rules", func() bool {
		unchanged, _, err := live.Known(t.Context(), "", 100, fingerprint)
		if err != nil {
			t.Fatal(err)
		}
		return len(unchanged) == 0
	})
	w.Settle()
	audittest.Clean(w, "under the new rules")
	if after := len(w.Got()); after >= before || after == 0 {
		t.Errorf("%d triplets, %d before", after, before)
	}
	for _, kind := range []string{"passage", "query"} {
		if n := pipelinetest.Value(t, metrics.EmbeddedTexts.WithLabelValues(kind)); n != 0 {
			t.Errorf("%v texts of kind %s were embedded", n, kind)
		}
	}
}

// TestRetention checks that queries which nobody has asked for long are forgotten, and that they can come
// back.
func TestRetention(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 7, 4)
	w.Config.Sweep.Rate = 10
	stop := w.Instance()
	defer func() { stop() }()
	w.Settle() // without a retention, however long it takes
	w.Compare("after the load")
	stop, _ = w.Reconfigured(stop, func(c *config.Config) { c.Queries.Retention = 12 * time.Second })
	w.Logged = map[string]*pipelinetest.Query{}
	w.Await(3*time.Minute, "forgetting all but q1", func() bool {
		w.Judge("q1", "d1", "d5", "d20") // with all of its positives each time: on a slow machine it may be forgotten in between
		time.Sleep(300 * time.Millisecond)
		return maps.Equal(w.Got(), w.Want())
	})
	if r := audittest.Run(w); len(r.Differences) > 0 {
		t.Errorf("after the others are forgotten: %+v", r.Differences)
	}
	w.Logged = map[string]*pipelinetest.Query{}
	w.Await(3*time.Minute, "forgetting q1", func() bool { return len(w.Got()) == 0 })
	w.Await(3*time.Minute, "q2 again", func() bool {
		w.Judge("q2", "d30") // its earlier positives must not count
		time.Sleep(300 * time.Millisecond)
		return len(w.Got()) > 0 && maps.Equal(w.Got(), w.Want())
	})
}

// TestSweepWaitsForTheMiner checks that the sweep adds nothing to a partition on which the miner is behind,
// and goes on with the others.
func TestSweepWaitsForTheMiner(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 8, 4)
	stop := w.Instance()
	defer func() { stop() }()
	w.Settle()
	stop()
	stop = func() {}
	outputs := make([]stream.Output, pipeline.MaxBacklog+1)
	for i := range outputs {
		r := records.Refresh{Kind: records.KindRefresh, QueryID: "nobody-" + strconv.Itoa(i)}
		outputs[i] = stream.Output{Topic: w.Config.Topics.Refresh, Partition: stream.ByKey, Key: []byte(r.QueryID), Value: r.Encode()}
	}
	metrics := telemetry.NewMetrics(prometheus.NewRegistry())
	o := w.Options(metrics)
	sweep := pipeline.NewSweep(o, w.Live())
	swept := 0.0
	turn := func(want, skipped float64) {
		t.Helper()
		if err := sweep.Turn(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		now := pipelinetest.Value(t, metrics.SweptQueries.WithLabelValues(pipeline.SweptAge))
		if n := now - swept; n != want || pipelinetest.Value(t, metrics.SweepSkipped) != skipped {
			t.Errorf("%v swept, want %v; %v left out, want %v", n, want, pipelinetest.Value(t, metrics.SweepSkipped), skipped)
		}
		swept = now
	}
	// fill makes the miner be behind on one partition.
	fill := func(partition int32) {
		t.Helper()
		outputs := slices.Clone(outputs)
		for i := range outputs {
			outputs[i].Partition = partition
		}
		if err := w.Kafka.Produce(t.Context(), outputs); err != nil {
			t.Fatal(err)
		}
	}
	turn(4, 0)
	stuck := stream.PartitionFor([]byte("q1"), w.Config.Topics.Partitions)
	there := 0.0
	for i := range 4 {
		if stream.PartitionFor([]byte("q"+strconv.Itoa(i)), w.Config.Topics.Partitions) == stuck {
			there++
		}
	}
	if there == 4 {
		t.Fatal("all queries are in one partition: nothing is tested")
	}
	fill(stuck)
	turn(4-there, there)
	turn(4-there, 2*there)
	for p := range int32(w.Config.Topics.Partitions) {
		if p != stuck {
			fill(p)
		}
	}
	turn(0, 2*there+4)
	stop = w.Instance()
	w.Settle()
	if sweep.LeftOut() != int(there) {
		t.Errorf("%d queries wait for their partition, want %v, each once", sweep.LeftOut(), there)
	}
	turn(4, 2*there+4) // the queries that waited go first
	if sweep.LeftOut() > 0 {
		t.Errorf("%d queries are left out after their partition has caught up", sweep.LeftOut())
	}
}
