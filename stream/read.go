package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// ReadToEnd calls f with every committed record of a topic, partition by partition. It reads from the start
// of the log to the last stable offset at the time of the call. An error of f ends the reading and is
// returned unchanged. It returns ErrUnknownTopic if the topic does not exist.
func (c *Client) ReadToEnd(ctx context.Context, topic string, f func(Record) error) error {
	ends, err := c.Offsets(ctx, topic)
	if err != nil {
		return err
	}
	for _, end := range ends {
		if err := c.readPartition(ctx, topic, end.Partition, end.Start, end.LastStable, f); err != nil {
			return err
		}
	}
	return nil
}

// ReadRange is ReadToEnd for the partitions that to names. It reads each of them up to, not including, the
// offset in to, and begins at the offset in from, or at 0 if from does not name the partition. It waits for
// records that are not stable yet.
func (c *Client) ReadRange(ctx context.Context, topic string, from, to map[int32]int64, f func(Record) error) error {
	for _, partition := range slices.Sorted(maps.Keys(to)) {
		if err := c.readPartition(ctx, topic, partition, from[partition], to[partition], f); err != nil {
			return err
		}
	}
	return nil
}

// readPartition calls f with the committed records from offset from up to, not including, to.
func (c *Client) readPartition(ctx context.Context, topic string, partition int32, from, to int64, f func(Record) error) error {
	for offset := from; offset < to; {
		got, err := c.fetchOrSkip(ctx, topic, partition, offset, FetchOptions{})
		if err != nil {
			return err
		}
		for _, r := range got.Records {
			if r.Offset >= to {
				break
			}
			if err := f(r); err != nil {
				return err
			}
		}
		offset = got.Next
	}
	return nil
}

// ErrOpenTransaction means that a transaction is open. read_committed readers see nothing behind its first
// record.
var ErrOpenTransaction = errors.New("a transaction is open")

// AwaitStable waits until all transactions that had written to a topic before the call have ended. It returns
// the bounds of the partitions at the time of the call: read_committed readers then see every committed
// record below HighWatermark. It returns ErrOpenTransaction if a transaction is still open after timeout.
func (c *Client) AwaitStable(ctx context.Context, topic string, timeout time.Duration) ([]Offsets, error) {
	written, err := c.Offsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	wait := backoff{least: 20 * time.Millisecond, most: time.Second}
	for start, now := time.Now(), written; ; {
		at := slices.IndexFunc(now, func(o Offsets) bool {
			return int(o.Partition) < len(written) && o.LastStable < written[o.Partition].HighWatermark
		})
		if at < 0 {
			return written, nil
		}
		if time.Since(start) > timeout {
			return nil, fmt.Errorf("%w in %s/%d since offset %d, for more than %v: it ends by its time-out, try again then",
				ErrOpenTransaction, topic, now[at].Partition, now[at].LastStable, timeout)
		}
		if err := wait.pause(ctx); err != nil {
			return nil, err
		}
		if now, err = c.Offsets(ctx, topic); err != nil {
			return nil, err
		}
	}
}

// fetchOrSkip is Fetch for readers without committed offsets. It passes over records that retention deletes
// while they read.
func (c *Client) fetchOrSkip(ctx context.Context, topic string, partition int32, offset int64, o FetchOptions) (Fetched, error) {
	got, err := c.Fetch(ctx, topic, partition, offset, o)
	if errors.Is(err, ErrOffsetOutOfRange) && offset < got.Start {
		got.Next = got.Start
		return got, nil
	}
	return got, err
}

// Tail calls f with the committed records of all partitions of a topic, from the start of the log or from its
// end, and goes on with new records and new partitions. It returns nil when ctx ends, and an error of f
// unchanged. Records of one partition come in the order of their offsets. f is never called by two goroutines
// at the same time. It returns ErrUnknownTopic if the topic does not exist.
func (c *Client) Tail(ctx context.Context, topic string, fromStart bool, f func(Record) error) error {
	at, err := c.Offsets(ctx, topic)
	if err != nil {
		return err
	}
	parent := ctx
	ctx, cancel := context.WithCancelCause(parent)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel(nil)

	batches := make(chan []Record)
	follow := func(partition int32, offset int64) {
		readers.Go(func() {
			if err := c.follow(ctx, topic, partition, offset, batches); err != nil {
				cancel(err)
			}
		})
	}
	for _, o := range at {
		if fromStart {
			follow(o.Partition, o.Start)
		} else {
			follow(o.Partition, o.LastStable)
		}
	}
	look := time.NewTicker(5 * time.Second)
	defer look.Stop()
	for known := len(at); ; {
		select {
		case <-ctx.Done():
			if parent.Err() != nil {
				return nil
			}
			return fmt.Errorf("following %s: %w", topic, context.Cause(ctx))
		case batch := <-batches:
			for _, r := range batch {
				if err := f(r); err != nil {
					return err
				}
			}
		case <-look.C:
			n, err := c.Partitions(ctx, topic)
			if err != nil {
				continue // if the topic is gone for good, follow returns that error
			}
			for ; known < n; known++ {
				follow(int32(known), 0)
			}
		}
	}
}

// follow sends the records of one partition to batches until ctx ends.
func (c *Client) follow(ctx context.Context, topic string, partition int32, offset int64, batches chan<- []Record) error {
	for ctx.Err() == nil {
		got, err := c.fetchOrSkip(ctx, topic, partition, offset, FetchOptions{})
		if err != nil {
			return err
		}
		offset = got.Next
		if len(got.Records) == 0 {
			continue
		}
		select {
		case batches <- got.Records:
		case <-ctx.Done():
		}
	}
	return nil
}
