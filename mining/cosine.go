package mining

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"strings"
)

// Cosine is the dot product of two vectors of unit length, and so the cosine of the angle between them. It
// panics if the vectors differ in their number of dimensions. The sum is in float64, always in the same
// order, and rounded to float32 at the end. So the same vectors give the same bits wherever they lie in
// memory, which dot products of BLAS do not promise.
func Cosine(a, b []float32) float32 {
	if len(a) != len(b) {
		panicDimensions(len(a), len(b))
	}
	var s0, s1, s2, s3 float64
	for len(a) >= 4 && len(b) >= 4 {
		s0 += float64(a[0]) * float64(b[0])
		s1 += float64(a[1]) * float64(b[1])
		s2 += float64(a[2]) * float64(b[2])
		s3 += float64(a[3]) * float64(b[3])
		a, b = a[4:], b[4:]
	}
	for i, v := range a {
		s0 += float64(v) * float64(b[i])
	}
	return float32((s0 + s1) + (s2 + s3))
}

func panicDimensions(a, b int) {
	panic(fmt.Sprintf("mining: a vector of %d dimensions is compared with one of %d", a, b))
}

// rounded is a cosine in whole millionths. Documents are ordered by it, so that the last bits of a float32
// sum never decide the order.
func rounded(cosine float32) int32 { return int32(math.Round(float64(cosine) * rankScale)) }

const (
	rankScale = 1e6
	slackRank = int32(Slack * rankScale)
)

// CompareRank orders documents as the rules do: by their cosine to the query, rounded to six decimals, the
// highest first, and then by id in byte order. It is negative if A comes first, and positive if B does.
func CompareRank(cosineA float32, idA string, cosineB float32, idB string) int {
	if c := cmp.Compare(rounded(cosineB), rounded(cosineA)); c != 0 {
		return c
	}
	return strings.Compare(idA, idB)
}

// The errors of vectors that have no direction.
var (
	ErrZeroVector = errors.New("vector is zero")                           // also: has no elements
	ErrNotFinite  = errors.New("vector has an element that is not finite") // infinite, or not a number
)

// Concat joins the vectors of several embedders to one vector of unit length, and writes it to out. parts has
// one vector for each embedder, of any length, and weights one weight for each. Concat gives each part unit
// length, multiplies it by its weight, puts the parts one after the other, and gives the whole unit length.
// len(out) must be the sum of the parts' lengths. A part without a direction is an error that wraps
// ErrZeroVector or ErrNotFinite and names the part by its index. Weights must be finite and not negative, and
// one of them above 0.
func Concat(parts [][]float32, weights []float64, out []float32) error {
	if len(parts) != len(weights) {
		return fmt.Errorf("mining: %d parts with %d weights", len(parts), len(weights))
	}
	var squares float64
	at := 0
	for i, part := range parts {
		norm, err := length(part)
		if err != nil {
			return fmt.Errorf("part %d: %w", i, err)
		}
		if at+len(part) > len(out) {
			return fmt.Errorf("mining: parts are longer than the %d elements of the result", len(out))
		}
		w := weights[i]
		if math.IsNaN(w) || math.IsInf(w, 0) || w < 0 {
			return fmt.Errorf("mining: weight %v of part %d", w, i)
		}
		for j, v := range part {
			out[at+j] = float32(w * float64(v) / norm)
		}
		squares += w * w
		at += len(part)
	}
	if at != len(out) {
		return fmt.Errorf("mining: parts have %d elements, the result %d", at, len(out))
	}
	if squares == 0 {
		return ErrZeroVector
	}
	scale := 1 / math.Sqrt(squares)
	for i, v := range out {
		out[i] = float32(float64(v) * scale)
	}
	return nil
}

// length is the Euclidean length of a vector. A vector without a direction is an error.
func length(v []float32) (float64, error) {
	var squares float64
	for _, x := range v {
		squares += float64(x) * float64(x) // squares of float32 fit float64: no overflow, no underflow
	}
	switch {
	case math.IsNaN(squares) || math.IsInf(squares, 0):
		return 0, ErrNotFinite
	case squares == 0:
		return 0, ErrZeroVector
	}
	return math.Sqrt(squares), nil
}

// Normalize gives v unit length, in place. If v has no direction, the error is ErrZeroVector or ErrNotFinite,
// and v stays as it is.
func Normalize(v []float32) error {
	norm, err := length(v)
	if err != nil {
		return err
	}
	for i, x := range v {
		v[i] = float32(float64(x) / norm)
	}
	return nil
}
