package qdrant

import (
	"math/bits"
	"slices"

	pb "github.com/qdrant/go-client/qdrant"
)

// bitset is a set of slots.
type bitset []uint64

func newBitset(slots int) bitset { return make(bitset, (slots+63)/64) }

func (b bitset) has(slot uint32) bool { return int(slot/64) < len(b) && b[slot/64]&(1<<(slot%64)) != 0 }
func (b bitset) set(slot uint32)      { b[slot/64] |= 1 << (slot % 64) }
func (b bitset) clear(slot uint32)    { b[slot/64] &^= 1 << (slot % 64) }

func (b bitset) count() int {
	n := 0
	for _, word := range b {
		n += bits.OnesCount64(word)
	}
	return n
}

// each calls f for the slots of the set, in ascending order.
func (b bitset) each(f func(slot uint32)) {
	for i, word := range b {
		for ; word != 0; word &= word - 1 {
			f(uint32(i*64 + bits.TrailingZeros64(word)))
		}
	}
}

// fieldIndex answers conditions on one payload field without reading payloads. A list counts as its elements.
type fieldIndex interface {
	add(slot uint32, values []*pb.Value)
	remove(slot uint32, values []*pb.Value)
	points() int // with at least one value
}

func newFieldIndex(kind pb.PayloadSchemaType) (fieldIndex, error) {
	switch kind {
	case pb.PayloadSchemaType_Keyword:
		return &keywordIndex{postings: make(map[string][]uint32)}, nil
	case pb.PayloadSchemaType_Integer:
		return &column{read: integerOf}, nil
	case pb.PayloadSchemaType_Bool:
		return &column{read: boolOf}, nil
	}
	return nil, unimplemented("payload indexes of type %s", kind)
}

// keywordIndex is an inverted index: the ascending slots of each string.
type keywordIndex struct {
	postings map[string][]uint32
	n        int
}

func keywordsOf(values []*pb.Value) []string {
	var words []string
	for _, value := range values {
		if s, ok := value.GetKind().(*pb.Value_StringValue); ok {
			words = append(words, s.StringValue)
		}
	}
	slices.Sort(words)
	return slices.Compact(words)
}

func (x *keywordIndex) add(slot uint32, values []*pb.Value) {
	words := keywordsOf(values)
	for _, word := range words {
		posting := x.postings[word]
		at, _ := slices.BinarySearch(posting, slot)
		x.postings[word] = slices.Insert(posting, at, slot)
	}
	x.n += min(len(words), 1)
}

func (x *keywordIndex) remove(slot uint32, values []*pb.Value) {
	words := keywordsOf(values)
	for _, word := range words {
		posting := x.postings[word]
		if at, ok := slices.BinarySearch(posting, slot); ok {
			posting = slices.Delete(posting, at, at+1)
		}
		if len(posting) == 0 {
			delete(x.postings, word)
		} else {
			x.postings[word] = posting
		}
	}
	x.n -= min(len(words), 1)
}

func (x *keywordIndex) points() int { return x.n }

// any returns the slots that have one of the words.
func (x *keywordIndex) any(words []string, slots int) bitset {
	set := newBitset(slots)
	for _, word := range words {
		for _, slot := range x.postings[word] {
			set.set(slot)
		}
	}
	return set
}

// column holds the integers of each slot, or the booleans as 0 and 1.
type column struct {
	read   func(*pb.Value) (int64, bool)
	has    bitset
	first  []int64
	others map[uint32][]int64 // of slots with several values
	n      int
}

func integerOf(v *pb.Value) (int64, bool) {
	i, ok := v.GetKind().(*pb.Value_IntegerValue)
	return v.GetIntegerValue(), ok && i != nil
}

func boolOf(v *pb.Value) (int64, bool) {
	b, ok := v.GetKind().(*pb.Value_BoolValue)
	if ok && b.BoolValue {
		return 1, true
	}
	return 0, ok
}

func (x *column) add(slot uint32, values []*pb.Value) {
	for int(slot) >= len(x.first) {
		x.first = append(x.first, 0)
	}
	for len(x.has) <= int(slot/64) {
		x.has = append(x.has, 0)
	}
	for _, value := range values {
		i, ok := x.read(value)
		switch {
		case !ok:
		case !x.has.has(slot):
			x.has.set(slot)
			x.first[slot] = i
			x.n++
		default:
			if x.others == nil {
				x.others = make(map[uint32][]int64)
			}
			x.others[slot] = append(x.others[slot], i)
		}
	}
}

func (x *column) remove(slot uint32, _ []*pb.Value) {
	if x.has.has(slot) {
		x.has.clear(slot)
		x.n--
	}
	delete(x.others, slot)
}

func (x *column) points() int { return x.n }

// any reports whether the slot has a value that accept accepts.
func (x *column) any(slot uint32, accept func(int64) bool) bool {
	return x.has.has(slot) && (accept(x.first[slot]) || len(x.others) > 0 && slices.ContainsFunc(x.others[slot], accept))
}
