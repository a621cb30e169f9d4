package stream

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"hardneg/stream/decompress"
	"hardneg/stream/wire"
)

// DefaultMaxFetched is the default of Config.MaxFetched, in bytes.
const DefaultMaxFetched = 64 << 20

// maxFetches bounds how often a batch is fetched again because its records do not fit into one fetch. Each time it
// is decompressed from its beginning.
const maxFetches = 16

// Estimates of the memory that a record takes beside its bytes, and that a header takes.
const (
	recordOverhead = 128
	headerOverhead = 40
)

// maxKeyOfRefused bounds the key of a refused record, in bytes. A longer one is left out.
const maxKeyOfRefused = 4096

// ErrRefused means that a record, or the rest of a batch, cannot be read however often it is fetched: it is larger
// than Config.MaxFetched, or its bytes are no record although the checksum of the batch is right.
var ErrRefused = errors.New("record is refused")

// Refused is a record that Fetch could not read, or a stretch of them.
type Refused struct {
	// Record is the first record of the stretch. It has its topic, partition and offset. If the record itself could
	// be found it also has its time, and its key if that is at most 4 KiB. The value is empty and not null, so that
	// nobody takes it for a deletion.
	Record Record
	Last   int64 // the last offset of the stretch
	Reason error // an ErrRefused
}

// unpacker reads the records of batches in pieces: a batch of some kilobytes can hold gigabytes.
type unpacker struct {
	topic     string
	partition int32
	most      int64 // memory for the records of one fetch
	used      int64
	in        *bufio.Reader
	buffer    []byte // for one record
}

// room reports whether cost fits into the fetch, and uses it up. The first record always fits, so that each fetch
// brings at least one.
func (u *unpacker) room(cost int64) bool {
	if u.used > 0 && u.used+cost > u.most {
		return false
	}
	u.used += cost
	return true
}

// unpack reads the records of a batch from offset f.Next on, and appends them to f. When the fetch is full it
// stops and returns false. f.Next is the offset of the first record that is left then.
func (u *unpacker) unpack(b recordBatch, f *Fetched) (whole bool, err error) {
	payload, err := decompress.NewReader(b.codec(), b[atRecords:], int(u.most))
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	defer payload.Close()
	if u.in == nil {
		u.in = bufio.NewReaderSize(nil, 32<<10)
	}
	u.in.Reset(&failing{r: payload})
	next, last := b.baseOffset(), b.lastOffset() // of the offsets that the remaining records can have
	read := int64(0)                             // memory for all records so far, also if they are below f.Next
	for n := binary.BigEndian.Uint32(b[atCount:]); n > 0; n-- {
		head, err := u.head(b)
		if err == nil && (head.Offset < next || head.Offset > last) {
			err = fmt.Errorf("a record has offset %d in a batch of %d to %d", head.Offset, b.baseOffset(), last)
		}
		if err != nil { // nothing says where the next record begins
			return u.refuse(f, Record{Offset: next, Time: b.time(0)}, last, err), nil
		}
		read += head.size + recordOverhead
		if n > 1 && read > maxFetches*u.most {
			err := fmt.Errorf("the records of the batch take more than %d bytes", maxFetches*u.most)
			return u.refuse(f, Record{Offset: head.Offset, Time: head.Time}, last, err), nil
		}
		next = head.Offset + 1
		if head.Offset < f.Next {
			_, _ = u.in.Discard(int(head.size)) // if it fails, so does reading the next head
			continue
		}
		if head.size > u.most {
			reason := fmt.Errorf("it has %d bytes, where at most %d are read", head.size, u.most)
			if !u.refuse(f, head.Record, head.Offset, reason) {
				return false, nil
			}
			if n == 1 {
				return true, nil // what nobody reads is not decompressed
			}
			_, _ = u.in.Discard(int(head.size))
			continue
		}
		r, cost, err := u.body(head)
		if err != nil { // of this record alone, or the next head fails too
			if !u.refuse(f, head.Record, head.Offset, err) {
				return false, nil
			}
			continue
		}
		if !u.room(cost) {
			f.Next = r.Offset
			return false, nil
		}
		f.Records = append(f.Records, r)
	}
	return true, nil
}

// refuse appends the records from r to offset last to f.Refused. It returns false if the fetch is full.
func (u *unpacker) refuse(f *Fetched, r Record, last int64, reason error) bool {
	if r.Offset = max(r.Offset, f.Next); r.Offset > last {
		return true // passed over before, or the batch says that it has more records than offsets
	}
	if !u.room(recordOverhead + int64(len(r.Key))) {
		f.Next = r.Offset
		return false
	}
	r.Topic, r.Partition, r.Value = u.topic, u.partition, []byte{}
	what := ErrRefused
	if last > r.Offset {
		what = fmt.Errorf("%w, with all up to offset %d", ErrRefused, last)
	}
	f.Refused = append(f.Refused, Refused{Record: r, Last: last, Reason: fmt.Errorf("%w: %w", what, reason)})
	return true
}

// recordHead is a record without its value and headers.
type recordHead struct {
	Record
	size int64 // of the record, after its length
}

// head reads the length of the next record and looks at its beginning.
func (u *unpacker) head(b recordBatch) (recordHead, error) {
	h := recordHead{Record: Record{Topic: u.topic, Partition: u.partition}}
	var err error
	if h.size, err = binary.ReadVarint(u.in); err != nil {
		return h, unexpected(err)
	}
	if h.size < 0 || h.size > math.MaxInt32 {
		return h, fmt.Errorf("a record of %d bytes", h.size)
	}
	const numbers = 1 + 3*binary.MaxVarintLen64 // attributes; time, offset and length of the key
	start, err := u.in.Peek(int(min(h.size, numbers+maxKeyOfRefused)))
	if err != nil {
		return h, unexpected(err)
	}
	c := wire.NewCursor(start)
	c.Int8() // attributes, unused
	h.Time, h.Offset = b.time(c.Varint()), b.baseOffset()+c.Varint()
	if c.Err != nil {
		return h, c.Err
	}
	if h.size > u.most { // else body reads the key
		h.Key = bytes.Clone(c.Varbytes()) // nil if it is not whole
	}
	return h, nil
}

// body reads the record that head looked at. It copies the fields, so that a caller who keeps a record does not
// keep its whole batch in memory.
func (u *unpacker) body(h recordHead) (r Record, cost int64, err error) {
	if int64(cap(u.buffer)) < h.size {
		u.buffer = make([]byte, h.size)
	}
	raw := u.buffer[:h.size]
	if _, err := io.ReadFull(u.in, raw); err != nil {
		return r, 0, unexpected(err)
	}
	c := wire.NewCursor(raw)
	c.Int8()
	c.Varint()
	c.Varint()
	r = h.Record
	r.Key, r.Value = bytes.Clone(c.Varbytes()), bytes.Clone(c.Varbytes())
	n := c.Varint()
	cost = h.size + recordOverhead + max(n, 0)*headerOverhead
	if n > 0 && c.Bounded(n) > 0 {
		if cost > u.most && n > maxHeaders {
			return r, 0, fmt.Errorf("it has %d headers, which take more than %d bytes", n, u.most)
		}
		r.Headers = make([]Header, 0, n)
		for ; n > 0 && c.Err == nil; n-- {
			r.Headers = append(r.Headers, Header{Key: string(c.Varbytes()), Value: bytes.Clone(c.Varbytes())})
		}
	}
	if c.Err == nil && c.Left() != 0 {
		c.Err = fmt.Errorf("%d bytes after its headers", c.Left())
	}
	return r, cost, c.Err
}

// maxHeaders is a number of headers that takes little memory.
const maxHeaders = 1000

// time returns the time of a record: a batch says the time of its first record, or that of its own arrival.
func (b recordBatch) time(delta int64) time.Time {
	if b.attributes()&attrLogAppendTime != 0 {
		return time.UnixMilli(int64(binary.BigEndian.Uint64(b[atMaxTime:])))
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b[atFirstTime:])) + delta)
}

// failing returns the first error again and again. bufio.Reader forgets it, and what a decompressor returns after
// an error may be anything.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(p []byte) (n int, err error) {
	if f.err != nil {
		return 0, f.err
	}
	n, f.err = f.r.Read(p)
	return n, f.err
}

// unexpected turns the end of a batch that should have more into an error that says so.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
