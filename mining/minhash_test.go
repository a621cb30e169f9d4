package mining

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// specified computes a MinHash by the letter of the type's comment.
func specified(text string) MinHash {
	finalise := func(z uint64) uint64 {
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		return z ^ z>>31
	}
	words := regexp.MustCompile(`[\p{L}\p{M}\p{N}]+`).FindAllString(text, -1)
	alone := regexp.MustCompile(`[\p{Han}\p{Hiragana}\p{Katakana}]`)
	var hashes []uint64
	for _, run := range words {
		for _, w := range strings.Fields(alone.ReplaceAllString(run, " $0 ")) {
			h := fnv.New64a()
			h.Write([]byte(strings.ToLower(w)))
			hashes = append(hashes, h.Sum64())
		}
	}
	if len(hashes) == 0 {
		return nil
	}
	var minima []uint64
	for first := 0; first == 0 || first+5 <= len(hashes); first++ {
		x := uint64(0)
		for _, w := range hashes[first:min(first+5, len(hashes))] {
			x = finalise(x + w)
		}
		for i := range uint64(128) {
			a := finalise((2*i+1)*0x9e3779b97f4a7c15) | 1
			b := finalise((2*i + 2) * 0x9e3779b97f4a7c15)
			v := a*x + b
			if first == 0 {
				minima = append(minima, v)
			}
			minima[i] = min(minima[i], v)
		}
	}
	out := make(MinHash, 128)
	for i, v := range minima {
		out[i] = uint16(finalise(v))
	}
	return out
}

func TestMinHashSpecification(t *testing.T) {
	for _, text := range []string{
		"", " .,;\n", "one", "One, two; THREE four", "a b c d e", "a b c d e f",
		"Title\nThe text of a document, with 42 numbers and naïve Ünïcödé words.",
		"日本語のテキスト with English", "broken \xff byte\xc3", "e\u0301tude d'exécution", "ǅ İ ẞ ΣΑΣ",
		strings.Repeat("the same words again ", 40),
	} {
		if got, want := NewMinHash(text), specified(text); !slices.Equal(got, want) {
			t.Errorf("%q: signature differs from the specification", text)
		}
	}
	if NewMinHash("") != nil || NewMinHash("--") != nil {
		t.Error("a text without words has a signature")
	}
	if NewMinHash("A small. Text").Jaccard(NewMinHash("a small, text")) != 1 {
		t.Error("case and punctuation count")
	}
	if MinHash(nil).Jaccard(NewMinHash("a")) != 0 || MinHash(nil).Jaccard(nil) != 0 {
		t.Error("a nil signature is similar to something")
	}
}

// TestMinHashOfShortTexts: texts of a few words have one shingle each, and still get different signatures. Of
// 4,498,500 pairs, a few have equal elements by chance, and none has many.
func TestMinHashOfShortTexts(t *testing.T) {
	var all []MinHash
	for i := range 3000 {
		all = append(all, NewMinHash(fmt.Sprint("text ", i)))
	}
	for i, a := range all {
		for _, b := range all[:i] {
			if a[0] == b[0] && a.Jaccard(b) > 0.05 {
				t.Fatalf("two of the texts have similarity %v", a.Jaccard(b))
			}
		}
	}
}

// TestMinHashEstimate compares with the exact Jaccard similarity of shingle sets.
func TestMinHashEstimate(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var worst, sum float64
	const runs = 200
	for range runs {
		n := 20 + r.IntN(400)
		a := make([]string, n)
		for i := range a {
			a[i] = fmt.Sprint("w", r.IntN(500))
		}
		b := slices.Clone(a)
		for range r.IntN(n / 8) {
			b[r.IntN(n)] = "changed"
		}
		sets := [2]map[string]bool{{}, {}}
		for i, words := range [][]string{a, b} {
			for j := range n - 4 {
				sets[i][strings.Join(words[j:j+5], " ")] = true
			}
		}
		both := 0
		for s := range sets[0] {
			if sets[1][s] {
				both++
			}
		}
		exact := float64(both) / float64(len(sets[0])+len(sets[1])-both)
		e := NewMinHash(strings.Join(a, " ")).Jaccard(NewMinHash(strings.Join(b, "  "))) - exact
		worst, sum = max(worst, math.Abs(e)), sum+e
	}
	t.Logf("error of the estimate: mean %.4f, worst %.3f", sum/runs, worst)
	if worst > 0.2 || math.Abs(sum/runs) > 0.012 {
		t.Errorf("mean %v, worst %v", sum/runs, worst)
	}
}

func BenchmarkMinHash(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	var text strings.Builder
	for range 5000 {
		fmt.Fprint(&text, "word", r.IntN(3000), " ")
	}
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		NewMinHash(text.String())
	}
}

func FuzzMinHashFromBytes(f *testing.F) {
	f.Add(NewMinHash("a text of more than five words, to be hashed").Bytes())
	f.Add([]byte{})
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := MinHashFromBytes(b)
		if err != nil {
			return
		}
		if !bytes.Equal(h.Bytes(), b) {
			t.Fatalf("%x was read and written as %x", b, h.Bytes())
		}
		want := 1.0
		if h == nil {
			want = 0
		}
		if h.Jaccard(h) != want {
			t.Fatalf("similarity to itself is %v", h.Jaccard(h))
		}
	})
}
