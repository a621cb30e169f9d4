// Package decompress reads the compressed records of Kafka batches piece by piece, in little memory: a batch
// of some kilobytes can hold gigabytes. stream and the embedded Kafka use it.
package decompress

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/segmentio/kafka-go/compress"
)

// Codec numbers are the lowest three bits of a batch's attributes.
const (
	None   = 0
	Gzip   = 1
	Snappy = 2
	LZ4    = 3
	Zstd   = 4
)

var (
	// ErrUnknownCodec means that the number names no codec.
	ErrUnknownCodec = errors.New("unknown compression")
	// ErrTooLarge means that the data can only be decompressed with more memory than the caller allows.
	ErrTooLarge = errors.New("decompressing it takes too much memory")
)

// maxWindow bounds how far back zstd data may refer, in bytes. A decoder keeps that much. Level 22, the highest,
// has windows of 128 MiB.
const maxWindow = 128 << 20

// NewReader returns a reader of what the payload holds. A snappy block cannot be read in pieces: if one holds
// more than block bytes, reading it returns ErrTooLarge. The other codecs take at most 129 MiB (zstd), 8 MiB
// (LZ4) or 64 KiB (gzip), whatever the payload holds. The caller must close the reader.
func NewReader(codec int, payload []byte, block int) (io.ReadCloser, error) {
	switch codec {
	case None:
		return io.NopCloser(bytes.NewReader(payload)), nil
	case Gzip:
		return compress.Gzip.Codec().NewReader(bytes.NewReader(payload)), nil
	case Snappy:
		return newSnappyReader(payload, block), nil
	case LZ4:
		return compress.Lz4.Codec().NewReader(bytes.NewReader(payload)), nil
	case Zstd:
		return newZstdReader(payload)
	}
	return nil, fmt.Errorf("%w %d", ErrUnknownCodec, codec)
}

var zstdDecoders sync.Pool // of *zstd.Decoder

// zstdReader gives its decoder back to the pool when it is closed.
type zstdReader struct{ decoder *zstd.Decoder }

func newZstdReader(payload []byte) (io.ReadCloser, error) {
	d, _ := zstdDecoders.Get().(*zstd.Decoder)
	if d == nil {
		var err error
		if d, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)); err != nil {
			return nil, err
		}
	}
	if err := d.Reset(bytes.NewReader(payload)); err != nil {
		return nil, err
	}
	return zstdReader{d}, nil
}

func (z zstdReader) Read(p []byte) (int, error) {
	n, err := z.decoder.Read(p)
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		err = fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return n, err
}

func (z zstdReader) Close() error {
	if err := z.decoder.Reset(nil); err != nil { // keeps no payload
		return err
	}
	zstdDecoders.Put(z.decoder)
	return nil
}

// xerial begins snappy data in the framing that Java clients write: this and two version numbers, then blocks,
// each after its length. Other clients write one block without a frame.
var xerial = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const xerialHeader = 16 // bytes

type snappyReader struct {
	rest   []byte
	framed bool
	most   int    // bytes of a decompressed block
	buffer []byte // for blocks
	block  []byte // what is left of the current block
}

func newSnappyReader(payload []byte, most int) *snappyReader {
	r := &snappyReader{rest: payload, most: most}
	if len(payload) >= xerialHeader && bytes.HasPrefix(payload, xerial) {
		r.framed, r.rest = true, payload[xerialHeader:]
	}
	return r
}

func (r *snappyReader) Read(p []byte) (int, error) {
	for len(r.block) == 0 {
		if len(r.rest) == 0 {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.block)
	r.block = r.block[n:]
	return n, nil
}

// next decompresses the next block.
func (r *snappyReader) next() error {
	compressed := r.rest
	if r.framed {
		if len(r.rest) < 4 {
			return io.ErrUnexpectedEOF
		}
		n := int64(binary.BigEndian.Uint32(r.rest))
		if n > int64(len(r.rest)-4) {
			return io.ErrUnexpectedEOF
		}
		compressed, r.rest = r.rest[4:4+n], r.rest[4+n:]
	} else {
		r.rest = nil
	}
	size, err := snappy.DecodedLen(compressed)
	if err != nil {
		return err
	}
	if size > r.most {
		return fmt.Errorf("%w: a snappy block of %d bytes, where at most %d are read", ErrTooLarge, size, r.most)
	}
	if cap(r.buffer) < size {
		r.buffer = make([]byte, size)
	}
	r.block, err = snappy.Decode(r.buffer[:cap(r.buffer)], compressed)
	return err
}

func (r *snappyReader) Close() error { return nil }
