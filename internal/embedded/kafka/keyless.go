package kafka

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"hardneg/stream/decompress"
)

// maxBlock bounds the memory for a compressed block of records, in bytes.
const maxBlock = 64 << 20

// refusedBatch is a batch for a compacted topic that has records without a key.
type refusedBatch struct {
	topic     kmsg.ProduceRequestTopic
	partition int32
	records   []int // their places in the batch
}

// beforeProduce refuses batches for compacted topics that hold a record without a key, as Kafka does. kfake takes
// them, and drops the records when it compacts. It is called with each Produce request.
func (s *Server) beforeProduce(request kmsg.Request) (kmsg.Response, error, bool) { //nolint:revive // kfake's order
	for _, handle := range s.keyless {
		handle.Remove() // if kfake refused that request for another reason, the fault is still there
	}
	s.keyless = nil
	produce := request.(*kmsg.ProduceRequest)
	var refused []refusedBatch
	batches := 0
	for _, t := range produce.Topics {
		if produce.Version >= 13 { // names topics by their ids
			info := s.cluster.TopicIDInfo(t.TopicID)
			if info == nil {
				batches += len(t.Partitions)
				continue
			}
			t.Topic = info.Topic
		}
		compacted := s.compacted(t.Topic)
		for _, p := range t.Partitions {
			batches++
			if !compacted {
				continue
			}
			if without := withoutKey(p.Records); len(without) > 0 {
				refused = append(refused, refusedBatch{t, p.Partition, without})
			}
		}
	}
	if len(refused) == 0 {
		return nil, nil, false
	}
	if len(refused) == batches && produce.Acks != 0 {
		s.cluster.KeepControl()
		return refuseBatches(produce, refused), nil, true
	}
	// kfake must take the other batches, so it must answer. Its answer has the code and the text of the error, and
	// leaves out which records it is about.
	for _, r := range refused {
		s.keyless = append(s.keyless, s.cluster.Fault(kfake.Fault{
			Keys: []kmsg.Key{kmsg.Produce}, Topic: r.topic.Topic, Partitions: []int32{r.partition},
			Err:  &kerr.Error{Message: r.message(), Code: kerr.InvalidRecord.Code, Description: kerr.InvalidRecord.Description},
			When: func(other kmsg.Request) bool { return other == request },
		}))
	}
	return nil, nil, false
}

// refuseBatches returns the answer to a request of which every batch is refused.
func refuseBatches(request *kmsg.ProduceRequest, refused []refusedBatch) kmsg.Response {
	res := request.ResponseKind().(*kmsg.ProduceResponse)
	for _, r := range refused {
		p := kmsg.NewProduceResponseTopicPartition()
		p.Partition, p.ErrorCode, p.BaseOffset = r.partition, kerr.InvalidRecord.Code, -1
		text := r.message()
		p.ErrorMessage = &text
		for _, i := range r.records {
			e := kmsg.NewProduceResponseTopicPartitionErrorRecord()
			text := r.reason()
			e.RelativeOffset, e.ErrorMessage = int32(i), &text
			p.ErrorRecords = append(p.ErrorRecords, e)
		}
		last := len(res.Topics) - 1
		if last < 0 || res.Topics[last].Topic != r.topic.Topic {
			t := kmsg.NewProduceResponseTopic()
			t.Topic, t.TopicID = r.topic.Topic, r.topic.TopicID
			res.Topics = append(res.Topics, t)
			last++
		}
		res.Topics[last].Partitions = append(res.Topics[last].Partitions, p)
	}
	return res
}

// reason and message are the texts of a Kafka broker.
func (r refusedBatch) reason() string {
	return fmt.Sprintf("Compacted topic cannot accept message without key in topic partition %s-%d.", r.topic.Topic, r.partition)
}

func (r refusedBatch) message() string {
	var first []string
	for _, i := range r.records[:min(3, len(r.records))] {
		first = append(first, fmt.Sprintf("RecordError(batchIndex=%d, message='%s')", i, r.reason()))
	}
	return fmt.Sprintf("One or more records have been rejected due to %d record errors in total, and only showing the first three errors at most: [%s]",
		len(r.records), strings.Join(first, ", "))
}

// withoutKey returns the places of the records in a batch that have no key. It returns none for bytes that are not
// a batch, which kfake refuses. It reads a compressed batch in pieces, so that a large one takes little memory.
func withoutKey(batch []byte) (places []int) {
	const magic, attributes, count = 16, 21, 57
	if len(batch) < batchHeader || batch[magic] != 2 {
		return nil
	}
	codec := int(binary.BigEndian.Uint16(batch[attributes:]) & 7)
	r, err := decompress.NewReader(codec, batch[batchHeader:], maxBlock)
	if err != nil {
		return nil
	}
	defer r.Close()
	in := bufio.NewReader(r)
	for i := range int(int32(binary.BigEndian.Uint32(batch[count:]))) {
		size, err := binary.ReadVarint(in)
		if err != nil || size < 0 || size > math.MaxInt32 {
			return places
		}
		// Before the key's length come one byte of attributes and two numbers of at most ten bytes.
		head, err := in.Peek(int(min(size, 31)))
		if err != nil {
			return places
		}
		if length, ok := keyLength(head); ok && length < 0 {
			places = append(places, i)
		}
		if _, err := in.Discard(int(size)); err != nil {
			return places
		}
	}
	return places
}

// keyLength reads the length of a record's key, which is negative if there is none.
func keyLength(head []byte) (length int64, ok bool) {
	at := 1                                           // attributes
	for _, last := range []bool{false, false, true} { // timestamp, offset, length of the key
		if at > len(head) {
			return 0, false
		}
		v, n := binary.Varint(head[at:])
		if n <= 0 {
			return 0, false
		}
		if at += n; last {
			length = v
		}
	}
	return length, true
}
