package stream

import (
	"context"
	"fmt"
	"time"
)

// Mark is a committed offset with a note beside it, which Kafka bounds (offset.metadata.max.bytes, 4096 by default).
type Mark struct {
	Offset int64
	Note   string
}

// Ledger publishes outputs together with marks, which are committed offsets of a consumer group without members: whoever
// goes on after a crash reads from the marks what is out. It has one owner at a time; the next one to open it
// fences the one before, whose commits then are an ErrFenced.
type Ledger struct {
	producer *producer
	member   membership
	topic    string
}

// OpenLedger becomes the owner, and returns the marks as the last commit left them, by partition of the topic; none at
// first. The transactional id and the group must be the ledger's alone.
func (c *Client) OpenLedger(ctx context.Context, transactionalID, group, topic string, timeout time.Duration) (*Ledger, map[int32]Mark, error) {
	n, err := c.Partitions(ctx, topic)
	if err != nil {
		return nil, nil, err
	}
	// It settles the predecessor's last transaction, so it comes before the marks are read.
	p, err := c.newProducer(ctx, transactionalID, timeout)
	if err != nil {
		return nil, nil, err
	}
	partitions := make([]int32, n)
	for i := range partitions {
		partitions[i] = int32(i)
	}
	found, err := c.committed(ctx, group, topic, partitions)
	if err != nil {
		return nil, nil, err
	}
	marks := make(map[int32]Mark, len(found))
	for partition, at := range found {
		marks[partition] = Mark{at.offset, at.metadata}
	}
	return &Ledger{p, membership{group: group, generation: -1}, topic}, marks, nil
}

// Commit publishes the outputs and sets marks in one transaction. After an error it is unknown whether it did, and the
// ledger must be opened anew; an ErrFenced says that another owner has.
func (l *Ledger) Commit(ctx context.Context, marks map[int32]Mark, outputs []Output) error {
	offsets := make(map[int32]committed, len(marks))
	for partition, m := range marks {
		offsets[partition] = committed{m.Offset, m.Note}
	}
	err := l.producer.commitAll(ctx, l.member, l.topic, offsets, outputs)
	if err == nil {
		return nil
	}
	if actionFor(err) == fenced {
		return fmt.Errorf("%w: %w", ErrFenced, err)
	}
	l.producer.abort(ctx)
	return err
}
