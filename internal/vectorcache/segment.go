package vectorcache

import (
	"bufio"
	"io"
	"os"
)

// segment is a file of records. It only grows, until it is removed as a whole.
type segment struct {
	name    string
	file    *os.File
	size    int64 // of the file, at the last look
	indexed int64 // records before this offset are in the index
	damaged bool
}

// walk reads the records after the known ones. If another process may be writing, walk stops at the first
// bytes that are no complete record.
//
// If no other process can be writing (locked), walk goes on after such bytes. They are damage if a record
// follows, or if they are not the beginning of a record. An incomplete record at the end is not damage: a
// killed writer left it.
func (s *segment) walk(locked bool, found func(record []byte, offset int64)) error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	s.size = info.Size()
	if s.indexed >= s.size {
		s.damaged = s.damaged || locked && s.indexed > s.size
		return nil
	}
	behind := s.size - s.indexed
	in := bufio.NewReaderSize(io.NewSectionReader(s.file, s.indexed, behind), int(min(behind, 1<<20)))
	broken := false // the bytes after the last record are damage
	for at := s.indexed; at < s.size; {
		record, short, err := peek(in, s.size-at)
		if err != nil {
			return err
		}
		step := alignment
		switch {
		case record != nil:
			s.damaged = s.damaged || at > s.indexed
			found(record, at)
			step = len(record)
			s.indexed, broken = at+int64(step), false
		case !locked:
			return nil
		case at == s.indexed:
			broken = !short
		}
		if _, err := in.Discard(step); err != nil && err != io.EOF {
			return err
		}
		at += int64(step)
	}
	s.damaged = s.damaged || broken
	return nil
}

// peek returns the next record, within the rest of the file, or nil if there is none. short reports whether
// the bytes there may be the beginning of a record.
func peek(in *bufio.Reader, rest int64) (record []byte, short bool, err error) {
	start, err := in.Peek(int(min(rest, int64(header))))
	if err == nil && len(start) == header {
		length := recordLength(recordValues(start))
		if length == header {
			return nil, false, nil
		}
		if int64(length) > rest {
			return nil, true, nil
		}
		if record, err = in.Peek(length); err == nil && !intact(record) {
			return nil, false, nil
		}
	}
	if err == io.EOF { // truncated meanwhile
		return nil, true, nil
	}
	return record, record == nil, err
}

// record reads the record at a position. ok is false if the bytes have changed since they were written.
func (s *segment) record(at position, buffer []byte) (record []byte, ok bool, err error) {
	length := recordLength(int(at.values))
	if cap(buffer) < length {
		buffer = make([]byte, length)
	}
	record = buffer[:length]
	if _, err := s.file.ReadAt(record, int64(at.offset)); err != nil {
		return record, false, err
	}
	return record, intact(record), nil
}

// append writes records after the last complete one. The caller holds the directory's lock.
func (s *segment) append(records []byte) error {
	if s.indexed < s.size { // left by a killed writer
		if err := s.file.Truncate(s.indexed); err != nil {
			return err
		}
		s.size = s.indexed
	}
	if _, err := s.file.WriteAt(records, s.indexed); err != nil {
		_ = s.file.Truncate(s.indexed) // if this fails, the next append truncates
		return err
	}
	s.indexed += int64(len(records))
	s.size = s.indexed
	return nil
}
