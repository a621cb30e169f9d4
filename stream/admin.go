package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"
)

// transactionalID is that of the owner of an input partition.
func transactionalID(prefix, topic string, partition int32) string {
	return fmt.Sprintf("%s-%s-%d", prefix, topic, partition)
}

// Fence ends whatever the owners of a topic's partitions do under a TransactionalPrefix: their open transactions are
// aborted, and none of theirs commits any more. An owner that begins after this is not concerned. A topic that does
// not exist has no owners.
func (c *Client) Fence(ctx context.Context, prefix, topic string) error {
	n, err := c.Partitions(ctx, topic)
	if errors.Is(err, ErrUnknownTopic) {
		return nil
	}
	if err != nil {
		return err
	}
	for partition := range int32(n) {
		if _, err := c.newProducer(ctx, transactionalID(prefix, topic, partition), time.Minute); err != nil {
			return fmt.Errorf("fencing the owner of %s/%d: %w", topic, partition, err)
		}
	}
	return nil
}

// CommitOffsets sets where a group without members begins, by partition.
func (c *Client) CommitOffsets(ctx context.Context, group, topic string, offsets map[int32]int64) error {
	if len(offsets) == 0 {
		return nil
	}
	req := &kafka.OffsetCommitRequest{GroupID: group, GenerationID: -1, Topics: map[string][]kafka.OffsetCommit{}}
	for partition, offset := range offsets {
		req.Topics[topic] = append(req.Topics[topic], kafka.OffsetCommit{Partition: int(partition), Offset: offset})
	}
	err := again(ctx, harmless, func() error {
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
		return worst(errs)
	})
	if err != nil {
		return fmt.Errorf("setting the offsets of group %s for %s: %w", group, topic, err)
	}
	return nil
}

// ErrGroupInUse says that a group has members.
var ErrGroupInUse = errors.New("the consumer group has members")

// DeleteGroups removes groups with their offsets. One that does not exist is no error, one with members is
// ErrGroupInUse.
func (c *Client) DeleteGroups(ctx context.Context, groups ...string) error {
	for _, group := range groups { // one at a time: each may have a coordinator of its own
		err := again(ctx, harmless, func() error {
			res, err := c.api.DeleteGroups(ctx, &kafka.DeleteGroupsRequest{GroupIDs: []string{group}})
			if err != nil {
				return unreachable(c.brokers, err)
			}
			return res.Errors[group]
		})
		switch {
		case err == nil, errors.Is(err, kafka.GroupIdNotFound):
		case errors.Is(err, kafka.NonEmptyGroup):
			return fmt.Errorf("group %s: %w", group, ErrGroupInUse)
		default:
			return fmt.Errorf("deleting group %s: %w", group, err)
		}
	}
	return nil
}

// DeleteTopics removes topics with their records. One that does not exist is no error.
func (c *Client) DeleteTopics(ctx context.Context, topics ...string) error {
	for _, topic := range topics {
		err := again(ctx, func(err error) bool {
			return harmless(err) && !errors.Is(err, kafka.UnknownTopicOrPartition)
		}, func() error {
			res, err := c.api.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{topic}})
			if err != nil {
				return unreachable(c.brokers, err)
			}
			return res.Errors[topic]
		})
		if err != nil && !errors.Is(err, kafka.UnknownTopicOrPartition) {
			return fmt.Errorf("deleting topic %s: %w", topic, err)
		}
	}
	return nil
}

// Setting returns what a topic has for a setting, of its own or by default.
func (c *Client) Setting(ctx context.Context, topic, name string) (string, error) {
	found, err := c.settings(ctx, []string{topic}, name)
	return found[topic][name], err
}
