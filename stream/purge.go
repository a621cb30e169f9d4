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

// DeleteRecords deletes what a partition holds before an offset, for every reader. The broker frees whole segments, when
// it next looks for old ones.
func (c *Client) DeleteRecords(ctx context.Context, topic string, partition int32, before int64) error {
	const timeout = 10 * time.Second
	b := binary.BigEndian.AppendUint32(nil, 1) // topics
	b = appendString(b, topic)
	b = binary.BigEndian.AppendUint32(b, 1) // partitions
	b = binary.BigEndian.AppendUint32(b, uint32(partition))
	b = binary.BigEndian.AppendUint64(b, uint64(before))
	b = binary.BigEndian.AppendUint32(b, uint32(timeout.Milliseconds()))
	err := retryWhile(ctx, retriableOrLost, func() error { // a second time it finds nothing to delete
		res, err := call[*cursor](ctx, c, &partitionFrame{
			frame: frame{key: protocol.DeleteRecords, version: 1, client: c.clientID, body: b}, topic: topic, partition: partition,
		})
		if err != nil {
			return err
		}
		res.int32() // throttled for, ms
		if n := res.length(); n != 1 {
			return fmt.Errorf("%w: %d topics in the answer", errors.Join(ErrCorrupt, res.err), n)
		}
		res.string()
		if n := res.length(); n != 1 {
			return fmt.Errorf("%w: %d partitions in the answer", errors.Join(ErrCorrupt, res.err), n)
		}
		res.int32() // partition
		res.int64() // where the log starts now
		return errors.Join(check(res.int16(), "answer"), res.err)
	})
	if err != nil {
		return fmt.Errorf("deleting the records of %s/%d before offset %d: %w", topic, partition, before, err)
	}
	return nil
}

// purge deletes what the owner of the partition has committed, every so often, until ctx ends. A former owner that does
// not know of its end deletes nothing else: what it committed is behind what its successor began with.
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
