package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Attributes of a batch: it is part of a transaction, and it holds a transaction marker.
const (
	isTransactional = 0x10
	isControl       = 0x20
)

// node is the id of the only broker.
const node = 0

// endOpenTransactions writes an abort marker for each transaction in the log that has no marker, and returns
// how many there were. After a kill kfake itself treats them as aborted, but only in memory. At the next kill
// their records would join the same producer's next transaction and be committed with it.
func endOpenTransactions(ctx context.Context, client *kgo.Client) (int, error) {
	broker := client.Broker(node)
	meta, err := request[*kmsg.MetadataResponse](ctx, broker, kmsg.NewPtrMetadataRequest())
	if err != nil {
		return 0, err
	}
	ended := 0
	for _, t := range meta.Topics {
		for _, p := range t.Partitions {
			open, err := openTransactions(ctx, broker, *t.Topic, p.Partition)
			if err != nil {
				return ended, fmt.Errorf("reading %s/%d: %w", *t.Topic, p.Partition, err)
			}
			for producer, epoch := range open {
				if err := writeAbort(ctx, broker, *t.Topic, p.Partition, producer, epoch); err != nil {
					return ended, fmt.Errorf("aborting producer %d in %s/%d: %w", producer, *t.Topic, p.Partition, err)
				}
				ended++
			}
		}
	}
	return ended, nil
}

// openTransactions reads a partition. It returns the producers, with their epochs, whose last transaction
// counts as aborted but has no marker.
func openTransactions(ctx context.Context, broker *kgo.Broker, topic string, partition int32) (map[int64]int16, error) {
	abortedFrom := map[int64]int64{} // by producer: where its last aborted transaction begins
	lastMarker := map[int64]int64{}
	epochs := map[int64]int16{}
	for offset := int64(0); ; {
		got, err := fetch(ctx, broker, topic, partition, offset)
		if errors.Is(err, kerr.OffsetOutOfRange) && offset < got.LogStartOffset {
			offset = got.LogStartOffset
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, a := range got.AbortedTransactions {
			abortedFrom[a.ProducerID] = max(abortedFrom[a.ProducerID], a.FirstOffset)
		}
		next := offset
		for raw := got.RecordBatches; len(raw) >= 61; {
			size := 12 + int(binary.BigEndian.Uint32(raw[8:]))
			if size > len(raw) {
				break
			}
			first := int64(binary.BigEndian.Uint64(raw))
			attributes := binary.BigEndian.Uint16(raw[21:])
			producer := int64(binary.BigEndian.Uint64(raw[43:]))
			if attributes&isControl != 0 {
				lastMarker[producer] = first
			}
			epochs[producer] = int16(binary.BigEndian.Uint16(raw[51:]))
			next = first + int64(binary.BigEndian.Uint32(raw[23:])) + 1
			raw = raw[size:]
		}
		if next <= offset {
			break
		}
		offset = next
	}
	open := map[int64]int16{}
	for producer, from := range abortedFrom {
		if marker, ok := lastMarker[producer]; !ok || marker < from {
			open[producer] = epochs[producer]
		}
	}
	return open, nil
}

func fetch(ctx context.Context, broker *kgo.Broker, topic string, partition int32, offset int64) (kmsg.FetchResponseTopicPartition, error) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes, req.IsolationLevel = 16<<20, 1
	t := kmsg.NewFetchRequestTopic()
	t.Topic = topic
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, offset, 16<<20
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	res, err := request[*kmsg.FetchResponse](ctx, broker, req)
	if err != nil {
		return kmsg.FetchResponseTopicPartition{}, err
	}
	if len(res.Topics) != 1 || len(res.Topics[0].Partitions) != 1 {
		return kmsg.FetchResponseTopicPartition{}, errors.New("the answer leaves the partition out")
	}
	got := res.Topics[0].Partitions[0]
	return got, kerr.ErrorForCode(got.ErrorCode)
}

func writeAbort(ctx context.Context, broker *kgo.Broker, topic string, partition int32, producer int64, epoch int16) error {
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	marker := kmsg.NewWriteTxnMarkersRequestMarker()
	marker.ProducerID, marker.ProducerEpoch, marker.Committed = producer, epoch, false
	t := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
	t.Topic, t.Partitions = topic, []int32{partition}
	marker.Topics = append(marker.Topics, t)
	req.Markers = append(req.Markers, marker)
	res, err := request[*kmsg.WriteTxnMarkersResponse](ctx, broker, req)
	if err != nil {
		return err
	}
	for _, m := range res.Markers {
		for _, t := range m.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// abortOpenTransactions aborts open transactions by fencing their producers, as a new owner of the id would.
func abortOpenTransactions(ctx context.Context, client *kgo.Client) error {
	broker := client.Broker(node)
	list, err := request[*kmsg.ListTransactionsResponse](ctx, broker, kmsg.NewPtrListTransactionsRequest())
	if err != nil {
		return err
	}
	for _, tx := range list.TransactionStates {
		if tx.TransactionState != "Ongoing" {
			continue
		}
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID = kmsg.StringPtr(tx.TransactionalID)
		req.TransactionTimeoutMillis = 60_000
		res, err := request[*kmsg.InitProducerIDResponse](ctx, broker, req)
		if err == nil {
			err = kerr.ErrorForCode(res.ErrorCode)
		}
		if err != nil {
			return fmt.Errorf("transactional id %s: %w", tx.TransactionalID, err)
		}
	}
	return nil
}

func request[R kmsg.Response](ctx context.Context, broker *kgo.Broker, req kmsg.Request) (R, error) {
	res, err := broker.Request(ctx, req)
	if err != nil {
		var none R
		return none, err
	}
	return res.(R), nil
}
