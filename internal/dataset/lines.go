// Package dataset reads collections of documents and queries: BEIR folders, files with one record on each
// line, and the documentation of the Go standard library. internal/demo and cmd/hardneg use it.
package dataset

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

// Lines reads the lines of a file that are not blank. It unpacks a file whose name ends in .gz. "-" is
// standard input. An error ends the sequence.
func Lines(path string) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		file, err := open(path)
		if err != nil {
			yield(Line{}, err)
			return
		}
		defer file.Close()
		reader := bufio.NewReaderSize(file, 1<<16)
		for number := 1; ; number++ {
			value, err := reader.ReadBytes('\n')
			if err != nil && err != io.EOF {
				yield(Line{}, fmt.Errorf("%s:%d: %w", path, number, err))
				return
			}
			if text := bytes.TrimRight(value, "\r\n"); len(bytes.TrimSpace(text)) > 0 && !yield(Line{number, text}, nil) {
				return
			}
			if err == io.EOF {
				return
			}
		}
	}
}

// unpacked closes a gzip reader and the file below it.
type unpacked struct {
	*gzip.Reader
	file *os.File
}

func (u unpacked) Close() error { return errors.Join(u.Reader.Close(), u.file.Close()) }

func open(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(os.Stdin), nil
	}
	file, err := os.Open(path)
	if err != nil || !strings.HasSuffix(path, ".gz") {
		return file, err
	}
	reader, err := gzip.NewReader(file)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return unpacked{reader, file}, nil
}

// plainOrPacked returns path, or path.gz if only that exists.
func plainOrPacked(path string) (string, error) {
	for _, name := range []string{path, path + ".gz"} {
		if _, err := os.Stat(name); err == nil {
			return name, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("neither %s nor %s.gz exists", path, path)
}

// Documents reads a file with one record of the documents topic on each line, see records.ParseDocument. A
// wrong line gives an error with file and line. If the caller goes on, the sequence continues with the next
// line.
func Documents(path string) iter.Seq2[records.Document, error] {
	return parsed(path, func(value []byte) (records.Document, error) {
		d, _, err := records.ParseDocument(nil, value)
		return d, err
	})
}

// Queries reads a file with one record of the queries topic on each line, like Documents.
func Queries(path string) iter.Seq2[records.Query, error] {
	return parsed(path, func(value []byte) (records.Query, error) {
		q, _, err := records.ParseQuery(nil, value)
		return q, err
	})
}

// parsed parses each line of a file with a function.
func parsed[T any](path string, parse func([]byte) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for line, err := range Lines(path) {
			var record T
			if err == nil {
				if record, err = parse(line.Value); err != nil {
					err = fmt.Errorf("%s:%d: %w", path, line.Number, err)
				}
			}
			if !yield(record, err) {
				return
			}
		}
	}
}
