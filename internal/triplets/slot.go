// Package triplets reads the triplets topic: its slots, the view that compaction leaves, and the formats in
// which the view is exported. Package stages writes the topic. Only packages of hardneg import it.
package triplets

import (
	"cmp"
	"strings"

	"hardneg/internal/records"
)

// Slot names one rank in the list of a query and a positive. Each slot has its own key in the topic.
type Slot struct {
	Query, Positive string // ids
	Rank            int    // from 1
}

// ParseSlot reads a slot from the key of a record. It returns an error if the key does not name a slot.
func ParseSlot(key []byte) (s Slot, err error) {
	s.Query, s.Positive, s.Rank, err = records.ParseTripletKey(key)
	return s, err
}

// Compare orders slots by query, then positive, then rank.
func (a Slot) Compare(b Slot) int {
	return cmp.Or(strings.Compare(a.Query, b.Query), strings.Compare(a.Positive, b.Positive), cmp.Compare(a.Rank, b.Rank))
}
