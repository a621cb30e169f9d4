package reduce

import (
	"encoding/binary"
	"fmt"
	"math"

	"hardneg/mining"
)

const (
	reducerVersion = 1
	reducerHeader  = 4 + 4 + 4 + 4 + 8

	flagSubtractMean = 1 << 0
	flagNormalize    = 1 << 1

	// maxDimensions bounds the sizes in a header, which nothing else bounds for the identity: it has no bytes
	// that grow with d. Up to here, 4·k·d does not overflow.
	maxDimensions = 1 << 24
)

// MarshalBinary encodes the reducer. All numbers are little endian: the version and the flags (uint32; 1:
// subtract the mean, 2: normalise), d and k (uint32; k = 0 for the identity), and the total variance
// (float64). Unless k = 0, the mean (d × float32), the shares (k × float64) and the components (k × d ×
// float32) follow. It is an error if the sizes of the reducer's fields do not fit together.
func (r *Reducer) MarshalBinary() ([]byte, error) {
	k, d := r.Components.Rows, r.Dimensions
	if k > 0 && (len(r.Mean) != d || len(r.Share) != k || r.Components.Cols != d || len(r.Components.Data) != k*d) {
		return nil, fmt.Errorf("reduce: the parts of the reducer do not fit together (%d × %d)", k, d)
	}
	var flags uint32
	if r.SubtractMean {
		flags |= flagSubtractMean
	}
	if r.Normalize {
		flags |= flagNormalize
	}
	size := reducerHeader
	if k > 0 {
		size += 4*d + 8*k + 4*k*d
	}
	b := make([]byte, 0, size)
	for _, v := range []uint32{reducerVersion, flags, uint32(d), uint32(k)} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(r.Total))
	if k == 0 {
		return b, nil
	}
	b = appendFloats(b, r.Mean)
	for _, v := range r.Share {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
	}
	return appendFloats(b, r.Components.Data), nil
}

func appendFloats(b []byte, values []float32) []byte {
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// UnmarshalBinary decodes what MarshalBinary gave. Another version, more than 2²⁴ dimensions, a length that the
// header does not say, and numbers that are not finite (mining.ErrNotFinite) are errors. The reducer then stays as it is.
func (r *Reducer) UnmarshalBinary(b []byte) error {
	if len(b) < reducerHeader {
		return fmt.Errorf("reduce: a reducer has at least %d bytes, not %d", reducerHeader, len(b))
	}
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) }
	if word(0) != reducerVersion {
		return fmt.Errorf("reduce: reducer of version %d; this program reads version %d", word(0), reducerVersion)
	}
	flags, d, k := word(1), uint64(word(2)), uint64(word(3))
	if flags&^(flagSubtractMean|flagNormalize) != 0 || d == 0 || d > maxDimensions || k > d {
		return fmt.Errorf("reduce: reducer of %d × %d with flags %#x", k, d, flags)
	}
	size := uint64(reducerHeader)
	if k > 0 {
		size += 4*d + 8*k + 4*k*d
	}
	if uint64(len(b)) != size {
		return fmt.Errorf("reduce: reducer of %d × %d has %d bytes, not %d", k, d, size, len(b))
	}
	out := Reducer{
		Dimensions: int(d), Total: math.Float64frombits(binary.LittleEndian.Uint64(b[16:])),
		SubtractMean: flags&flagSubtractMean != 0, Normalize: flags&flagNormalize != 0,
	}
	sum := out.Total - out.Total // 0, but NaN as soon as one value is not finite
	if k > 0 {
		rest := b[reducerHeader:]
		floats := func(n uint64) []float32 {
			v := make([]float32, n)
			for i := range v {
				v[i] = math.Float32frombits(binary.LittleEndian.Uint32(rest[4*i:]))
				sum += float64(v[i] - v[i])
			}
			rest = rest[4*n:]
			return v
		}
		out.Mean = floats(d)
		out.Share = make([]float64, k)
		for i := range out.Share {
			out.Share[i] = math.Float64frombits(binary.LittleEndian.Uint64(rest[8*i:]))
			sum += out.Share[i] - out.Share[i]
		}
		rest = rest[8*k:]
		out.Components = Matrix{int(k), int(d), floats(k * d)}
	}
	if sum != 0 {
		return fmt.Errorf("reduce: reducer: %w", mining.ErrNotFinite)
	}
	out.onAxes = out.meanOnAxes()
	*r = out
	return nil
}
