package triplets

import (
	"context"
	"errors"

	"hardneg/stream"
)

// Reader reads the topic as a read_committed consumer, from where it stopped up to the stable end. It commits
// no offsets: they live as long as the Reader.
type Reader struct {
	Partitions int // number of partitions of the topic when the reader was made

	kafka *stream.Client
	topic string
	next  map[int32]int64 // the offset to read next, by partition
}

// NewReader returns a reader that begins at the start of the topic.
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

// Read calls f with every record from where the last Read stopped up to the present stable end. Records that
// Kafka deletes meanwhile are missing. After an error of f, the records of the fetch at hand come again.
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
