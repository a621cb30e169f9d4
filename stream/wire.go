package stream

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// frame is a request in a version that kafka-go does not speak, or whose answer kafka-go does not show in
// full. It uses kafka-go's connections through the protocol.RawExchanger interface. The answer is a *cursor.
type frame struct {
	key      protocol.ApiKey
	version  int16
	flexible bool // the version has compact lengths and tagged fields (KIP-482)
	client   string
	body     []byte
}

// partitionFrame is a frame for the leader of a partition.
type partitionFrame struct {
	frame
	topic     string
	partition int32
}

// groupFrame is a frame for the coordinator of a group.
type groupFrame struct {
	frame
	group string
}

// brokerFrame is a frame for one broker.
type brokerFrame struct {
	frame
	id int32
}

var (
	_ protocol.RawExchanger  = (*frame)(nil)
	_ protocol.BrokerMessage = (*partitionFrame)(nil)
	_ protocol.GroupMessage  = (*groupFrame)(nil)
	_ protocol.BrokerMessage = (*brokerFrame)(nil)
)

// maxAnswer bounds the length of an answer in bytes, so that bytes of another protocol, such as a TLS alert,
// are not taken for a length.
const maxAnswer = 1 << 30

func (f *frame) ApiKey() protocol.ApiKey                 { return f.key }
func (f *frame) Required(map[protocol.ApiKey]int16) bool { return true }

func (f *groupFrame) Group() string { return f.group }

// Broker routes the frame.
func (f *brokerFrame) Broker(c protocol.Cluster) (protocol.Broker, error) {
	if broker, ok := c.Brokers[f.id]; ok {
		return broker, nil
	}
	return protocol.Broker{ID: -1}, fmt.Errorf("broker %d: %w", f.id, kafka.BrokerNotAvailable)
}

// Broker routes the frame to the partition's leader.
func (f *partitionFrame) Broker(c protocol.Cluster) (protocol.Broker, error) {
	none := protocol.Broker{ID: -1}
	topic, ok := c.Topics[f.topic]
	if !ok {
		return none, protocol.NewErrNoTopic(f.topic)
	}
	partition, ok := topic.Partitions[f.partition]
	if !ok {
		return none, protocol.NewErrNoPartition(f.topic, f.partition)
	}
	broker, ok := c.Brokers[partition.Leader]
	if !ok {
		return none, protocol.NewErrNoLeader(f.topic, f.partition)
	}
	return broker, nil
}

// RawExchange writes the request and reads the whole answer.
func (f *frame) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	const correlation = 1 // one request at a time on each connection
	b := make([]byte, 4, 64+len(f.body))
	b = binary.BigEndian.AppendUint16(b, uint16(f.key))
	b = binary.BigEndian.AppendUint16(b, uint16(f.version))
	b = binary.BigEndian.AppendUint32(b, correlation)
	b = appendString(b, f.client)
	if f.flexible {
		b = append(b, 0) // no tagged fields in the header
	}
	b = append(b, f.body...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	if _, err := rw.Write(b); err != nil {
		return nil, err
	}

	var size [4]byte
	if _, err := io.ReadFull(rw, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < 4 || n > maxAnswer {
		return nil, fmt.Errorf("answer of %d bytes: is the other side a Kafka broker without TLS?", n)
	}
	answer := make([]byte, n)
	if _, err := io.ReadFull(rw, answer); err != nil {
		return nil, err
	}
	c := &cursor{key: f.key, b: answer}
	if id := c.int32(); id != correlation {
		return nil, fmt.Errorf("answer to request %d where %d was expected", id, correlation)
	}
	if f.flexible {
		c.tags()
	}
	return c, c.err
}

// appendString appends a string with a length of 16 bits.
func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// appendCompact appends a string with a varint length, the form of strings in flexible versions.
func appendCompact(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s))+1)
	return append(b, s...)
}

// cursor reads Kafka's primitive types from a buffer. After the first error, err stays and every read returns
// zero.
type cursor struct {
	key protocol.ApiKey // of the request to which b is the answer
	b   []byte
	err error
}

// ApiKey makes a cursor a protocol.Message, as the answer of a frame must be.
func (c *cursor) ApiKey() protocol.ApiKey { return c.key }

// take returns the next n bytes, without a copy.
func (c *cursor) take(n int) []byte {
	if c.err != nil {
		return nil
	}
	if n < 0 || n > len(c.b) {
		c.err = fmt.Errorf("%w: %d bytes expected, %d left", ErrCorrupt, n, len(c.b))
		return nil
	}
	taken := c.b[:n:n]
	c.b = c.b[n:]
	return taken
}

func (c *cursor) int8() int8 {
	if b := c.take(1); b != nil {
		return int8(b[0])
	}
	return 0
}

func (c *cursor) int16() int16 {
	if b := c.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (c *cursor) int32() int32 {
	if b := c.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (c *cursor) int64() int64 {
	if b := c.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// varint reads a signed (zigzag) number of variable length.
func (c *cursor) varint() int64 {
	if c.err != nil {
		return 0
	}
	v, n := binary.Varint(c.b)
	return int64(c.skipNumber(uint64(v), n))
}

// uvarint reads an unsigned number of variable length.
func (c *cursor) uvarint() uint64 {
	if c.err != nil {
		return 0
	}
	return c.skipNumber(binary.Uvarint(c.b))
}

func (c *cursor) skipNumber(v uint64, n int) uint64 {
	if n <= 0 {
		c.err = fmt.Errorf("%w: no number of variable length", ErrCorrupt)
		return 0
	}
	c.b = c.b[n:]
	return v
}

// varbytes reads the bytes of a record's field, without a copy. Null is nil; an empty field is not nil.
func (c *cursor) varbytes() []byte {
	n := c.varint()
	if n < 0 || c.err != nil {
		return nil
	}
	return c.take(int(min(n, maxAnswer)))
}

// string reads a string with a length of 16 bits. Null becomes "".
func (c *cursor) string() string {
	if n := c.int16(); n > 0 {
		return string(c.take(int(n)))
	}
	return ""
}

// compact reads a string with a varint length. Null becomes "".
func (c *cursor) compact() string {
	if n := c.uvarint(); n > 1 {
		return string(c.take(int(min(n, maxAnswer)) - 1))
	}
	return ""
}

// length reads the length of an array. A length above the number of bytes left is an error. Null becomes 0.
func (c *cursor) length() int {
	return c.bounded(int64(c.int32()))
}

// lengthOf is length for an array whose elements have at least size bytes each.
func (c *cursor) lengthOf(size int) int {
	n := c.length()
	if n > len(c.b)/size {
		c.err = fmt.Errorf("%w: array of %d elements in %d bytes", ErrCorrupt, n, len(c.b))
		return 0
	}
	return n
}

// compactLength is length for flexible versions.
func (c *cursor) compactLength() int {
	return c.bounded(int64(min(c.uvarint(), maxAnswer)) - 1)
}

func (c *cursor) bounded(n int64) int {
	if n > int64(len(c.b)) {
		c.err = fmt.Errorf("%w: array of %d elements in %d bytes", ErrCorrupt, n, len(c.b))
	}
	if c.err != nil {
		return 0
	}
	return int(max(n, 0))
}

// tags skips tagged fields.
func (c *cursor) tags() {
	for n := c.uvarint(); n > 0 && c.err == nil; n-- {
		c.uvarint()
		c.take(int(min(c.uvarint(), maxAnswer)))
	}
}
