package mining

import (
	"encoding/binary"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// Permutations is the number of elements of a MinHash.
const Permutations = 128

const shingleWords = 5

// MinHash is a signature of a text: nil, or Permutations elements. Two signatures give an estimate of the
// Jaccard similarity of the texts' shingles, which are runs of five words (Broder, "On the resemblance and
// containment of documents", 1997). Each element keeps 16 bits of a minimum (Li and König, "b-Bit Minwise
// Hashing", 2010).
//
// The specification, with all arithmetic modulo 2^64:
//
//   - mix(z) is the finaliser of SplitMix64: z ^= z>>30; z *= 0xbf58476d1ce4e5b9; z ^= z>>27;
//     z *= 0x94d049bb133111eb; z ^= z>>31.
//   - A word is a maximal run of Unicode letters, marks and numbers (categories L, M, N). But each rune of
//     the scripts Han, Hiragana and Katakana is a word alone, for they are written without spaces. A byte
//     that is not UTF-8 separates words. Each rune is lower-cased by its simple mapping.
//   - w, the hash of a word, is 64-bit FNV-1a of its UTF-8 bytes.
//   - x, the hash of a shingle of words w1…w5, begins with x = 0; then x = mix(x + w) for each word in turn.
//     A text of fewer than five words has one shingle of all its words. A text without words has no signature
//     (nil).
//   - SplitMix64, seeded with 0, gives a_0, b_0, a_1, b_1, … in turn: its i-th output, from 1, is
//     mix(i·0x9e3779b97f4a7c15). Then the lowest bit of each a_i is set.
//   - Element i of the signature is the low 16 bits of mix(m), where m is the minimum of a_i·x + b_i over all
//     shingles. Without mix, the low 16 bits of m would depend only on the low 16 bits of x, for each i
//     alike. A short text has only one shingle, so one pair of short texts in 65,536 would count as copies.
//
// The share of equal elements estimates the Jaccard similarity, with a standard error of 0.045 at most.
type MinHash []uint16

type permutation struct{ a, b uint64 }

var permutations = func() (p [Permutations]permutation) {
	var state uint64
	next := func() uint64 {
		state += 0x9e3779b97f4a7c15
		return mix(state)
	}
	for i := range p {
		p[i].a = next() | 1
		p[i].b = next()
	}
	return p
}()

func mix(z uint64) uint64 {
	z ^= z >> 30
	z *= 0xbf58476d1ce4e5b9
	z ^= z >> 27
	z *= 0x94d049bb133111eb
	return z ^ z>>31
}

// NewMinHash computes the signature of a text. For a document this is its title, a newline and its text. The
// signature is nil if the text has no word.
func NewMinHash(text string) MinHash {
	var minima [Permutations]uint64
	for i := range minima {
		minima[i] = ^uint64(0)
	}
	var window [shingleWords]uint64 // the hashes of the last five words, a ring
	words := 0
	eachWord(text, func(w uint64) {
		window[words%shingleWords] = w
		words++
		if words >= shingleWords {
			lower(&minima, shingle(&window, words%shingleWords, shingleWords))
		}
	})
	if words == 0 {
		return nil
	}
	if words < shingleWords {
		lower(&minima, shingle(&window, 0, words))
	}
	h := make(MinHash, Permutations)
	for i, m := range minima {
		h[i] = uint16(mix(m))
	}
	return h
}

func shingle(window *[shingleWords]uint64, first, n int) uint64 {
	var x uint64
	for range n {
		x = mix(x + window[first])
		if first++; first == shingleWords {
			first = 0
		}
	}
	return x
}

func lower(minima *[Permutations]uint64, x uint64) {
	for i := range minima {
		p := &permutations[i]
		minima[i] = min(minima[i], p.a*x+p.b)
	}
}

const (
	fnvOffset = 0xcbf29ce484222325
	fnvPrime  = 0x100000001b3
)

// eachWord yields the hash of each word of the text in order.
func eachWord(text string, yield func(uint64)) {
	h, open := uint64(fnvOffset), false
	end := func() {
		if open {
			yield(h)
			h, open = fnvOffset, false
		}
	}
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf { // most texts are mostly ASCII
			i++
			switch {
			case 'A' <= c && c <= 'Z':
				c += 'a' - 'A'
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			default:
				end()
				continue
			}
			h, open = (h^uint64(c))*fnvPrime, true
			continue
		}
		r, size := utf8.DecodeRuneInString(text[i:])
		i += size
		if (r == utf8.RuneError && size == 1) || !unicode.In(r, unicode.L, unicode.M, unicode.N) {
			end()
			continue
		}
		alone := unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana)
		if alone {
			end()
		}
		var buffer [utf8.UTFMax]byte
		for _, b := range buffer[:utf8.EncodeRune(buffer[:], unicode.ToLower(r))] {
			h = (h ^ uint64(b)) * fnvPrime
		}
		open = true
		if alone {
			end()
		}
	}
	end()
}

// Jaccard estimates the Jaccard similarity of the shingles of two texts, from 0 to 1. It is 0 if one of them
// has no signature.
func (a MinHash) Jaccard(b MinHash) float64 {
	if len(a) != Permutations || len(b) != Permutations {
		return 0
	}
	equal := 0
	for i, v := range a {
		if v == b[i] {
			equal++
		}
	}
	return float64(equal) / Permutations
}

// Bytes encodes the signature: two bytes for each element, little endian. A nil signature has no bytes.
func (a MinHash) Bytes() []byte {
	b := make([]byte, 0, 2*len(a))
	for _, v := range a {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	return b
}

// MinHashFromBytes decodes what Bytes gave. No bytes are a nil signature; any other length than
// 2·Permutations is an error.
func MinHashFromBytes(b []byte) (MinHash, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) != 2*Permutations {
		return nil, fmt.Errorf("mining: a MinHash has %d bytes, not %d", 2*Permutations, len(b))
	}
	h := make(MinHash, Permutations)
	for i := range h {
		h[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return h, nil
}
