// Package fit fits models: on all documents that exist (`hardneg fit`, `hardneg rebuild`), or on the first
// documents that arrive (a view that begins). It chooses the sample; package model does the fitting. Only
// packages of hardneg import it.
package fit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/model"
)

// Options says on which documents to fit a model.
type Options struct {
	catalog.Conn                             // Index is used only with FromIndex
	FromIndex    bool                        // take documents from the live collection, not from the documents topic
	Cache        *embed.Cache                // of vectors; nil: none
	Sample       int                         // number of documents, at most
	Seed         uint64                      // of the choice of documents
	DryRun       bool                        // publish nothing
	Progress     func(step string, done int) // must not be nil
}

// StepRead is the step in which a fit reads records. The steps of package model follow.
const StepRead = "documents read"

// Report is the outcome of a fit.
type Report struct {
	Manifest  model.Manifest     `json:"manifest"`
	Source    string             `json:"source"`    // the topic, or the generation
	Read      int                `json:"read"`      // number of records or points from which the sample was taken
	Seconds   map[string]float64 `json:"seconds"`   // by step: read, fit, publish
	Published bool               `json:"published"` // false after a dry run, and if the topic had the model already
	First     string             `json:"first"`     // the model that a view without a generation begins with; empty: none
}

// Fit fits the configured embedders and reducer on a sample of all documents that exist now, and publishes
// the model. The live generation does not change.
func Fit(ctx context.Context, o Options) (*Report, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	report := &Report{Source: "topic " + o.Config.Topics.Documents, Seconds: map[string]float64{}}
	timed := func(step string, f func() error) error {
		start := time.Now()
		defer func() { report.Seconds[step] = time.Since(start).Seconds() }()
		return f()
	}
	var sample []embed.Item
	err := timed("read", func() (err error) {
		sample, err = o.sample(ctx, report)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(sample) == 0 {
		return nil, fmt.Errorf("%s has no documents to fit on: load some first", report.Source)
	}
	var m *model.Model
	err = timed("fit", func() (err error) {
		m, err = model.Fit(ctx, &embed.Resources{Cache: o.Cache}, o.Config.Embedders, o.Config.Reduce, o.Config.Fit.Minimum, sample, o.Progress)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fitting a model on %d documents: %w", len(sample), err)
	}
	report.Manifest = m.Info()
	models := o.Models(nil)
	if !o.DryRun {
		err = timed("publish", func() (err error) {
			if err := catalog.EnsureTopics(ctx, o.Kafka, o.Config, ""); err != nil {
				return err
			}
			report.Published, err = models.Publish(ctx, m)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("publishing model %s: %w", m.ID(), err)
		}
	}
	report.First, err = models.First(ctx)
	return report, err
}

// check returns an error if the configured embedders need vectors that the index does not hold.
func (o Options) check() error {
	if !o.FromIndex {
		return nil
	}
	for _, e := range o.Config.Embedders {
		if e.Type == embed.TypeCarried {
			return &config.Error{Problems: []config.Problem{{Key: "embedders", Message: fmt.Sprintf(
				"%s is of type carried, and the index does not hold the vectors that records carried: fit on the documents topic", e.Name)}}}
		}
	}
	return nil
}

// sample returns the documents to fit on. It notes in the report where they come from, and counts what it
// reads.
func (o Options) sample(ctx context.Context, report *Report) ([]embed.Item, error) {
	read := func() {
		report.Read++
		o.Progress(StepRead, report.Read)
	}
	if !o.FromIndex {
		return SampleTopic(ctx, o.Kafka, o.Config.Topics.Documents, o.Sample, o.Seed, read)
	}
	live, err := o.Index.Live(ctx)
	if err != nil {
		return nil, err
	}
	if live == nil {
		return nil, errors.New("there is no live collection yet to take documents from: fit on the documents topic")
	}
	report.Source = "generation " + live.Generation()
	return SampleIndex(ctx, live, o.Sample, o.Seed, read)
}

// WarnOfFew logs that a model was fitted on fewer documents than fit.minimum.
func WarnOfFew(log zerolog.Logger, documents, minimum int) {
	if documents < minimum {
		log.Warn().Int("samples", documents).Int("minimum", minimum).
			Msg("fewer than fit.minimum: their variance says little, and reduce.max_dimensions axes are kept whatever they capture")
	}
}

// Source returns documents to fit a model on. It must return more than useless documents: that many were not
// enough.
type Source func(ctx context.Context, useless int) ([]embed.Item, error)

// Model fits the configured embedders and reducer on documents of a source. It publishes nothing. While too
// few of the documents can be embedded, it asks the source for more.
func Model(ctx context.Context, cfg *config.Config, resources *embed.Resources, documents Source, log zerolog.Logger) (*model.Model, error) {
	for useless := 0; ; {
		sample, err := documents(ctx, useless)
		if err != nil {
			return nil, err
		}
		log.Info().Int("documents", len(sample)).Msg("fitting a model")
		start := time.Now()
		m, err := model.Fit(ctx, resources, cfg.Embedders, cfg.Reduce, cfg.Fit.Minimum, sample)
		if errors.Is(err, model.ErrSample) {
			log.Warn().Err(err).Msg("waiting for documents that can be embedded")
			useless = len(sample)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("fitting a model on %d documents: %w", len(sample), err)
		}
		log.Info().Dur("took", time.Since(start)).Str("model", m.ID()).Int("dimensions", m.Dimensions()).Msg("fitted")
		return m, nil
	}
}
