package pipeline

import (
	"sync"

	"github.com/rs/zerolog"

	"hardneg/internal/model"
	"hardneg/internal/telemetry"
	"hardneg/mining/reduce"
)

// drift measures how much of the documents' vectors the model loses by its reduction. It counts the documents
// that this process embeds.
type drift struct {
	mu      sync.Mutex // several partitions embed at once
	watch   *model.Drift
	info    model.Manifest
	warned  bool
	metrics *telemetry.Metrics
	log     zerolog.Logger
}

// observeDrift makes the model report how much it loses. It does nothing for a model that does not reduce
// vectors.
func observeDrift(m *model.Model, metrics *telemetry.Metrics, log zerolog.Logger) {
	d := &drift{watch: model.NewDrift(m.Info()), info: m.Info(), metrics: metrics, log: log}
	metrics.CapturedShare.Reset() // drops the series of the previous model
	curve := d.info.Variance
	if len(curve) == 0 {
		return
	}
	metrics.CapturedShare.WithLabelValues(d.info.ID, telemetry.OfSample).Set(curve[len(curve)-1].Share)
	if d.info.HeldOut != nil {
		metrics.CapturedShare.WithLabelValues(d.info.ID, telemetry.OfHeldOut).Set(d.info.HeldOut.Share)
	}
	metrics.MeasuredDocuments.WithLabelValues(d.info.ID)
	metrics.Drifted.WithLabelValues(d.info.ID)
	m.Observe(d.add)
}

// add takes embedded documents into account. It warns once, when the model loses notably more than of its
// sample.
func (d *drift) add(e reduce.Energy) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watch.Add(e)
	d.metrics.CapturedShare.WithLabelValues(d.info.ID, telemetry.OfRecent).Set(d.watch.Share())
	d.metrics.MeasuredDocuments.WithLabelValues(d.info.ID).Add(e.Vectors)
	notable := d.watch.Notable()
	state := 0.0
	if notable {
		state = 1
	}
	d.metrics.Drifted.WithLabelValues(d.info.ID).Set(state)
	if !notable || d.warned {
		return
	}
	d.warned = true
	d.log.Warn().Str("model", d.info.ID).Float64("captured", d.watch.Share()).Float64("held_out", d.info.HeldOut.Share).Int64("documents", d.watch.Seen()).
		Msg("the model loses notably more of recent documents than of the sample it was fitted on: they are of another kind, and a model that is fitted anew will tell them apart better (docs/models.md)")
}
