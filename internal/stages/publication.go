package stages

import (
	"context"
	"errors"
	"sync/atomic"

	"hardneg/index"
	"hardneg/stream"
)

// Publication decides what the stages of a generation send to the users of the view. There are three: Live, Shadow and
// Successor.
type Publication interface {
	// Publishes reports whether confirmed lists go to the triplets topic.
	Publishes() bool
	// ReportsMalformed reports whether this generation sends the dead letter of a record that no generation can use.
	ReportsMalformed(stage string, r stream.Record) bool
	// Inherited returns what the previous generation has published of queries, by id. The first batch of an owner retracts it,
	// or replaces it, in its own transaction.
	Inherited(ctx context.Context, queryIDs []string) (map[string]index.Published, error)
}

// Live publishes everything. Its generation has no previous one, or has replaced it completely.
type Live struct{}

func (Live) Publishes() bool                             { return true }
func (Live) ReportsMalformed(string, stream.Record) bool { return true }
func (Live) Inherited(context.Context, []string) (map[string]index.Published, error) {
	return nil, nil
}

// Shadow publishes nothing: its generation is being built beside the live one, which reports what is malformed. Once the
// generation is promoted, another owner publishes all of its states.
type Shadow struct{}

func (Shadow) Publishes() bool                             { return false }
func (Shadow) ReportsMalformed(string, stream.Record) bool { return false }
func (Shadow) Inherited(context.Context, []string) (map[string]index.Published, error) {
	return nil, nil
}

// Successor is the publication of a generation that was promoted. It sends no dead letter that the previous generation has sent,
// and retracts or replaces the triplets of that one until all of its own are published.
type Successor struct {
	reported map[string]map[int32]int64 // by stage and partition: the previous generation read the records before these offsets
	previous atomic.Pointer[index.Index]
}

// NewSuccessor takes the offsets to which the previous generation has read, by stage and partition, and its collections; nil
// if they are gone or if everything of this generation is published.
func NewSuccessor(reported map[string]map[int32]int64, previous *index.Index) *Successor {
	s := &Successor{reported: reported}
	s.previous.Store(previous)
	return s
}

func (s *Successor) Publishes() bool { return true }

func (s *Successor) ReportsMalformed(stage string, r stream.Record) bool {
	return r.Offset >= s.reported[stage][r.Partition]
}

// Inherited asks the collections of the previous generation. Its stages are fenced, so what the triplets topic holds of it does
// not change any more. A miner of it that was in the middle of a batch may still store states: they then list more
// than was published, never less.
func (s *Successor) Inherited(ctx context.Context, queryIDs []string) (map[string]index.Published, error) {
	previous := s.previous.Load()
	if previous == nil {
		return nil, nil
	}
	published, err := previous.Published(ctx, queryIDs)
	if errors.Is(err, index.ErrNoGeneration) {
		s.Complete() // somebody erased it, because all of this generation was published before
		return nil, nil
	}
	return published, err
}

// Reported returns the offsets to which the previous generation has read, by stage and partition.
func (s *Successor) Reported() map[string]map[int32]int64 { return s.reported }

// Previous returns the collections of the previous generation; nil once nothing of it is left to retract.
func (s *Successor) Previous() *index.Index { return s.previous.Load() }

// Complete notes that nothing of the previous generation is left to retract.
func (s *Successor) Complete() { s.previous.Store(nil) }
