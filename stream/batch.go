package stream

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/protocol"
)

// Byte positions of the fields of a record batch in format 2, and the bits of its attributes.
const (
	atLength    = 8
	atMagic     = 16
	atCRC       = 17
	atAttribute = 21
	atLastDelta = 23
	atFirstTime = 27
	atMaxTime   = 35
	atProducer  = 43
	atEpoch     = 51
	atSequence  = 53
	atCount     = 57
	atRecords   = 61

	attrCodec         = 0x07
	attrLogAppendTime = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// recordBatch is one batch in the bytes that a broker sent.
type recordBatch []byte

func (b recordBatch) baseOffset() int64 { return int64(binary.BigEndian.Uint64(b)) }

// lastOffset is the offset that the batch's last record had when it was written. Compaction may remove that
// record but keeps this number. So only lastOffset says where to go on; the offset of the last remaining
// record does not.
func (b recordBatch) lastOffset() int64 {
	return b.baseOffset() + int64(int32(binary.BigEndian.Uint32(b[atLastDelta:])))
}

func (b recordBatch) attributes() uint16  { return binary.BigEndian.Uint16(b[atAttribute:]) }
func (b recordBatch) producer() int64     { return int64(binary.BigEndian.Uint64(b[atProducer:])) }
func (b recordBatch) transactional() bool { return b.attributes()&attrTransactional != 0 }
func (b recordBatch) control() bool       { return b.attributes()&attrControl != 0 }
func (b recordBatch) codec() int          { return int(b.attributes() & attrCodec) }

// cutBatch splits the first batch from raw and verifies its checksum. batch is nil if raw does not hold the
// batch in full, because brokers cut off the last one.
func cutBatch(raw []byte) (batch recordBatch, rest []byte, err error) {
	if len(raw) < atLength+4 {
		return nil, nil, nil
	}
	size := int64(atLength+4) + int64(int32(binary.BigEndian.Uint32(raw[atLength:])))
	switch {
	case size < atMagic+1:
		return nil, nil, fmt.Errorf("%w: its length is %d", ErrCorrupt, size)
	case len(raw) > atMagic && raw[atMagic] != 2:
		return nil, nil, fmt.Errorf("%w: format %d, where this program reads format 2 (Kafka 0.11 and newer)", ErrCorrupt, raw[atMagic])
	case size < atRecords:
		return nil, nil, fmt.Errorf("%w: its length is %d", ErrCorrupt, size)
	case size > int64(len(raw)):
		return nil, nil, nil
	}
	batch = raw[:size:size]
	if want, got := binary.BigEndian.Uint32(batch[atCRC:]), crc32.Checksum(batch[atAttribute:], castagnoli); want != got {
		return nil, nil, fmt.Errorf("%w: checksum %08x, expected %08x", ErrCorrupt, got, want)
	}
	return batch, raw[size:], nil
}

// Batches are written with LZ4: texts and JSON shrink to a third or less, at little cost for writer and
// reader. Batches below compressFrom bytes stay uncompressed, because the LZ4 writer works in blocks of
// megabytes.
const (
	codec        = compress.Lz4
	compressFrom = 2048 // bytes
)

// encodeBatch encodes outputs as one batch, after its length in 4 bytes as rawproduce needs it. Outputs with
// a zero time get now as their timestamp.
func encodeBatch(outputs []Output, now time.Time) ([]byte, error) {
	records := make([]protocol.Record, len(outputs))
	size := 0
	for i, o := range outputs {
		size += o.size()
		at := o.Time
		if at.IsZero() {
			at = now
		}
		records[i] = protocol.Record{Time: at, Key: protocol.NewBytes(o.Key), Value: protocol.NewBytes(o.Value)}
		for _, h := range o.Headers {
			records[i].Headers = append(records[i].Headers, protocol.Header{Key: h.Key, Value: h.Value})
		}
	}
	var b bytes.Buffer
	set := protocol.RecordSet{Version: 2, Records: protocol.NewRecordReader(records...)}
	if size >= compressFrom {
		set.Attributes = protocol.Attributes(codec)
	}
	if _, err := set.WriteTo(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// setProducer writes the producer's id, epoch, sequence number and the transactional bit into an encoded
// batch, and a new checksum. kafka-go encodes batches without a producer.
func setProducer(encoded []byte, producer int64, epoch int16, sequence int32, transactional bool) {
	b := encoded[4:]
	if transactional {
		b[atAttribute+1] |= attrTransactional
	}
	binary.BigEndian.PutUint64(b[atProducer:], uint64(producer))
	binary.BigEndian.PutUint16(b[atEpoch:], uint16(epoch))
	binary.BigEndian.PutUint32(b[atSequence:], uint32(sequence))
	binary.BigEndian.PutUint32(b[atCRC:], crc32.Checksum(b[atAttribute:], castagnoli))
}

// addSequence adds n to a sequence number as Kafka does: after 2³¹−1 comes 0.
func addSequence(sequence int32, n int) int32 {
	return int32((int64(sequence) + int64(n)) % (math.MaxInt32 + 1))
}

// size estimates the bytes that an output takes in a batch, before compression.
func (o *Output) size() int {
	n := 32 + len(o.Key) + len(o.Value)
	for _, h := range o.Headers {
		n += 8 + len(h.Key) + len(h.Value)
	}
	return n
}
