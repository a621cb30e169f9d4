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

// Record is a record as it was read from Kafka. A nil Key or Value is Kafka's null; a slice of length zero is
// an empty key or value, which is something else.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Time      time.Time // the record's timestamp, which Kafka keeps in milliseconds
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Output is a record to write.
type Output struct {
	Topic     string
	Partition int32  // ByKey: chosen from Hash or Key
	Hash      []byte // with ByKey, the bytes to hash in place of Key; nil: Key
	Key       []byte
	Value     []byte // nil: Kafka's null, which a compacted topic takes as a deletion (tombstone)
	Headers   []Header
	Time      time.Time // the record's timestamp; zero: the time at which it is sent
}

// ByKey as Output.Partition chooses the partition as Kafka's default partitioner does: by the murmur2 hash of
// the key. See PartitionFor.
const ByKey int32 = -1

// Assignment is one partition that this instance owns. It begins when the owner has committed its fencing
// token. It ends when the partition is revoked, when a newer owner fences this one, or after an error.
type Assignment struct {
	Topic     string
	Partition int32
	Token     int64 // greater than the token of any earlier owner of the partition
}

// Processor turns the batches of one assignment into outputs. Stage.New makes one for each assignment.
//
// Process gets the records of one partition, in the order of their offsets, never an empty batch, and one
// batch at a time. The outputs that it returns are committed together with the offset behind the batch, or
// not at all.
//
// After an error, a crash or a rebalance the same records come again, but always to another Processor with a
// higher token. ctx ends when the batch is given up, see Stage.DrainTimeout and Stage.AbandonAfter.
//
// An error of Process means that something it needs has failed: the assignment ends, and a new one begins
// after a pause, which grows up to 10 s. For a record that will fail every time, return a dead letter and no
// error, or the partition never gets past that record. ErrFenced means that the Processor has met the token
// of a newer owner: the instance leaves the group and joins again. Return a *FencedError to say which token.
//
// A Processor that is an io.Closer is closed when its assignment ends, for whatever reason, and before the
// next assignment of the same partition begins in this instance.
type Processor interface {
	Process(ctx context.Context, batch []Record) ([]Output, error)
}
