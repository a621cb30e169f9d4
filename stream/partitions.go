package stream

import (
	"context"
	"fmt"
)

// FixPartitions says that records of a topic are spread over n partitions by key, and must stay so. When the topic has
// another number, every later output to it with ByKey is refused with ErrRepartitioned: its record would lie in
// another partition than the older records of its key, and compaction would keep both for ever.
func (c *Client) FixPartitions(topic string, n int) {
	c.fixed.Store(topic, n)
}

// CheckPartitions asks for the number of partitions of a topic, and returns ErrRepartitioned if it is another one
// than FixPartitions allows.
func (c *Client) CheckPartitions(ctx context.Context, topic string) error {
	n, err := c.Partitions(ctx, topic)
	if err != nil {
		return err
	}
	return c.checkPartitions(topic, n)
}

// checkPartitions compares the number of partitions that a topic has now with the number in FixPartitions.
func (c *Client) checkPartitions(topic string, n int) error {
	fixed, ok := c.fixed.Load(topic)
	if !ok || fixed == n {
		return nil
	}
	return fmt.Errorf("%w: topic %s has %d partitions now, and its records are spread over %d by key: the records of one key would lie in two partitions; "+
		"write into a new topic with the partitions you want", ErrRepartitioned, topic, n, fixed)
}
