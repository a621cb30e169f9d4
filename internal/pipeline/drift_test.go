package pipeline_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/model"
	"hardneg/internal/pipeline"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/telemetry"
)

// TestDriftIsTold checks that drift shows in the metrics at any time, and that there is one warning.
func TestDriftIsTold(t *testing.T) {
	m, err := model.Fit(t.Context(), nil, pipelinetest.Lexical, config.Reduce{Method: "pca", Variance: 0.95, MaxDimensions: 16, Normalize: true, Seed: 1}, 10, pipelinetest.About("a", 400))
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	metrics := telemetry.NewMetrics(registry)
	metrics.CapturedShare.WithLabelValues("old", telemetry.OfRecent).Set(1)
	var log bytes.Buffer
	pipeline.ObserveDrift(m, metrics, zerolog.New(&log))
	gauge := func(what string) float64 {
		return testutil.ToFloat64(metrics.CapturedShare.WithLabelValues(m.ID(), what))
	}
	if n := testutil.CollectAndCount(metrics.CapturedShare); n != 2 { // before the calls of gauge, which would create more
		t.Errorf("%d shares before a document, want those of the sample and of those held out", n)
	}
	sample, held := gauge(telemetry.OfSample), gauge(telemetry.OfHeldOut)
	if curve := m.Info().Variance; sample != curve[len(curve)-1].Share || held != m.Info().HeldOut.Share || !(held > 0) {
		t.Errorf("sample %v, held out %v, manifest %+v", sample, held, m.Info())
	}
	drifted := func() float64 { return testutil.ToFloat64(metrics.Drifted.WithLabelValues(m.ID())) }
	feed := func(prefix string, n int) {
		t.Helper()
		var partitions sync.WaitGroup
		for range 2 {
			partitions.Go(func() {
				if _, _, err := m.Vectors(t.Context(), embed.Passage, pipelinetest.About(prefix, n/2)); err != nil {
					t.Error(err)
				}
			})
		}
		partitions.Wait()
	}
	feed("a", 2000)
	if drifted() != 0 || log.Len() > 0 || gauge(telemetry.OfRecent) < held*0.9 {
		t.Errorf("of the same kind: drifted %v, recent %v, held out %v: %s", drifted(), gauge(telemetry.OfRecent), held, log.String())
	}
	feed("b", 4000)
	if drifted() != 1 || gauge(telemetry.OfRecent) > held {
		t.Errorf("of another kind: drifted %v, recent %v, held out %v", drifted(), gauge(telemetry.OfRecent), held)
	}
	feed("a", 8000)
	if drifted() != 0 {
		t.Errorf("of the first kind again: drifted %v, recent %v, held out %v", drifted(), gauge(telemetry.OfRecent), held)
	}
	feed("b", 4000)
	if said := log.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, `"level":"warn"`) || !strings.Contains(said, m.ID()) {
		t.Errorf("it said %s", said)
	}
	if n := testutil.ToFloat64(metrics.MeasuredDocuments.WithLabelValues(m.ID())); n != 18_000 {
		t.Errorf("%v documents were measured", n)
	}
}

// TestNoDriftWithoutAxes checks that a model which does not reduce vectors has no metrics of drift.
func TestNoDriftWithoutAxes(t *testing.T) {
	m, err := model.Fit(t.Context(), nil, pipelinetest.Lexical, config.Reduce{Method: "none"}, 10, pipelinetest.About("a", 400))
	if err != nil {
		t.Fatal(err)
	}
	metrics := telemetry.NewMetrics(prometheus.NewRegistry())
	pipeline.ObserveDrift(m, metrics, zerolog.Nop())
	if _, _, err := m.Vectors(t.Context(), embed.Passage, pipelinetest.About("b", 100)); err != nil {
		t.Fatal(err)
	}
	if n := testutil.CollectAndCount(metrics.CapturedShare) + testutil.CollectAndCount(metrics.MeasuredDocuments) + testutil.CollectAndCount(metrics.Drifted); n != 0 {
		t.Errorf("%d metrics", n)
	}
}

// TestUnchangedDocumentsAreNotMeasured checks that a document that the index has already is not embedded, and
// so not measured.
func TestUnchangedDocumentsAreNotMeasured(t *testing.T) {
	w := pipelinetest.New(t, 1)
	w.Config.Embedders, w.Config.Reduce = pipelinetest.Lexical, config.Reduce{Method: "pca", Variance: 0.95, MaxDimensions: 8, Normalize: true, Seed: 1}
	for i, item := range pipelinetest.About("a", 30) {
		w.Produce("documents", fmt.Sprint(i), map[string]any{"text": item.Text})
	}
	metrics := telemetry.NewMetrics(prometheus.NewRegistry())
	stop := w.Measured(metrics)
	defer func() { stop() }()
	w.Settle()
	count := func() int {
		generation, _, err := w.Index.Active(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return int(testutil.ToFloat64(metrics.MeasuredDocuments.WithLabelValues(catalog.ModelOf(generation))))
	}
	if n := count(); n != 30 {
		t.Errorf("%d documents were measured, want 30", n)
	}
	for i, item := range pipelinetest.About("a", 30) {
		w.Produce("documents", fmt.Sprint(i), map[string]any{"text": item.Text, "url": "http://new"})
	}
	w.Produce("documents", "more", map[string]any{"text": "a1 a2 a3"})
	w.Settle()
	if n := count(); n != 31 {
		t.Errorf("%d documents were measured, want 31", n)
	}
}
