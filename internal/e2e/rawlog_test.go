package e2e

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// rawBatch is a record batch as it is in the log, whether its transaction was committed or not.
type rawBatch struct {
	first, last   int64
	producer      int64
	transactional bool
	control       bool
	commit        bool    // of a control batch
	offsets       []int64 // of its records
	keys          []string
}

// rawLog reads a partition's batches from an offset to the high watermark. It sends its own fetch requests,
// which ask for uncommitted data.
func (k *kafka) rawLog(ctx context.Context, topic string, partition int32, from int64) ([]rawBatch, error) {
	var batches []rawBatch
	for {
		request := kmsg.NewPtrFetchRequest()
		request.MaxWaitMillis, request.MinBytes, request.MaxBytes = 100, 0, 50<<20
		request.ReplicaID = -1
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic = topic
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = partition, from, 50<<20, -1
		rt.Partitions = append(rt.Partitions, rp)
		request.Topics = append(request.Topics, rt)
		answer, err := request.RequestWith(ctx, k.raw)
		if err != nil {
			return nil, err
		}
		if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
			return nil, err
		}
		if len(answer.Topics) != 1 || len(answer.Topics[0].Partitions) != 1 {
			return nil, fmt.Errorf("fetch of %s/%d answered for %d topics", topic, partition, len(answer.Topics))
		}
		p := answer.Topics[0].Partitions[0]
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			return nil, fmt.Errorf("fetch of %s/%d at %d: %w", topic, partition, from, err)
		}
		read, err := splitBatches(p.RecordBatches)
		if err != nil {
			return nil, fmt.Errorf("%s/%d at %d: %w", topic, partition, from, err)
		}
		for _, b := range read {
			if b.last >= from {
				batches = append(batches, b)
				from = b.last + 1
			}
		}
		if len(read) == 0 || from >= p.HighWatermark {
			return batches, nil
		}
	}
}

// splitBatches splits the bytes of a fetch answer. The last batch may be cut off.
func splitBatches(data []byte) ([]rawBatch, error) {
	var batches []rawBatch
	const header = 12 // first offset and length
	for len(data) >= header {
		size := header + int(binary.BigEndian.Uint32(data[8:]))
		if len(data) < size {
			break
		}
		var b kmsg.RecordBatch
		if err := b.ReadFrom(data[:size]); err != nil {
			return nil, err
		}
		batch, err := readBatch(&b)
		if err != nil {
			return nil, err
		}
		batches = append(batches, batch)
		data = data[size:]
	}
	return batches, nil
}

func readBatch(b *kmsg.RecordBatch) (rawBatch, error) {
	batch := rawBatch{
		first: b.FirstOffset, last: b.FirstOffset + int64(b.LastOffsetDelta), producer: b.ProducerID,
		transactional: b.Attributes&0x10 != 0, control: b.Attributes&0x20 != 0,
	}
	records, err := kgo.DefaultDecompressor().Decompress(b.Records, kgo.CompressionCodecType(b.Attributes&0x7))
	if err != nil {
		return batch, err
	}
	for range b.NumRecords {
		length, n := binary.Varint(records)
		if n <= 0 || int(length) > len(records)-n {
			return batch, fmt.Errorf("a record of batch %d does not fit it", b.FirstOffset)
		}
		var r kmsg.Record
		if err := r.ReadFrom(records[:n+int(length)]); err != nil {
			return batch, err
		}
		if batch.control {
			batch.commit = len(r.Key) >= 4 && binary.BigEndian.Uint16(r.Key[2:]) == 1
		}
		batch.offsets, batch.keys = append(batch.offsets, b.FirstOffset+int64(r.OffsetDelta)), append(batch.keys, string(r.Key))
		records = records[n+int(length):]
	}
	return batch, nil
}

// abortMarkers counts the markers that abort records: the aborted transactions, once for each partition.
func abortMarkers(batches []rawBatch) int {
	n := 0
	pending := map[int64]bool{} // by producer
	for _, b := range batches {
		switch {
		case b.control && !b.commit && pending[b.producer]:
			n++
			fallthrough
		case b.control:
			delete(pending, b.producer)
		case b.transactional:
			pending[b.producer] = true
		}
	}
	return n
}

// visible splits the offsets of data records by the state of their transactions: committed (or without a
// transaction), aborted, and open at the end of the log.
func visible(batches []rawBatch) (committed, aborted, open map[int64]bool) {
	committed, aborted, open = map[int64]bool{}, map[int64]bool{}, map[int64]bool{}
	pending := map[int64][]int64{} // by producer
	for _, b := range batches {
		switch {
		case b.control:
			into := aborted
			if b.commit {
				into = committed
			}
			for _, offset := range pending[b.producer] {
				into[offset] = true
			}
			delete(pending, b.producer)
		case b.transactional:
			pending[b.producer] = append(pending[b.producer], b.offsets...)
		default:
			for _, offset := range b.offsets {
				committed[offset] = true
			}
		}
	}
	for _, offsets := range pending {
		for _, offset := range offsets {
			open[offset] = true
		}
	}
	return committed, aborted, open
}
