package stream

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// FetchOptions bound a fetch. Zero values are 500 ms and 4 MiB.
type FetchOptions struct {
	MaxWait  time.Duration // how long the broker may wait for a first byte
	MaxBytes int           // a first batch that is larger comes nevertheless
}

// Fetched is what a fetch found.
type Fetched struct {
	Records []Record // committed ones alone, ascending by offset
	// Next is where to go on: past markers, aborted records and what compaction left of a batch, too.
	Next int64
	// The bounds of the partition, see Offsets.
	Start, HighWatermark, LastStable int64
}

// Fetch reads a partition from the offset on, as read_committed. At the end of the log it waits for MaxWait and
// then returns no records. Outside of the log it is an ErrOffsetOutOfRange, with Start, HighWatermark and
// LastStable set.
func (c *Client) Fetch(ctx context.Context, topic string, partition int32, offset int64, o FetchOptions) (Fetched, error) {
	if o.MaxWait <= 0 {
		o.MaxWait = 500 * time.Millisecond
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 4 << 20
	}
	var f Fetched
	err := retryWhile(ctx, retriableOrLost, func() (err error) {
		f, err = c.fetch(ctx, topic, partition, offset, o)
		if errors.Is(err, protocol.ErrNoTopic) { // not there yet, or not at all?
			_, found := c.leaders(ctx, topic)
			err = cmp.Or(found, err)
		}
		return err
	})
	if errors.Is(err, kafka.OffsetOutOfRange) {
		return c.outOfRange(ctx, topic, partition, offset)
	}
	if err != nil {
		return f, fmt.Errorf("fetch %s/%d at offset %d: %w", topic, partition, offset, err)
	}
	return f, nil
}

// outOfRange asks for the range, which brokers do not give with the error.
func (c *Client) outOfRange(ctx context.Context, topic string, partition int32, offset int64) (Fetched, error) {
	all, err := c.Offsets(ctx, topic)
	if err != nil {
		return Fetched{}, err
	}
	if int(partition) >= len(all) {
		return Fetched{}, fmt.Errorf("%w: %s has %d partitions, not a partition %d", ErrUnknownTopic, topic, len(all), partition)
	}
	r := all[partition]
	return Fetched{Next: offset, Start: r.Start, HighWatermark: r.HighWatermark, LastStable: r.LastStable},
		fmt.Errorf("%w: %s/%d has offsets from %d up to, not including, %d; %d was asked for",
			ErrOffsetOutOfRange, topic, partition, r.Start, r.HighWatermark, offset)
}

// fetch sends a Fetch in version 11 of its own making: kafka-go's would hide where a batch ends.
func (c *Client) fetch(ctx context.Context, topic string, partition int32, offset int64, o FetchOptions) (Fetched, error) {
	const readCommitted = 1
	b := make([]byte, 0, 96+len(topic))
	b = binary.BigEndian.AppendUint32(b, ^uint32(0)) // replica: none
	b = binary.BigEndian.AppendUint32(b, uint32(o.MaxWait.Milliseconds()))
	b = binary.BigEndian.AppendUint32(b, 1) // least bytes
	b = binary.BigEndian.AppendUint32(b, uint32(o.MaxBytes))
	b = append(b, readCommitted)
	b = binary.BigEndian.AppendUint32(b, 0)          // session: none
	b = binary.BigEndian.AppendUint32(b, ^uint32(0)) // and no wish for one
	b = binary.BigEndian.AppendUint32(b, 1)          // topics
	b = appendString(b, topic)
	b = binary.BigEndian.AppendUint32(b, 1) // partitions
	b = binary.BigEndian.AppendUint32(b, uint32(partition))
	b = binary.BigEndian.AppendUint32(b, ^uint32(0)) // leader epoch: unknown
	b = binary.BigEndian.AppendUint64(b, uint64(offset))
	b = binary.BigEndian.AppendUint64(b, ^uint64(0)) // log start, for followers
	b = binary.BigEndian.AppendUint32(b, uint32(o.MaxBytes))
	b = binary.BigEndian.AppendUint32(b, 0) // topics to forget
	b = appendString(b, "")                 // rack

	ctx, cancel := context.WithTimeout(ctx, requestTimeout+o.MaxWait)
	defer cancel()
	res, err := c.tr.RoundTrip(ctx, c.addr, &partitionFrame{
		frame: frame{key: protocol.Fetch, version: 11, client: c.clientID, body: b}, topic: topic, partition: partition,
	})
	if err != nil {
		return Fetched{}, unreachable(c.brokers, err)
	}
	return decodeFetch(res.(*cursor), topic, partition, offset)
}

// aborted says that what a producer wrote from an offset on, up to its next marker, was aborted.
type abortedTransaction struct{ producer, from int64 }

func decodeFetch(c *cursor, topic string, partition int32, offset int64) (Fetched, error) {
	c.int32() // throttled for, ms
	code := c.int16()
	c.int32() // session
	if err := check(code, "whole request"); err != nil {
		return Fetched{}, err
	}
	if n := c.length(); n != 1 {
		return Fetched{}, fmt.Errorf("%w: %d topics in the answer", errors.Join(ErrCorrupt, c.err), n)
	}
	c.string()
	if n := c.length(); n != 1 {
		return Fetched{}, fmt.Errorf("%w: %d partitions in the answer", errors.Join(ErrCorrupt, c.err), n)
	}
	c.int32()
	code = c.int16()
	f := Fetched{Next: offset, HighWatermark: c.int64(), LastStable: c.int64(), Start: c.int64()}
	abortedTransactions := make([]abortedTransaction, c.length())
	for i := range abortedTransactions {
		abortedTransactions[i] = abortedTransaction{producer: c.int64(), from: c.int64()}
	}
	c.int32() // preferred replica
	raw := c.take(int(max(c.int32(), 0)))
	if c.err != nil {
		return Fetched{}, c.err
	}
	if err := check(code, "partition"); err != nil {
		return Fetched{}, err
	}
	return f, f.decode(raw, topic, partition, abortedTransactions)
}

// decode walks the batches, leaving out markers and what was aborted.
func (f *Fetched) decode(raw []byte, topic string, partition int32, abortedTransactions []abortedTransaction) error {
	slices.SortFunc(abortedTransactions, func(a, b abortedTransaction) int { return int(max(-1, min(1, a.from-b.from))) })
	open := map[int64]bool{} // producers whose records are aborted from here on, until their marker
	from := f.Next
	whole := false
	for len(raw) > 0 {
		batch, rest, err := cutBatch(raw)
		if err != nil {
			return fmt.Errorf("after offset %d: %w", f.Next-1, err)
		}
		if batch == nil { // cut off by the broker: the next fetch has it
			if !whole {
				return fmt.Errorf("%w: %d bytes are not even one batch", ErrCorrupt, len(raw))
			}
			return nil
		}
		whole, raw = true, rest
		for len(abortedTransactions) > 0 && abortedTransactions[0].from <= batch.lastOffset() {
			open[abortedTransactions[0].producer] = true
			abortedTransactions = abortedTransactions[1:]
		}
		switch {
		case batch.control():
			delete(open, batch.producer())
		case batch.transactional() && open[batch.producer()]:
		default:
			if f.Records, err = batch.records(f.Records, topic, partition, from); err != nil {
				return fmt.Errorf("batch at offset %d: %w", batch.baseOffset(), err)
			}
		}
		f.Next = max(f.Next, batch.lastOffset()+1)
	}
	return nil
}
