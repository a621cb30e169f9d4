package model

import (
	"math"

	"hardneg/mining/reduce"
)

// HeldOut says what the axes capture of documents of the sample that they were not fitted on. It is what to expect of
// new documents of the same kind. The sample's own share is no measure for them: axes that were fitted on few documents
// know these by heart.
type HeldOut struct {
	Documents int     `json:"documents"`
	Share     float64 `json:"share"`
}

// How many samples are held out.
const (
	holdOutFrom  = 200 // samples; of fewer nothing is
	holdOutEvery = 20
	holdOutMost  = 500
)

// holdOut divides rows into those that axes are fitted on and those that are held out, evenly spread.
type holdOut struct {
	rest    *reduce.Sample
	control reduce.Matrix
	every   int // one in so many is held out; 0: none
	rows    int // that were added
}

// newHoldOut prepares for rows of so many samples, some of which may turn out to have none.
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

// divided gives both. Where there were too few rows after all, none is held out.
func (h *holdOut) divided() (rest *reduce.Sample, control reduce.Matrix, err error) {
	if h.rows >= holdOutFrom {
		return h.rest, h.control, nil
	}
	err = h.rest.Add(h.control)
	return h.rest, reduce.Matrix{Cols: h.control.Cols}, err
}

// Drift compares what new documents lose under a model with what was lost of those that were held out when it was
// fitted. It is for one goroutine at a time.
type Drift struct {
	heldOut *HeldOut
	recent  reduce.Energy // the older, the less it weighs
	seen    int64
}

// DriftMinimum is the number of documents below which nothing is said of drift.
const DriftMinimum = 500

const (
	driftWindow = 1000 // documents after which one weighs 1/e of the newest
	// driftOdds is how much of the odds, captured to lost, has to be left. docs/models.md has the figures behind it.
	driftOdds = 0.7
)

// NewDrift watches a model.
func NewDrift(m Manifest) *Drift { return &Drift{heldOut: m.HeldOut} }

// Add takes what was measured of the newest documents.
func (d *Drift) Add(e reduce.Energy) {
	d.recent.Decay(math.Exp(-e.Vectors / driftWindow))
	d.recent.Add(e)
	d.seen += int64(e.Vectors)
}

// Seen is how many documents were measured.
func (d *Drift) Seen() int64 { return d.seen }

// Share is what the axes capture of recent documents.
func (d *Drift) Share() float64 { return d.recent.Share() }

// Notable tells whether recent documents are of another kind than the sample. It is false where there are too few to
// say, or nothing to compare them with.
func (d *Drift) Notable() bool {
	if d.heldOut == nil || d.seen < DriftMinimum {
		return false
	}
	return odds(d.Share()) < driftOdds*odds(d.heldOut.Share)
}

// odds is what is captured for each part that is lost. Shares themselves do not compare: 0.80 after 0.90 is twice the
// loss, and 0.10 after 0.20 is next to none.
func odds(share float64) float64 { return share / max(1e-9, 1-share) }
