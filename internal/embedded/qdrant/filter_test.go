package qdrant

import (
	"fmt"
	"slices"
	"testing"

	pb "github.com/qdrant/go-client/qdrant"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// model is a payload as the oracle sees it: the elements of each field.
type model struct {
	id    uint64
	words []string
	ints  []int64
	flag  *bool
}

// oracle evaluates a filter over model, as Qdrant's documentation defines it.
type oracle struct {
	filter *pb.Condition
	match  func(model) bool
}

func words() *rapid.Generator[[]string] {
	return rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 0, 3)
}

func leaf(t *rapid.T) oracle {
	set := words().Draw(t, "words")
	word, i, flag := rapid.SampledFrom([]string{"a", "b", "e"}).Draw(t, "word"), rapid.Int64Range(-3, 3).Draw(t, "i"), rapid.Bool().Draw(t, "flag")
	ids := rapid.SliceOfN(rapid.Uint64Range(0, 11), 0, 6).Draw(t, "ids")
	has := func(s []string, w string) bool { return slices.Contains(s, w) }
	options := []oracle{
		{pb.NewMatch("w", word), func(m model) bool { return has(m.words, word) }},
		{pb.NewMatchKeywords("w", set...), func(m model) bool {
			return slices.ContainsFunc(m.words, func(w string) bool { return has(set, w) })
		}},
		{pb.NewMatchExcept("w", set...), func(m model) bool {
			return slices.ContainsFunc(m.words, func(w string) bool { return !has(set, w) })
		}},
		{pb.NewMatchInt("n", i), func(m model) bool { return slices.Contains(m.ints, i) }},
		{pb.NewMatchInts("n", i, i+2), func(m model) bool { return slices.Contains(m.ints, i) || slices.Contains(m.ints, i+2) }},
		{pb.NewMatchExceptInts("n", i), func(m model) bool { return slices.ContainsFunc(m.ints, func(n int64) bool { return n != i }) }},
		{pb.NewMatchBool("f", flag), func(m model) bool { return m.flag != nil && *m.flag == flag }},
		{pb.NewRange("n", &pb.Range{Gt: proto.Float64(float64(i)), Lte: proto.Float64(float64(i + 2))}), func(m model) bool {
			return slices.ContainsFunc(m.ints, func(n int64) bool { return n > i && n <= i+2 })
		}},
		{pb.NewRange("n", &pb.Range{Gte: proto.Float64(float64(i)), Lt: proto.Float64(float64(i) + 0.5)}), func(m model) bool { return slices.Contains(m.ints, i) }},
		{pb.NewIsEmpty("w"), func(m model) bool { return len(m.words) == 0 }},
		{pb.NewIsNull("f"), func(m model) bool { return m.flag == nil && m.id%2 == 0 }},
		{pb.NewHasID(numbers(ids)...), func(m model) bool { return slices.Contains(ids, m.id) }},
	}
	return rapid.SampledFrom(options).Draw(t, "leaf")
}

func numbers(ids []uint64) []*pb.PointId {
	var out []*pb.PointId
	for _, id := range ids {
		out = append(out, pb.NewIDNum(id))
	}
	return out
}

func tree(t *rapid.T, depth int) (*pb.Filter, func(model) bool) {
	group := func(name string) ([]*pb.Condition, []func(model) bool) {
		var conditions []*pb.Condition
		var matches []func(model) bool
		for range rapid.IntRange(0, 2).Draw(t, name) {
			o := oracle{}
			if depth > 0 && rapid.IntRange(0, 3).Draw(t, "nest") == 0 {
				filter, match := tree(t, depth-1)
				o = oracle{pb.NewFilterAsCondition(filter), match}
			} else {
				o = leaf(t)
			}
			conditions, matches = append(conditions, o.filter), append(matches, o.match)
		}
		return conditions, matches
	}
	f := &pb.Filter{}
	var must, mustNot, should, some []func(model) bool
	f.Must, must = group("must")
	f.MustNot, mustNot = group("must_not")
	f.Should, should = group("should")
	least := rapid.IntRange(0, 2).Draw(t, "min_count")
	if rapid.IntRange(0, 3).Draw(t, "min_should?") == 0 {
		f.MinShould = &pb.MinShould{MinCount: uint64(least)}
		f.MinShould.Conditions, some = group("min_should")
	}
	return f, func(m model) bool {
		n := func(matches []func(model) bool) (n int) {
			for _, match := range matches {
				if match(m) {
					n++
				}
			}
			return n
		}
		return n(must) == len(must) && n(mustNot) == 0 && (len(should) == 0 || n(should) > 0) && (f.MinShould == nil || n(some) >= least)
	}
}

// TestFilters compares random filters over random payloads with the oracle, with and without payload indexes.
// Points are rewritten and deleted, and the indexes must follow.
func TestFilters(t *testing.T) {
	_, client := start(t, t.TempDir())
	fields := map[string]pb.FieldType{"w": pb.FieldType_FieldTypeKeyword, "n": pb.FieldType_FieldTypeInteger, "f": pb.FieldType_FieldTypeBool}
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		name := fmt.Sprintf("c%d", round)
		create(t, client, name, 1)
		indexed := rapid.SampledFrom([]string{"before", "after", "never"}).Draw(rt, "indexed")
		addIndexes := func() {
			for field, kind := range fields {
				if _, err := client.CreateFieldIndex(t.Context(), &pb.CreateFieldIndexCollection{CollectionName: name, FieldName: field, FieldType: &kind, Wait: proto.Bool(true)}); err != nil {
					rt.Fatal(err)
				}
			}
		}
		if indexed == "before" {
			addIndexes()
		}
		models := make(map[uint64]model)
		for range rapid.IntRange(1, 3).Draw(rt, "writes") {
			var points []*pb.PointStruct
			for _, id := range rapid.SliceOfNDistinct(rapid.Uint64Range(0, 11), 1, 12, rapid.ID[uint64]).Draw(rt, "ids") {
				m := model{id: id, words: words().Draw(rt, "w"), ints: rapid.SliceOfN(rapid.Int64Range(-3, 3), 0, 3).Draw(rt, "n"), flag: rapid.Ptr(rapid.Bool(), true).Draw(rt, "f")}
				models[id] = m
				points = append(points, point(pb.NewIDNum(id), payloadOf(m), 1))
			}
			upsert(t, client, name, points...)
			gone := rapid.Uint64Range(0, 11).Draw(rt, "gone")
			if _, err := client.Delete(t.Context(), &pb.DeletePoints{CollectionName: name, Wait: proto.Bool(true), Points: pb.NewPointsSelector(pb.NewIDNum(gone))}); err != nil {
				rt.Fatal(err)
			}
			delete(models, gone)
		}
		if indexed == "after" {
			addIndexes()
		}
		for i := range 25 {
			filter, match := tree(rt, 2)
			if i%5 != 0 { // a condition alone, so that others do not hide an error in it
				o := leaf(rt)
				filter, match = &pb.Filter{Must: []*pb.Condition{o.filter}}, o.match
			}
			var want []uint64
			for id := range uint64(12) {
				if m, ok := models[id]; ok && match(m) {
					want = append(want, id)
				}
			}
			page, err := client.Scroll(t.Context(), &pb.ScrollPoints{CollectionName: name, Filter: filter, Limit: proto.Uint32(100)})
			if err != nil {
				rt.Fatal(err)
			}
			var got []uint64
			for _, p := range page {
				got = append(got, p.GetId().GetNum())
			}
			count, err := client.Count(t.Context(), &pb.CountPoints{CollectionName: name, Filter: filter})
			if err != nil || !slices.Equal(got, want) || int(count) != len(want) {
				rt.Fatalf("filter %v with indexes %s: found %v, counted %d, want %v, %v", filter, indexed, got, count, want, err)
			}
		}
		if err := client.DeleteCollection(t.Context(), name); err != nil {
			rt.Fatal(err)
		}
	})
}

// payloadOf writes single values sometimes bare and sometimes as lists, and leaves missing flags out or
// writes null.
func payloadOf(m model) map[string]any {
	payload := map[string]any{}
	var words, ints []any
	for _, w := range m.words {
		words = append(words, w)
	}
	for _, n := range m.ints {
		ints = append(ints, n)
	}
	switch {
	case len(words) == 1 && m.id%3 == 0:
		payload["w"] = words[0]
	case words != nil || m.id%2 == 0:
		payload["w"] = words
	}
	if len(ints) == 1 && m.id%3 == 0 {
		payload["n"] = ints[0]
	} else if ints != nil {
		payload["n"] = ints
	}
	switch {
	case m.flag != nil:
		payload["f"] = *m.flag
	case m.id%2 == 0:
		payload["f"] = nil
	}
	return payload
}
