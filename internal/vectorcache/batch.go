package vectorcache

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// maxBatch limits how many bytes are held in memory and written at once.
const maxBatch = 1 << 20

// batch collects records that will be written to a segment.
type batch struct {
	cache    *Cache
	makeRoom bool // remove old segments if there is not enough room
	records  []byte
}

// room makes room in the batch for a record.
func (b *batch) room(length int) error {
	if int64(len(b.records)+length) > min(maxBatch, b.cache.segmentBytes) {
		return b.flush()
	}
	return nil
}

// flush appends the records to the newest segment, or to a new one.
func (b *batch) flush() error {
	if len(b.records) == 0 {
		return nil
	}
	c, size := b.cache, int64(len(b.records))
	if b.makeRoom {
		if err := c.makeRoom(size); err != nil {
			return err
		}
	}
	s, err := c.newest(size)
	if err != nil {
		return err
	}
	offset, before := s.indexed, s.size
	err = s.append(b.records)
	c.bytes += s.size - before
	if err != nil {
		return err
	}
	for rest := b.records; len(rest) > 0; {
		length := recordLength(recordValues(rest))
		c.addToIndex(s, rest[:length], offset)
		offset, rest = offset+int64(length), rest[length:]
	}
	b.records = b.records[:0]
	return nil
}

// newest returns the segment to append to: the newest one while it has room, otherwise a new one.
func (c *Cache) newest(bytes int64) (*segment, error) {
	last := int64(0)
	if n := len(c.segments); n > 0 {
		s := c.segments[n-1]
		if s.indexed == 0 || s.indexed+bytes <= c.segmentBytes {
			return s, nil
		}
		last, _ = strconv.ParseInt(strings.TrimSuffix(s.name, segmentSuffix), 10, 64)
	}
	// A name is never used twice: other processes know the files by their names, and only read what was
	// appended to files that they know.
	name := fmt.Sprintf("%020d%s", max(time.Now().UnixNano(), last+1), segmentSuffix)
	file, err := os.OpenFile(filepath.Join(c.Path, name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	s := &segment{name: name, file: file}
	c.segments = append(c.segments, s)
	return s, nil
}
