package pipeline

import (
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hardneg/index"
	"hardneg/internal/config"
	"hardneg/internal/records"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// reconfigured stops an instance, and starts another one with a changed configuration.
func (w *world) reconfigured(stop func(), change func(*config.Config)) (again func(), metrics *telemetry.Metrics) {
	w.t.Helper()
	stop()
	cfg := *w.cfg
	cfg.Mining.Tiers = slices.Clone(cfg.Mining.Tiers)
	change(&cfg)
	w.cfg = &cfg
	metrics = telemetry.NewMetrics(prometheus.NewRegistry())
	return w.measured(metrics), metrics
}

// await polls until a condition holds.
func (w *world) await(most time.Duration, what string, done func() bool) time.Duration {
	w.t.Helper()
	start := time.Now()
	for !done() {
		if time.Since(start) > most {
			w.t.Fatalf("%s: not after %v", what, most)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(start)
}

// measure is the value of a counter or a gauge.
func measure(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	m := families[0].GetMetric()[0]
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}

// TestSweepMendsALostLookUp changes a document behind the indexer's back.
func TestSweepMendsALostLookUp(t *testing.T) {
	t.Parallel()
	const rate = 5 // of 15 queries: three seconds
	w := loadedWorld(t, 5, 15)
	stop := w.instance()
	defer func() { stop() }()
	w.settle()
	live := w.live()
	lost := func() {
		// d39 comes to lie where it enters the list of q3, and nobody is told.
		documents, err := live.Documents(t.Context(), []string{"d39", "d3"}, index.WithVector|index.WithMinHash|index.WithText)
		if err != nil {
			t.Fatal(err)
		}
		d := documents["d39"]
		d.Vector = w.random()
		w.docs["d39"] = worldDocument{text: d.Text, vector: d.Vector}
		if err := live.WriteDocuments(t.Context(), []index.Document{d}, d.Partition, d.Offset); err != nil {
			t.Fatal(err)
		}
	}
	for maps.Equal(w.got(), w.want()) {
		lost()
	}
	if r := w.audit(nil); len(r.Differences) == 0 {
		t.Error("the audit does not find what a lost look-up left")
	}
	var metrics *telemetry.Metrics
	stop, metrics = w.reconfigured(stop, func(c *config.Config) { c.Sweep.Rate = rate })
	w.await(time.Minute, "first sweep", func() bool { return maps.Equal(w.got(), w.want()) })
	w.await(time.Minute, "a complete sweep", func() bool { return measure(t, metrics.SweepCompleted) > 0 })

	// With the sweep on it is mended at the latest when all queries have been swept once more.
	swept := func() float64 { return measure(t, metrics.SweptQueries.WithLabelValues(sweptAge)) }
	for maps.Equal(w.got(), w.want()) {
		lost()
	}
	before := swept()
	w.await(time.Minute, "all queries to be swept once more", func() bool { return swept() >= before+2*15 })
	w.settle()
	if !maps.Equal(w.got(), w.want()) {
		t.Error("what the look-up lost is not mended after a whole sweep")
	}
	t.Logf("a sweep takes %v s", measure(t, metrics.SweepSeconds))
	w.clean("after the sweep")
	if n := measure(t, metrics.SweptQueries.WithLabelValues(sweptAge)); n < 15 {
		t.Errorf("%v queries were swept", n)
	}
}

// TestChangedRules: every list follows, what fell away is retracted, and nothing is embedded.
func TestChangedRules(t *testing.T) {
	t.Parallel()
	w := loadedWorld(t, 6, 12)
	stop := w.instance()
	defer func() { stop() }()
	w.settle()
	before := len(w.got())
	margin := 0.3
	var metrics *telemetry.Metrics
	stop, metrics = w.reconfigured(stop, func(c *config.Config) {
		c.Sweep.Rate = 6
		c.Mining.Negatives = 2
		c.Mining.Tiers = []config.Tier{{Policy: "semantic", UpTo: 1}, {Policy: "positive-aware", UpTo: 2, RelativeMargin: &margin}}
	})
	live := w.live()
	fingerprint := newRuleset(w.cfg).Fingerprint
	changed := func() float64 { return measure(t, metrics.SweptQueries.WithLabelValues(sweptFingerprint)) }
	w.await(3*time.Minute, "the queries of other rules to be swept", func() bool { return changed() >= 12 })
	// They come first: with six a turn, at most the rest of the second turn and the next one are others.
	if n := measure(t, metrics.SweptQueries.WithLabelValues(sweptAge)); n > 12 {
		t.Errorf("%v others were swept before them", n)
	}
	w.await(3*time.Minute, "changed rules", func() bool {
		left, _, err := live.Known(t.Context(), "", 100, fingerprint)
		if err != nil {
			t.Fatal(err)
		}
		return len(left) == 0
	})
	w.settle()
	w.clean("under the new rules")
	if after := len(w.got()); after >= before || after == 0 {
		t.Errorf("%d triplets, %d before", after, before)
	}
	for _, kind := range []string{"passage", "query"} {
		if n := measure(t, metrics.EmbeddedTexts.WithLabelValues(kind)); n != 0 {
			t.Errorf("%v texts of kind %s were embedded", n, kind)
		}
	}
}

// TestRetention: queries that nobody has asked for long are forgotten, and can come back.
func TestRetention(t *testing.T) {
	t.Parallel()
	w := loadedWorld(t, 7, 4)
	w.cfg.Sweep.Rate = 10
	stop := w.instance()
	defer func() { stop() }()
	w.settle() // however long it takes, nothing is too old yet
	w.compare("after the load")
	stop, _ = w.reconfigured(stop, func(c *config.Config) { c.Queries.Retention = 12 * time.Second })
	w.logged = map[string]*worldQuery{}
	w.await(3*time.Minute, "forgetting all but q1", func() bool {
		w.judge("q1", "d1", "d5", "d20") // all of its positives each time: a machine may be so slow that it was forgotten in between
		time.Sleep(300 * time.Millisecond)
		return maps.Equal(w.got(), w.want())
	})
	if r := w.audit(nil); len(r.Differences) > 0 {
		t.Errorf("after the others are forgotten: %s", lines(r.Differences))
	}
	w.logged = map[string]*worldQuery{}
	w.await(3*time.Minute, "forgetting q1", func() bool { return len(w.got()) == 0 })
	w.await(3*time.Minute, "q2 again", func() bool {
		w.judge("q2", "d30") // of its earlier positives none counts
		time.Sleep(300 * time.Millisecond)
		return len(w.got()) > 0 && maps.Equal(w.got(), w.want())
	})
}

// TestSweepWaitsForTheMiner: while the miner is behind on a partition, the sweep adds nothing to it, and goes on with the
// others.
func TestSweepWaitsForTheMiner(t *testing.T) {
	t.Parallel()
	w := loadedWorld(t, 8, 4)
	stop := w.instance()
	defer func() { stop() }()
	w.settle()
	stop()
	stop = func() {}
	outputs := make([]stream.Output, maxBacklog+1)
	for i := range outputs {
		r := records.Refresh{Kind: records.KindRefresh, QueryID: "nobody-" + strconv.Itoa(i)}
		outputs[i] = stream.Output{Topic: w.cfg.Topics.Refresh, Partition: stream.ByKey, Key: []byte(r.QueryID), Value: r.Encode()}
	}
	metrics := telemetry.NewMetrics(prometheus.NewRegistry())
	p, err := newPipeline(Options{Config: w.cfg, Kafka: w.kafka, Index: w.index, Log: w.log, Metrics: metrics, Health: telemetry.NewHealth()})
	if err != nil {
		t.Fatal(err)
	}
	if p.queries, err = w.index.Live(t.Context()); err != nil {
		t.Fatal(err)
	}
	swept := 0.0
	turn := func(want, skipped float64) {
		t.Helper()
		if err := p.sweepSome(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		now := measure(t, metrics.SweptQueries.WithLabelValues(sweptAge))
		if n := now - swept; n != want || measure(t, metrics.SweepSkipped) != skipped {
			t.Errorf("%v swept, want %v; %v left out, want %v", n, want, measure(t, metrics.SweepSkipped), skipped)
		}
		swept = now
	}
	// one fills a partition alone, as far as it may be filled.
	fill := func(partition int32) {
		t.Helper()
		outputs := slices.Clone(outputs)
		for i := range outputs {
			outputs[i].Partition = partition
		}
		if err := w.kafka.Produce(t.Context(), outputs); err != nil {
			t.Fatal(err)
		}
	}
	turn(4, 0)
	stuck := stream.PartitionFor([]byte("q1"), w.cfg.Topics.Partitions)
	there := 0.0
	for i := range 4 {
		if stream.PartitionFor([]byte("q"+strconv.Itoa(i)), w.cfg.Topics.Partitions) == stuck {
			there++
		}
	}
	if there == 4 {
		t.Fatal("all queries are in one partition: nothing is tested")
	}
	fill(stuck)
	turn(4-there, there)
	turn(4-there, 2*there)
	for p := range int32(w.cfg.Topics.Partitions) {
		if p != stuck {
			fill(p)
		}
	}
	turn(0, 2*there+4)
	stop = w.instance()
	w.settle()
	if len(p.leftOut) != int(there) {
		t.Errorf("%d queries wait for their partition, want %v, each once: %+v", len(p.leftOut), there, p.leftOut)
	}
	turn(4, 2*there+4) // they go first
	if len(p.leftOut) > 0 {
		t.Errorf("left out after their partition has caught up: %+v", p.leftOut)
	}
}
