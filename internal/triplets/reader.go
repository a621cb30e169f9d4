package triplets

import (
	"context"

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

// Read calls f with every record from where the last Read stopped up to the present stable end, and not beyond: a
// later record may be a part of a transaction whose other records are not read. Records that Kafka deletes
// meanwhile are missing. After an error of f, all records of the call come again.
func (r *Reader) Read(ctx context.Context, f func(stream.Record) error) error {
	ends, err := r.kafka.Offsets(ctx, r.topic)
	if err != nil {
		return err
	}
	to := make(map[int32]int64, len(ends))
	for _, end := range ends {
		to[end.Partition] = end.LastStable
	}
	if err := r.kafka.ReadRange(ctx, r.topic, r.next, to, f); err != nil {
		return err
	}
	r.next = to
	return nil
}
