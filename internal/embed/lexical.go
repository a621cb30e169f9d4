package embed

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// defaultBuckets is the length of a lexical vector if none is configured. Half as many buckets cost 0.01 in
// nDCG@10.
const defaultBuckets = 4096

// maxDimensions limits the vectors of one embedder. It catches typing errors, not real models.
const maxDimensions = 1 << 16

// lexical embeds a text as a bag of hashed features (feature hashing: Weinberger et al., ICML 2009). A
// feature weighs tf·(k₁+1)/(tf+k₁)·idf. The weight is computed before the signed sum into buckets, because
// two features that share a bucket have different frequencies.
type lexical struct {
	vocabulary
	name     string
	buckets  int
	fitted   *frequencies
	counters sync.Pool
}

// vocabulary holds what differs between the types of lexical embedders.
type vocabulary struct {
	features func(*counter, string) []feature
	turned   float64 // rotation of passages, in median lengths of passages: see turn
}

// The vocabularies. docs/embedders.md says how they were chosen.
var (
	wordVocabulary      = vocabulary{countWords, 1}
	characterVocabulary = vocabulary{countCharacters, 0.5}
)

func newLexical(name string, buckets int, of vocabulary) *lexical {
	if buckets == 0 {
		buckets = defaultBuckets
	}
	return &lexical{vocabulary: of, name: name, buckets: buckets, counters: sync.Pool{New: func() any { return new(counter) }}}
}

func (l *lexical) Name() string    { return l.name }
func (l *lexical) Dimensions() int { return l.buckets }

// Fit counts the document frequencies of a sample of passages, and then takes the median length of their
// vectors.
func (l *lexical) Fit(texts func(yield func(string) bool)) error {
	counts := newTally()
	l.each(texts, counts.add)
	if counts.passages.Load() == 0 {
		return fmt.Errorf("embedder %s: no passage of the sample has any words", l.name)
	}
	fitted := counts.frequencies()
	var (
		lengths []float64
		mutex   sync.Mutex
	)
	l.each(texts, func(features []feature) {
		length := euclidean(accumulate(features, fitted, l.buckets))
		mutex.Lock()
		defer mutex.Unlock()
		lengths = append(lengths, length)
	})
	slices.Sort(lengths)
	fitted.length = lengths[len(lengths)/2]
	l.fitted = fitted
	return nil
}

// each calls use, from several goroutines, with the features of every text that has any.
func (l *lexical) each(texts func(yield func(string) bool), use func([]feature)) {
	queue := make(chan string, 64)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			counter := new(counter)
			for text := range queue {
				if features := l.features(counter, text); len(features) > 0 {
					use(features)
				}
			}
		})
	}
	for text := range texts {
		queue <- text
	}
	close(queue)
	workers.Wait()
}

// Embed is safe for concurrent use once the embedder is fitted.
func (l *lexical) Embed(ctx context.Context, kind Kind, items []Item) ([][]float32, []error, error) {
	if l.fitted == nil {
		return nil, nil, fmt.Errorf("embedder %s: not fitted yet", l.name)
	}
	vectors := make([][]float32, len(items))
	failures := make([]error, len(items))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(items)) {
		workers.Go(func() {
			counter := l.counters.Get().(*counter)
			defer l.counters.Put(counter)
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(items) {
					return
				}
				vectors[i], failures[i] = l.embed(counter, kind, items[i])
			}
		})
	}
	workers.Wait()
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	return vectors, failures, nil
}

var errNoWords = errors.New("the text has no words in it")

func (l *lexical) embed(counter *counter, kind Kind, item Item) ([]float32, error) {
	if vector, found, err := carriedVector(l, item); found {
		return vector, err
	}
	features := l.features(counter, item.Text)
	if len(features) == 0 {
		return nil, fmt.Errorf("embedder %s: %w", l.name, errNoWords)
	}
	vector := accumulate(features, l.fitted, l.buckets)
	length := euclidean(vector)
	if length == 0 {
		return nil, fmt.Errorf("embedder %s: the features of the text cancel each other out", l.name)
	}
	if kind == Passage {
		turn(vector, float32(l.turned*l.fitted.length/length))
	}
	return vector, nil
}

// accumulate adds up the features' weights in buckets. The sign of a weight comes from the feature's hash.
func accumulate(features []feature, fitted *frequencies, buckets int) []float32 {
	vector := make([]float32, buckets)
	for _, feature := range features {
		weight := termWeight(feature.count) * fitted.of(feature.hash)
		if feature.pair {
			weight *= pairWeight
		}
		bucket := (feature.hash & math.MaxUint32) * uint64(buckets) >> 32
		if feature.hash>>32&1 == 0 {
			weight = -weight
		}
		vector[bucket] += weight
	}
	return vector
}

func euclidean(vector []float32) float64 {
	var sum float64
	for _, value := range vector {
		sum += float64(value) * float64(value)
	}
	return math.Sqrt(sum)
}

// turn rotates a passage's vector. It adds to the vector share times the same vector after a quarter turn in
// the planes of buckets i and i + half. The two are at right angles, so a vector of length n, turned by w/n,
// gets length √(n² + w²).
//
// Queries are not turned. So the dot product of a query and the passage stays the same, except for the noise
// of hashing, and their cosine is divided by √(n² + w²) instead of n. This keeps short passages from ranking
// first only because they contain little else (pivoted length normalisation has the same aim: Singhal et al.,
// SIGIR 1996). Passages of similar length turn by a similar angle, so the cosine between them stays; near
// copies and the semantic policy depend on it.
func turn(vector []float32, share float32) {
	half := len(vector) / 2
	for i, a := range vector[:half] {
		b := vector[half+i]
		vector[i], vector[half+i] = a-share*b, b+share*a
	}
}

// pairWeight is the weight of a pair of words, compared with a single word. Most pairs occur once, so their
// IDF is high although they say little. At full weight they drown the words as soon as features share buckets
// and there are few axes (docs/embedders.md).
const pairWeight = 0.5

// saturation is the k₁ of BM25.
const saturation = 1.2

// termWeight is tf·(k₁+1)/(tf+k₁), the term frequency part of BM25: a second occurrence says more than a
// tenth.
func termWeight(tf uint32) float32 {
	return float32(tf) * (saturation + 1) / (float32(tf) + saturation)
}

// MarshalBinary returns the fitted document frequencies, about 1 MiB.
func (l *lexical) MarshalBinary() ([]byte, error) {
	if l.fitted == nil {
		return nil, fmt.Errorf("embedder %s: not fitted yet", l.name)
	}
	return l.fitted.marshal(), nil
}

// UnmarshalBinary reads the output of MarshalBinary.
func (l *lexical) UnmarshalBinary(data []byte) error {
	fitted, err := unmarshalFrequencies(data)
	if err != nil {
		return fmt.Errorf("embedder %s: %w", l.name, err)
	}
	l.fitted = fitted
	return nil
}
