package triplets

import (
	"context"
	"fmt"
	"slices"

	"hardneg/internal/records"
	"hardneg/stream"
)

// View is the content that compaction leaves of the topic, ordered by query, positive and rank.
type View []Entry

// Entry is one triplet of a view.
type Entry struct {
	Slot
	Value []byte // of the record, unchanged
}

// Triplet decodes the value.
func (e Entry) Triplet() (records.Triplet, error) {
	t, err := records.ParseTriplet(e.Value)
	if err != nil {
		return t, fmt.Errorf("triplet [%q,%q,%d]: %w", e.Query, e.Positive, e.Rank, err)
	}
	return t, nil
}

// Read returns the view that the topic holds up to its stable end: the newest value of each slot, unless that
// is null.
func Read(ctx context.Context, kafka *stream.Client, topic string) (View, error) {
	reader, err := NewReader(ctx, kafka, topic)
	if err != nil {
		return nil, err
	}
	newest := make(map[Slot][]byte)
	err = reader.Read(ctx, func(r stream.Record) error {
		slot, err := ParseSlot(r.Key)
		if err != nil {
			return fmt.Errorf("%s/%d at offset %d: %w", r.Topic, r.Partition, r.Offset, err)
		}
		if r.Value == nil {
			delete(newest, slot)
		} else {
			newest[slot] = slices.Clone(r.Value) // the record's own value would keep its whole batch in memory
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	v := make(View, 0, len(newest))
	for slot, value := range newest {
		v = append(v, Entry{slot, value})
	}
	slices.SortFunc(v, func(a, b Entry) int { return a.Compare(b.Slot) })
	return v, nil
}

// Of returns the triplets in outputs for the topic, in the order of the outputs. It leaves out nulls.
func Of(outputs []stream.Output) (View, error) {
	var v View
	for _, out := range outputs {
		if out.Value == nil {
			continue
		}
		slot, err := ParseSlot(out.Key)
		if err != nil {
			return nil, err
		}
		v = append(v, Entry{slot, out.Value})
	}
	return v, nil
}
