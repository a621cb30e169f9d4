package decompress

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/segmentio/kafka-go/compress"
)

func compressed(t testing.TB, codec int, data []byte) []byte {
	t.Helper()
	if codec == None {
		return data
	}
	var b bytes.Buffer
	w := compress.Compression(codec).Codec().NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func readAll(codec int, payload []byte, block int) ([]byte, error) {
	r, err := NewReader(codec, payload, block)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

func TestRoundTrip(t *testing.T) {
	for _, data := range [][]byte{nil, []byte("a"), bytes.Repeat([]byte("some text "), 50_000)} {
		for codec := None; codec <= Zstd; codec++ {
			for range 2 { // the second time with a decoder of the pool
				got, err := readAll(codec, compressed(t, codec, data), 1<<20)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("codec %d: %d of %d bytes, %v", codec, len(got), len(data), err)
				}
			}
		}
		got, err := readAll(Snappy, snappy.Encode(nil, data), 1<<20) // without a frame, as librdkafka writes it
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("one snappy block: %d of %d bytes, %v", len(got), len(data), err)
		}
	}
	if _, err := NewReader(5, nil, 1); !errors.Is(err, ErrUnknownCodec) {
		t.Errorf("codec 5: %v", err)
	}
}

// What does not say the truth about its size is refused before memory is taken for it.
func TestTooLarge(t *testing.T) {
	window := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 19 << 3, 1, 0, 0} // a zstd frame with a window of 512 MiB
	if _, err := readAll(Zstd, window, 1<<20); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a large window: %v", err)
	}
	single := binary.LittleEndian.AppendUint32([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0}, 1<<30) // one segment of 1 GiB
	if _, err := readAll(Zstd, append(single, 1, 0, 0), 1<<20); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a large segment: %v", err)
	}
	block := binary.AppendUvarint(nil, 3<<30) // a snappy block of 3 GiB
	if _, err := readAll(Snappy, append(block, 0), 1<<20); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a large block: %v", err)
	}
	framed := append(bytes.Clone(xerial), 0, 0, 0, 1, 0, 0, 0, 1)
	if _, err := readAll(Snappy, append(framed, 0xff, 0xff, 0xff, 0xff, 0), 1<<20); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a frame longer than the payload: %v", err)
	}
}

// Reading 128 MiB of zeros takes little memory with each codec.
func TestMemory(t *testing.T) {
	zeros := make([]byte, 8<<20)
	for _, codec := range []int{Gzip, Snappy, LZ4, Zstd} {
		var b bytes.Buffer
		w := compress.Compression(codec).Codec().NewWriter(&b)
		for range 16 {
			if _, err := w.Write(zeros); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := NewReader(codec, b.Bytes(), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, 32<<10))
		runtime.ReadMemStats(&after)
		if err != nil || n != 16*int64(len(zeros)) {
			t.Errorf("codec %d: %d bytes, %v", codec, n, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 32<<20 {
			t.Errorf("codec %d: %d MiB were allocated", codec, took>>20)
		}
		_ = r.Close()
	}
}

func FuzzNewReader(f *testing.F) {
	for codec := None; codec <= Zstd; codec++ {
		f.Add(codec, compressed(f, codec, []byte(strings.Repeat("some text ", 100))))
	}
	big, err := zstd.NewWriter(nil, zstd.WithWindowSize(8<<20))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(Zstd, big.EncodeAll(make([]byte, 1<<20), nil))
	f.Fuzz(func(_ *testing.T, codec int, payload []byte) {
		r, err := NewReader(codec, payload, 1<<20)
		if err != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, r, 16<<20)
		_ = r.Close()
	})
}
