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

// What tests outside of the package reach of it: package pipelinetest, which they need, imports it.

const (
	MaxBacklog       = maxBacklog
	SweptAge         = sweptAge
	SweptFingerprint = sweptFingerprint
)

var ObserveDrift = observeDrift

// UntilReachable calls f as the start of an instance does.
func UntilReachable(ctx context.Context, o Options, f func() error) error {
	return newBootstrap(o).untilReachable(ctx, f)
}

// Observer records events of stages, as an instance does.
func Observer(o Options) func(stream.Event) { return newObserver(o).event }

// Sweep is the sweep of a generation, to be run turn by turn.
type Sweep struct{ *sweep }

func testEnv(c catalog.Conn, generation string, metrics *telemetry.Metrics, now func() time.Time) *stages.Env {
	return &stages.Env{
		Outputs:    stages.Outputs{Names: catalog.NamesOf(c.Config, generation), Publication: stages.Live{}, Log: c.Log, Metrics: metrics},
		Generation: generation, Rules: catalog.RulesOf(c.Config), Kafka: c.Kafka, Now: now,
	}
}

// NewSweep returns the sweep of a generation.
func NewSweep(o Options, collections *index.Index) Sweep {
	g := &generation{env: testEnv(o.Conn, collections.Generation(), o.Metrics, time.Now), collections: collections}
	return Sweep{newSweep(g, o)}
}

// Turn looks at n queries.
func (s Sweep) Turn(ctx context.Context, n int) error { return s.turn(ctx, n) }

// LeftOut counts the queries that wait for their partitions.
func (s Sweep) LeftOut() int { return len(s.leftOut) }

// PublishAll publishes a generation that has replaced another one. The clock now is asked before records are sent.
func PublishAll(ctx context.Context, c catalog.Conn, record *catalog.Generation, collections, previous *index.Index, now func() time.Time) error {
	s := &successor{
		Conn: c, env: testEnv(c, record.ID, telemetry.NewMetrics(prometheus.NewRegistry()), now), collections: collections,
		publication: stages.NewSuccessor(nil, previous), record: record,
	}
	return s.publishAll(ctx)
}
