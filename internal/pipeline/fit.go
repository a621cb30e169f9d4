package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/model"
	"hardneg/stream"
)

// FitOptions say on what to fit a model.
type FitOptions struct {
	Config   *config.Config
	Kafka    *stream.Client
	Cache    *embed.Cache  // of vectors; nil: none
	Index    *index.Client // the live collection's documents; nil: those of the documents topic
	Sample   int           // documents, at most
	Seed     uint64        // of the choice of documents
	DryRun   bool          // publish nothing
	Progress func(step string, done int)
	Log      zerolog.Logger
}

// StepRead counts the records that a fit reads, before the steps of package model.
const StepRead = "documents read"

// FitReport is what came of a fit.
type FitReport struct {
	Manifest  model.Manifest     `json:"manifest"`
	Source    string             `json:"source"`    // the topic, or the generation
	Read      int                `json:"read"`      // records or points: what the sample was taken from
	Seconds   map[string]float64 `json:"seconds"`   // by step: read, fit, publish
	Published bool               `json:"published"` // now; false for a dry run, and where the topic had the model already
	First     string             `json:"first"`     // the model that a view begins with which has not begun; empty: none
}

// Fit fits the configured ensemble and reducer on a sample spread over all documents that are there now, and publishes
// the model. What is live stays as it is.
func Fit(ctx context.Context, o FitOptions) (*FitReport, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	report := &FitReport{Source: "topic " + o.Config.Topics.Documents, Seconds: map[string]float64{}}
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
	models := Models{Kafka: o.Kafka, Topic: o.Config.Topics.Models, Log: o.Log}
	if !o.DryRun {
		err = timed("publish", func() (err error) {
			if err := EnsureTopics(ctx, o.Kafka, o.Config); err != nil {
				return err
			}
			report.Published, err = models.publish(ctx, m)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("publishing model %s: %w", m.ID(), err)
		}
	}
	report.First, err = models.First(ctx)
	return report, err
}

// check refuses what no sample can change.
func (o FitOptions) check() error {
	if o.Index == nil {
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

func (o FitOptions) sample(ctx context.Context, report *FitReport) ([]embed.Item, error) {
	read := func() {
		report.Read++
		o.Progress(StepRead, report.Read)
	}
	if o.Index == nil {
		return sampleTopic(ctx, o.Kafka, o.Config.Topics.Documents, o.Sample, o.Seed, read)
	}
	live, err := o.Index.Live(ctx)
	if err != nil {
		return nil, err
	}
	if live == nil {
		return nil, errors.New("there is no live collection yet to take documents from: fit on the documents topic")
	}
	report.Source = "generation " + live.Generation()
	return sampleIndex(ctx, live, o.Sample, o.Seed, read)
}
