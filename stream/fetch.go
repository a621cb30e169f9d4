package stream

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"hardneg/stream/wire"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// FetchOptions bound a fetch. A zero value means the default.
type FetchOptions struct {
	MaxWait  time.Duration // how long the broker waits for new records at the end of the log; default 500 ms
	MaxBytes int           // bytes of the answer; default 4 MiB. A first batch that is larger comes in full. See Config.MaxFetched too.
}

// Fetched is the result of a fetch.
type Fetched struct {
	Records []Record // committed records only, in the order of their offsets
	// Refused are the committed records that cannot be read, in the order of their offsets. They are logged.
	Refused []Refused
	// Next is the offset of the next fetch. It lies behind transaction markers, aborted records, refused records
	// and records that compaction has removed, so it can grow although Records is empty.
	Next int64
	// The bounds of the partition at the time of the fetch, see Offsets.
	Start, HighWatermark, LastStable int64
}

// Fetch reads a partition from an offset on, as a read_committed reader. At the end of the log it waits for
// MaxWait and then returns no records.
//
// It returns ErrOffsetOutOfRange if the log does not have the offset; Start, HighWatermark and LastStable of
// the result are set then. It returns ErrUnknownTopic if the topic or the partition does not exist, and
// ErrCorrupt if the bytes of the answer are wrong, for example a batch's checksum. Records that will never be
// readable are no error: see Fetched.Refused.
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
		if errors.Is(err, protocol.ErrNoTopic) { // new and not in the metadata yet, or not existing?
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
	for _, r := range f.Refused {
		c.log.Warn().Str("at", fmt.Sprintf("%s/%d/%d", topic, partition, r.Record.Offset)).Err(r.Reason).Msg("a record cannot be read")
	}
	return f, nil
}

// outOfRange asks for the bounds of the partition, which the broker does not send with the error.
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

// fetch sends Fetch version 11 as a frame of its own, because kafka-go's answer hides the last offset of a
// batch.
func (c *Client) fetch(ctx context.Context, topic string, partition int32, offset int64, o FetchOptions) (Fetched, error) {
	const readCommitted = 1
	b := make([]byte, 0, 96+len(topic))
	b = binary.BigEndian.AppendUint32(b, ^uint32(0)) // replica: none
	b = binary.BigEndian.AppendUint32(b, uint32(o.MaxWait.Milliseconds()))
	b = binary.BigEndian.AppendUint32(b, 1) // minimum bytes
	b = binary.BigEndian.AppendUint32(b, uint32(o.MaxBytes))
	b = append(b, readCommitted)
	b = binary.BigEndian.AppendUint32(b, 0)          // session: none
	b = binary.BigEndian.AppendUint32(b, ^uint32(0)) // session epoch: start none
	b = binary.BigEndian.AppendUint32(b, 1)          // topics
	b = wire.AppendString(b, topic)
	b = binary.BigEndian.AppendUint32(b, 1) // partitions
	b = binary.BigEndian.AppendUint32(b, uint32(partition))
	b = binary.BigEndian.AppendUint32(b, ^uint32(0)) // leader epoch: unknown
	b = binary.BigEndian.AppendUint64(b, uint64(offset))
	b = binary.BigEndian.AppendUint64(b, ^uint64(0)) // log start: only followers send one
	b = binary.BigEndian.AppendUint32(b, uint32(o.MaxBytes))
	b = binary.BigEndian.AppendUint32(b, 0) // topics to forget
	b = wire.AppendString(b, "")            // rack

	ctx, cancel := context.WithTimeout(ctx, requestTimeout+o.MaxWait)
	defer cancel()
	res, err := c.tr.RoundTrip(ctx, c.addr, &wire.PartitionFrame{
		Frame: wire.Frame{Key: protocol.Fetch, Version: 11, Client: c.clientID, Body: b}, Topic: topic, Partition: partition,
	})
	if err != nil {
		return Fetched{}, unreachable(c.brokers, err)
	}
	return decodeFetch(res.(*wire.Cursor), topic, partition, offset, c.maxFetched)
}

// abortedTransaction is an entry of a fetch's list of aborted transactions: the transactional records of
// producer from offset from up to its next marker were aborted.
type abortedTransaction struct{ producer, from int64 }

func decodeFetch(c *wire.Cursor, topic string, partition int32, offset, maxFetched int64) (Fetched, error) {
	c.Int32() // throttle time, ms
	code := c.Int16()
	c.Int32() // session
	if err := check(code, "whole request"); err != nil {
		return Fetched{}, err
	}
	if n := c.Length(); n != 1 {
		return Fetched{}, fmt.Errorf("%w: %d topics in the answer", errors.Join(ErrCorrupt, c.Err), n)
	}
	c.Text()
	if n := c.Length(); n != 1 {
		return Fetched{}, fmt.Errorf("%w: %d partitions in the answer", errors.Join(ErrCorrupt, c.Err), n)
	}
	c.Int32()
	code = c.Int16()
	f := Fetched{Next: offset, HighWatermark: c.Int64(), LastStable: c.Int64(), Start: c.Int64()}
	abortedTransactions := make([]abortedTransaction, c.LengthOf(16))
	for i := range abortedTransactions {
		abortedTransactions[i] = abortedTransaction{producer: c.Int64(), from: c.Int64()}
	}
	c.Int32() // preferred replica
	raw := c.Take(int(max(c.Int32(), 0)))
	if c.Err != nil {
		return Fetched{}, c.Err
	}
	if err := check(code, "partition"); err != nil {
		return Fetched{}, err
	}
	return f, f.decode(raw, &unpacker{topic: topic, partition: partition, most: maxFetched}, abortedTransactions)
}

// decode reads the batches in raw and appends their records, without markers and aborted records. The list of
// aborted transactions need not be sorted, and may begin below the fetched offset.
func (f *Fetched) decode(raw []byte, u *unpacker, abortedTransactions []abortedTransaction) error {
	slices.SortFunc(abortedTransactions, func(a, b abortedTransaction) int { return int(max(-1, min(1, a.from-b.from))) })
	open := map[int64]bool{} // producers whose records are aborted from here up to their next marker
	whole := false
	for len(raw) > 0 {
		batch, rest, err := cutBatch(raw)
		if err != nil {
			return fmt.Errorf("after offset %d: %w", f.Next-1, err)
		}
		if batch == nil { // the broker cut the last batch off; the next fetch brings it in full
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
			all, err := u.unpack(batch, f)
			if err != nil {
				return fmt.Errorf("batch at offset %d: %w", batch.baseOffset(), err)
			}
			if !all {
				return nil
			}
		}
		f.Next = max(f.Next, batch.lastOffset()+1)
	}
	return nil
}
