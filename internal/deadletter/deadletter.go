// Package deadletter reads the dead letters of a view, and sends their records again. Only packages of
// hardneg import it.
package deadletter

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"hardneg/internal/catalog"
	"hardneg/internal/records"
	"hardneg/stream"
)

// Queue is the dead letters topic of a view. It holds dead letters and notes. A dead letter is a record that
// a stage could not use. A note says that the record of a dead letter was sent again.
type Queue struct{ catalog.Conn }

// ErrNotFound means that the topic has no dead letter at an offset.
var ErrNotFound = errors.New("no dead letter there")

// Each calls f with every dead letter, partition by partition. replayed says whether its record was sent
// again, for this dead letter or for another dead letter of the same record.
func (q Queue) Each(ctx context.Context, f func(l stream.DeadLetter, replayed bool) error) error {
	to, err := q.readable(ctx)
	if err != nil {
		return err
	}
	notes, err := q.notes(ctx, to)
	if err != nil {
		return err
	}
	return q.each(ctx, to, func(l stream.DeadLetter) error { return f(l, notes.has(l)) })
}

// has reports whether the record of a dead letter was sent again.
func (s sentAgain) has(l stream.DeadLetter) bool {
	_, again := s.sources[SourceOf(l)]
	return again || s.deadLetters[l.At()]
}

// SourceOf returns the record of the documents topic or the query log that became a dead letter, without its
// timestamp. A dead letter of the miner holds a record of the refresh topic. If that is evidence it names the
// record of the query log; otherwise SourceOf returns the refresh record.
func SourceOf(l stream.DeadLetter) records.Source {
	if l.Stage == catalog.StageMiner {
		if r, err := records.ParseRefresh(l.Record.Key, l.Record.Value); err == nil && r.Kind == records.KindEvidence {
			r.Source.Timestamp = 0
			return r.Source
		}
	}
	return locationOf(l.Record)
}

// readable returns the offsets up to which a read_committed reader can read the topic now, by partition.
func (q Queue) readable(ctx context.Context) (map[int32]int64, error) {
	ends, err := q.Kafka.Offsets(ctx, q.Config.Topics.DeadLetters)
	to := make(map[int32]int64, len(ends))
	for _, e := range ends {
		to[e.Partition] = e.LastStable
	}
	return to, err
}

// written returns the offsets up to which partitions are written, by partition.
func written(ends []stream.Offsets) map[int32]int64 {
	to := make(map[int32]int64, len(ends))
	for _, e := range ends {
		to[e.Partition] = e.HighWatermark
	}
	return to
}

// Get is Find, and also returns whether the record was sent again.
func (q Queue) Get(ctx context.Context, partition int32, offset int64) (l stream.DeadLetter, replayed bool, err error) {
	if l, err = q.Find(ctx, partition, offset); err != nil {
		return l, false, err
	}
	to, err := q.readable(ctx)
	if err != nil {
		return l, false, err
	}
	notes, err := q.notes(ctx, to)
	return l, notes.has(l), err
}

// Find reads the dead letter at an offset of its topic. It returns ErrNotFound if there is none.
func (q Queue) Find(ctx context.Context, partition int32, offset int64) (l stream.DeadLetter, err error) {
	none := fmt.Errorf("%w: %s/%d/%d", ErrNotFound, q.Config.Topics.DeadLetters, partition, offset)
	to, err := q.readable(ctx)
	if err != nil {
		return l, err
	}
	if offset >= to[partition] {
		return l, none
	}
	got, err := q.Kafka.Fetch(ctx, q.Config.Topics.DeadLetters, partition, offset, stream.FetchOptions{MaxBytes: 1})
	switch {
	case errors.Is(err, stream.ErrOffsetOutOfRange):
		return l, none
	case err != nil:
		return l, err
	case len(got.Records) == 0 || got.Records[0].Offset != offset:
		return l, none
	}
	if l, err = stream.ParseDeadLetter(got.Records[0]); err != nil {
		return l, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return l, nil
}

// each calls f with the dead letters before the offsets in to. It passes over notes, and over records that
// are no dead letters.
func (q Queue) each(ctx context.Context, to map[int32]int64, f func(stream.DeadLetter) error) error {
	return q.Kafka.ReadRange(ctx, q.Config.Topics.DeadLetters, nil, to, func(r stream.Record) error {
		if _, ok := noteOf(r); ok {
			return nil
		}
		l, err := stream.ParseDeadLetter(r)
		if err != nil {
			q.Log.Warn().Err(err).Msg("a record is passed over")
			return nil
		}
		return f(l)
	})
}

// sentAgain is the content of the notes.
type sentAgain struct {
	deadLetters map[string]bool           // dead letters whose record was sent, as partition/offset
	sources     map[records.Source]string // by source without a timestamp: the dead letter for which the record was sent
}

// notes reads the notes before the offsets in to.
func (q Queue) notes(ctx context.Context, to map[int32]int64) (sentAgain, error) {
	sent := sentAgain{map[string]bool{}, map[records.Source]string{}}
	err := q.Kafka.ReadRange(ctx, q.Config.Topics.DeadLetters, nil, to, func(r stream.Record) error {
		if n, ok := noteOf(r); ok {
			sent.add(n)
		}
		return nil
	})
	return sent, err
}

func (s sentAgain) add(n note) {
	s.deadLetters[n.deadLetter] = true
	s.sources[n.source] = n.deadLetter
}

// note says that the record of a dead letter was sent again.
type note struct {
	deadLetter string         // partition/offset
	source     records.Source // of the record that was sent, without a timestamp
}

// noteOf reads a note. It returns false if the record is no note.
func noteOf(r stream.Record) (n note, ok bool) {
	if len(r.Headers) != 4 || r.Headers[0].Key != stream.HeaderReplayed || r.Value != nil {
		return n, false
	}
	values := map[string]string{}
	for _, h := range r.Headers {
		values[h.Key] = string(h.Value)
	}
	partition, err := strconv.ParseInt(values[stream.HeaderPartition], 10, 32)
	offset, err2 := strconv.ParseInt(values[stream.HeaderOffset], 10, 64)
	n = note{values[stream.HeaderReplayed], records.Source{Topic: values[stream.HeaderTopic], Partition: int32(partition), Offset: offset}}
	return n, err == nil && err2 == nil
}

// output returns the record of the note. It goes into the partition of its dead letter.
func (n note) output(topic string, partition int32) stream.Output {
	return stream.Output{Topic: topic, Partition: partition, Headers: []stream.Header{
		{Key: stream.HeaderReplayed, Value: []byte(n.deadLetter)},
		{Key: stream.HeaderTopic, Value: []byte(n.source.Topic)},
		{Key: stream.HeaderPartition, Value: strconv.AppendInt(nil, int64(n.source.Partition), 10)},
		{Key: stream.HeaderOffset, Value: strconv.AppendInt(nil, n.source.Offset, 10)},
	}}
}
