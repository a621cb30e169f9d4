package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"hardneg/stream/wire"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// offsetsTopic is Kafka's own topic of committed offsets. All offsets of a group are in one of its
// partitions.
const offsetsTopic = "__consumer_offsets"

// API keys for which kafka-go has no constants.
const (
	describeProducers protocol.ApiKey = 61
	listTransactions  protocol.ApiKey = 66
)

// openTransaction is a transaction that keeps the last stable offset of a partition from growing.
type openTransaction struct {
	producer int64
	epoch    int32
	start    int64 // its first offset in the partition
	id       string
	state    string // at its coordinator; empty: no coordinator knows the transaction
}

// lost reports whether no coordinator is going to end the transaction.
func (o openTransaction) lost() bool {
	return !slices.Contains([]string{"Ongoing", "PrepareCommit", "PrepareAbort", "PrepareEpochFence"}, o.state)
}

// explainUnstable describes the transactions that keep a group's offsets unstable, as far as the broker shows
// them, and says what to do about them.
func (c *Client) explainUnstable(ctx context.Context, group string) string {
	partition, open, err := c.groupTransactions(ctx, group)
	if err != nil {
		return fmt.Sprintf("which one cannot be seen (%v); see \"A marker that never came\" in docs/exactly-once.md if it does not end", err)
	}
	if len(open) == 0 {
		return fmt.Sprintf("none is open in %s/%d any more", offsetsTopic, partition)
	}
	var all []string
	for _, o := range open {
		name := fmt.Sprintf("producer %d, epoch %d", o.producer, o.epoch)
		if o.id != "" {
			name = fmt.Sprintf("transactional id %q (%s)", o.id, name)
		}
		if !o.lost() {
			all = append(all, fmt.Sprintf("%s, which is %s and ends within its time-out", name, o.state))
			continue
		}
		state := "no coordinator knows it"
		if o.state != "" {
			state = fmt.Sprintf("its coordinator says %q", o.state)
		}
		all = append(all, fmt.Sprintf("%s, open in %s/%d from offset %d although %s: if it is the same in a minute, the broker has lost its marker "+
			"and will not write it, see \"A marker that never came\" in docs/exactly-once.md, and then\n  "+
			"kafka-transactions.sh --bootstrap-server %s abort --topic %s --partition %d --start-offset %d",
			name, offsetsTopic, partition, o.start, state, strings.Join(c.brokers, ","), offsetsTopic, partition, o.start))
	}
	return fmt.Sprintf("groups of %s/%d wait for %s", offsetsTopic, partition, strings.Join(all, "; for "))
}

// groupTransactions returns the partition that holds a group's offsets and the transactions that are open in
// it. Some may belong to other groups in the same partition.
func (c *Client) groupTransactions(ctx context.Context, group string) (int32, []openTransaction, error) {
	// Ask a broker directly, because kafka-go's metadata leave out internal topics.
	all, err := c.dialer.LookupPartitions(ctx, "tcp", c.brokers[rand.N(len(c.brokers))], offsetsTopic)
	if err != nil {
		return 0, nil, err
	}
	partition := groupPartition(group, len(all))
	open, err := c.openInPartition(ctx, group, partition)
	if err != nil || len(open) == 0 {
		return partition, nil, err
	}
	res, err := call[*metadata.Response](ctx, c, &metadata.Request{TopicNames: []string{}})
	if err != nil {
		return partition, nil, err
	}
	for _, b := range res.Brokers { // each broker coordinates some of the transactional ids
		if err := c.describeTransactions(ctx, b.NodeID, open); err != nil {
			return partition, nil, err
		}
	}
	return partition, open, nil
}

// groupPartition returns the partition of offsetsTopic that holds a group: the absolute value of the name's
// hash, modulo the number of partitions. As in Kafka's Utils.abs, the least int32, which has no absolute
// value, gives 0.
func groupPartition(group string, partitions int) int32 {
	hash := int64(int32(javaHash(group)))
	if hash == math.MinInt32 {
		return 0
	}
	return int32(max(hash, -hash) % int64(partitions))
}

// javaHash is Java's String.hashCode for a name in ASCII.
func javaHash(s string) uint32 {
	var h uint32
	for _, c := range []byte(s) {
		h = 31*h + uint32(c)
	}
	return h
}

// openInPartition lists the transactions that are open in a group's partition of offsetsTopic, by
// DescribeProducers version 0. The request goes to the group's coordinator, which is the leader of that
// partition.
func (c *Client) openInPartition(ctx context.Context, group string, partition int32) ([]openTransaction, error) {
	b := binary.AppendUvarint(nil, 1+1)
	b = wire.AppendCompact(b, offsetsTopic)
	b = binary.AppendUvarint(b, 1+1)
	b = binary.BigEndian.AppendUint32(b, uint32(partition))
	b = append(b, 0, 0) // no tagged fields, in the topic and in the request
	res, err := call[*wire.Cursor](ctx, c, &wire.GroupFrame{
		Frame: wire.Frame{Key: describeProducers, Version: 0, Flexible: true, Client: c.clientID, Body: b}, GroupID: group,
	})
	if err != nil {
		return nil, err
	}
	var open []openTransaction
	var errs []error
	res.Int32() // throttle time, ms
	for topics := res.CompactLength(); topics > 0 && res.Err == nil; topics-- {
		res.Compact()
		for n := res.CompactLength(); n > 0 && res.Err == nil; n-- {
			res.Int32() // partition
			errs = append(errs, check(res.Int16(), "producers of %s/%d", offsetsTopic, partition))
			res.Compact() // message
			for producers := res.CompactLength(); producers > 0 && res.Err == nil; producers-- {
				o := openTransaction{producer: res.Int64(), epoch: res.Int32()}
				res.Int32() // last sequence number
				res.Int64() // last timestamp
				res.Int32() // coordinator epoch
				o.start = res.Int64()
				res.Tags()
				if o.start >= 0 {
					open = append(open, o)
				}
			}
			res.Tags()
		}
		res.Tags()
	}
	return open, errors.Join(append(errs, res.Err)...)
}

// describeTransactions fills in the transactional id and state of those transactions that a broker
// coordinates, by ListTransactions version 0.
func (c *Client) describeTransactions(ctx context.Context, broker int32, open []openTransaction) error {
	b := []byte{1} // all states
	b = binary.AppendUvarint(b, uint64(len(open))+1)
	for _, o := range open {
		b = binary.BigEndian.AppendUint64(b, uint64(o.producer))
	}
	b = append(b, 0) // no tagged fields
	res, err := call[*wire.Cursor](ctx, c, &wire.BrokerFrame{
		Frame: wire.Frame{Key: listTransactions, Version: 0, Flexible: true, Client: c.clientID, Body: b}, ID: broker,
	})
	if err != nil {
		return err
	}
	res.Int32() // throttle time, ms
	if err := check(res.Int16(), "transactions of broker %d", broker); err != nil {
		return err
	}
	for unknown := res.CompactLength(); unknown > 0 && res.Err == nil; unknown-- {
		res.Compact()
	}
	for n := res.CompactLength(); n > 0 && res.Err == nil; n-- {
		id, producer, state := res.Compact(), res.Int64(), res.Compact()
		res.Tags()
		for i := range open {
			if open[i].producer == producer {
				open[i].id, open[i].state = id, state
			}
		}
	}
	return res.Err
}
