package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"hardneg/stream/wire"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// committed is a committed offset of a group, with the metadata that were committed with it.
type committed struct {
	offset   int64
	metadata string
}

// Committed returns the committed offsets of a group, by partition. A partition without one is not in the
// map. While a transaction that holds offsets of the group is open, the call waits (Kafka's require_stable),
// for up to 30 s. Then it returns an error that names the transaction and says what to do. It returns
// ErrUnknownTopic if the topic does not exist.
func (c *Client) Committed(ctx context.Context, group, topic string) (map[int32]int64, error) {
	return c.committedOffsets(ctx, group, topic, true)
}

// CommittedSoFar is Committed without the wait. It leaves out the offsets of open transactions, and of
// transactions whose commit is not finished.
func (c *Client) CommittedSoFar(ctx context.Context, group, topic string) (map[int32]int64, error) {
	return c.committedOffsets(ctx, group, topic, false)
}

func (c *Client) committedOffsets(ctx context.Context, group, topic string, stable bool) (map[int32]int64, error) {
	n, err := c.Partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	partitions := make([]int32, n)
	for p := range partitions {
		partitions[p] = int32(p)
	}
	found, err := c.fetchCommitted(ctx, group, topic, partitions, stable)
	if err != nil {
		return nil, err
	}
	offsets := make(map[int32]int64, len(found))
	for p, at := range found {
		offsets[p] = at.offset
	}
	return offsets, nil
}

// CommitOffsets sets the committed offsets of a group, by partition, so that it begins to read there. The
// group must have no members; otherwise the broker refuses.
func (c *Client) CommitOffsets(ctx context.Context, group, topic string, offsets map[int32]int64) error {
	if len(offsets) == 0 {
		return nil
	}
	req := &kafka.OffsetCommitRequest{GroupID: group, GenerationID: -1, Topics: map[string][]kafka.OffsetCommit{}}
	for partition, offset := range offsets {
		req.Topics[topic] = append(req.Topics[topic], kafka.OffsetCommit{Partition: int(partition), Offset: offset})
	}
	err := retryWhile(ctx, retriableOrLost, func() error {
		res, err := c.api.OffsetCommit(ctx, req)
		if err != nil {
			return unreachable(c.brokers, err)
		}
		var errs []error
		for _, p := range res.Topics[topic] {
			if p.Error != nil {
				errs = append(errs, fmt.Errorf("partition %d: %w", p.Partition, p.Error))
			}
		}
		return mostSevere(errs)
	})
	if err != nil {
		return fmt.Errorf("setting the offsets of group %s for %s: %w", group, topic, err)
	}
	return nil
}

// committed is Committed for some partitions, with the metadata beside the offsets.
func (c *Client) committed(ctx context.Context, group, topic string, partitions []int32) (map[int32]committed, error) {
	return c.fetchCommitted(ctx, group, topic, partitions, true)
}

// fetchCommitted sends OffsetFetch version 7, the first one with require_stable. The older versions that
// kafka-go speaks, and the offsets that its generations bring, overlook a transaction whose commit is not
// finished.
func (c *Client) fetchCommitted(ctx context.Context, group, topic string, partitions []int32, stable bool) (map[int32]committed, error) {
	b := wire.AppendCompact(nil, group)
	b = binary.AppendUvarint(b, 1+1)
	b = wire.AppendCompact(b, topic)
	b = binary.AppendUvarint(b, uint64(len(partitions))+1)
	for _, p := range partitions {
		b = binary.BigEndian.AppendUint32(b, uint32(p))
	}
	b = append(b, 0) // no tagged fields in the topic
	if stable {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = append(b, 0) // nor in the request

	var found map[int32]committed
	began, explanation := time.Now(), ""
	var unstable error // kept for the message, because the last attempt may end with an error of ctx
	err := retryWhile(ctx, retriableOrLost, func() error {
		res, err := call[*wire.Cursor](ctx, c, &wire.GroupFrame{
			Frame: wire.Frame{Key: protocol.OffsetFetch, Version: 7, Flexible: true, Client: c.clientID, Body: b}, GroupID: group,
		})
		if err == nil {
			found, err = decodeCommitted(res)
		}
		if errors.Is(err, kafka.UnstableOffsetCommit) {
			unstable = err
		}
		if explanation == "" && unstable != nil && time.Since(began) > c.explainUnstableAfter {
			explanation = c.explainUnstable(ctx, group)
			c.log.Warn().Err(unstable).Str("group", group).Str("topic", topic).Msg("waiting for the end of a transaction: " + explanation)
		}
		return err
	})
	if errors.Is(err, kafka.GroupIdNotFound) { // nobody has committed for this group
		return nil, nil
	}
	if err != nil {
		err = fmt.Errorf("committed offsets of group %s for %s: %w", group, topic, err)
		if explanation != "" {
			if !errors.Is(err, kafka.UnstableOffsetCommit) {
				err = fmt.Errorf("%w, after %w", err, unstable)
			}
			err = fmt.Errorf("%w; %s", err, explanation)
		}
		return nil, err
	}
	return found, nil
}

func decodeCommitted(c *wire.Cursor) (map[int32]committed, error) {
	found := map[int32]committed{}
	var errs []error
	c.Int32() // throttle time, ms
	for topics := c.CompactLength(); topics > 0 && c.Err == nil; topics-- {
		c.Compact()
		for n := c.CompactLength(); n > 0 && c.Err == nil; n-- {
			partition, at := c.Int32(), committed{offset: c.Int64()}
			c.Int32() // leader epoch
			at.metadata = c.Compact()
			code := c.Int16()
			c.Tags()
			switch {
			case code != 0:
				errs = append(errs, check(code, "partition %d", partition))
			case at.offset >= 0:
				found[partition] = at
			}
		}
		c.Tags()
	}
	if err := check(c.Int16(), "group"); err != nil {
		return nil, err
	}
	if c.Err != nil {
		return nil, c.Err
	}
	return found, mostSevere(errs)
}
