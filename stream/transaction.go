package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/addoffsetstotxn"
	"github.com/segmentio/kafka-go/protocol/addpartitionstotxn"
	"github.com/segmentio/kafka-go/protocol/endtxn"
	"github.com/segmentio/kafka-go/protocol/txnoffsetcommit"
)

// membership is what a member of a group commits offsets with. Without it the coordinator would take commits of
// members that it has expelled.
type membership struct {
	group      string
	generation int32
	member     string
}

// commit runs one transaction: outputs, and the offset of one input partition with the metadata beside it. After an
// error it is unknown whether it was committed; the next epoch's InitProducerId settles that.
func (p *producer) commit(ctx context.Context, m membership, input place, offset int64, metadata string, outputs []Output) error {
	if len(outputs) > 0 {
		all, err := p.client.spread(ctx, outputs)
		if err != nil {
			return err
		}
		if err := again(ctx, refused, func() error { return p.addPartitions(ctx, all) }); err != nil {
			return fmt.Errorf("AddPartitionsToTxn: %w", err)
		}
		if err := p.send(ctx, all, refused); err != nil {
			return err
		}
	}
	if err := again(ctx, refused, func() error { return p.addOffsets(ctx, m.group) }); err != nil {
		return fmt.Errorf("AddOffsetsToTxn for group %s: %w", m.group, err)
	}
	if err := again(ctx, refused, func() error { return p.commitOffset(ctx, m, input, offset, metadata) }); err != nil {
		return fmt.Errorf("TxnOffsetCommit of %s/%d at %d: %w", input.topic, input.partition, offset, err)
	}
	return p.end(ctx, true)
}

func (p *producer) addPartitions(ctx context.Context, all []*pending) error {
	req := &addpartitionstotxn.Request{TransactionalID: p.transactionalID, ProducerID: p.id, ProducerEpoch: p.epoch}
	topics := map[string]int{}
	for _, to := range all {
		at, ok := topics[to.topic]
		if !ok {
			at = len(req.Topics)
			topics[to.topic] = at
			req.Topics = append(req.Topics, addpartitionstotxn.RequestTopic{Name: to.topic})
		}
		req.Topics[at].Partitions = append(req.Topics[at].Partitions, to.partition)
	}
	res, err := call[*addpartitionstotxn.Response](ctx, p.client, req)
	if err != nil {
		return err
	}
	var errs []error
	answered := 0
	for _, t := range res.Results {
		for _, r := range t.Results {
			answered++
			// 55: not tried, for another partition of the request has an error of its own.
			if err := check(r.ErrorCode, "%s/%d", t.Name, r.PartitionIndex); err != nil && r.ErrorCode != int16(kafka.BrokerAuthorizationFailed) {
				errs = append(errs, err)
			}
		}
	}
	if len(errs) == 0 && answered != len(all) {
		return fmt.Errorf("%d of %d partitions were answered", answered, len(all))
	}
	return worst(errs)
}

func (p *producer) addOffsets(ctx context.Context, group string) error {
	res, err := call[*addoffsetstotxn.Response](ctx, p.client, &addoffsetstotxn.Request{
		TransactionalID: p.transactionalID, ProducerID: p.id, ProducerEpoch: p.epoch, GroupID: group,
	})
	if err != nil {
		return err
	}
	return check(res.ErrorCode, "transactional id %q", p.transactionalID)
}

func (p *producer) commitOffset(ctx context.Context, m membership, input place, offset int64, metadata string) error {
	res, err := call[*txnoffsetcommit.Response](ctx, p.client, &txnoffsetcommit.Request{
		TransactionalID: p.transactionalID, GroupID: m.group, ProducerID: p.id, ProducerEpoch: p.epoch,
		GenerationID: m.generation, MemberID: m.member,
		Topics: []txnoffsetcommit.RequestTopic{{Name: input.topic, Partitions: []txnoffsetcommit.RequestPartition{{
			Partition: input.partition, CommittedOffset: offset, CommittedLeaderEpoch: -1, CommittedMetadata: metadata,
		}}}},
	})
	if err != nil {
		return err
	}
	for _, t := range res.Topics {
		for _, r := range t.Partitions {
			if t.Name == input.topic && r.Partition == input.partition {
				return check(r.ErrorCode, "group %s, generation %d, member %s", m.group, m.generation, m.member)
			}
		}
	}
	return errors.New("the answer leaves the partition out")
}

// end commits or aborts. It is not asked for again when the answer is lost: the first request may still be on its
// way, and would end the next transaction of this epoch.
func (p *producer) end(ctx context.Context, commit bool) error {
	err := again(ctx, refused, func() error {
		res, err := call[*endtxn.Response](ctx, p.client, &endtxn.Request{
			TransactionalID: p.transactionalID, ProducerID: p.id, ProducerEpoch: p.epoch, Committed: commit,
		})
		if err != nil {
			return err
		}
		return check(res.ErrorCode, "transactional id %q", p.transactionalID)
	})
	if err != nil {
		return fmt.Errorf("EndTxn: %w", err)
	}
	return nil
}

// abort ends a transaction that failed, so that readers need not wait for its time-out. It may fail: the next
// InitProducerId of the same id does the same.
func (p *producer) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := p.end(ctx, false); err != nil {
		p.client.log.Debug().Err(err).Str("transactional_id", p.transactionalID).Msg("abort left to the next epoch")
	}
}
