package reduce

import (
	"context"
	"fmt"
	"math/rand/v2"
)

// Options say which axes to find, and how the reducer applies them.
type Options struct {
	// Variance is the share of the total variance that the axes must capture: above 0, at most 1.
	Variance float64
	// MaxDimensions is the largest number of axes, even if they capture less than Variance. 0 means no limit.
	MaxDimensions int
	// MinDimensions is the smallest number of axes, even if fewer capture Variance. If the sample has fewer
	// directions, random axes are added. 0 means 1.
	MinDimensions int
	// SubtractMean and Normalize become fields of the Reducer.
	SubtractMean, Normalize bool
	// Seed is for the random start of the search: equal samples and seeds give equal axes.
	Seed uint64
	// Progress, if not nil, is called during the fit with the number of dimensions in which it has searched
	// so far.
	Progress func(dimensions int)
}

func (o *Options) validate(d int) error {
	switch {
	case !(o.Variance > 0 && o.Variance <= 1):
		return fmt.Errorf("reduce.variance: is %v, must be above 0 and at most 1", o.Variance)
	case o.MaxDimensions < 0:
		return fmt.Errorf("reduce.max_dimensions: is %d, must not be negative", o.MaxDimensions)
	case o.MinDimensions < 0:
		return fmt.Errorf("reduce.min_dimensions: is %d, must not be negative", o.MinDimensions)
	}
	if o.MaxDimensions == 0 || o.MaxDimensions > d {
		o.MaxDimensions = d
	}
	o.MinDimensions = max(1, min(o.MinDimensions, o.MaxDimensions))
	return nil
}

// converged ends the search: it stops when the axes capture less than this share of the total variance more
// than before the basis grew the last time. The gains fall faster than geometrically: with 512 axes of 4,096
// dimensions, bases of 768, 960, 1,152 and 1,408 rows gained 6e-3, 2.5e-3, 2.7e-4 and 7e-6. So the axes can
// gain much less than the last gain.
const converged = 5e-4

// Fit finds the principal axes of a sample of n vectors of d dimensions, the rows of an n × d matrix. It does
// not change the rows. Sample.Fit says how it works. The errors are those of Sample.Add and Sample.Fit.
func Fit(ctx context.Context, rows Matrix, o Options) (*Reducer, error) {
	if err := rows.check("sample"); err != nil {
		return nil, err
	}
	s := NewSample(rows.Rows, rows.Cols)
	if err := s.Add(rows); err != nil {
		return nil, err
	}
	return s.Fit(ctx, o)
}

// Fit finds the principal axes of the sample. These are the eigenvectors of its covariance C =
// Xᵀ(X−1μ)/(n−1), with the largest eigenvalue first. There are as many as capture o.Variance of the total
// variance, but at least o.MinDimensions and at most o.MaxDimensions. The sample cannot be used afterwards.
//
// An empty sample and options out of range are errors. A fit can take minutes: when ctx ends, it stops within
// one block and returns ctx's error.
//
// Fit never solves C itself, only its projection on a basis Q. Q is an orthonormal basis of a block Krylov
// space of C, and grows block by block: each new block is C times the last block, made orthogonal to all
// earlier blocks (Musco and Musco, "Randomized Block Krylov Methods for Stronger and Faster Approximate
// Singular Value Decomposition", NeurIPS 2015, after Halko, Martinsson and Tropp, "Finding Structure with
// Randomness", SIAM Review 2011). The projection T = QCQᵀ is a band matrix (block Lanczos; Golub and
// Underwood, 1977). The eigenvectors of T, multiplied by Q, are the axes (Rayleigh–Ritz). The total variance
// is the trace of C, which is cheap and exact. So Fit knows at each step which share the axes capture.
//
// Large products are in float32; T and its eigenvectors are in float64. The result depends on the rows, the
// seed and the kind of processor, but not on the number of processors.
//
// A sample of few rows spans few directions. A text with other directions would project to nothing, or to
// noise. So Fit adds random orthonormal axes, up to o.MinDimensions. On random axes, vectors keep their
// distances approximately (Johnson and Lindenstrauss), and the sample offers nothing better.
func (s *Sample) Fit(ctx context.Context, o Options) (*Reducer, error) {
	if s.n == 0 {
		return nil, fmt.Errorf("reduce: the sample to fit on is empty")
	}
	if err := o.validate(s.d); err != nil {
		return nil, err
	}
	f := &fit{sample: s, random: rand.New(rand.NewPCG(o.Seed, 0)), progress: o.Progress}
	mean, total := s.finish()
	f.total = total
	axes, values, err := f.axes(ctx, o.Variance*f.total, o.MinDimensions, o.MaxDimensions)
	if err != nil {
		return nil, err
	}
	share := make([]float64, 0, o.MinDimensions)
	sum := 0.0
	for _, v := range values {
		sum += v
		share = append(share, min(1, sum/f.total))
	}
	if k := axes.Rows; k < o.MinDimensions {
		axes = f.complete(axes, o.MinDimensions)
		for range o.MinDimensions - k {
			share = append(share, min(1, max(0, sum/f.total)))
		}
	}
	if f.total == 0 {
		for i := range share {
			share[i] = 1
		}
	}
	r := &Reducer{
		Dimensions: s.d, Mean: mean, Components: axes, Share: share, Total: f.total,
		SubtractMean: o.SubtractMean, Normalize: o.Normalize,
	}
	r.onAxes = r.meanOnAxes()
	return r, nil
}

type fit struct {
	sample *Sample
	total  float64 // trace of the covariance
	random *rand.Rand

	progress func(dimensions int)
	krylov
}

// axes finds the leading eigenvectors of the covariance, as rows, and their eigenvalues. There are enough for
// the eigenvalues to add up to target, but at least least and at most most, and no more than the sample has.
func (f *fit) axes(ctx context.Context, target float64, least, most int) (Matrix, []float64, error) {
	if f.total == 0 {
		return Matrix{Cols: f.sample.d}, nil, nil
	}
	f.begin()
	var last *spectrum
	for check := 0; ; {
		if err := ctx.Err(); err != nil {
			return Matrix{}, nil, err
		}
		grown := f.grow()
		if f.progress != nil {
			f.progress(f.size)
		}
		if grown && (f.size < check || f.size < most*3/2 && (f.trace < target || f.size < least*3/2)) {
			continue
		}
		solved := newSpectrum(f.t)
		k := solved.choose(target, least, most)
		// The basis must have more rows than there are axes, or the last axes are not found well. It is large
		// enough when growing it makes almost no difference to the variance that the axes capture.
		if !grown || (last != nil && solved.sum(k)-last.sum(k) <= converged*f.total) {
			return f.rotate(solved.vectors(k)), solved.values[:k], nil
		}
		last = solved
		check = f.size + max(2*krylovBlock, f.size/5)
	}
}

// complete adds random orthonormal rows to the axes, until there are k.
func (f *fit) complete(axes Matrix, k int) Matrix {
	full := NewMatrix(k, f.sample.d)
	copy(full.Data, axes.Data)
	for i := axes.Rows; i < k; {
		row := full.Row(i)
		for j := range row {
			row[j] = float32(f.random.NormFloat64())
		}
		if orthogonalise(full.slice(0, i), row) {
			i++
		}
	}
	return full
}
