package reduce

import (
	"bytes"
	"context"
	"encoding/binary"
	"reflect"
	"runtime"
	"testing"
)

func TestReducerCodec(t *testing.T) {
	fitted, err := Fit(context.Background(), sampleLike(50, 20, 0.5, 1), Options{Variance: 0.9, Normalize: true, SubtractMean: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*Reducer{fitted, Identity(7)} {
		b, err := r.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var back Reducer
		if err := back.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(*r, back) {
			t.Errorf("read back %+v, wrote %+v", back, *r)
		}
		for _, broken := range [][]byte{nil, b[:len(b)-1], append(bytes.Clone(b), 0), append([]byte{2}, b[1:]...)} {
			if back.UnmarshalBinary(broken) == nil {
				t.Errorf("%d of %d bytes are accepted", len(broken), len(b))
			}
		}
	}
	b, _ := fitted.MarshalBinary()
	copy(b[len(b)-4:], []byte{0, 0, 0x80, 0x7f}) // infinity
	if new(Reducer).UnmarshalBinary(b) == nil {
		t.Error("an infinite component is accepted")
	}
}

// A header of 24 bytes that promises a huge reducer takes no memory, when it is read and when it is written.
func TestReducerHugeHeader(t *testing.T) {
	for _, d := range []uint32{1 << 16, 1 << 24, 1<<24 + 1, 1 << 31, 1<<32 - 1} {
		for _, k := range []uint32{0, 1, 1 << 16, d} {
			b := make([]byte, reducerHeader)
			for i, v := range []uint32{reducerVersion, flagNormalize, d, k} {
				binary.LittleEndian.PutUint32(b[4*i:], v)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			var r Reducer
			err := r.UnmarshalBinary(b)
			if want := k == 0 && d <= 1<<24; (err == nil) != want {
				t.Errorf("%d × %d: %v", k, d, err)
			}
			if err == nil {
				if back, err := r.MarshalBinary(); err != nil || !bytes.Equal(b, back) {
					t.Errorf("%d × %d came back as %x, %v", k, d, back, err)
				}
			}
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
				t.Errorf("%d × %d: %d MiB were allocated", k, d, took>>20)
			}
		}
	}
}

func FuzzReducerUnmarshal(f *testing.F) {
	fitted, err := Fit(context.Background(), sampleLike(20, 6, 0.5, 1), Options{Variance: 0.9})
	if err != nil {
		f.Fatal(err)
	}
	for _, r := range []*Reducer{fitted, Identity(3)} {
		b, _ := r.MarshalBinary()
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Reducer
		if r.UnmarshalBinary(b) != nil {
			return
		}
		back, err := r.MarshalBinary()
		if err != nil || !bytes.Equal(b, back) {
			t.Fatalf("%x was read and written as %x (%v)", b, back, err)
		}
		if r.Dimensions > 1<<12 {
			return
		}
		in, out := NewMatrix(2, r.Dimensions), NewMatrix(2, r.Out())
		in.Data[0] = 1
		if _, err := r.Project(in, out); err != nil {
			t.Fatal(err)
		}
	})
}
