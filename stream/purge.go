package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go/protocol"
)

// DeleteRecords deletes all records of a partition with offsets below before, for every reader. The broker
// frees disk space in whole segments, when it next looks for old ones.
func (c *Client) DeleteRecords(ctx context.Context, topic string, partition int32, before int64) error {
	const timeout = 10 * time.Second
	b := binary.BigEndian.AppendUint32(nil, 1) // topics
	b = appendString(b, topic)
	b = binary.BigEndian.AppendUint32(b, 1) // partitions
	b = binary.BigEndian.AppendUint32(b, uint32(partition))
	b = binary.BigEndian.AppendUint64(b, uint64(before))
	b = binary.BigEndian.AppendUint32(b, uint32(timeout.Milliseconds()))
	err := retryWhile(ctx, retriableOrLost, func() error { // may run twice: the second time there is nothing to delete
		res, err := call[*cursor](ctx, c, &partitionFrame{
			frame: frame{key: protocol.DeleteRecords, version: 1, client: c.clientID, body: b}, topic: topic, partition: partition,
		})
		if err != nil {
			return err
		}
		res.int32() // throttle time, ms
		if n := res.length(); n != 1 {
			return fmt.Errorf("%w: %d topics in the answer", errors.Join(ErrCorrupt, res.err), n)
		}
		res.string()
		if n := res.length(); n != 1 {
			return fmt.Errorf("%w: %d partitions in the answer", errors.Join(ErrCorrupt, res.err), n)
		}
		res.int32() // partition
		res.int64() // new start of the log
		return errors.Join(check(res.int16(), "answer"), res.err)
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
