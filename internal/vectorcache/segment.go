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

// walk reads the records behind those that are known. It stops at one that is not complete: it is being written, or its
// writer was killed. Bytes that are no record mean damage where no other process can be writing (judge), and else
// nothing yet.
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
	in := bufio.NewReaderSize(io.NewSectionReader(s.file, s.walked, behind), int(min(max(behind, int64(header)), 1<<20)))
	var record []byte
	for s.walked < s.size {
		start, err := in.Peek(header)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		values := recordValues(start)
		if values == 0 {
			s.damaged = s.damaged || judge
			return nil
		}
		length := recordLength(values)
		if s.walked+int64(length) > s.size {
			return nil
		}
		if cap(record) < length {
			record = make([]byte, length)
		}
		record = record[:length]
		if _, err := io.ReadFull(in, record); err == io.ErrUnexpectedEOF {
			return nil // cut off meanwhile
		} else if err != nil {
			return err
		}
		switch {
		case intact(record):
			found(record, s.walked)
		case judge:
			s.damaged = true
		default:
			return nil
		}
		s.walked += int64(length)
	}
	return nil
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
