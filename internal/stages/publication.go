package stages

import (
	"context"
	"errors"
	"sync/atomic"

	"hardneg/index"
	"hardneg/stream"
)

// Publication decides what the stages of a generation send to the users of the view. Live, Shadow and
// Successor implement it.
type Publication interface {
	// Publishes reports whether confirmed lists go to the triplets topic.
	Publishes() bool
	// ReportsMalformed reports whether this generation sends the dead letter of a record that no generation
	// can use.
	ReportsMalformed(stage string, r stream.Record) bool
	// Inherited returns what the previous generation has published of the queries, by id. When an owner first
	// publishes a query it retracts or replaces those triplets in the same transaction.
	Inherited(ctx context.Context, queryIDs []string) (map[string]index.Published, error)
}

// Live is the publication of a generation that has no previous one. It publishes everything.
type Live struct{}

// Publishes returns true.
func (Live) Publishes() bool { return true }

// ReportsMalformed returns true.
func (Live) ReportsMalformed(string, stream.Record) bool { return true }

// Inherited returns nothing.
func (Live) Inherited(context.Context, []string) (map[string]index.Published, error) {
	return nil, nil
}

// Shadow is the publication of a generation that is being built beside the live one. It publishes nothing,
// and the live generation reports malformed records. Once the generation is promoted, new owners of its
// partitions publish all of its states.
type Shadow struct{}

// Publishes returns false.
func (Shadow) Publishes() bool { return false }

// ReportsMalformed returns false.
func (Shadow) ReportsMalformed(string, stream.Record) bool { return false }

// Inherited returns nothing.
func (Shadow) Inherited(context.Context, []string) (map[string]index.Published, error) {
	return nil, nil
}

// Successor is the publication of a generation that was promoted. It sends no dead letter that the previous
// generation has sent. It retracts or replaces the triplets of the previous generation until all triplets of
// its own generation are published.
type Successor struct {
	reported map[string]map[int32]int64  // by stage and partition: the previous generation read the records before these offsets
	previous atomic.Pointer[index.Index] // nil: nothing is left to retract
}

// NewSuccessor returns the publication of a generation that was promoted. reported holds the offsets up to
// which the previous generation has read, by stage and partition. previous holds its collections; nil if they
// are erased, if everything of the new generation is published, or if this instance runs no miner.
func NewSuccessor(reported map[string]map[int32]int64, previous *index.Index) *Successor {
	s := &Successor{reported: reported}
	s.previous.Store(previous)
	return s
}

// Publishes returns true.
func (s *Successor) Publishes() bool { return true }

// ReportsMalformed reports whether the previous generation has not read the record.
func (s *Successor) ReportsMalformed(stage string, r stream.Record) bool {
	return r.Offset >= s.reported[stage][r.Partition]
}

// Inherited reads the collections of the previous generation. Its stages are fenced, so its triplets in the
// topic do not change any more. One of its miners that was in the middle of a batch may still store states.
// Those then list more ranks than were published, never fewer.
func (s *Successor) Inherited(ctx context.Context, queryIDs []string) (map[string]index.Published, error) {
	previous := s.previous.Load()
	if previous == nil {
		return nil, nil
	}
	published, err := previous.Published(ctx, queryIDs)
	if errors.Is(err, index.ErrNoGeneration) {
		s.DropPrevious() // it was erased, because all of this generation was published
		return nil, nil
	}
	return published, err
}

// Reported returns the offsets up to which the previous generation has read, by stage and partition.
func (s *Successor) Reported() map[string]map[int32]int64 { return s.reported }

// Previous returns the collections of the previous generation; nil after DropPrevious.
func (s *Successor) Previous() *index.Index { return s.previous.Load() }

// DropPrevious ends Inherited: everything is retracted, or the collections of the previous generation are gone.
func (s *Successor) DropPrevious() { s.previous.Store(nil) }
