// Package wire sends requests to Kafka that kafka-go does not know, over kafka-go's own connections, and reads
// their answers.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// Frame is a request in a version that kafka-go does not speak, or whose answer kafka-go does not show in
// full. It uses kafka-go's connections through the protocol.RawExchanger interface. The answer is a *Cursor.
type Frame struct {
	Key      protocol.ApiKey
	Version  int16
	Flexible bool   // the version has compact lengths and tagged fields (KIP-482)
	Client   string // the client.id
	Body     []byte // the request after its header
}

// PartitionFrame is a frame for the leader of a partition.
type PartitionFrame struct {
	Frame
	Topic     string
	Partition int32
}

// GroupFrame is a frame for the coordinator of a group.
type GroupFrame struct {
	Frame
	GroupID string
}

// BrokerFrame is a frame for one broker.
type BrokerFrame struct {
	Frame
	ID int32
}

var (
	_ protocol.RawExchanger  = (*Frame)(nil)
	_ protocol.BrokerMessage = (*PartitionFrame)(nil)
	_ protocol.GroupMessage  = (*GroupFrame)(nil)
	_ protocol.BrokerMessage = (*BrokerFrame)(nil)
)

// ErrCorrupt means that bytes from a broker cannot be read: a wrong checksum, a wrong length or an unknown format.
var ErrCorrupt = errors.New("bytes from Kafka are corrupt")

// maxAnswer bounds the length of an answer in bytes, so that bytes of another protocol, such as a TLS alert,
// are not taken for a length.
const maxAnswer = 1 << 30

// ApiKey and Required make a Frame a protocol.RawExchanger.
func (f *Frame) ApiKey() protocol.ApiKey                 { return f.Key }
func (f *Frame) Required(map[protocol.ApiKey]int16) bool { return true }

// Group routes the frame to the coordinator of the group.
func (f *GroupFrame) Group() string { return f.GroupID }

// Broker routes the frame to its broker.
func (f *BrokerFrame) Broker(c protocol.Cluster) (protocol.Broker, error) {
	if broker, ok := c.Brokers[f.ID]; ok {
		return broker, nil
	}
	return protocol.Broker{ID: -1}, fmt.Errorf("broker %d: %w", f.ID, kafka.BrokerNotAvailable)
}

// Broker routes the frame to the partition's leader.
func (f *PartitionFrame) Broker(c protocol.Cluster) (protocol.Broker, error) {
	none := protocol.Broker{ID: -1}
	topic, ok := c.Topics[f.Topic]
	if !ok {
		return none, protocol.NewErrNoTopic(f.Topic)
	}
	partition, ok := topic.Partitions[f.Partition]
	if !ok {
		return none, protocol.NewErrNoPartition(f.Topic, f.Partition)
	}
	broker, ok := c.Brokers[partition.Leader]
	if !ok {
		return none, protocol.NewErrNoLeader(f.Topic, f.Partition)
	}
	return broker, nil
}

// RawExchange writes the request and reads the whole answer.
func (f *Frame) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	const correlation = 1 // one request at a time on each connection
	b := make([]byte, 4, 64+len(f.Body))
	b = binary.BigEndian.AppendUint16(b, uint16(f.Key))
	b = binary.BigEndian.AppendUint16(b, uint16(f.Version))
	b = binary.BigEndian.AppendUint32(b, correlation)
	b = AppendString(b, f.Client)
	if f.Flexible {
		b = append(b, 0) // no tagged fields in the header
	}
	b = append(b, f.Body...)
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
	c := &Cursor{key: f.Key, b: answer}
	if id := c.Int32(); id != correlation {
		return nil, fmt.Errorf("answer to request %d where %d was expected", id, correlation)
	}
	if f.Flexible {
		c.Tags()
	}
	return c, c.Err
}

// AppendString appends a string with a length of 16 bits.
func AppendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// AppendCompact appends a string with a varint length, the form of strings in flexible versions.
func AppendCompact(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s))+1)
	return append(b, s...)
}

// Cursor reads Kafka's primitive types from a buffer. After the first error, Err stays and every read returns
// zero.
type Cursor struct {
	key protocol.ApiKey // of the request to which b is the answer
	b   []byte
	Err error
}

// NewCursor returns a Cursor at the start of b.
func NewCursor(b []byte) *Cursor { return &Cursor{b: b} }

// Left returns how many bytes are left.
func (c *Cursor) Left() int { return len(c.b) }

// ApiKey makes a Cursor a protocol.Message, as the answer of a frame must be.
func (c *Cursor) ApiKey() protocol.ApiKey { return c.key }

// Take returns the next n bytes, without a copy.
func (c *Cursor) Take(n int) []byte {
	if c.Err != nil {
		return nil
	}
	if n < 0 || n > len(c.b) {
		c.Err = fmt.Errorf("%w: %d bytes expected, %d left", ErrCorrupt, n, len(c.b))
		return nil
	}
	taken := c.b[:n:n]
	c.b = c.b[n:]
	return taken
}

// Int8 reads a number of 8 bits.
func (c *Cursor) Int8() int8 {
	if b := c.Take(1); b != nil {
		return int8(b[0])
	}
	return 0
}

// Int16 reads a number of 16 bits.
func (c *Cursor) Int16() int16 {
	if b := c.Take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

// Int32 reads a number of 32 bits.
func (c *Cursor) Int32() int32 {
	if b := c.Take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

// Int64 reads a number of 64 bits.
func (c *Cursor) Int64() int64 {
	if b := c.Take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// Varint reads a signed (zigzag) number of variable length.
func (c *Cursor) Varint() int64 {
	if c.Err != nil {
		return 0
	}
	v, n := binary.Varint(c.b)
	return int64(c.skipNumber(uint64(v), n))
}

// Uvarint reads an unsigned number of variable length.
func (c *Cursor) Uvarint() uint64 {
	if c.Err != nil {
		return 0
	}
	return c.skipNumber(binary.Uvarint(c.b))
}

func (c *Cursor) skipNumber(v uint64, n int) uint64 {
	if n <= 0 {
		c.Err = fmt.Errorf("%w: no number of variable length", ErrCorrupt)
		return 0
	}
	c.b = c.b[n:]
	return v
}

// Varbytes reads the bytes of a record's field, without a copy. Null is nil; an empty field is not nil.
func (c *Cursor) Varbytes() []byte {
	n := c.Varint()
	if n < 0 || c.Err != nil {
		return nil
	}
	return c.Take(int(min(n, maxAnswer)))
}

// Text reads a string with a length of 16 bits. Null becomes "".
func (c *Cursor) Text() string {
	if n := c.Int16(); n > 0 {
		return string(c.Take(int(n)))
	}
	return ""
}

// Compact reads a string with a varint length. Null becomes "".
func (c *Cursor) Compact() string {
	if n := c.Uvarint(); n > 1 {
		return string(c.Take(int(min(n, maxAnswer)) - 1))
	}
	return ""
}

// Length reads the length of an array. A length above the number of bytes left is an error. Null becomes 0.
func (c *Cursor) Length() int {
	return c.Bounded(int64(c.Int32()))
}

// LengthOf is Length for an array whose elements have at least size bytes each.
func (c *Cursor) LengthOf(size int) int {
	n := c.Length()
	if n > len(c.b)/size {
		c.Err = fmt.Errorf("%w: array of %d elements in %d bytes", ErrCorrupt, n, len(c.b))
		return 0
	}
	return n
}

// CompactLength is Length for flexible versions.
func (c *Cursor) CompactLength() int {
	return c.Bounded(int64(min(c.Uvarint(), maxAnswer)) - 1)
}

// Bounded returns n as the length of an array. A length above the number of bytes left is an error. A negative
// length becomes 0.
func (c *Cursor) Bounded(n int64) int {
	if n > int64(len(c.b)) {
		c.Err = fmt.Errorf("%w: array of %d elements in %d bytes", ErrCorrupt, n, len(c.b))
	}
	if c.Err != nil {
		return 0
	}
	return int(max(n, 0))
}

// Tags skips tagged fields.
func (c *Cursor) Tags() {
	for n := c.Uvarint(); n > 0 && c.Err == nil; n-- {
		c.Uvarint()
		c.Take(int(min(c.Uvarint(), maxAnswer)))
	}
}
