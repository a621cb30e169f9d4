package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// Mark is a committed offset with a note beside it.
type Mark struct {
	Offset int64
	Note   string // any text; Kafka's offset.metadata.max.bytes bounds it, 4,096 bytes by default
}

// Ledger publishes outputs together with marks that say how far a job has come. The marks are committed
// offsets of a consumer group that has no members. After a crash the next owner reads the marks, and knows
// which outputs are published and where to go on.
//
// A ledger has one owner at a time. OpenLedger fences the previous owner, whose Commit then returns
// ErrFenced. A Ledger must not be used by several goroutines at the same time. It needs no closing.
type Ledger struct {
	client                        *Client
	transactionalID, group, topic string
	timeout                       time.Duration

	producer *producer // nil: whether the last transaction was committed is not known
	marks    map[int32]Mark
}

// OpenLedger takes ownership and returns the marks of the last commit, by partition of the topic. A new
// ledger has no marks. The topic gives the marks their partitions; nothing is written to it. Nobody else may
// use the transactional id or the group.
//
// If an owner dies, the broker aborts its open transaction after the time-out, or when the next owner opens
// the ledger. OpenLedger returns ErrUnknownTopic if the topic does not exist.
func (c *Client) OpenLedger(ctx context.Context, transactionalID, group, topic string, timeout time.Duration) (*Ledger, map[int32]Mark, error) {
	l := &Ledger{client: c, transactionalID: transactionalID, group: group, topic: topic, timeout: timeout}
	var err error
	if l.producer, l.marks, err = l.acquire(ctx); err != nil {
		return nil, nil, err
	}
	return l, maps.Clone(l.marks), nil
}

// acquire fences the previous owner, waits for the end of the last transaction, and reads the marks that it
// left.
func (l *Ledger) acquire(ctx context.Context) (*producer, map[int32]Mark, error) {
	n, err := l.client.Partitions(ctx, l.topic)
	if err != nil {
		return nil, nil, err
	}
	p, err := l.client.newProducer(ctx, l.transactionalID, l.timeout)
	if err != nil {
		return nil, nil, err
	}
	partitions := make([]int32, n)
	for i := range partitions {
		partitions[i] = int32(i)
	}
	found, err := l.client.committed(ctx, l.group, l.topic, partitions)
	if err != nil {
		return nil, nil, err
	}
	marks := make(map[int32]Mark, len(found))
	for partition, at := range found {
		marks[partition] = Mark{at.offset, at.metadata}
	}
	return p, marks, nil
}

// Commit publishes the outputs and sets marks in one transaction. Marks of partitions that are not named
// stay. At least one mark must differ from the stored one: if the answer of the broker is lost, Commit reads
// the marks to find out whether the transaction was committed, and if not, sends it again.
//
// It tries for up to 30 s. It returns ErrFenced if another owner has opened the ledger, and ErrTooLarge if an
// output is too large for its topic. After any error the marks that the next OpenLedger returns say whether
// it was committed.
func (l *Ledger) Commit(ctx context.Context, marks map[int32]Mark, outputs []Output) error {
	wait := backoff{least: 50 * time.Millisecond, most: 5 * time.Second}
	for start := time.Now(); ; {
		done, err := l.attempt(ctx, marks, outputs)
		if done {
			maps.Copy(l.marks, marks)
			return nil
		}
		switch action := actionFor(err); {
		case action == fenced && !errors.Is(err, ErrFenced):
			return fmt.Errorf("%w: %w", ErrFenced, err)
		case action == fenced, action == fatal, ctx.Err() != nil, time.Since(start) > retryFor:
			return err
		}
		l.client.log.Warn().Err(err).Str("group", l.group).Msg("a transaction failed; trying again")
		if wait.pause(ctx) != nil {
			return err
		}
	}
}

// attempt commits once. If the outcome of the attempt before is unknown, it first reads the marks: done is
// true if they show that it was committed.
func (l *Ledger) attempt(ctx context.Context, marks map[int32]Mark, outputs []Output) (done bool, err error) {
	if l.producer == nil {
		p, there, err := l.acquire(ctx)
		if err != nil {
			return false, err
		}
		after := maps.Clone(l.marks)
		maps.Copy(after, marks)
		switch {
		case maps.Equal(there, after):
			l.producer = p
			return true, nil
		case !maps.Equal(there, l.marks):
			return false, fmt.Errorf("%w: the marks of group %s are not those that were left there", ErrFenced, l.group)
		}
		l.producer = p
	}
	offsets := make(map[int32]committed, len(marks))
	for partition, m := range marks {
		offsets[partition] = committed{m.Offset, m.Note}
	}
	if err := l.producer.commitAll(ctx, membership{group: l.group, generation: -1}, l.topic, offsets, outputs); err != nil {
		if actionFor(err) != fenced {
			l.producer.abort(ctx)
		}
		l.producer = nil
		return false, err
	}
	return true, nil
}
