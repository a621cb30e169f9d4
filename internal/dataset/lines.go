// Package dataset reads collections of documents and queries: BEIR folders and archives, files with one record on
// each line, and the documentation of the Go standard library. internal/demo and cmd/hardneg use it.
package dataset

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"

	"hardneg/internal/records"
)

// Line is a line of a file, without its line break.
type Line struct {
	Number int // from 1
	Value  []byte
}

// LineError says that a line of a file is refused. Other errors of this package are about whole files.
type LineError struct {
	Path string
	Line int
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.Path, e.Line, e.Err) }

// Unwrap returns the reason.
func (e *LineError) Unwrap() error { return e.Err }

// Lines reads the lines of a file that are not blank. It unpacks gzip. "-" is standard input. A byte order mark at
// the beginning of a line is no part of it: files with one may have been joined. An error ends the sequence.
func Lines(path string) iter.Seq2[Line, error] {
	return linesOf(path, func() (io.ReadCloser, error) {
		if path == "-" {
			return io.NopCloser(os.Stdin), nil
		}
		return os.Open(path)
	})
}

// linesOf is Lines for a file that is opened by a function. The path is for messages.
func linesOf(path string, open func() (io.ReadCloser, error)) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		file, err := open()
		if err != nil {
			yield(Line{}, err)
			return
		}
		defer file.Close()
		reader, err := plain(path, file)
		if err != nil {
			yield(Line{}, fmt.Errorf("%s: %w", path, err))
			return
		}
		for number := 1; ; number++ {
			value, err := reader.ReadBytes('\n')
			if err != nil && err != io.EOF {
				yield(Line{}, fmt.Errorf("%s:%d: %w", path, number, err))
				return
			}
			text := bytes.TrimPrefix(bytes.TrimRight(value, "\r\n"), []byte(records.ByteOrderMark))
			if len(bytes.TrimSpace(text)) > 0 && !yield(Line{number, text}, nil) {
				return
			}
			if err == io.EOF {
				return
			}
		}
	}
}

// otherForms are the first bytes of files that are not lines of text, and what to do about them.
var otherForms = []struct{ start, advice string }{
	{"PAR1\x15", "is a Parquet file, which hardneg does not read: " + parquetAdvice},
	{"PK\x03\x04", "is a zip archive: unpack it first (load beir reads the archive of a whole collection)"},
	{"\x28\xb5\x2f\xfd", "is packed by zstd: unpack it first, or pack it by gzip"},
	{"\xfd7zXZ\x00", "is packed by xz: unpack it first, or pack it by gzip"},
	{"BZh91AY&SY", "is packed by bzip2: unpack it first, or pack it by gzip"},
}

const parquetAdvice = `write it as JSON lines first, for example with Python: pandas.read_parquet("x.parquet").to_json("x.jsonl", orient="records", lines=True)`

// plain returns the text of a file, unpacked if it is packed by gzip. It refuses other forms by name.
func plain(path string, file io.Reader) (*bufio.Reader, error) {
	reader := bufio.NewReaderSize(file, 1<<16)
	start, err := reader.Peek(2)
	if strings.HasSuffix(path, ".gz") || bytes.Equal(start, []byte("\x1f\x8b")) {
		unpacked, err := gzip.NewReader(reader)
		if err != nil {
			return nil, err
		}
		reader = bufio.NewReaderSize(unpacked, 1<<16)
	} else if err != nil && err != io.EOF {
		return nil, err
	}
	start, err = reader.Peek(10)
	if err != nil && err != io.EOF {
		return nil, err
	}
	for _, form := range otherForms {
		if bytes.HasPrefix(start, []byte(form.start)) {
			return nil, errors.New("the file " + form.advice)
		}
	}
	if err := records.CheckEncoding(start); err != nil {
		return nil, fmt.Errorf("the file %w", err)
	}
	return reader, nil
}

// Documents reads a file with one record of the documents topic on each line, see records.ParseDocument. A
// wrong line gives a LineError. If the caller goes on, the sequence continues with the next line.
func Documents(path string) iter.Seq2[records.Document, error] {
	return parsed(path, Lines(path), func(value []byte) (records.Document, error) {
		d, _, err := records.ParseDocument(nil, value)
		return d, err
	})
}

// Queries reads a file with one record of the queries topic on each line, like Documents.
func Queries(path string) iter.Seq2[records.Query, error] {
	return parsed(path, Lines(path), func(value []byte) (records.Query, error) {
		q, _, err := records.ParseQuery(nil, value)
		return q, err
	})
}

// parsed parses each line of a file with a function.
func parsed[T any](path string, lines iter.Seq2[Line, error], parse func([]byte) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for line, err := range lines {
			var record T
			if err == nil {
				if record, err = parse(line.Value); err != nil {
					err = &LineError{path, line.Number, err}
				}
			}
			if !yield(record, err) {
				return
			}
		}
	}
}
