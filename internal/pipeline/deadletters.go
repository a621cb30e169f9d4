package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/rs/zerolog"

	"hardneg/internal/config"
	"hardneg/internal/records"
	"hardneg/stream"
)

// DeadLetters are the records of a view that could not be used. Their topic also has notes, which say of a dead letter that
// its record was sent again.
type DeadLetters struct {
	Config *config.Config
	Kafka  *stream.Client
	Log    zerolog.Logger
}

// ErrNoLetter says that there is no dead letter at a place.
var ErrNoLetter = errors.New("no dead letter there")

// Each calls f with the dead letters, partition by partition, and tells whether their records were sent again, as theirs or as
// those of another letter.
func (d DeadLetters) Each(ctx context.Context, f func(l stream.Letter, replayed bool) error) error {
	to, err := d.readable(ctx)
	if err != nil {
		return err
	}
	notes, err := d.notes(ctx, to)
	if err != nil {
		return err
	}
	return d.each(ctx, to, func(l stream.Letter) error { return f(l, notes.has(l)) })
}

// has tells whether the record of a letter was sent again.
func (s sentAgain) has(l stream.Letter) bool {
	_, again := s.sources[SourceOf(l)]
	return again || s.letters[l.At()]
}

// SourceOf is the record of the documents or the query log behind a dead letter, without a timestamp: that of the letter itself,
// but where that is one of the refresh topic.
func SourceOf(l stream.Letter) records.Source {
	if l.Stage == StageMiner {
		if r, err := records.ParseRefresh(l.Record.Key, l.Record.Value); err == nil && r.Kind == records.KindEvidence {
			r.Source.Timestamp = 0
			return r.Source
		}
	}
	return placeIn(l.Record)
}

// readable is where the topic can be read up to.
func (d DeadLetters) readable(ctx context.Context) (map[int32]int64, error) {
	ends, err := d.Kafka.Offsets(ctx, d.Config.Topics.DeadLetters)
	to := make(map[int32]int64, len(ends))
	for _, e := range ends {
		to[e.Partition] = e.LastStable
	}
	return to, err
}

// Get is Find, and tells whether the record was sent again.
func (d DeadLetters) Get(ctx context.Context, partition int32, offset int64) (l stream.Letter, replayed bool, err error) {
	if l, err = d.Find(ctx, partition, offset); err != nil {
		return l, false, err
	}
	to, err := d.readable(ctx)
	if err != nil {
		return l, false, err
	}
	notes, err := d.notes(ctx, to)
	return l, notes.has(l), err
}

// Find reads the dead letter at a place in its topic. It is an ErrNoLetter where there is none.
func (d DeadLetters) Find(ctx context.Context, partition int32, offset int64) (l stream.Letter, err error) {
	none := fmt.Errorf("%w: %s/%d/%d", ErrNoLetter, d.Config.Topics.DeadLetters, partition, offset)
	to, err := d.readable(ctx)
	if err != nil {
		return l, err
	}
	if offset >= to[partition] {
		return l, none
	}
	got, err := d.Kafka.Fetch(ctx, d.Config.Topics.DeadLetters, partition, offset, stream.FetchOptions{MaxBytes: 1})
	switch {
	case errors.Is(err, stream.ErrOffsetOutOfRange):
		return l, none
	case err != nil:
		return l, err
	case len(got.Records) == 0 || got.Records[0].Offset != offset:
		return l, none
	}
	if l, err = stream.ParseLetter(got.Records[0]); err != nil {
		return l, fmt.Errorf("%w: %w", ErrNoLetter, err)
	}
	return l, nil
}

// each passes over what is no dead letter.
func (d DeadLetters) each(ctx context.Context, to map[int32]int64, f func(stream.Letter) error) error {
	return d.Kafka.ReadRange(ctx, d.Config.Topics.DeadLetters, nil, to, func(r stream.Record) error {
		if _, ok := noteOf(r); ok {
			return nil
		}
		l, err := stream.ParseLetter(r)
		if err != nil {
			d.Log.Warn().Err(err).Msg("a record is passed over")
			return nil
		}
		return f(l)
	})
}

// sentAgain are the notes: dead letters by their place, and where their records came from.
type sentAgain struct {
	letters map[string]bool
	sources map[records.Source]string // without a timestamp; the dead letter
}

func (d DeadLetters) notes(ctx context.Context, to map[int32]int64) (sentAgain, error) {
	found := sentAgain{map[string]bool{}, map[records.Source]string{}}
	err := d.Kafka.ReadRange(ctx, d.Config.Topics.DeadLetters, nil, to, func(r stream.Record) error {
		if n, ok := noteOf(r); ok {
			found.add(n)
		}
		return nil
	})
	return found, err
}

func (s sentAgain) add(n note) {
	s.letters[n.letter] = true
	s.sources[n.source] = n.letter
}

// note says that the record of a dead letter was sent again.
type note struct {
	letter string
	source records.Source // without a timestamp
}

// noteOf reads a note; false if the record is none.
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

// output is the note as it is written, beside its dead letter.
func (n note) output(topic string, partition int32) stream.Output {
	return stream.Output{Topic: topic, Partition: partition, Headers: []stream.Header{
		{Key: stream.HeaderReplayed, Value: []byte(n.letter)},
		{Key: stream.HeaderTopic, Value: []byte(n.source.Topic)},
		{Key: stream.HeaderPartition, Value: strconv.AppendInt(nil, int64(n.source.Partition), 10)},
		{Key: stream.HeaderOffset, Value: strconv.AppendInt(nil, n.source.Offset, 10)},
	}}
}
