package vectorcache

import (
	"bufio"
	"io"
	"os"
)

// segment is a file of records. It only ever grows, until it goes as a whole.
type segment struct {
	name    string
	file    *os.File
	size    int64 // of the file, as last seen
	walked  int64 // up to here its records are in the index
	damaged bool
}

// walk reads the records behind those that are known. Where another process may be writing it stops at the first bytes
// that are no complete record. Where none can be (judge) it goes on behind them: what has a record behind it, or is
// no record cut short, is damage; a record cut short at the end is what a killed writer left.
func (s *segment) walk(judge bool, found func(record []byte, offset int64)) error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	s.size = info.Size()
	if s.walked >= s.size {
		s.damaged = s.damaged || judge && s.walked > s.size
		return nil
	}
	behind := s.size - s.walked
	in := bufio.NewReaderSize(io.NewSectionReader(s.file, s.walked, behind), int(min(behind, 1<<20)))
	broken := false // what lies behind the last record
	for at := s.walked; at < s.size; {
		record, short, err := peek(in, s.size-at)
		if err != nil {
			return err
		}
		step := alignment
		switch {
		case record != nil:
			s.damaged = s.damaged || at > s.walked
			found(record, at)
			step = len(record)
			s.walked, broken = at+int64(step), false
		case !judge:
			return nil
		case at == s.walked:
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

// peek returns the record that is next, of so many bytes; nil where there is none, and whether what is there may be the
// beginning of one.
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
	if err == io.EOF { // cut off meanwhile
		return nil, true, nil
	}
	return record, record == nil, err
}

// record reads the record at a place. It is false where the bytes are not what was written.
func (s *segment) record(at place, buffer []byte) (record []byte, ok bool, err error) {
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

// append writes records behind the last complete one. The directory is locked.
func (s *segment) append(records []byte) error {
	if s.walked < s.size { // what a killed writer left
		if err := s.file.Truncate(s.walked); err != nil {
			return err
		}
		s.size = s.walked
	}
	if _, err := s.file.WriteAt(records, s.walked); err != nil {
		_ = s.file.Truncate(s.walked) // else the next one does
		return err
	}
	s.walked += int64(len(records))
	s.size = s.walked
	return nil
}
