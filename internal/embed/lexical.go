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

// defaultBuckets is the length of a lexical vector where none is configured: words lose quality below it.
const defaultBuckets = 2048

// maxDimensions bounds what one embedder may give: it catches typing errors, not real models.
const maxDimensions = 1 << 16

// lexical embeds a text as a bag of hashed features (feature hashing: Weinberger et al., ICML 2009). A feature
// weighs (1 + log tf)·idf, computed before the signed accumulation into buckets, for two features that share a
// bucket have frequencies of their own.
type lexical struct {
	name     string
	buckets  int
	features func(*counter, string) []feature
	fitted   *frequencies
	counters sync.Pool
}

func newLexical(name string, buckets int, features func(*counter, string) []feature) *lexical {
	if buckets == 0 {
		buckets = defaultBuckets
	}
	return &lexical{name: name, buckets: buckets, features: features, counters: sync.Pool{New: func() any { return new(counter) }}}
}

func (l *lexical) Name() string    { return l.name }
func (l *lexical) Dimensions() int { return l.buckets }

// Fit counts the document frequencies of a sample of passages.
func (l *lexical) Fit(texts func(yield func(string) bool)) error {
	counts := newTally()
	queue := make(chan string, 64)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			counter := new(counter)
			for text := range queue {
				if features := l.features(counter, text); len(features) > 0 {
					counts.add(features)
				}
			}
		})
	}
	for text := range texts {
		queue <- text
	}
	close(queue)
	workers.Wait()
	if counts.passages.Load() == 0 {
		return fmt.Errorf("embedder %s: no passage of the sample has any words", l.name)
	}
	l.fitted = counts.frequencies()
	return nil
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
				vectors[i], failures[i] = l.embed(counter, items[i])
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

func (l *lexical) embed(counter *counter, item Item) ([]float32, error) {
	if vector, found, err := carriedVector(l, item); found {
		return vector, err
	}
	features := l.features(counter, item.Text)
	if len(features) == 0 {
		return nil, fmt.Errorf("embedder %s: %w", l.name, errNoWords)
	}
	vector := make([]float32, l.buckets)
	for _, feature := range features {
		weight := termWeight(feature.count) * l.fitted.of(feature.hash)
		if feature.pair {
			weight *= pairWeight
		}
		bucket := (feature.hash & math.MaxUint32) * uint64(l.buckets) >> 32
		if feature.hash>>32&1 == 0 {
			weight = -weight
		}
		vector[bucket] += weight
	}
	if !slices.ContainsFunc(vector, func(value float32) bool { return value != 0 }) {
		return nil, fmt.Errorf("embedder %s: the features of the text cancel each other out", l.name)
	}
	return vector, nil
}

// pairWeight is what a pair of words counts for, beside a word: most pairs occur once, weigh much by their IDF, and
// say little; at full weight they drown the words once buckets are shared and axes few (docs/embedders.md).
const pairWeight = 0.5

// termWeight is 1 + log tf.
func termWeight(tf uint32) float32 {
	if int(tf) < len(termWeights) {
		return termWeights[tf]
	}
	return float32(1 + math.Log(float64(tf)))
}

// termWeights holds the weights of the frequencies that nearly all features have.
var termWeights = func() (weights [64]float32) {
	for tf := 1; tf < len(weights); tf++ {
		weights[tf] = float32(1 + math.Log(float64(tf)))
	}
	return weights
}()

// MarshalBinary returns the fitted document frequencies: about 1 MiB.
func (l *lexical) MarshalBinary() ([]byte, error) {
	if l.fitted == nil {
		return nil, fmt.Errorf("embedder %s: not fitted yet", l.name)
	}
	return l.fitted.marshal(), nil
}

// UnmarshalBinary takes what MarshalBinary gave.
func (l *lexical) UnmarshalBinary(data []byte) error {
	fitted, err := unmarshalFrequencies(data)
	if err != nil {
		return fmt.Errorf("embedder %s: %w", l.name, err)
	}
	l.fitted = fitted
	return nil
}
