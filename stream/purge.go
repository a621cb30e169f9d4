package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"hardneg/stream/wire"

	"github.com/segmentio/kafka-go/protocol"
)

// DeleteRecords deletes all records of a partition with offsets below before, for every reader. The broker
// frees disk space in whole segments, when it next looks for old ones.
func (c *Client) DeleteRecords(ctx context.Context, topic string, partition int32, before int64) error {
	const timeout = 10 * time.Second
	b := binary.BigEndian.AppendUint32(nil, 1) // topics
	b = wire.AppendString(b, topic)
	b = binary.BigEndian.AppendUint32(b, 1) // partitions
	b = binary.BigEndian.AppendUint32(b, uint32(partition))
	b = binary.BigEndian.AppendUint64(b, uint64(before))
	b = binary.BigEndian.AppendUint32(b, uint32(timeout.Milliseconds()))
	err := retryWhile(ctx, retriableOrLost, func() error { // may run twice: the second time there is nothing to delete
		res, err := call[*wire.Cursor](ctx, c, &wire.PartitionFrame{
			Frame: wire.Frame{Key: protocol.DeleteRecords, Version: 1, Client: c.clientID, Body: b}, Topic: topic, Partition: partition,
		})
		if err != nil {
			return err
		}
		res.Int32() // throttle time, ms
		if n := res.Length(); n != 1 {
			return fmt.Errorf("%w: %d topics in the answer", errors.Join(ErrCorrupt, res.Err), n)
		}
		res.Text()
		if n := res.Length(); n != 1 {
			return fmt.Errorf("%w: %d partitions in the answer", errors.Join(ErrCorrupt, res.Err), n)
		}
		res.Int32() // partition
		res.Int64() // new start of the log
		return errors.Join(check(res.Int16(), "answer"), res.Err)
	})
	if err != nil {
		return fmt.Errorf("deleting the records of %s/%d before offset %d: %w", topic, partition, before, err)
	}
	return nil
}

// purge deletes, every PurgeEvery until ctx ends, the records that the owner of the partition has committed.
// A former owner that has not noticed its end does no harm: all it has committed lies below the offset at
// which its successor began.
func (t *task) purge(ctx context.Context, committed *atomic.Int64) {
	tick := time.NewTicker(t.run.stage.PurgeEvery)
	defer tick.Stop()
	for deleted := int64(-1); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		upTo := committed.Load()
		if upTo <= deleted {
			continue
		}
		if err := t.run.client.DeleteRecords(ctx, t.input.topic, t.input.partition, upTo); err != nil {
			if ctx.Err() == nil {
				t.run.client.log.Warn().Err(err).Msg("records that are worked off stay in their topic for now")
			}
			continue
		}
		deleted = upTo
	}
}
