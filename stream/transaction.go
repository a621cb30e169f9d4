package stream

import (
	"context"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/addoffsetstotxn"
	"github.com/segmentio/kafka-go/protocol/addpartitionstotxn"
	"github.com/segmentio/kafka-go/protocol/endtxn"
	"github.com/segmentio/kafka-go/protocol/txnoffsetcommit"
)

// membership identifies a member of a group when it commits offsets. With it the coordinator refuses the
// commits of members that it has expelled; without it (generation -1) it takes anybody's.
type membership struct {
	group      string
	generation int32
	member     string
}

// commit is commitAll for the offset of one partition.
func (p *producer) commit(ctx context.Context, m membership, input topicPartition, offset int64, metadata string, outputs []Output) error {
	return p.commitAll(ctx, m, input.topic, map[int32]committed{input.partition: {offset, metadata}}, outputs)
}

// commitAll runs one transaction: it writes the outputs and commits offsets of topic's partitions with their
// metadata. After an error it is not known whether the transaction was committed. The next InitProducerId ends
// the transaction, and the committed offset then shows how.
func (p *producer) commitAll(ctx context.Context, m membership, topic string, offsets map[int32]committed, outputs []Output) error {
	if len(outputs) > 0 {
		all, err := p.client.groupByPartition(ctx, outputs)
		if err != nil {
			return err
		}
		if err := retryWhile(ctx, retriable, func() error { return p.addPartitions(ctx, all) }); err != nil {
			return fmt.Errorf("AddPartitionsToTxn: %w", err)
		}
		if err := p.send(ctx, all, retriable); err != nil {
			return err
		}
	}
	if err := retryWhile(ctx, retriable, func() error { return p.addOffsets(ctx, m.group) }); err != nil {
		return fmt.Errorf("AddOffsetsToTxn for group %s: %w", m.group, err)
	}
	if err := retryWhile(ctx, retriable, func() error { return p.commitOffsets(ctx, m, topic, offsets) }); err != nil {
		return fmt.Errorf("TxnOffsetCommit of %s: %w", topic, err)
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
			// 55 says "not attempted": another partition of the request has an error, which is reported for
			// itself.
			if err := check(r.ErrorCode, "%s/%d", t.Name, r.PartitionIndex); err != nil && r.ErrorCode != int16(kafka.BrokerAuthorizationFailed) {
				errs = append(errs, err)
			}
		}
	}
	if len(errs) == 0 && answered != len(all) {
		return fmt.Errorf("%d of %d partitions were answered", answered, len(all))
	}
	return mostSevere(errs)
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

func (p *producer) commitOffsets(ctx context.Context, m membership, topic string, offsets map[int32]committed) error {
	req := &txnoffsetcommit.Request{
		TransactionalID: p.transactionalID, GroupID: m.group, ProducerID: p.id, ProducerEpoch: p.epoch,
		GenerationID: m.generation, MemberID: m.member,
		Topics: []txnoffsetcommit.RequestTopic{{Name: topic}},
	}
	for partition, at := range offsets {
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, txnoffsetcommit.RequestPartition{
			Partition: partition, CommittedOffset: at.offset, CommittedLeaderEpoch: -1, CommittedMetadata: at.metadata,
		})
	}
	res, err := call[*txnoffsetcommit.Response](ctx, p.client, req)
	if err != nil {
		return err
	}
	var errs []error
	answered := 0
	for _, t := range res.Topics {
		for _, r := range t.Partitions {
			at, ok := offsets[r.Partition]
			if !ok || t.Name != topic {
				continue
			}
			answered++
			if err := check(r.ErrorCode, "partition %d at %d, group %s, generation %d, member %s", r.Partition, at.offset, m.group, m.generation, m.member); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if len(errs) == 0 && answered != len(offsets) {
		return fmt.Errorf("%d of %d partitions were answered", answered, len(offsets))
	}
	return mostSevere(errs)
}

// end commits or aborts the transaction. It does not repeat a request whose answer was lost: the first
// request may still be on its way, and would then end the next transaction of this epoch half-way.
func (p *producer) end(ctx context.Context, commit bool) error {
	err := retryWhile(ctx, retriable, func() error {
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

// abort ends a transaction that failed, so that readers need not wait for its time-out. An error is only
// logged, because the next InitProducerId of the same transactional id aborts it, too.
func (p *producer) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := p.end(ctx, false); err != nil {
		p.client.log.Debug().Err(err).Str("transactional_id", p.transactionalID).Msg("abort left to the next epoch")
	}
}
