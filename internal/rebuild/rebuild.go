// Package rebuild makes a new generation beside the live one, and promotes it: another model, other embedders, without a pause.
// docs/generations.md gives the order of the steps and its reasons. Only packages of hardneg import it.
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
	"hardneg/stream"
)

// Options say how to make a new generation.
type Options struct {
	catalog.Conn
	Cache      *embed.Cache   // of vectors; nil: none
	FromTopics bool           // read documents and query log from the topics, not from the live collections
	Model      string         // id of a published model; empty: fit the configured embedders
	Keep       time.Duration  // how long the previous generation stays once the new one is live
	Default    bool           // the default embedders may replace others, although the configuration names none
	Hold       bool           // stop when the new generation could be promoted; the next rebuild goes on from there
	Progress   func(Progress) // called by one goroutine at a time; may be nil
}

// Progress says how far a rebuild is.
type Progress struct {
	Step        string
	Done, Total int64 // Total 0: not known
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
	Seconds    map[string]float64 `json:"seconds"` // by step, of this run
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

// site is where a rebuild happens: the live generation, and the generation that an earlier rebuild has begun.
type site struct {
	Options
	service    pipeline.Options // for the stages of the new generation
	live       *catalog.View
	unfinished *catalog.Generation // nil: no earlier rebuild is unfinished
	report     *Report
}

// rebuild is a site with the new generation.
type rebuild struct {
	*site
	record *catalog.Generation
	next   *pipeline.Shadow
}

// Run makes a new generation beside the live one, and promotes it. After an interruption, at whatever point, the next call goes on.
// Only a running service can finish a promotion: it publishes the new triplets, and Run waits for that.
func Run(ctx context.Context, o Options) (*Report, error) {
	s, err := survey(ctx, o)
	if err != nil {
		return nil, err
	}
	if s.unfinished != nil && s.unfinished.ID == s.live.Generation { // an earlier run has promoted it, and was interrupted
		return s.report, s.finish(ctx)
	}
	r, err := s.begin(ctx)
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

// survey opens the live generation, and finds a rebuild that was begun before.
func survey(ctx context.Context, o Options) (*site, error) {
	show, one := o.Progress, sync.Mutex{}
	o.Progress = func(p Progress) {
		if show != nil {
			one.Lock()
			defer one.Unlock()
			show(p)
		}
	}
	s := &site{Options: o, report: &Report{Seconds: map[string]float64{}}}
	s.service = pipeline.Options{
		Conn: o.Conn, Cache: o.Cache, Metrics: telemetry.NewMetrics(prometheus.NewRegistry()), Health: telemetry.NewHealth(), // nobody reads them
	}
	live, err := o.Open(ctx)
	if errors.Is(err, catalog.ErrNoView) {
		return nil, errors.New("there is no live generation to build another one beside: the first one is made by hardneg run")
	}
	if err != nil {
		return nil, err
	}
	s.live = live
	if live.Publishing() {
		s.unfinished = live.Record
		return s, nil
	}
	known, err := catalog.ReadGenerations(ctx, o.Kafka, o.Config.Topics.Models)
	s.unfinished = catalog.Unfinished(known, live.Generation)
	return s, err
}

// step measures a step.
func (s *site) step(name string, f func() error) error {
	start := time.Now()
	s.Log.Info().Str("step", name).Msg("rebuild")
	err := f()
	s.report.Seconds[name] += time.Since(start).Seconds()
	if err != nil {
		return fmt.Errorf("rebuild, %s: %w", name, err)
	}
	return nil
}

// models are the models of the view, with what their embedders draw on.
func (s *site) models() catalog.Models { return s.Models(s.service.Resources()) }

// finish waits until a generation that is live already is published, if it is the generation that this rebuild is to make.
func (s *site) finish(ctx context.Context) error {
	g := s.unfinished
	m, err := s.models().Read(ctx, g.Model)
	if err != nil {
		return err
	}
	if m != nil && !s.asksFor(g, m) {
		return fmt.Errorf("generation %s, of other embedders or another source, is live and being published: wait until hardneg status says that it is done, and begin then", g.ID)
	}
	s.report.Generation, s.report.Previous, s.report.Model, s.report.Promoted = g.ID, g.Previous, g.Model, true
	return s.step(StepPublish, func() error { return s.awaitPublished(ctx, g.ID) })
}

// begin goes on with an unfinished rebuild, or starts a new one: it makes a model, a record of the generation, topics and collections.
func (s *site) begin(ctx context.Context) (*rebuild, error) {
	if s.unfinished != nil {
		return s.resume(ctx, s.unfinished)
	}
	if err := s.meant(ctx); err != nil {
		return nil, err
	}
	if !s.FromTopics {
		if err := s.suffices(ctx); err != nil {
			return nil, err
		}
	}
	m, err := s.model(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	record := &catalog.Generation{
		ID: m.ID() + "-" + strconv.FormatInt(now.UnixMilli(), 10), Model: m.ID(), Phase: catalog.PhaseStarting, Previous: s.live.Generation,
		FromTopics: s.FromTopics, Keep: s.Keep, StartedAt: now,
	}
	if err := s.write(ctx, record); err != nil { // before anything exists that nobody would know of
		return nil, err
	}
	if err := s.alone(ctx, record); err != nil {
		return nil, err
	}
	r, err := s.open(ctx, record, m)
	if err != nil {
		return nil, err
	}
	return r, r.start(ctx)
}

// alone withdraws a generation if another rebuild began at the same time. Of two such rebuilds at least one sees the other.
func (s *site) alone(ctx context.Context, record *catalog.Generation) error {
	known, err := catalog.ReadGenerations(ctx, s.Kafka, s.Config.Topics.Models)
	if err != nil {
		return err
	}
	delete(known, record.ID)
	other := catalog.Unfinished(known, s.live.Generation)
	if other == nil {
		return nil
	}
	err = catalog.Withdraw(ctx, s.Kafka, s.Config.Topics.Models, record.ID)
	return errors.Join(fmt.Errorf("another rebuild began at the same time, of generation %s", other.ID), err)
}

// asksFor reports whether a generation is the one that this rebuild is to make.
func (s *site) asksFor(g *catalog.Generation, m *model.Model) bool {
	return g.FromTopics == s.FromTopics && (s.Model == g.Model || s.Model == "" && pipeline.Describes(s.Config, m.Info()))
}

func (s *site) resume(ctx context.Context, g *catalog.Generation) (*rebuild, error) {
	if g.Previous != s.live.Generation {
		return nil, fmt.Errorf("generation %s was being built beside %s, but %s is live now: remove it with --abort, and begin again", g.ID, g.Previous, s.live.Generation)
	}
	m, err := s.models().Read(ctx, g.Model)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return nil, fmt.Errorf("generation %s is being built by model %s, which topic %s does not have any more: remove it with --abort, and begin again",
			g.ID, g.Model, s.Config.Topics.Models)
	}
	if !s.asksFor(g, m) {
		return nil, fmt.Errorf("generation %s is being built already, by model %s (embedders %s, %d dimensions, from the topics: %t), and this is another rebuild (embedders %s, at most %d dimensions, "+
			"from the topics: %t): finish it by the command that began it, or remove it with --abort", g.ID, g.Model, strings.Join(embedderNames(m.Info().Definitions()), ", "), m.Dimensions(),
			g.FromTopics, strings.Join(embedderNames(s.Config.Embedders), ", "), s.Config.Reduce.MaxDimensions, s.FromTopics)
	}
	s.Log.Info().Str("generation", g.ID).Str("phase", g.Phase).Strs("embedders", embedderNames(m.Info().Definitions())).
		Msg("going on with a rebuild that was interrupted or held")
	r, err := s.open(ctx, g, m)
	if err != nil || g.Phase != catalog.PhaseStarting {
		return r, err
	}
	return r, r.start(ctx)
}

// model returns the published model that the user asks for, or fits a new one.
func (s *site) model(ctx context.Context) (m *model.Model, err error) {
	if s.Model != "" {
		m, err = s.models().Read(ctx, s.Model)
		if err == nil && m == nil {
			err = fmt.Errorf("topic %s has no complete model %s; hardneg models list shows those that it has", s.Config.Topics.Models, s.Model)
		}
		return m, err
	}
	err = s.step(StepFit, func() error {
		if m, err = fit.Model(ctx, s.Config, s.service.Resources(), s.sample, s.Log); err != nil {
			return err
		}
		_, err := s.models().Publish(ctx, m)
		return err
	})
	return m, err
}

// open makes the topics and collections of the new generation that are missing.
func (s *site) open(ctx context.Context, record *catalog.Generation, m *model.Model) (*rebuild, error) {
	if err := catalog.EnsureTopics(ctx, s.Kafka, s.Config, record.ID); err != nil {
		return nil, err
	}
	collections, err := s.Index.Create(ctx, record.ID, m.Dimensions())
	if err != nil {
		return nil, err
	}
	next, err := pipeline.NewShadow(s.service, m, record.Previous, collections)
	if err != nil {
		return nil, err
	}
	s.report.Generation, s.report.Previous, s.report.Model, s.report.Dimensions = record.ID, record.Previous, m.ID(), m.Dimensions()
	return &rebuild{site: s, record: record, next: next}, nil
}

func (s *site) write(ctx context.Context, record *catalog.Generation) error {
	return record.Write(ctx, s.Kafka, s.Config.Topics.Models)
}

// Abort removes a generation that a rebuild is building, and returns its id; empty if there is none.
func Abort(ctx context.Context, c catalog.Conn) (string, error) {
	s, err := survey(ctx, Options{Conn: c})
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
