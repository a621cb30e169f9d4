package embed

import "math/bits"

// feature is a hashed word or n-gram, with the number of times that it occurs in a text.
type feature struct {
	hash  uint64
	count uint32
	start uint32 // where the word's characters start in the counter's arena
	size  uint32
	pair  bool // two neighbouring words
}

// counter counts the features of one text at a time without allocating. It is an open-addressing hash table
// over a list in order of first appearance. Both are reused for the next text.
type counter struct {
	list  []feature
	slots []uint32 // index into list plus one; 0 means empty; the length is a power of two
	word  []rune   // buffer of the tokeniser
	arena []rune   // characters of the distinct words
}

// The table starts with one slot for each byte of the text, within these bounds.
const (
	fewestSlots = 1 << 8
	mostSlots   = 1 << 14
)

// reset forgets the previous text and sizes the table for this one, so that a short query does not have to
// clear the large table of a book.
func (c *counter) reset(text string) {
	c.empty(min(max(fewestSlots, 1<<bits.Len(uint(len(text)))), mostSlots))
	c.list, c.arena = c.list[:0], c.arena[:0]
}

// empty gives the table the given number of slots, all empty.
func (c *counter) empty(slots int) {
	if slots > cap(c.slots) {
		c.slots = make([]uint32, slots)
		return
	}
	c.slots = c.slots[:slots]
	clear(c.slots)
}

// add counts a feature n times and reports whether it was new. A new feature is the last of the list.
func (c *counter) add(hash uint64, n uint32) (added bool) {
	mask := uint64(len(c.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		at := c.slots[i]
		if at == 0 {
			c.list = append(c.list, feature{hash: hash, count: n})
			c.slots[i] = uint32(len(c.list))
			if 2*len(c.list) > len(c.slots) {
				c.grow()
			}
			return true
		}
		if c.list[at-1].hash == hash {
			c.list[at-1].count += n
			return false
		}
	}
}

func (c *counter) grow() {
	c.empty(2 * len(c.slots))
	mask := uint64(len(c.slots) - 1)
	for at, feature := range c.list {
		i := feature.hash & mask
		for c.slots[i] != 0 {
			i = (i + 1) & mask
		}
		c.slots[i] = uint32(at + 1)
	}
}

// countWords counts the text's words and pairs of neighbouring words, and returns them. The list is valid
// until the counter's next text.
func countWords(c *counter, text string) []feature {
	c.reset(text)
	var before uint64
	c.word = words(text, c.word, func(word []rune) {
		hash := hashWord(word)
		c.add(hash, 1)
		if before != 0 && c.add(mix(bits.RotateLeft64(before, 23)^hash), 1) {
			c.list[len(c.list)-1].pair = true
		}
		before = hash
	})
	return c.list
}

// The lengths of character n-grams. The marks at the two ends of a word count as characters.
const (
	shortest = 3
	longest  = 5
	mark     = ' ' // stands for the start and the end of a word; no word contains it
)

// countCharacters counts the n-grams of 3 to 5 characters within the text's words, and returns them. The list
// is valid until the counter's next text.
//
// It builds the n-grams of each distinct word only once. That halves the work on prose.
func countCharacters(c *counter, text string) []feature {
	c.reset(text)
	c.word = words(text, c.word, func(word []rune) {
		if c.add(hashWord(word), 1) {
			last := &c.list[len(c.list)-1]
			last.start, last.size = uint32(len(c.arena)), uint32(len(word)+2)
			c.arena = append(append(append(c.arena, mark), word...), mark)
		}
	})
	distinct := len(c.list)
	c.expand(distinct)
	return c.list[distinct:]
}

// expand adds the n-grams of the first distinct words of the list. Hashes of words and of n-grams do not
// collide by design: n-grams start from another seed.
func (c *counter) expand(distinct int) {
	for at := range distinct {
		word := c.list[at]
		marked := c.arena[word.start : word.start+word.size]
		for start := 0; start+shortest <= len(marked); start++ {
			hash := uint64(gramSeed)
			for n, r := range marked[start:min(start+longest, len(marked))] {
				hash = (hash ^ uint64(r)) * multiplier
				if n+1 >= shortest {
					c.add(mix(hash), word.count)
				}
			}
		}
	}
}

const (
	wordSeed   = 0x9ae16a3b2f90404f
	gramSeed   = 0xc949d7c7509e6557
	multiplier = 0x9fb21c651e98df25
)

func hashWord(word []rune) uint64 {
	hash := uint64(wordSeed)
	for _, r := range word {
		hash = (hash ^ uint64(r)) * multiplier
	}
	return mix(hash)
}

// mix spreads a hash over all 64 bits (the finaliser of MurmurHash3). Only zero gives zero.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
