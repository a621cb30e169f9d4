package reduce

import (
	"context"
	"fmt"
	"math/rand/v2"
)

// Options say which axes to find and how to apply them.
type Options struct {
	Variance      float64 // share of the total variance to keep: above 0, at most 1
	MaxDimensions int     // most axes; 0: as many as there are dimensions
	MinDimensions int     // fewest axes, whatever they capture; filled up with random ones where the sample has no more; 0: 1
	SubtractMean  bool    // see Reducer
	Normalize     bool
	Seed          uint64
	Progress      func(dimensions int) // is told, as the fit goes on, in how many dimensions axes have been sought; nil: nobody
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

// converged is the share of the total variance that the axes gained by the last growth of the basis, below which it
// ends. The gains fall faster than geometrically: with 512 axes of 4,096 dimensions, bases of 768, 960, 1,152 and 1,408
// rows gained 6e-3, 2.5e-3, 2.7e-4 and 7e-6. So what is left to gain is well below the last gain.
const converged = 5e-4

// Fit finds the principal axes of the rows (n × d), which stay as they are: see Sample.Fit.
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

// Fit finds the principal axes of the sample: the eigenvectors of its centred covariance C = Xᵀ(X−1μ)/(n−1), the largest
// first, until they are o.MinDimensions at least and capture o.Variance of the total, or are o.MaxDimensions. The sample is used up by it.
//
// Of C only projections are solved. An orthonormal basis Q of a block Krylov space of C grows
// by blocks, every new block being C times the last, made orthogonal to all before (Musco and Musco, "Randomized
// Block Krylov Methods for Stronger and Faster Approximate Singular Value Decomposition", NeurIPS 2015, after Halko,
// Martinsson and Tropp, "Finding Structure with Randomness", SIAM Review 2011). In that basis C is a band matrix, T = QCQᵀ
// (block Lanczos; Golub and Underwood, 1977), and the eigenvectors of T, taken back through Q, are the axes
// (Rayleigh–Ritz). The total variance is the trace of C, which is cheap and exact, so the share that the axes capture is
// known at every step.
//
// Large products are float32, T and what is solved of it float64. The result depends on the rows, the seed and the kind
// of processor, not on the number of processors.
//
// A sample of few rows spans few directions; a text outside them would project to nothing, or to noise. So the axes
// are completed with random orthonormal directions up to o.MinDimensions: on those, unseen texts keep their distances
// approximately (Johnson and Lindenstrauss), where the sample says nothing better.
//
// A fit can take minutes; when ctx ends it stops with ctx's error, within a block.
func (s *Sample) Fit(ctx context.Context, o Options) (*Reducer, error) {
	if s.n == 0 {
		return nil, fmt.Errorf("mining: the sample to fit on is empty")
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

// axes are the leading eigenvectors of the covariance, as rows, and their eigenvalues: until these add up to
// target and are least, or most of them, or as many as the sample has.
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
		// The basis must hold more than the axes it is asked for, so that the last of them are found well, too: it has
		// grown enough once growing changes next to nothing of what these axes capture.
		if !grown || (last != nil && solved.sum(k)-last.sum(k) <= converged*f.total) {
			return f.rotate(solved.vectors(k)), solved.values[:k], nil
		}
		last = solved
		check = f.size + max(2*krylovBlock, f.size/5)
	}
}

// complete appends random orthonormal rows to the axes, up to k.
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
