package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"hardneg/stream/wire"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// OffsetsAt returns, for each partition of a topic, the offset of the first record whose timestamp is at or
// after the given time. It is -1 for a partition without such a record below its last stable offset. It
// returns ErrUnknownTopic if the topic does not exist.
func (c *Client) OffsetsAt(ctx context.Context, topic string, at time.Time) ([]int64, error) {
	n, err := c.Partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	const committed = 1
	offsets := make([]int64, n)
	err = retryWhile(ctx, retriableOrLost, func() error {
		return c.listOffsets(ctx, topic, n, max(at.UnixMilli(), 0), committed, func(p int32, offset int64) { offsets[p] = offset })
	})
	if err != nil {
		return nil, fmt.Errorf("offsets of %s at %s: %w", topic, at.Format(time.RFC3339), err)
	}
	return offsets, nil
}

// Topics lists the names of all topics that the client may see, sorted.
func (c *Client) Topics(ctx context.Context) ([]string, error) {
	names, err := c.topicNames(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing topics: %w", err)
	}
	all := make([]string, 0, len(names))
	for name := range names {
		all = append(all, name)
	}
	slices.Sort(all)
	return all, nil
}

// DeleteTopics deletes topics with all their records, and waits up to 30 s until the brokers no longer list
// them. Topics that do not exist are no error.
func (c *Client) DeleteTopics(ctx context.Context, topics ...string) error {
	if len(topics) == 0 {
		return nil
	}
	err := retryWhile(ctx, retriableOrLost, func() error {
		res, err := c.api.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: topics})
		if err != nil {
			return unreachable(c.brokers, err)
		}
		var errs []error
		for _, name := range topics {
			if err := res.Errors[name]; err != nil && !errors.Is(err, kafka.UnknownTopicOrPartition) {
				errs = append(errs, fmt.Errorf("topic %s: %w", name, err))
			}
		}
		return mostSevere(errs)
	})
	if err != nil {
		return fmt.Errorf("deleting topics: %w", err)
	}
	c.plain.Lock()
	c.plain.producer = nil // a new topic of the same name would refuse its sequence numbers
	c.plain.Unlock()
	wait := backoff{least: 10 * time.Millisecond, most: 500 * time.Millisecond}
	for start := time.Now(); ; {
		left, err := c.topicNames(ctx)
		if err != nil {
			return fmt.Errorf("deleting topics: %w", err)
		}
		at := slices.IndexFunc(topics, func(name string) bool { return left[name] })
		if at < 0 {
			return nil
		}
		if time.Since(start) > retryFor {
			return fmt.Errorf("topic %s is still there %v after its deletion was accepted", topics[at], retryFor)
		}
		if err := wait.pause(ctx); err != nil {
			return err
		}
	}
}

// Groups lists the names of all consumer groups, sorted.
func (c *Client) Groups(ctx context.Context) ([]string, error) {
	var groups []string
	err := retryWhile(ctx, retriableOrLost, func() error {
		groups = nil
		cluster, err := call[*metadata.Response](ctx, c, &metadata.Request{TopicNames: []string{}})
		if err != nil {
			return err
		}
		for _, broker := range cluster.Brokers { // a broker knows only the groups that it coordinates
			found, err := c.groupsOf(ctx, broker.NodeID)
			if err != nil {
				return err
			}
			groups = append(groups, found...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing consumer groups: %w", err)
	}
	slices.Sort(groups)
	return slices.Compact(groups), nil
}

// groupsOf lists the groups that one broker coordinates. It has its own request, because kafka-go's
// ListGroups drops the error of a coordinator that is still loading.
func (c *Client) groupsOf(ctx context.Context, broker int32) ([]string, error) {
	res, err := call[*wire.Cursor](ctx, c, &wire.BrokerFrame{Frame: wire.Frame{Key: protocol.ListGroups, Version: 1, Client: c.clientID}, ID: broker})
	if err != nil {
		return nil, err
	}
	res.Int32() // throttle time, ms
	if err := check(res.Int16(), "broker %d", broker); err != nil {
		return nil, err
	}
	groups := make([]string, res.Length())
	for i := range groups {
		groups[i] = res.Text()
		res.Text() // protocol type
	}
	return groups, res.Err
}

// Members returns the number of members of a consumer group. For a group that does not exist it is 0.
func (c *Client) Members(ctx context.Context, group string) (int, error) {
	body := binary.BigEndian.AppendUint32(nil, 1)
	body = wire.AppendString(body, group)
	members := 0
	err := retryWhile(ctx, retriableOrLost, func() error {
		res, err := call[*wire.Cursor](ctx, c, &wire.GroupFrame{
			Frame: wire.Frame{Key: protocol.DescribeGroups, Version: 1, Client: c.clientID, Body: body}, GroupID: group,
		})
		if err != nil {
			return err
		}
		res.Int32() // throttle time, ms
		if n := res.Length(); n != 1 {
			return fmt.Errorf("%w: %d groups in the answer", errors.Join(ErrCorrupt, res.Err), n)
		}
		code := res.Int16()
		for range 4 { // group, state, protocol type, protocol
			res.Text()
		}
		members = res.Length()
		return errors.Join(check(code, "group"), res.Err)
	})
	if errors.Is(err, kafka.GroupIdNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("members of group %s: %w", group, err)
	}
	return members, nil
}

// ErrGroupInUse means that a consumer group has members, so that it cannot be deleted.
var ErrGroupInUse = errors.New("the group has members")

// DeleteGroup deletes a consumer group with its committed offsets. It returns ErrGroupInUse if the group has
// members. A group that does not exist is no error.
func (c *Client) DeleteGroup(ctx context.Context, group string) error {
	body := binary.BigEndian.AppendUint32(nil, 1)
	body = wire.AppendString(body, group)
	err := retryWhile(ctx, retriableOrLost, func() error {
		// Not kafka-go's DeleteGroups: it encodes lengths as another version of the request does.
		res, err := call[*wire.Cursor](ctx, c, &wire.GroupFrame{
			Frame: wire.Frame{Key: protocol.DeleteGroups, Version: 1, Client: c.clientID, Body: body}, GroupID: group,
		})
		if err != nil {
			return err
		}
		res.Int32() // throttle time, ms
		if n := res.Length(); n != 1 {
			return fmt.Errorf("%w: %d groups in the answer", errors.Join(ErrCorrupt, res.Err), n)
		}
		res.Text()
		return errors.Join(check(res.Int16(), "deleting it"), res.Err)
	})
	switch {
	case err == nil, errors.Is(err, kafka.GroupIdNotFound):
		return nil
	case errors.Is(err, kafka.NonEmptyGroup):
		err = fmt.Errorf("%w: %w", ErrGroupInUse, err)
	}
	return fmt.Errorf("consumer group %s: %w", group, err)
}
