package demo

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"hardneg/internal/records"
	"hardneg/stream"
)

// slot identifies a triplet of the view.
type slot struct {
	query, positive string
	rank            int
}

// viewChange is the effect of one record of the triplets topic on the view.
type viewChange struct {
	slot
	at            time.Time // when the reader received it
	source        string    // topic/partition/offset of its cause
	before, after *records.Triplet
}

// view is the state of a read_committed reader of the triplets topic: the compacted content, and the latest
// changes.
type view struct {
	mu       sync.Mutex
	triplets map[slot]records.Triplet
	next     map[int32]int64 // next offset to read, by partition
	events   []viewChange
	watched  bool // events are kept
}

func newView() *view {
	return &view{triplets: map[slot]records.Triplet{}, next: map[int32]int64{}}
}

// apply takes the next record of the topic.
func (v *view) apply(r stream.Record) error {
	query, positive, rank, err := records.ParseTripletKey(r.Key)
	if err != nil {
		return err
	}
	h := viewChange{slot: slot{query, positive, rank}, at: time.Now()}
	for _, header := range r.Headers {
		if header.Key == records.HeaderSource {
			h.source = string(header.Value)
		}
	}
	if r.Value != nil {
		t, err := records.ParseTriplet(r.Value)
		if err != nil {
			return err
		}
		h.after = &t
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.next[r.Partition] = r.Offset + 1
	if before, ok := v.triplets[h.slot]; ok {
		h.before = &before
	}
	if h.after == nil {
		delete(v.triplets, h.slot)
	} else {
		v.triplets[h.slot] = *h.after
	}
	if v.watched {
		v.events = append(v.events, h)
	}
	return nil
}

func (v *view) size() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.triplets)
}

// snapshot returns the triplets, ordered by positive, query and rank.
func (v *view) snapshot() []records.Triplet {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.SortedFunc(maps.Values(v.triplets), func(a, b records.Triplet) int {
		if c := strings.Compare(a.Positive.ID, b.Positive.ID); c != 0 {
			return c
		}
		if c := strings.Compare(a.Query.ID, b.Query.ID); c != 0 {
			return c
		}
		return a.Rank - b.Rank
	})
}

// watch begins to keep events. taken returns the events since then.
func (v *view) watch() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.events, v.watched = nil, true
}

func (v *view) eventsSinceWatch() []viewChange {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.events)
}

// has reports whether all records before the end of a partition were read. The last record there is a marker.
func (v *view) has(end stream.Offsets) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.next[end.Partition] >= end.LastStable-1
}
