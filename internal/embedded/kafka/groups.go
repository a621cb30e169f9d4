package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const forgetTimeout = 10 * time.Second

// beforeDeleteGroups deletes a group's offsets before the group itself is deleted. kfake writes each committed
// and each deleted offset to disk, but not the end of a group. Without this, the group would be back after a
// kill, with its offsets.
func (s *Server) beforeDeleteGroups(deletion kmsg.Request) (kmsg.Response, error, bool) { //nolint:revive // kfake's order
	s.cluster.SleepControl(func() { // meanwhile the broker answers the requests made here
		ctx, cancel := context.WithTimeout(context.Background(), forgetTimeout)
		defer cancel()
		if err := deleteOffsetsOf(ctx, s.client.Broker(node), deletion.(*kmsg.DeleteGroupsRequest).Groups); err != nil {
			s.log.Warn().Err(err).Msg("offsets of a group that is deleted may be back after a kill")
		}
	})
	return nil, nil, false
}

// deleteOffsetsOf leaves out groups with members: Kafka cannot delete such groups either.
func deleteOffsetsOf(ctx context.Context, broker *kgo.Broker, groups []string) error {
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Groups = groups
	described, err := request[*kmsg.DescribeGroupsResponse](ctx, broker, describe)
	if err != nil {
		return err
	}
	var errs []error
	for _, group := range described.Groups {
		if group.State != "Empty" {
			continue
		}
		if err := deleteOffsets(ctx, broker, group.Group); err != nil {
			errs = append(errs, fmt.Errorf("group %s: %w", group.Group, err))
		}
	}
	return errors.Join(errs...)
}

func deleteOffsets(ctx context.Context, broker *kgo.Broker, group string) error {
	fetch := kmsg.NewPtrOffsetFetchRequest()
	allTopics := kmsg.NewOffsetFetchRequestGroup() // of all topics
	allTopics.Group = group
	fetch.Groups = append(fetch.Groups, allTopics)
	found, err := request[*kmsg.OffsetFetchResponse](ctx, broker, fetch)
	if err != nil {
		return err
	}
	deletion := kmsg.NewPtrOffsetDeleteRequest()
	deletion.Group = group
	for _, g := range found.Groups {
		if err := kerr.ErrorForCode(g.ErrorCode); err != nil {
			return err
		}
		for _, topic := range g.Topics {
			t := kmsg.NewOffsetDeleteRequestTopic()
			t.Topic = topic.Topic
			for _, partition := range topic.Partitions {
				p := kmsg.NewOffsetDeleteRequestTopicPartition()
				p.Partition = partition.Partition
				t.Partitions = append(t.Partitions, p)
			}
			deletion.Topics = append(deletion.Topics, t)
		}
	}
	if len(deletion.Topics) == 0 {
		return nil
	}
	deleted, err := request[*kmsg.OffsetDeleteResponse](ctx, broker, deletion)
	if err != nil {
		return err
	}
	errs := []error{kerr.ErrorForCode(deleted.ErrorCode)}
	for _, topic := range deleted.Topics {
		for _, p := range topic.Partitions {
			errs = append(errs, kerr.ErrorForCode(p.ErrorCode))
		}
	}
	return errors.Join(errs...)
}
