package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ReadToEnd calls f with every committed record of a topic, partition by partition, from the start of the log to
// where its stable end was when the call was made. An error of f ends it.
func (c *Client) ReadToEnd(ctx context.Context, topic string, f func(Record) error) error {
	return c.readToEnd(ctx, topic, func(o Offsets) (int64, bool) { return o.Start, true }, f)
}

// ReadFrom is ReadToEnd from an offset on, of the partitions that are named alone.
func (c *Client) ReadFrom(ctx context.Context, topic string, from map[int32]int64, f func(Record) error) error {
	return c.readToEnd(ctx, topic, func(o Offsets) (int64, bool) {
		at, ok := from[o.Partition]
		return max(at, o.Start), ok
	}, f)
}

func (c *Client) readToEnd(ctx context.Context, topic string, from func(Offsets) (int64, bool), f func(Record) error) error {
	ends, err := c.Offsets(ctx, topic)
	if err != nil {
		return err
	}
	for _, end := range ends {
		offset, wanted := from(end)
		for wanted && offset < end.LastStable {
			got, err := c.fetchOrSkip(ctx, topic, end.Partition, offset, FetchOptions{})
			if err != nil {
				return err
			}
			for _, r := range got.Records {
				if r.Offset >= end.LastStable {
					break
				}
				if err := f(r); err != nil {
					return err
				}
			}
			offset = got.Next
		}
	}
	return nil
}

// fetchOrSkip is Fetch for readers that keep no place: what retention has deleted under them is passed over.
func (c *Client) fetchOrSkip(ctx context.Context, topic string, partition int32, offset int64, o FetchOptions) (Fetched, error) {
	got, err := c.Fetch(ctx, topic, partition, offset, o)
	if errors.Is(err, ErrOffsetOutOfRange) && offset < got.Start {
		got.Next = got.Start
		return got, nil
	}
	return got, err
}

// Tail calls f with the committed records of all partitions of a topic, from the start of the log or from its end,
// and goes on with new ones, also of partitions that are added, until ctx ends (nil) or f returns an error. Order
// holds within a partition; f is never called twice at a time.
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
				continue // a topic that is gone for good is the readers' error
			}
			for ; known < n; known++ {
				follow(int32(known), 0)
			}
		}
	}
}

// follow sends the records of one partition until ctx ends.
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
