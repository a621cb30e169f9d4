package embed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
)

// sketchSize is the number of counters for document frequencies. It is a power of two.
const (
	sketchBits = 20
	sketchSize = 1 << sketchBits
)

// counterIndexes returns the two counters of a feature. The feature's document frequency is at most the
// smaller one (a count-min sketch: Cormode and Muthukrishnan 2005).
func counterIndexes(hash uint64) (int, int) {
	return int(hash >> (64 - sketchBits)), int((hash * 0xd6e8feb86659fd93) >> (64 - sketchBits))
}

// tally counts in how many passages each feature occurs. Several goroutines may add passages at the same
// time, in any order: sums commute.
type tally struct {
	passages atomic.Int64
	counts   []atomic.Uint32
}

func newTally() *tally { return &tally{counts: make([]atomic.Uint32, sketchSize)} }

func (t *tally) add(features []feature) {
	t.passages.Add(1)
	for _, feature := range features {
		first, second := counterIndexes(feature.hash)
		t.counts[first].Add(1)
		if second != first {
			t.counts[second].Add(1)
		}
	}
}

// frequencies holds the document frequencies of a sample, one byte for each counter. A byte is exact up to
// 16; above, it is a logarithm within 3 %, which moves an IDF by 0.03 at most.
type frequencies struct {
	passages int64
	length   float64      // median length of the passages' vectors
	levels   []uint8      // by counter
	idf      [256]float32 // by level
}

func (t *tally) frequencies() *frequencies {
	f := &frequencies{passages: t.passages.Load(), levels: make([]uint8, sketchSize)}
	for i := range t.counts {
		f.levels[i] = level(t.counts[i].Load())
	}
	f.weigh()
	return f
}

// level packs a count into a byte: 0 to 16 stay as they are, then there are sixteen levels for each doubling.
func level(count uint32) uint8 {
	if count <= 16 {
		return uint8(count)
	}
	return uint8(min(255, 16+math.Round(16*math.Log2(float64(count)/16))))
}

// count is the inverse of level.
func count(level uint8) float64 {
	if level <= 16 {
		return float64(level)
	}
	return 16 * math.Exp2(float64(level-16)/16)
}

// weigh computes the IDF of every level: 1 + log((N+1)/(df+1)). Without the 1, common features would count
// for nothing, and ranking gets worse (docs/embedders.md).
func (f *frequencies) weigh() {
	for l := range f.idf {
		f.idf[l] = float32(1 + math.Log(float64(f.passages+1)/(min(count(uint8(l)), float64(f.passages))+1)))
	}
}

// of returns the IDF of a feature.
func (f *frequencies) of(hash uint64) float32 {
	first, second := counterIndexes(hash)
	return f.idf[min(f.levels[first], f.levels[second])]
}

const (
	frequencyMagic  = "hnf2"
	frequencyHeader = len(frequencyMagic) + 16
)

func (f *frequencies) marshal() []byte {
	out := make([]byte, 0, frequencyHeader+len(f.levels))
	out = append(out, frequencyMagic...)
	out = binary.LittleEndian.AppendUint64(out, uint64(f.passages))
	out = binary.LittleEndian.AppendUint64(out, math.Float64bits(f.length))
	return append(out, f.levels...)
}

func unmarshalFrequencies(data []byte) (*frequencies, error) {
	if magic := data[:min(len(data), len(frequencyMagic))]; len(magic) > 0 && string(magic) != frequencyMagic {
		return nil, fmt.Errorf("document frequencies: they begin with %q, want %q: another version of hardneg wrote them", magic, frequencyMagic)
	}
	if len(data) != frequencyHeader+sketchSize {
		return nil, fmt.Errorf("document frequencies: %d bytes, want %d", len(data), frequencyHeader+sketchSize)
	}
	passages := binary.LittleEndian.Uint64(data[len(frequencyMagic):])
	if passages == 0 || passages > math.MaxInt64/2 {
		return nil, errors.New("document frequencies: the number of passages is out of range")
	}
	length := math.Float64frombits(binary.LittleEndian.Uint64(data[len(frequencyMagic)+8:]))
	if !(length >= 0 && length <= math.MaxFloat32) {
		return nil, fmt.Errorf("document frequencies: the median length of the vectors is %v", length)
	}
	f := &frequencies{passages: int64(passages), length: length, levels: append([]uint8(nil), data[frequencyHeader:]...)}
	f.weigh()
	return f, nil
}
