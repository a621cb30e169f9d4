package fit

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"hardneg/internal/embed"
)

// TestSampleIsUniform checks that every document has the same chance to be in a sample, whenever it came and
// however often it was written. The bounds are five standard deviations of a hypergeometric count.
func TestSampleIsUniform(t *testing.T) {
	const documents, most, rounds = 100, 20, 2000
	start := rand.Uint64()
	t.Logf("seed %d", start)
	counts := map[string]int{}
	for round := range rounds {
		s := newSample(most, start+uint64(round))
		for i := range documents {
			for range 1 + i%3 {
				s.put(fmt.Sprint(i), embed.Item{})
			}
		}
		ids := s.ids()
		if len(ids) != most {
			t.Fatalf("%d documents, want %d", len(ids), most)
		}
		for _, id := range ids {
			counts[id]++
		}
	}
	p := float64(most) / documents
	for i := range documents {
		if n := float64(counts[fmt.Sprint(i)]); math.Abs(n-rounds*p) > 5*math.Sqrt(rounds*p*(1-p)) {
			t.Errorf("document %d is in %v of %d samples, want about %v", i, n, rounds, rounds*p)
		}
	}
}

// TestSampleOfHistories checks a sample after random histories. It must have documents that exist, with their
// newest content, and as many as are asked for, unless there are fewer or most of those that it kept were
// deleted. It must not depend on the order of the history.
func TestSampleOfHistories(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		most, documents := 1+random.IntN(30), 1+random.IntN(200)
		s := newSample(most, seed)
		live := map[string]string{}
		deletes := 0
		for step := range random.IntN(800) {
			id := fmt.Sprint(random.IntN(documents))
			if random.IntN(20) == 0 {
				if _, ok := live[id]; ok {
					deletes++
				}
				delete(live, id)
				s.remove(id)
				continue
			}
			live[id] = fmt.Sprint("text ", step)
			s.put(id, embed.Item{Text: live[id]})
		}
		again := newSample(most, seed)
		for _, id := range slices.Backward(slices.Sorted(maps.Keys(live))) {
			again.put(id, embed.Item{Text: live[id]})
		}
		got, want := s.items(), again.items()
		if len(want) != min(most, len(live)) {
			t.Fatalf("%d of %d documents, want %d", len(want), len(live), most)
		}
		if !slices.IsSorted(s.ids()) || len(s.ids()) != len(got) {
			t.Fatalf("ids %v for %d items", s.ids(), len(got))
		}
		for i, id := range s.ids() {
			if text, ok := live[id]; !ok || got[i].Text != text {
				t.Fatalf("document %s is %q, want %q", id, got[i].Text, text)
			}
		}
		texts := map[string]bool{}
		for _, item := range want {
			texts[item.Text] = true
		}
		for _, item := range got {
			if !texts[item.Text] {
				t.Fatalf("%q is in the sample, but not in that of the same documents in another order", item.Text)
			}
		}
		if len(got) < len(want) && deletes <= most {
			t.Fatalf("%d documents of %d, want %d, after %d deletes", len(got), len(live), len(want), deletes)
		}
	}
}

// TestSampleAfterAPurge deletes all documents that a sample keeps. Documents that come later must have no
// better chance than the ones that exist and were not kept. So the sample is smaller, but still uniform.
func TestSampleAfterAPurge(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	put := func(s *sample, from, to int) {
		for i := from; i < to; i++ {
			s.put(fmt.Sprint(i), embed.Item{})
		}
	}
	s := newSample(5, seed)
	put(s, 0, 1000)
	kept := slices.Collect(maps.Keys(s.kept))
	for _, id := range kept {
		s.remove(id)
	}
	put(s, 1000, 1030)
	all := newSample(5000, seed) // so large that it never cuts: it knows the lowest hashes
	put(all, 0, 1030)
	for _, id := range kept {
		all.remove(id)
	}
	all.cut(5)
	lowest := all.ids()
	got := s.ids()
	if len(got) > 5 {
		t.Errorf("%d documents", len(got))
	}
	for _, id := range got {
		if !slices.Contains(lowest, id) {
			t.Errorf("document %s is in the sample, where it is not one of the lowest %v", id, lowest)
		}
	}
}
