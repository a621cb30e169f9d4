package model

import (
	"math"

	"hardneg/mining/reduce"
)

// HeldOut says how much the axes capture of documents that were left out when the axes were fitted. New
// documents of the same kind should have about this share. The share of the fitted documents themselves is no
// good measure: axes that are fitted on few documents fit these too well.
type HeldOut struct {
	Documents int     `json:"documents"`
	Share     float64 `json:"share"`
}

// How many samples are held out.
const (
	holdOutFrom  = 200 // samples; below, none is held out
	holdOutEvery = 20
	holdOutMost  = 500
)

// holdOut divides rows into a part for fitting the axes and an evenly spread part that is held out.
type holdOut struct {
	rest    *reduce.Sample
	control reduce.Matrix
	every   int // one row in so many is held out; 0 means none
	rows    int // added so far
}

// newHoldOut prepares for the rows of this many samples. Some samples may turn out to have no row.
func newHoldOut(samples, dimensions int) *holdOut {
	h := &holdOut{control: reduce.Matrix{Cols: dimensions}}
	if samples >= holdOutFrom {
		h.every = max(holdOutEvery, (samples+holdOutMost-1)/holdOutMost)
		samples -= samples / h.every
	}
	h.rest = reduce.NewSample(samples, dimensions)
	return h
}

func (h *holdOut) add(rows reduce.Matrix) error {
	for i := range rows.Rows {
		h.rows++
		if h.every > 0 && h.rows%h.every == 0 {
			h.control.Data = append(h.control.Data, rows.Row(i)...)
			h.control.Rows++
			continue
		}
		if err := h.rest.Add(reduce.Matrix{Rows: 1, Cols: rows.Cols, Data: rows.Row(i)}); err != nil {
			return err
		}
	}
	return nil
}

// split returns both parts. If there were too few rows after all, it puts the held-out ones back.
func (h *holdOut) split() (rest *reduce.Sample, control reduce.Matrix, err error) {
	if h.rows >= holdOutFrom {
		return h.rest, h.control, nil
	}
	err = h.rest.Add(h.control)
	return h.rest, reduce.Matrix{Cols: h.control.Cols}, err
}

// Drift compares the loss of new documents under a model with the loss of the documents that were held out
// when the model was fitted. Only one goroutine at a time may use it.
type Drift struct {
	heldOut *HeldOut
	recent  reduce.Energy // older documents weigh less
	seen    int64
}

// DriftMinimum is the number of documents from which on drift is judged.
const DriftMinimum = 500

const (
	driftWindow = 1000 // a document that is this many documents old weighs 1/e of the newest
	// driftOdds is the share of the odds, captured to lost, that must remain. docs/models.md has the
	// measurements behind it.
	driftOdds = 0.7
)

// NewDrift returns the Drift of a model.
func NewDrift(m Manifest) *Drift { return &Drift{heldOut: m.HeldOut} }

// Add adds the measurement of the newest documents.
func (d *Drift) Add(e reduce.Energy) {
	d.recent.Decay(math.Exp(-e.Vectors / driftWindow))
	d.recent.Add(e)
	d.seen += int64(e.Vectors)
}

// Seen returns the number of measured documents.
func (d *Drift) Seen() int64 { return d.seen }

// Share returns the share that the axes capture of recent documents.
func (d *Drift) Share() float64 { return d.recent.Share() }

// Notable reports whether recent documents are of another kind than the sample. It is false if there are too
// few documents, or nothing to compare them with.
func (d *Drift) Notable() bool {
	if d.heldOut == nil || d.seen < DriftMinimum {
		return false
	}
	return odds(d.Share()) < driftOdds*odds(d.heldOut.Share)
}

// odds is the ratio of captured to lost. Plain shares are no good for comparing: from 0.90 to 0.80 the loss
// doubles, but from 0.20 to 0.10 it hardly grows.
func odds(share float64) float64 { return share / max(1e-9, 1-share) }
