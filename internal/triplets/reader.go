package triplets

import (
	"context"
	"errors"

	"hardneg/stream"
)

// Reader reads the topic as a read_committed consumer, from where it stopped up to the stable end. It keeps no offsets
// outside of itself.
type Reader struct {
	Partitions int // of the topic, when the reader was made

	kafka *stream.Client
	topic string
	next  map[int32]int64 // by partition
}

// NewReader returns a reader that stands at the start of the topic.
func NewReader(ctx context.Context, kafka *stream.Client, topic string) (*Reader, error) {
	ends, err := kafka.Offsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	r := &Reader{Partitions: len(ends), kafka: kafka, topic: topic, next: map[int32]int64{}}
	for _, end := range ends {
		r.next[end.Partition] = end.Start
	}
	return r, nil
}

// Read calls f for every record up to the stable end of now. Reading again is cheap, since the reader goes on where it stopped.
// It passes over records that Kafka deletes meanwhile.
func (r *Reader) Read(ctx context.Context, f func(stream.Record) error) error {
	ends, err := r.kafka.Offsets(ctx, r.topic)
	if err != nil {
		return err
	}
	for _, end := range ends {
		for r.next[end.Partition] < end.LastStable {
			got, err := r.kafka.Fetch(ctx, r.topic, end.Partition, r.next[end.Partition], stream.FetchOptions{})
			if errors.Is(err, stream.ErrOffsetOutOfRange) && r.next[end.Partition] < got.Start {
				got.Next, err = got.Start, nil
			}
			if err != nil {
				return err
			}
			for _, record := range got.Records {
				if err := f(record); err != nil {
					return err
				}
			}
			r.next[end.Partition] = got.Next
		}
	}
	return nil
}
