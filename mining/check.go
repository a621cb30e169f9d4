package mining

import (
	"errors"
	"fmt"
)

// lengthTolerance is how far the length of a vector may be from 1. Formats of 16 bits are off by 0.004 at
// most; vectors that nobody has normalised are usually off by much more.
const lengthTolerance = 0.01

// Validate checks that the rules can make sense of the input. Without these checks Mine would leave lists
// empty, or choose wrong documents, and nobody would notice. The checks:
//
//   - Each document of Evidence and Candidates has an id, and no id comes twice in either. An evidence has
//     the id of its document.
//   - Each vector has as many dimensions as Query, finite elements, and unit length (within 1 %). Query may
//     be nil if no positive evidence has a document and there are no candidates.
//   - Each MinHash is nil or has Permutations elements.
//
// The error names the query, the document and the problem. It wraps ErrZeroVector or ErrNotFinite if a vector
// has no direction.
func (in *Input) Validate() error {
	if err := in.validate(); err != nil {
		return fmt.Errorf("mining: query %q: %w", in.QueryID, err)
	}
	return nil
}

func (in *Input) validate() error {
	if in.Query != nil || in.searches() || len(in.Candidates) > 0 {
		if err := checkVector(in.Query, len(in.Query)); err != nil {
			return err
		}
	}
	seen := make(map[string]bool, max(len(in.Evidence), len(in.Candidates)))
	for _, e := range in.Evidence {
		if err := checkID(e.ID, seen); err != nil {
			return fmt.Errorf("evidence: %w", err)
		}
		if e.Document == nil {
			continue
		}
		if e.Document.ID != e.ID {
			return fmt.Errorf("evidence %q has document %q", e.ID, e.Document.ID)
		}
		if in.Query == nil { // nothing is compared with the document
			continue
		}
		if err := e.Document.check(len(in.Query)); err != nil {
			return fmt.Errorf("evidence %q: %w", e.ID, err)
		}
	}
	clear(seen)
	for i := range in.Candidates {
		d := &in.Candidates[i]
		if err := checkID(d.ID, seen); err != nil {
			return fmt.Errorf("candidates: %w", err)
		}
		if err := d.check(len(in.Query)); err != nil {
			return fmt.Errorf("candidate %q: %w", d.ID, err)
		}
	}
	return nil
}

// searches reports whether mining the input needs candidates: only then is there a list to fill.
func (in *Input) searches() bool {
	for _, e := range in.Evidence {
		if e.Positive && e.Document != nil {
			return true
		}
	}
	return false
}

// check checks the document's vector and MinHash.
func (d *Document) check(dimensions int) error {
	if n := len(d.MinHash); n != 0 && n != Permutations {
		return fmt.Errorf("its MinHash has %d elements, not %d", n, Permutations)
	}
	return checkVector(d.Vector, dimensions)
}

var errNoVector = errors.New("there is no vector")

func checkVector(v []float32, dimensions int) error {
	if len(v) == 0 {
		return errNoVector
	}
	if len(v) != dimensions {
		return fmt.Errorf("the vector has %d dimensions, not %d", len(v), dimensions)
	}
	norm, err := length(v)
	if err != nil {
		return err
	}
	if norm < 1-lengthTolerance || norm > 1+lengthTolerance {
		return fmt.Errorf("the vector has length %.4g, not 1: see mining.Normalize", norm)
	}
	return nil
}

// checkID checks one id, and notes it in seen.
func checkID(id string, seen map[string]bool) error {
	switch {
	case id == "":
		return errors.New("a document has no id")
	case seen[id]:
		return fmt.Errorf("the id %q comes twice", id)
	}
	seen[id] = true
	return nil
}
