package pipeline_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/pipeline"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// TestStalledPartition checks that a partition which makes no progress shows in the log, in /readyz and in a
// metric until its next event.
func TestStalledPartition(t *testing.T) {
	metrics, health := telemetry.NewMetrics(prometheus.NewRegistry()), telemetry.NewHealth()
	var log strings.Builder
	observe := pipeline.Observer(pipeline.Options{Conn: catalog.Conn{Config: config.Default(), Log: zerolog.New(&log)}, Metrics: metrics, Health: health})
	event := func(partition int32, kind stream.EventKind, err error) {
		observe(stream.Event{Stage: catalog.StageMiner, Topic: "refresh", Partition: partition, Kind: kind, Offset: 17, End: 20, Err: err})
	}
	check := func(stalled float64, reason string) {
		t.Helper()
		if got := pipelinetest.Value(t, metrics.Stalled.WithLabelValues(catalog.StageMiner)); got != stalled {
			t.Errorf("%v partitions stalled, want %v", got, stalled)
		}
		if got := health.Ready()[catalog.StageMiner]; got != reason {
			t.Errorf("not ready for %q, want %q", got, reason)
		}
	}
	hangs, down := errors.New("no progress for 1m0s"), errors.New("qdrant is unavailable")
	event(3, stream.Stalled, hangs)
	event(3, stream.Stalled, hangs)
	event(1, stream.Committed, nil)
	check(1, hangs.Error())
	for _, part := range []string{`"topic":"refresh"`, `"partition":3`, `"offset":17`, hangs.Error()} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("the log lacks %s: %s", part, log.String())
		}
	}
	event(3, stream.Failed, down) // the batch was given up: the partition is no longer stalled, but it fails
	check(0, down.Error())
	event(3, stream.Stalled, hangs)
	event(3, stream.Committed, nil)
	check(0, "")
	event(3, stream.Stalled, hangs)
	event(3, stream.Fenced, stream.ErrFenced)
	event(3, stream.Revoked, nil)
	check(0, "")
}
