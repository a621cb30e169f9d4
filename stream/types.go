// Package stream reads and writes Kafka through segmentio/kafka-go: group tasks that turn batches of records into
// outputs, exactly once to read_committed readers. docs/exactly-once.md has the protocol and its races.
package stream

import (
	"context"
	"time"
)

// Header is a record header.
type Header struct {
	Key   string
	Value []byte
}

// Record is a consumed record. A nil Key or Value is Kafka's null; an empty one is empty.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Time      time.Time // the record's timestamp, milliseconds
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Output is a record to produce.
type Output struct {
	Topic     string
	Partition int32  // ByKey: the default partitioner's choice
	Hash      []byte // what the default partitioner hashes under ByKey; nil: Key
	Key       []byte
	Value     []byte // nil: tombstone
	Headers   []Header
	Time      time.Time // the record's timestamp; zero: when it is sent
}

// ByKey lets Kafka's default partitioner (murmur2 of the key) choose.
const ByKey int32 = -1

// Assignment is one partition that this instance owns, from taking its fencing token until it is revoked, fenced
// or restarted after an error.
type Assignment struct {
	Topic     string
	Partition int32
	Token     int64 // greater than any earlier owner's
}

// Processor turns the batches of one assignment into outputs.
//
// Process may be called again with the same records after an error, a crash or a rebalance, but then on another
// Processor with a higher token: its outputs are published together with the batch's offsets or not at all. An
// error means that a dependency failed: the assignment ends, and a new one begins after a pause. ErrFenced means
// that a newer owner was seen: the instance leaves the group and joins again.
//
// A Processor that is an io.Closer is closed when its assignment ends, whatever the reason, and before the next one
// of the partition begins in this instance.
type Processor interface {
	Process(ctx context.Context, batch []Record) ([]Output, error)
}
