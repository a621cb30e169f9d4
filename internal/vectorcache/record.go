package vectorcache

import (
	"bytes"
	"encoding/binary"
	"math"

	"github.com/cespare/xxhash/v2"
)

// A record, little endian: magic, XXH64 of everything after it, number of values, key, values as float32.
const (
	magic   = 0x31766e68 // "hnv1": a change of the format changes it
	sumAt   = 4
	countAt = 12
	keyAt   = 16
	header  = keyAt + len(Key{})

	alignment = 4 // record lengths are multiples of it

	maxValues = 1 << 16
)

func recordLength(values int) int { return header + 4*values }

// appendRecord appends the record of a vector.
func appendRecord(to []byte, key Key, vector []float32) []byte {
	start := len(to)
	to = binary.LittleEndian.AppendUint32(to, magic)
	to = binary.LittleEndian.AppendUint64(to, 0)
	to = binary.LittleEndian.AppendUint32(to, uint32(len(vector)))
	to = append(to, key[:]...)
	for _, value := range vector {
		to = binary.LittleEndian.AppendUint32(to, math.Float32bits(value))
	}
	binary.LittleEndian.PutUint64(to[start+sumAt:], xxhash.Sum64(to[start+countAt:]))
	return to
}

// recordValues returns the number of values that a header announces, or 0 if it is not a header.
func recordValues(header []byte) int {
	count := binary.LittleEndian.Uint32(header[countAt:])
	if binary.LittleEndian.Uint32(header) != magic || count > maxValues {
		return 0
	}
	return int(count)
}

// intact reports whether a record is as it was written, with the length that its header announces.
func intact(record []byte) bool {
	return recordLength(recordValues(record)) == len(record) && binary.LittleEndian.Uint64(record[sumAt:]) == xxhash.Sum64(record[countAt:])
}

func recordKey(record []byte) Key { return Key(record[keyAt:header]) }

func hasKey(record []byte, key Key) bool { return bytes.Equal(record[keyAt:header], key[:]) }

// recordVector decodes an intact record.
func recordVector(record []byte) []float32 {
	vector := make([]float32, recordValues(record))
	for i := range vector {
		vector[i] = math.Float32frombits(binary.LittleEndian.Uint32(record[header+4*i:]))
	}
	return vector
}
