package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	client                        *Client
	transactionalID, group, topic string
	timeout                       time.Duration

	producer *producer // nil: its last transaction is unsettled
	marks    map[int32]Mark
}

// OpenLedger becomes the owner, and returns the marks as the last commit left them, by partition of the topic; none at
// first. The transactional id and the group must be the ledger's alone. What an owner that died leaves open is
// aborted after the time-out, or by the next one.
func (c *Client) OpenLedger(ctx context.Context, transactionalID, group, topic string, timeout time.Duration) (*Ledger, map[int32]Mark, error) {
	l := &Ledger{client: c, transactionalID: transactionalID, group: group, topic: topic, timeout: timeout}
	var err error
	if l.producer, l.marks, err = l.acquire(ctx); err != nil {
		return nil, nil, err
	}
	return l, maps.Clone(l.marks), nil
}

// acquire settles the last transaction, whoever's it was, and reads what it left.
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

// Commit publishes the outputs and sets marks, which must differ from those that are there, in one transaction. After an
// error whose effect is unknown it looks at the marks and tries again, for half a minute; if it returns one, whoever
// opens the ledger next sees what came of it.
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

// attempt makes one attempt, and settles one that came before.
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
