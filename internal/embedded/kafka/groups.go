package kafka

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const forgetTimeout = 10 * time.Second

// forget comes before a group is deleted, and deletes its offsets. kfake notes on disk each committed offset, and when one
// is deleted, but not the end of a group: after a kill the group would be back, at the offsets that it had.
func (s *Server) forget(deletion kmsg.Request) (kmsg.Response, error, bool) { //nolint:revive // kfake's order
	s.cluster.SleepControl(func() { // what is asked here is answered meanwhile
		ctx, cancel := context.WithTimeout(context.Background(), forgetTimeout)
		defer cancel()
		for _, group := range deletion.(*kmsg.DeleteGroupsRequest).Groups {
			if err := deleteOffsets(ctx, s.client.Broker(node), group); err != nil {
				s.log.Warn().Err(err).Str("group", group).Msg("the offsets of a group that is deleted may be back after a kill")
			}
		}
	})
	return nil, nil, false
}

// deleteOffsets deletes what a group has committed. A group with members keeps it, for it cannot be deleted either.
func deleteOffsets(ctx context.Context, broker *kgo.Broker, group string) error {
	fetch := kmsg.NewPtrOffsetFetchRequest()
	asked := kmsg.NewOffsetFetchRequestGroup() // of all topics
	asked.Group = group
	fetch.Groups = append(fetch.Groups, asked)
	found, err := request[*kmsg.OffsetFetchResponse](ctx, broker, fetch)
	if err != nil {
		return err
	}
	deletion := kmsg.NewPtrOffsetDeleteRequest()
	deletion.Group = group
	for _, g := range found.Groups {
		if err := kerr.ErrorForCode(g.ErrorCode); errors.Is(err, kerr.GroupIDNotFound) {
			return nil
		} else if err != nil {
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
	if err != nil || deleted.ErrorCode == kerr.NonEmptyGroup.Code {
		return err
	}
	return kerr.ErrorForCode(deleted.ErrorCode)
}
