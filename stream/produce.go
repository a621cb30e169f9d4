package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/initproducerid"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/segmentio/kafka-go/protocol/rawproduce"
)

const (
	maxBatch   = 900_000  // bytes of a batch before compression, below the default max.message.bytes of 1,048,588
	maxRequest = 16 << 20 // bytes of one round of requests
)

// PartitionFor returns the partition that Kafka's default partitioner chooses for a key: the murmur2 hash of
// the key, without its sign bit, modulo the number of partitions. The formula is that of Kafka's Java client
// (Utils.murmur2 and Utils.toPositive), so records land where any producer with default settings puts them.
func PartitionFor(key []byte, partitions int) int32 {
	all := make([]int, partitions)
	for i := range all {
		all[i] = i
	}
	return int32(kafka.Murmur2Balancer{Consistent: true}.Balance(kafka.Message{Key: key}, all...))
}

// topicPartition is a partition of a topic.
type topicPartition struct {
	topic     string
	partition int32
}

// producer is one epoch of an idempotent or transactional producer. Only one goroutine may use it at a time.
type producer struct {
	client          *Client
	transactionalID string // empty: an idempotent producer without transactions
	id              int64
	epoch           int16
	sequences       map[topicPartition]int32
}

// newProducer asks for a producer id and epoch (InitProducerId). With a transactional id this fences the
// previous owner of the id, and returns only after the previous owner's transaction is committed or aborted.
func (c *Client) newProducer(ctx context.Context, transactionalID string, timeout time.Duration) (*producer, error) {
	p := &producer{client: c, transactionalID: transactionalID, sequences: map[topicPartition]int32{}}
	err := retryWhile(ctx, retriableOrLost, func() error {
		res, err := call[*initproducerid.Response](ctx, c, &initproducerid.Request{
			TransactionalID: transactionalID, TransactionTimeoutMs: int32(timeout.Milliseconds()),
			ProducerID: -1, ProducerEpoch: -1,
		})
		if err != nil {
			return err
		}
		p.id, p.epoch = res.ProducerID, res.ProducerEpoch
		return check(res.ErrorCode, "transactional id %q, time-out %v", transactionalID, timeout)
	})
	if err != nil {
		return nil, fmt.Errorf("InitProducerId: %w", err)
	}
	return p, nil
}

// transactionalID names the transactional id of an input partition. Every owner of the partition uses the
// same one.
func transactionalID(prefix, topic string, partition int32) string {
	return fmt.Sprintf("%s-%s-%d", prefix, topic, partition)
}

// Fence stops the present owners of all partitions of a topic that work under a TransactionalPrefix: their
// open transactions are aborted, and all their later commits are refused. Owners that begin after Fence are
// not affected. If the topic does not exist there is nothing to do.
func (c *Client) Fence(ctx context.Context, prefix, topic string) error {
	n, err := c.Partitions(ctx, topic)
	if errors.Is(err, ErrUnknownTopic) {
		return nil
	}
	if err != nil {
		return err
	}
	for partition := range int32(n) {
		// No transaction follows, so the time-out does not matter as long as no broker finds it too long.
		if _, err := c.newProducer(ctx, transactionalID(prefix, topic, partition), time.Second); err != nil {
			return fmt.Errorf("fencing the owner of %s/%d: %w", topic, partition, err)
		}
	}
	return nil
}

// pending holds the outputs for one partition that are not written yet, in order.
type pending struct {
	topicPartition
	outputs []Output
	limit   int // bytes of one batch
}

// next returns how many of the outputs go into the next batch.
func (p *pending) next() int {
	size := 0
	for i := range p.outputs {
		if size += p.outputs[i].size(); size > p.limit && i > 0 {
			return i
		}
	}
	return len(p.outputs)
}

// groupByPartition chooses the partition of each output and groups the outputs by partition.
func (c *Client) groupByPartition(ctx context.Context, outputs []Output) ([]*pending, error) {
	counts := map[string]int{}
	index := map[topicPartition]*pending{}
	var all []*pending
	for _, o := range outputs {
		n, ok := counts[o.Topic]
		if !ok {
			var err error
			if n, err = c.Partitions(ctx, o.Topic); err != nil {
				return nil, fmt.Errorf("output topic %s: %w", o.Topic, err)
			}
			counts[o.Topic] = n
		}
		to := topicPartition{o.Topic, o.Partition}
		if o.Partition == ByKey {
			if err := c.checkPartitions(o.Topic, n); err != nil {
				return nil, err
			}
			key := o.Hash
			if key == nil {
				key = o.Key
			}
			to.partition = PartitionFor(key, n)
		}
		p := index[to]
		if p == nil {
			p = &pending{topicPartition: to, limit: maxBatch}
			index[to] = p
			all = append(all, p)
		}
		p.outputs = append(p.outputs, o)
	}
	return all, nil
}

// produceBatch is the batch of one partition that is being sent.
type produceBatch struct {
	*pending
	n        int // number of its outputs
	sequence int32
	encoded  []byte
}

// send writes all outputs. It works in rounds, because Kafka takes only one batch of a partition in a
// request. A batch whose error repeat accepts is sent again unchanged, so that the broker can recognise it.
func (p *producer) send(ctx context.Context, all []*pending, repeat func(error) bool) error {
	for {
		var round []*produceBatch
		size := 0
		for _, todo := range all {
			if len(todo.outputs) == 0 || size > maxRequest {
				continue
			}
			n := todo.next()
			encoded, err := encodeBatch(todo.outputs[:n], time.Now())
			if err != nil {
				return fmt.Errorf("encoding records for %s/%d: %w", todo.topic, todo.partition, err)
			}
			round = append(round, &produceBatch{pending: todo, n: n, sequence: p.sequences[todo.topicPartition], encoded: encoded})
			size += len(encoded)
		}
		if len(round) == 0 {
			return nil
		}
		if err := retryWhile(ctx, repeat, func() (err error) {
			round, err = p.sendRound(ctx, round)
			return err
		}); err != nil {
			return err
		}
	}
}

// sendRound sends each batch to the leader of its partition and returns the batches that are not written yet.
func (p *producer) sendRound(ctx context.Context, round []*produceBatch) ([]*produceBatch, error) {
	byLeader, err := p.client.byLeader(ctx, round)
	if err != nil {
		return round, err
	}
	var mu sync.Mutex
	var requests sync.WaitGroup
	var left []*produceBatch
	var errs []error
	for _, batches := range byLeader {
		requests.Go(func() {
			results, err := p.request(ctx, batches)
			mu.Lock()
			defer mu.Unlock()
			for i, batch := range batches {
				perr := err
				if err == nil {
					perr = p.applyResult(batch, results[i])
				}
				if perr != nil {
					left = append(left, batch)
					errs = append(errs, perr)
				}
			}
		})
	}
	requests.Wait()
	return left, mostSevere(errs)
}

func (c *Client) byLeader(ctx context.Context, round []*produceBatch) (map[int32][]*produceBatch, error) {
	leaders := map[string][]int32{}
	by := map[int32][]*produceBatch{}
	for _, batch := range round {
		known, ok := leaders[batch.topic]
		if !ok {
			var err error
			if known, err = c.leaders(ctx, batch.topic); err != nil {
				return nil, err
			}
			leaders[batch.topic] = known
		}
		if int(batch.partition) >= len(known) || batch.partition < 0 {
			return nil, protocol.NewErrNoPartition(batch.topic, batch.partition)
		}
		leader := known[batch.partition]
		by[leader] = append(by[leader], batch)
	}
	return by, nil
}

// applyResult updates the outputs, sequence number and size limit of a partition after the answer to its
// batch.
func (p *producer) applyResult(batch *produceBatch, err error) error {
	todo := batch.pending
	tooLarge := errors.Is(err, kafka.MessageSizeTooLarge) || errors.Is(err, kafka.RecordListTooLarge)
	switch {
	case err == nil, errors.Is(err, kafka.DuplicateSequenceNumber): // duplicate: written before, the answer was lost
		p.sequences[todo.topicPartition] = addSequence(batch.sequence, batch.n)
		todo.outputs = todo.outputs[batch.n:]
		return nil
	case tooLarge && batch.n > 1:
		// The topic's limit is below maxBatch. Nothing was written and no sequence number used, so halve the
		// batch.
		todo.limit = 0
		for i := range todo.outputs[:batch.n] {
			todo.limit += todo.outputs[i].size()
		}
		todo.limit /= 2
		return nil
	case tooLarge:
		o := todo.outputs[0]
		return fmt.Errorf("%w: %s/%d, key %.80q%s, key and value of %d bytes, %d bytes in all before compression; nothing after it "+
			"can be written until the topic takes it, for example by\n  %s", ErrTooLarge, todo.topic, todo.partition, o.Key, o.origin(),
			len(o.Key)+len(o.Value), o.size(), p.client.alterCommand(todo.topic, maxMessageBytes, strconv.Itoa(o.size()+atRecords)))
	}
	return fmt.Errorf("produce to %s/%d: %w", todo.topic, todo.partition, err)
}

// request sends the batches of one leader, and returns an error for each batch.
func (p *producer) request(ctx context.Context, batches []*produceBatch) ([]error, error) {
	const allReplicas = -1
	req := &rawproduce.Request{
		TransactionalID: p.transactionalID, Acks: allReplicas, Timeout: int32((requestTimeout / 2).Milliseconds()),
	}
	topics := map[string]int{}
	for _, batch := range batches {
		setProducer(batch.encoded, p.id, p.epoch, batch.sequence, p.transactionalID != "")
		at, ok := topics[batch.topic]
		if !ok {
			at = len(req.Topics)
			topics[batch.topic] = at
			req.Topics = append(req.Topics, rawproduce.RequestTopic{Topic: batch.topic})
		}
		req.Topics[at].Partitions = append(req.Topics[at].Partitions, rawproduce.RequestPartition{
			Partition: batch.partition, RecordSet: protocol.RawRecordSet{Reader: bytes.NewReader(batch.encoded)},
		})
	}
	res, err := call[*produce.Response](ctx, p.client, req)
	if err != nil {
		return nil, fmt.Errorf("produce: %w", err)
	}
	codes := map[topicPartition]error{}
	for _, t := range res.Topics {
		for _, answer := range t.Partitions {
			codes[topicPartition{t.Topic, answer.Partition}] = check(answer.ErrorCode, "answer")
		}
	}
	results := make([]error, len(batches))
	for i, batch := range batches {
		code, ok := codes[batch.topicPartition]
		if !ok {
			code = errors.New("the answer leaves it out")
		}
		results[i] = code
	}
	return results, nil
}

// Produce writes outputs without a transaction. When it returns nil, all in-sync replicas have acknowledged
// each output, each is written once (the producer is idempotent), and outputs for one partition are in the
// given order. When it returns an error, some outputs may be written. It returns ErrUnknownTopic if a topic
// does not exist, and ErrTooLarge if a record is too large for its topic. Calls from several goroutines wait
// for each other.
func (c *Client) Produce(ctx context.Context, outputs []Output) error {
	if len(outputs) == 0 {
		return nil
	}
	all, err := c.groupByPartition(ctx, outputs)
	if err != nil {
		return err
	}
	c.plain.Lock()
	defer c.plain.Unlock()
	if c.plain.producer == nil {
		if c.plain.producer, err = c.newProducer(ctx, "", 0); err != nil {
			return err
		}
	}
	// The broker drops batches whose sequence numbers it has seen, so a batch may be sent again after a lost
	// answer.
	if err := c.plain.send(ctx, all, retriableOrLost); err != nil {
		c.plain.producer = nil // its sequence numbers may have a gap
		return err
	}
	return nil
}
