package embed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"hardneg/internal/config"
)

func TestWords(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", ""},
		{" \t\n.,;-_'", ""},
		{"Amazon S3's buckets, us-east-1", "amazon|s3|s|buckets|us|east|1"},
		{"snake_case x86-64 3.14", "snake|case|x86|64|3|14"},
		{"ÜBER Straße ΣΟΦΌΣ Ёлка", "über|straße|σοφόσ|ёлка"},
		{"cafe\u0301 caf\u00e9", "café|café"},                     // decomposed and composed
		{"\u0301a", "a"},                                          // a mark without a letter before it
		{"ｆｕｌｌ ﬁne", "full|fine"},                                 // full width, ligature
		{"हिन्दी में", "हिन्दी|में"},                              // vowel signs and viramas are marks
		{"東京都 in カナ2", "東|京|都|in|カ|ナ|2"},                          // no spaces between words
		{"서울 특별시", "서울|특별시"},                                      // Korean has spaces
		{"٣٤ items", "٣٤|items"},                                  // digits of other scripts
		{"a\xffb\xc3(\xe2\x82end", "a|b|end"},                     // invalid bytes separate words
		{"one\x00two\u200bthree\ufffdfour", "one|two|three|four"}, // so do control characters, zero width spaces and the replacement character
		{"😀smile😀", "smile"},
	} {
		var got []string
		words(test.text, nil, func(word []rune) { got = append(got, string(word)) })
		if strings.Join(got, "|") != test.want {
			t.Errorf("%q: words %q, want %q", test.text, strings.Join(got, "|"), test.want)
		}
	}
}

// counts returns a counter's features, by hash.
func counts(features []feature) map[uint64]int {
	found := make(map[uint64]int)
	for _, feature := range features {
		found[feature.hash] += int(feature.count)
	}
	return found
}

// TestFeatures compares the counters' features with plain string code: there must be as many distinct
// features, with the same counts. The hashes may be any.
func TestFeatures(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	counter := new(counter) // one for all texts, as in production
	for range 300 {
		var tokens []string
		for range 1 + random.IntN(400) {
			tokens = append(tokens, strings.Repeat(string("abcdé"[random.IntN(4)]), 1+random.IntN(3))+fmt.Sprint(random.IntN(30)))
		}
		wantWords, wantGrams := make(map[string]int), make(map[string]int)
		for i, token := range tokens {
			wantWords[token]++
			if i > 0 {
				wantWords[tokens[i-1]+" "+token]++
			}
			marked := []rune("<" + token + ">")
			for n := 3; n <= 5; n++ {
				for start := 0; start+n <= len(marked); start++ {
					wantGrams[string(marked[start:start+n])]++
				}
			}
		}
		text := strings.Join(tokens, ", ")
		for _, kind := range []struct {
			name     string
			features func(string) []feature
			want     map[string]int
		}{
			{"words", func(text string) []feature { return countWords(counter, text) }, wantWords},
			{"characters", func(text string) []feature { return countCharacters(counter, text) }, wantGrams},
		} {
			got := counts(kind.features(text))
			if a, b := sortedCounts(got), sortedCounts(kind.want); !slices.Equal(a, b) {
				t.Fatalf("%s of %q: %d distinct with counts %v, want %d with %v", kind.name, text, len(a), a, len(b), b)
			}
		}
	}
}

func sortedCounts[K comparable](found map[K]int) []int {
	var list []int
	for _, n := range found {
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

// TestFrequencies: the sketch never gives a document frequency far below the true one, and most of its
// frequencies are right.
func TestFrequencies(t *testing.T) {
	const passages, distinct = 2000, 200_000
	random := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(random, 1.2, 4, distinct-1)
	truth := make(map[uint64]int)
	counts := newTally()
	for range passages {
		var features []feature
		seen := make(map[uint64]bool)
		for range 200 {
			if hash := mix(zipf.Uint64() + 1); !seen[hash] {
				seen[hash] = true
				truth[hash]++
				features = append(features, feature{hash: hash, count: 1})
			}
		}
		counts.add(features)
	}
	fitted := counts.frequencies()
	wrong := 0
	for hash, df := range truth {
		first, second := counterIndexes(hash)
		got := count(min(fitted.levels[first], fitted.levels[second]))
		if got < 0.97*float64(df) {
			t.Fatalf("document frequency %.1f, want %d or more", got, df)
		}
		if got > 1.03*float64(df) {
			wrong++
		}
	}
	if share := float64(wrong) / float64(len(truth)); share > 0.02 {
		t.Errorf("%.3f of the document frequencies are too high", share)
	}
}

func TestLevels(t *testing.T) {
	for n := uint32(0); n < 400_000; n += 1 + n/50 {
		if got := count(level(n)); math.Abs(got-float64(n)) > 0.025*float64(n) {
			t.Errorf("a count of %d is kept as %.1f", n, got)
		}
	}
	if level(math.MaxUint32) != 255 {
		t.Error("the highest count does not have the highest level")
	}
}

// TestWeight checks tf·(k₁+1)/(tf+k₁)·idf, k₁ = 1.2, against maps and exact document frequencies. There are
// enough buckets that no two features share one, so the vector holds the weights themselves.
func TestWeight(t *testing.T) {
	text := "records partition records topics records unheard of"
	embedder := fitted(t, config.Embedder{Name: "words", Type: "lexical-word", Dimensions: 1 << 16})[0]
	vector := embedded(t, embedder, Query, text)
	features := func(text string) map[string]int {
		tokens := strings.Fields(strings.Map(func(r rune) rune {
			if strings.ContainsRune(".,-", r) {
				return ' '
			}
			return r
		}, strings.ToLower(text)))
		found := make(map[string]int)
		for i, token := range tokens {
			found[token]++
			if i > 0 {
				found[tokens[i-1]+" "+token]++
			}
		}
		return found
	}
	var want []float64
	for name, tf := range features(text) {
		df := 0
		for _, passage := range passages {
			if features(passage)[name] > 0 {
				df++
			}
		}
		weight := 1.0
		if strings.Contains(name, " ") {
			weight = 0.5
		}
		want = append(want, weight*(2.2*float64(tf)/(float64(tf)+1.2))*(1+math.Log(float64(len(passages)+1)/float64(df+1))))
	}
	if slices.Min(vector) >= 0 || slices.Max(vector) <= 0 {
		t.Error("all features have the same sign: those that share a bucket would add up, not cancel on average")
	}
	var got []float64
	for _, value := range vector {
		if value != 0 {
			got = append(got, math.Abs(float64(value)))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if len(got) != len(want) {
		t.Fatalf("%d weights, want %d", len(got), len(want))
	}
	for i := range want {
		if math.Abs(got[i]-want[i]) > 1e-5 {
			t.Errorf("weights %v, want %v", got, want)
			break
		}
	}
}

// TestTurn compares the vectors of passages with the vectors of queries, which are not turned. Let n be the
// length of a query vector, and w the configured share of the passages' median length. The passage's vector
// has length √(n² + w²) and the angle atan(w/n) to the query's; the shorter the text, the wider the angle.
// The angle between two passages grows at most by the difference of their own angles, except for the noise of
// hashing.
func TestTurn(t *testing.T) {
	for name, turned := range map[string]float64{"lexical-word": 1, "lexical-char": 0.5} {
		embedder := fitted(t, config.Embedder{Name: name, Type: name, Dimensions: 1 << 16})[0]
		texts := append(slices.Clone(passages), "records in topics", strings.Join(passages, " "))
		plain, passage := make([][]float32, len(texts)), make([][]float32, len(texts))
		var lengths []float64
		for i, text := range texts {
			plain[i], passage[i] = embedded(t, embedder, Query, text), embedded(t, embedder, Passage, text)
			if i < len(passages) {
				lengths = append(lengths, euclid(plain[i]))
			}
		}
		slices.Sort(lengths)
		w := turned * lengths[len(lengths)/2]
		angle := make([]float64, len(texts))
		for i, text := range texts {
			n := euclid(plain[i])
			angle[i] = math.Atan(w / n)
			if got, want := euclid(passage[i]), math.Hypot(n, w); math.Abs(got/want-1) > 1e-5 {
				t.Errorf("%s: %q has length %v, want %v", name, text, got, want)
			}
			if got, want := cosine(plain[i], passage[i]), math.Cos(angle[i]); math.Abs(got-want) > 1e-5 {
				t.Errorf("%s: %q: cosine of query and passage %v, want %v", name, text, got, want)
			}
			for j := range i {
				got, want := cosine(passage[i], passage[j]), cosine(plain[i], plain[j])*math.Cos(angle[i]-angle[j])
				if math.Abs(got-want) > 0.01 {
					t.Errorf("%s: cosine of %q and %q is %.4f, want %.4f", name, text, texts[j], got, want)
				}
			}
		}
		if short, long := angle[len(texts)-2], angle[len(texts)-1]; !(short > long+0.2) {
			t.Errorf("%s: a short text is turned by %v, a long one by %v", name, short, long)
		}
	}
}

func cosine(a, b []float32) float64 { return product(a, b) / euclid(a) / euclid(b) }

func embedded(t testing.TB, embedder Embedder, kind Kind, text string) []float32 {
	t.Helper()
	vectors, failures, err := embedder.Embed(context.Background(), kind, []Item{{Text: text}})
	if err = errors.Join(append(failures, err)...); err != nil {
		t.Fatal(err)
	}
	return vectors[0]
}

func product(a, b []float32) (sum float64) {
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}

func euclid(a []float32) float64 { return math.Sqrt(product(a, a)) }

// TestDeterminism: fitting on the same passages in another order gives the same bytes and vectors. So does a
// copy that was made from the bytes.
func TestDeterminism(t *testing.T) {
	for _, kind := range []string{"lexical-word", "lexical-char"} {
		definition := config.Embedder{Name: "l", Type: kind}
		first := fitted(t, definition)[0].(Fitted)
		data, err := first.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > 2<<20 {
			t.Errorf("%s: %d bytes are fitted", kind, len(data))
		}
		again, copied := newFitted(t, definition), newFitted(t, definition)
		reversed := slices.Clone(passages)
		slices.Reverse(reversed)
		if err := again.Fit(slices.Values(reversed)); err != nil {
			t.Fatal(err)
		}
		if other, _ := again.MarshalBinary(); !slices.Equal(other, data) {
			t.Errorf("%s: the order of the passages matters", kind)
		}
		if err := copied.UnmarshalBinary(data); err != nil {
			t.Fatal(err)
		}
		for _, text := range append(passages, "something else") {
			want, _ := one(t, first, Item{Text: text})
			for _, other := range []Embedder{again, copied} {
				if got, _ := one(t, other, Item{Text: text}); !slices.Equal(got, want) {
					t.Errorf("%s: %q has another vector", kind, text)
				}
			}
		}
	}
}

func newFitted(t testing.TB, definition config.Embedder) Fitted {
	embedders, err := New([]config.Embedder{definition}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return embedders[0].(Fitted)
}

func TestUnmarshalGarbage(t *testing.T) {
	embedder := newFitted(t, config.Embedder{Name: "w", Type: "lexical-word"})
	good, err := fitted(t, config.Embedder{Name: "w", Type: "lexical-word"})[0].(Fitted).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	foreign, empty := slices.Clone(good), slices.Clone(good)
	foreign[0] = 'x'
	clear(empty[4:12])
	endless, older := slices.Clone(good), slices.Clone(good[:len(good)-8])
	binary.LittleEndian.PutUint64(endless[12:], math.Float64bits(math.NaN()))
	copy(older, "hnf1") // the format before it had a median
	for _, test := range []struct {
		data []byte
		want string
	}{
		{nil, "0 bytes, want"},
		{good[:len(good)-1], "bytes, want"},
		{append(slices.Clone(good), 0), "bytes, want"},
		{foreign, "another version"},
		{older, "another version"},
		{empty, "number of passages"},
		{endless, "median length"},
	} {
		if err := embedder.UnmarshalBinary(test.data); err == nil || !strings.Contains(err.Error(), "embedder w: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v, want one with %q", err, test.want)
		}
	}
}

// FuzzEmbed: any bytes give an error, or a finite vector with a direction, the same each time.
func FuzzEmbed(f *testing.F) {
	for _, passage := range passages {
		f.Add(passage)
	}
	for _, text := range []string{"", "...", "a", "\xff", "a\xe2\x82b", strings.Repeat("long", 5000), "e\u0301\u0301\u0301", "\U0010ffff", "カﾅ"} {
		f.Add(text)
	}
	embedders := lexicals(f)
	f.Fuzz(func(t *testing.T, text string) {
		for _, embedder := range embedders {
			vector, err := one(t, embedder, Item{Text: text})
			if err != nil {
				continue
			}
			if !utf8.ValidString(text) && len(vector) == 0 {
				t.Fatal("no vector")
			}
			var squares float64
			for _, value := range vector {
				squares += float64(value) * float64(value)
			}
			if !(squares > 0) || math.IsInf(squares, 0) {
				t.Fatalf("%s: squared length %v", embedder.Name(), squares)
			}
			if again, _ := one(t, embedder, Item{Text: text}); !slices.Equal(again, vector) {
				t.Fatalf("%s: another vector the second time", embedder.Name())
			}
		}
	})
}

// BenchmarkLexical embeds one long text again and again, as words and as characters, on one core.
func BenchmarkLexical(b *testing.B) {
	embedders := lexicals(b)
	prose := strings.Fields(strings.Repeat(strings.Join(passages, " "), 40))
	random := rand.New(rand.NewPCG(1, 1))
	random.Shuffle(len(prose), func(i, j int) { prose[i], prose[j] = prose[j], prose[i] })
	text := strings.Join(prose, " ")
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		for _, embedder := range embedders {
			if _, _, err := embedder.Embed(context.Background(), Passage, []Item{{Text: text}}); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// TestCounterKeepsNothing: a warm counter neither allocates nor grows, whatever it counted before.
func TestCounterKeepsNothing(t *testing.T) {
	counter := new(counter)
	text := strings.Join(passages[:5], " ")
	countCharacters(counter, text)
	warm := cap(counter.arena)
	if allocated := testing.AllocsPerRun(200, func() { countCharacters(counter, text); countWords(counter, text) }); allocated > 0 {
		t.Errorf("%v allocations a text", allocated)
	}
	if cap(counter.arena) != warm {
		t.Errorf("room for %d characters, had %d after the first text", cap(counter.arena), warm)
	}
}
