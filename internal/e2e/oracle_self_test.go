package e2e

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
)

// plane makes a document at an angle in degrees from the first axis, so that its cosines are easy to see.
func plane(id string, degrees float64) *point {
	a := degrees * math.Pi / 180
	return &point{id: id, hash: "hash of " + id, vector: []float64{math.Cos(a), math.Sin(a)}}
}

func onPlane(points ...*point) corpus {
	c := corpus{}
	for _, p := range points {
		c[p.id] = p
	}
	return c
}

// The oracle is checked on cases that can be computed by hand. The query is at 0 degrees.
func TestOracle(t *testing.T) {
	copyOf := func(id string, degrees float64, hash string) *point {
		p := plane(id, degrees)
		p.hash = hash
		return p
	}
	signed := func(id string, degrees float64, signature ...uint16) *point {
		p := plane(id, degrees)
		p.minhash = signature
		return p
	}
	tests := []struct {
		name     string
		corpus   corpus
		evidence map[string]bool
		want     map[string][]slot
	}{
		{"semantic takes the nearest, on the far side of the query from the positive, then the margin",
			onPlane(plane("p", 40), plane("near", -10), plane("second", -20), plane("between", 15), plane("m1", 55), plane("m2", -60), plane("m3", -70), plane("m4", 80)),
			map[string]bool{"p": true},
			map[string][]slot{"p": {{"near", "semantic"}, {"m1", "positive-aware"}, {"m2", "positive-aware"}, {"m3", "positive-aware"}}}},
		{"a document nearer to the positive than to the query is not semantic",
			onPlane(plane("p", 40), plane("between", 25)), map[string]bool{"p": true},
			map[string][]slot{"p": nil}},
		{"inside the margin nothing is taken", // cos 40 = .766, less 5 % is .7277, 43.3 degrees
			onPlane(plane("p", 40), plane("a", -43), plane("b", -43.5)), map[string]bool{"p": true},
			map[string][]slot{"p": {{"b", "positive-aware"}}}},
		{"evidence below the weight is no positive and no negative",
			onPlane(plane("p", 40), plane("clicked", -10), plane("a", -25)), map[string]bool{"p": true, "clicked": false},
			map[string][]slot{"p": {{"a", "semantic"}}}},
		{"copies of evidence by content, vector and text are barred",
			onPlane(signed("p", 40, 1, 2, 3, 4), copyOf("same", -10, "hash of p"), plane("close", 50), plane("x", -60), signed("words", -70, 1, 2, 9, 9), signed("other", -75, 1, 9, 9, 9)),
			map[string]bool{"p": true},
			map[string][]slot{"p": {{"x", "positive-aware"}, {"other", "positive-aware"}}}},
		{"of two with the same content one is taken, the first by id",
			onPlane(plane("p", 40), copyOf("b", -60, "h"), copyOf("a", -60, "h"), plane("c", -65)), map[string]bool{"p": true},
			map[string][]slot{"p": {{"a", "positive-aware"}, {"c", "positive-aware"}}}},
		{"a positive that is not indexed has no list", onPlane(plane("p", 40), plane("a", -60)),
			map[string]bool{"p": true, "gone": true}, map[string][]slot{"p": {{"a", "positive-aware"}}}},
		{"a negative similarity lowers the bound as well", // cos 100 = -.1736, less 5 % is -.1823, 100.5 degrees
			onPlane(plane("p", 100), plane("a", -100.4), plane("b", -101)), map[string]bool{"p": true},
			map[string][]slot{"p": {{"b", "positive-aware"}}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			q := question{[]float64{1, 0}, test.evidence, defaultRules}
			got := test.corpus.mine(q)
			if !reflect.DeepEqual(got, test.want) {
				t.Fatalf("got %v, want %v", got, test.want)
			}
			for positive, list := range got {
				if err := test.corpus.justify(q, positive, list); err != nil {
					t.Errorf("its own list is not justified: %v", err)
				}
				for i := range list {
					if test.corpus.justify(q, positive, slices.Delete(slices.Clone(list), i, i+1)) == nil {
						t.Errorf("the list without %v passed", list[i])
					}
				}
				for id := range test.corpus {
					foreign := append(slices.Clone(list), slot{id, "positive-aware"})
					if test.corpus.justify(q, positive, foreign) == nil {
						t.Errorf("the list with %s behind it passed", id)
					}
				}
			}
		})
	}
}

// The window counts all documents in range, barred ones too.
func TestOracleDepth(t *testing.T) {
	c := onPlane(plane("p", 40))
	for i := range depth {
		d := plane(fmt.Sprint("copy", i), -10-float64(i)/100)
		d.hash = "hash of p"
		c[d.id] = d
	}
	c["free"] = plane("free", -30)
	q := question{[]float64{1, 0}, map[string]bool{"p": true}, defaultRules}
	if got := c.mine(q)["p"]; got != nil {
		t.Errorf("a document behind the window was taken: %v", got)
	}
	delete(c, "copy0")
	if got := c.mine(q)["p"]; !reflect.DeepEqual(got, []slot{{"free", "semantic"}}) {
		t.Errorf("the last document of the window was not taken: %v", got)
	}
}

// Cosines that differ by less than the tolerance may be in either order, others may not.
func TestOracleTies(t *testing.T) {
	c := onPlane(plane("p", 40), plane("a", -60), plane("b", -60.0002), plane("c", -61))
	q := question{[]float64{1, 0}, map[string]bool{"p": true}, defaultRules}
	list := func(ids ...string) (slots []slot) {
		for _, id := range ids {
			slots = append(slots, slot{id, "positive-aware"})
		}
		return slots
	}
	if err := c.justify(q, "p", list("b", "a", "c")); err != nil {
		t.Error("a tied order was refused:", err)
	}
	if c.justify(q, "p", list("a", "c", "b")) == nil {
		t.Error("a wrong order passed")
	}
}

// The hashes come from Kafka's own tests of Utils.murmur2, without their sign and modulo 1000.
func TestMurmur2(t *testing.T) {
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
	} {
		if got, want := murmur2Partition([]byte(key), 1000), int(uint32(hash)&0x7fffffff)%1000; got != want {
			t.Errorf("%s: partition %d, want %d", key, got, want)
		}
	}
}
