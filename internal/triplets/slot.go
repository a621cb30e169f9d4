// Package triplets reads the triplets topic: its slots, the view that compaction leaves of it, and the forms in which the view
// is exported. The stages write the topic (package stages). Only packages of hardneg import it.
package triplets

import (
	"cmp"
	"strings"

	"hardneg/internal/records"
)

// Slot is a place in the view: one rank in the list of a query and a positive. A slot is a key of the topic.
type Slot struct {
	Query, Positive string
	Rank            int // from 1
}

// ParseSlot reads the key of a record.
func ParseSlot(key []byte) (s Slot, err error) {
	s.Query, s.Positive, s.Rank, err = records.ParseTripletKey(key)
	return s, err
}

// Compare orders slots by query, then positive, then rank.
func (a Slot) Compare(b Slot) int {
	return cmp.Or(strings.Compare(a.Query, b.Query), strings.Compare(a.Positive, b.Positive), cmp.Compare(a.Rank, b.Rank))
}
