// Package rebuild makes a new generation beside the live one, with another model or other embedders, and
// promotes it. The view has no pause. docs/generations.md gives the order of the steps and the reasons for
// it. Only packages of hardneg import it.
package rebuild

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hardneg/internal/catalog"
	"hardneg/internal/embed"
	"hardneg/internal/fit"
	"hardneg/internal/model"
	"hardneg/internal/pipeline"
	"hardneg/internal/telemetry"
	"hardneg/mining"
	"hardneg/stream"
)

// Options says how to make a new generation.
type Options struct {
	catalog.Conn
	Cache      *embed.Cache   // of vectors; nil: none
	FromTopics bool           // read documents and query log from the topics, not from the live collections
	Model      string         // id of a published model; empty: fit the configured embedders
	Keep       time.Duration  // how long the previous generation stays once the new one is live
	Default    bool           // the default embedders may replace others if the configuration names no embedders
	Hold       bool           // stop when the new generation can be promoted; the next rebuild goes on from there
	Progress   func(Progress) // called by one goroutine at a time; may be nil
}

// Progress says how far a rebuild is.
type Progress struct {
	Step        string
	Done, Total int64 // Total 0: not known. In StepPublish Done is negative: the number of records that are left
}

// Report is the outcome of a rebuild.
type Report struct {
	Generation string             `json:"generation"`
	Previous   string             `json:"previous"`
	Model      string             `json:"model"`
	Dimensions int                `json:"dimensions"`
	Documents  uint64             `json:"documents"`
	Queries    uint64             `json:"queries"`
	Promoted   bool               `json:"promoted"`
	Seconds    map[string]float64 `json:"seconds"` // by step, in this run
}

// Steps of a rebuild.
const (
	StepFit       = "fit"
	StepDocuments = "documents"
	StepQueries   = "queries"
	StepMine      = "mine"
	StepVerify    = "verify"
	StepPublish   = "publish"
)

// survey is what a rebuild finds when it begins.
type survey struct {
	live       *catalog.View
	unfinished *catalog.Generation // the generation that an earlier rebuild has begun; nil: there is none
}

// rebuilder finishes the generation of an earlier rebuild, or begins a new one.
type rebuilder struct {
	Options
	survey
	service pipeline.Options // for the stages of the new generation
	report  *Report
}

// rebuild is a rebuilder with the new generation.
type rebuild struct {
	*rebuilder
	record *catalog.Generation
	next   *pipeline.Shadow
}

// Run makes a new generation beside the live one, and promotes it. After an interruption at any point the
// next call goes on from there. Only a running service can finish a promotion: it publishes the new triplets,
// and Run waits for that.
func Run(ctx context.Context, o Options) (*Report, error) {
	s, err := surveyOf(ctx, o.Conn)
	if err != nil {
		return nil, err
	}
	b := newRebuilder(o, s)
	if s.unfinished != nil && s.unfinished.ID == s.live.Generation { // an earlier run has promoted it, and was interrupted
		return b.report, b.finish(ctx)
	}
	r, err := b.begin(ctx)
	if err != nil {
		return nil, err
	}
	if r.record.Phase == catalog.PhaseSeeding {
		err = r.seed(ctx)
	}
	if err == nil {
		err = r.build(ctx)
	}
	if errors.Is(err, errPromoted) { // another process worked at the same generation
		r.report.Promoted, err = true, nil
	}
	if err != nil {
		return nil, err
	}
	if r.report.Documents, r.report.Queries, err = r.next.Collections.Counts(ctx); err != nil || o.Hold {
		return r.report, err
	}
	return r.report, r.step(StepPublish, func() error { return r.awaitPublished(ctx, r.record.ID) })
}

// surveyOf opens the live generation, and looks for a generation that an earlier rebuild has begun.
func surveyOf(ctx context.Context, c catalog.Conn) (survey, error) {
	if _, err := mining.New(catalog.RulesOf(c.Config).Mining); err != nil { // before anything is made
		return survey{}, err
	}
	live, err := c.Open(ctx)
	if errors.Is(err, catalog.ErrNoView) {
		return survey{}, errors.New("there is no live generation to build another one beside: the first one is made by hardneg run")
	}
	if err != nil {
		return survey{}, err
	}
	if live.Publishing() {
		return survey{live, live.Record}, nil
	}
	known, err := catalog.ReadGenerations(ctx, c.Kafka, c.Config.Topics.Models)
	return survey{live, catalog.Unfinished(known, live.Generation)}, err
}

// newRebuilder returns a rebuilder with an empty report. It lets one goroutine at a time call o.Progress.
func newRebuilder(o Options, s survey) *rebuilder {
	show, mu := o.Progress, sync.Mutex{}
	o.Progress = func(p Progress) {
		if show != nil {
			mu.Lock()
			defer mu.Unlock()
			show(p)
		}
	}
	return &rebuilder{
		Options: o, survey: s, report: &Report{Seconds: map[string]float64{}},
		service: pipeline.Options{
			Conn: o.Conn, Cache: o.Cache, Metrics: telemetry.NewMetrics(prometheus.NewRegistry()), Health: telemetry.NewHealth(), // nobody reads them
		},
	}
}

// step runs a step, logs it and measures its time. It returns the error of f with the name of the step.
func (b *rebuilder) step(name string, f func() error) error {
	start := time.Now()
	b.Log.Info().Str("step", name).Msg("rebuild")
	err := f()
	b.report.Seconds[name] += time.Since(start).Seconds()
	if err != nil {
		return fmt.Errorf("rebuild, %s: %w", name, err)
	}
	return nil
}

// models returns the models of the view, with what their embedders need.
func (b *rebuilder) models() catalog.Models { return b.Models(b.service.Resources()) }

// finish waits until the unfinished generation, which is live already, is published. If this rebuild asks for
// another generation it returns an error.
func (b *rebuilder) finish(ctx context.Context) error {
	g := b.unfinished
	m, err := b.models().Read(ctx, g.Model)
	if err != nil {
		return err
	}
	if m != nil && !b.asksFor(g, m) {
		return fmt.Errorf("generation %s, of other embedders or another source, is live and being published: wait until hardneg status says that it is done, and begin then", g.ID)
	}
	b.report.Generation, b.report.Previous, b.report.Model, b.report.Promoted = g.ID, g.Previous, g.Model, true
	return b.step(StepPublish, func() error { return b.awaitPublished(ctx, g.ID) })
}

// begin goes on with an unfinished rebuild, or starts a new one: then it makes a model, a record of the
// generation, topics and collections.
func (b *rebuilder) begin(ctx context.Context) (*rebuild, error) {
	if b.unfinished != nil {
		return b.resume(ctx, b.unfinished)
	}
	if err := b.checkEmbedders(ctx); err != nil {
		return nil, err
	}
	if !b.FromTopics {
		if err := b.checkContent(ctx); err != nil {
			return nil, err
		}
	}
	m, err := b.model(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	record := &catalog.Generation{
		ID: m.ID() + "-" + strconv.FormatInt(now.UnixMilli(), 10), Model: m.ID(), Phase: catalog.PhaseStarting, Previous: b.live.Generation,
		FromTopics: b.FromTopics, Keep: b.Keep, StartedAt: now,
	}
	if err := b.write(ctx, record); err != nil { // first, so that nothing exists without a record of it
		return nil, err
	}
	if err := b.checkAlone(ctx, record); err != nil {
		return nil, err
	}
	r, err := b.open(ctx, record, m)
	if err != nil {
		return nil, err
	}
	return r, r.start(ctx)
}

// checkAlone returns an error if another rebuild began at the same time, and withdraws the new generation. Of
// two such rebuilds at least one sees the other.
func (b *rebuilder) checkAlone(ctx context.Context, record *catalog.Generation) error {
	known, err := catalog.ReadGenerations(ctx, b.Kafka, b.Config.Topics.Models)
	if err != nil {
		return err
	}
	delete(known, record.ID)
	other := catalog.Unfinished(known, b.live.Generation)
	if other == nil {
		return nil
	}
	err = catalog.Withdraw(ctx, b.Kafka, b.Config.Topics.Models, record.ID)
	return errors.Join(fmt.Errorf("another rebuild began at the same time, of generation %s", other.ID), err)
}

// asksFor reports whether a generation is the one that this rebuild shall make. m is its model.
func (b *rebuilder) asksFor(g *catalog.Generation, m *model.Model) bool {
	return g.FromTopics == b.FromTopics && (b.Model == g.Model || b.Model == "" && pipeline.Describes(b.Config, m.Info()))
}

// resume goes on with an unfinished generation. It returns an error if this rebuild asks for another
// generation.
func (b *rebuilder) resume(ctx context.Context, g *catalog.Generation) (*rebuild, error) {
	if g.Previous != b.live.Generation {
		return nil, fmt.Errorf("generation %s was being built beside %s, but %s is live now: remove it with --abort, and begin again", g.ID, g.Previous, b.live.Generation)
	}
	m, err := b.models().Read(ctx, g.Model)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return nil, fmt.Errorf("generation %s is being built by model %s, which topic %s does not have any more: remove it with --abort, and begin again",
			g.ID, g.Model, b.Config.Topics.Models)
	}
	if !b.asksFor(g, m) {
		return nil, fmt.Errorf("generation %s is being built already, by model %s (embedders %s, %d dimensions, from the topics: %t), and this is another rebuild (embedders %s, at most %d dimensions, "+
			"from the topics: %t): finish it by the command that began it, or remove it with --abort", g.ID, g.Model, strings.Join(embedderNames(m.Info().Definitions()), ", "), m.Dimensions(),
			g.FromTopics, strings.Join(embedderNames(b.Config.Embedders), ", "), b.Config.Reduce.MaxDimensions, b.FromTopics)
	}
	b.Log.Info().Str("generation", g.ID).Str("phase", g.Phase).Strs("embedders", embedderNames(m.Info().Definitions())).
		Msg("going on with a rebuild that was interrupted or held")
	r, err := b.open(ctx, g, m)
	if err != nil || g.Phase != catalog.PhaseStarting {
		return r, err
	}
	return r, r.start(ctx)
}

// model returns the published model that the user asks for, or fits a new one.
func (b *rebuilder) model(ctx context.Context) (m *model.Model, err error) {
	if b.Model != "" {
		m, err = b.models().Read(ctx, b.Model)
		if err == nil && m == nil {
			err = fmt.Errorf("topic %s has no complete model %s; hardneg models list shows those that it has", b.Config.Topics.Models, b.Model)
		}
		return m, err
	}
	err = b.step(StepFit, func() error {
		if m, err = fit.Model(ctx, b.Config, b.service.Resources(), b.sample, b.Log); err != nil {
			return err
		}
		fit.WarnOfFew(b.Log, m.Info().Samples, b.Config.Fit.Minimum)
		_, err := b.models().Publish(ctx, m)
		return err
	})
	return m, err
}

// open makes the topics and collections of the new generation that are missing.
func (b *rebuilder) open(ctx context.Context, record *catalog.Generation, m *model.Model) (*rebuild, error) {
	if err := catalog.EnsureTopics(ctx, b.Kafka, b.Config, record.ID); err != nil {
		return nil, err
	}
	collections, err := b.Index.Create(ctx, record.ID, m.Dimensions())
	if err != nil {
		return nil, err
	}
	next, err := pipeline.NewShadow(b.service, m, record.Previous, collections)
	if err != nil {
		return nil, err
	}
	b.report.Generation, b.report.Previous, b.report.Model, b.report.Dimensions = record.ID, record.Previous, m.ID(), m.Dimensions()
	return &rebuild{rebuilder: b, record: record, next: next}, nil
}

// write writes the record of a generation into the models topic.
func (b *rebuilder) write(ctx context.Context, record *catalog.Generation) error {
	return record.Write(ctx, b.Kafka, b.Config.Topics.Models)
}

// Abort removes the generation that a rebuild has begun, and returns its id. It returns an empty id if there
// is none.
func Abort(ctx context.Context, c catalog.Conn) (string, error) {
	s, err := surveyOf(ctx, c)
	if err != nil || s.unfinished == nil {
		return "", err
	}
	id := s.unfinished.ID
	if id == s.live.Generation {
		return "", fmt.Errorf("generation %s is promoted already, and live: rebuild again to replace it", id)
	}
	err = c.Erase(ctx, id)
	if errors.Is(err, stream.ErrGroupInUse) {
		err = fmt.Errorf("a rebuild is running, end it first: %w", err)
	}
	return id, err
}
