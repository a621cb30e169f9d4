package pipeline

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/stages"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// This file gives the tests in package pipeline_test access to the package. They cannot be in the package
// itself, because they need package pipelinetest, which imports it.

// Constants of the sweep.
const (
	MaxBacklog       = maxBacklog
	SweptAge         = sweptAge
	SweptFingerprint = sweptFingerprint
)

// ObserveDrift makes a model report how much it loses.
var ObserveDrift = observeDrift

// UntilReachable calls f as the start of an instance does.
func UntilReachable(ctx context.Context, o Options, f func() error) error {
	return newBootstrap(o).untilReachable(ctx, f)
}

// Observer returns a function that records events of stages as an instance does.
func Observer(o Options) func(stream.Event) { return newObserver(o).event }

// Sweep is the sweep of a generation. The test makes each turn.
type Sweep struct{ *sweep }

func liveOutputs(c catalog.Conn, generation string, metrics *telemetry.Metrics) stages.Outputs {
	return stages.Outputs{Names: catalog.NamesOf(c.Config, generation), Publication: stages.Live{}, Log: c.Log, Metrics: metrics}
}

// NewSweep returns the sweep of a generation.
func NewSweep(o Options, collections *index.Index) Sweep {
	out := liveOutputs(o.Conn, collections.Generation(), o.Metrics)
	return Sweep{newSweep(o, out, catalog.RulesOf(o.Config).Fingerprint, collections)}
}

// Turn looks at n queries.
func (s Sweep) Turn(ctx context.Context, n int) error { return s.turn(ctx, n) }

// LeftOut counts the queries that wait for their partitions.
func (s Sweep) LeftOut() int { return len(s.leftOut) }

// PublishAll publishes a generation that has replaced another one. It calls now before it sends records.
func PublishAll(ctx context.Context, c catalog.Conn, record *catalog.Generation, collections, previous *index.Index, now func() time.Time) error {
	s := &successor{
		Conn: c, out: liveOutputs(c, record.ID, telemetry.NewMetrics(prometheus.NewRegistry())), collections: collections,
		publication: stages.NewSuccessor(nil, previous), record: record, now: now,
	}
	return s.publishAll(ctx)
}
