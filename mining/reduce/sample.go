package reduce

import (
	"fmt"
	"math"

	"hardneg/mining"
)

// Sample collects the vectors on which a reducer is fitted. Rows are added block by block, so they need not
// be in memory together. A sample with more rows than dimensions keeps their covariance (d × d), a smaller
// one keeps the rows (n × d). Both are in float32, and nothing of this size is in float64. With 10,000
// vectors of 5,632 dimensions, the covariance takes 127 MB, and the rows would take 225 MB. A fit multiplies
// by it thousands of times, and each product costs a quarter of one with all rows.
//
// The result depends on the rows and their order, but not on the blocks. A sample is not safe for concurrent
// use.
type Sample struct {
	n, d    int
	pending Matrix    // sampleBlock × d: its first rows are not in the sums yet
	waiting int       // number of these rows
	shift   []float32 // mean of the first block: near the mean of all, so that finish loses few digits
	sum     []float64 // Σ(x−shift)
	squares float64   // Σ|x−shift|²
	rows    Matrix    // x−shift, if the sample keeps its rows
	across  []float32 // memory for the transpose of pending
	square  Matrix    // Σ(x−shift)(x−shift)ᵀ on and below the diagonal; no rows if the sample keeps its rows
}

const sampleBlock = gemmDeep

// NewSample makes an empty sample of vectors of d dimensions. expected is about the number of rows to come.
// If it is larger than d, the sample keeps the covariance, else the rows. More or fewer rows may come.
func NewSample(expected, d int) *Sample {
	s := &Sample{d: d, shift: make([]float32, d), sum: make([]float64, d)}
	s.pending = NewMatrix(min(sampleBlock, max(1, expected)), d)
	if expected > d {
		s.square = NewMatrix(d, d)
		s.across = make([]float32, len(s.pending.Data))
	} else {
		s.rows = Matrix{Cols: d, Data: make([]float32, 0, expected*d)}
	}
	return s
}

// Rows is the number of rows that were added.
func (s *Sample) Rows() int { return s.n }

// Add adds the rows of an m × d matrix, and copies what it needs of them. A row with elements that are not
// finite is an error that wraps mining.ErrNotFinite: the rows before it are added then, and the rows after it
// are not.
func (s *Sample) Add(rows Matrix) error {
	if err := rows.check("sample"); err != nil {
		return err
	}
	if rows.Cols != s.d {
		return fmt.Errorf("reduce: rows of %d are no part of a sample of %d dimensions", rows.Cols, s.d)
	}
	for i := range rows.Rows {
		var sum float64
		for _, v := range rows.Row(i) {
			sum += math.Abs(float64(v))
		}
		if math.IsNaN(sum) || math.IsInf(sum, 0) {
			return fmt.Errorf("reduce: row %d of the sample: %w", s.n, mining.ErrNotFinite)
		}
		copy(s.pending.Row(s.waiting), rows.Row(i))
		s.waiting++
		s.n++
		if s.waiting == s.pending.Rows {
			s.flush()
		}
	}
	return nil
}

// flush adds the pending rows to the sums.
func (s *Sample) flush() {
	block := s.pending.slice(0, s.waiting)
	if s.n == s.waiting { // this is the first block
		mean := make([]float64, s.d)
		for i := range block.Rows {
			for j, v := range block.Row(i) {
				mean[j] += float64(v) / float64(block.Rows)
			}
		}
		for j, v := range mean {
			s.shift[j] = float32(v)
		}
	}
	s.waiting = 0
	for i := range block.Rows {
		row := block.Row(i)
		for j, v := range row {
			v -= s.shift[j]
			row[j] = v
			s.sum[j] += float64(v)
			s.squares += float64(v) * float64(v)
		}
	}
	if s.square.Rows == 0 {
		s.rows.Data = append(s.rows.Data, block.Data...)
		s.rows.Rows += block.Rows
		return
	}
	across := Matrix{s.d, block.Rows, s.across[:s.d*block.Rows]}
	transpose(block, across)
	addSquare(across, block, s.square)
}

// finish gives the mean and the total variance, which is the trace of the covariance C. It turns square into
// C, or centres rows. It is called once.
func (s *Sample) finish() (mean []float32, total float64) {
	if s.waiting > 0 {
		s.flush()
	}
	s.pending, s.across = Matrix{}, nil
	mean, offset := make([]float32, s.d), make([]float32, s.d) // offset is the distance of mean from shift
	total = s.squares
	for j, sum := range s.sum {
		m := sum / float64(s.n)
		total -= m * sum
		offset[j] = float32(m)
		mean[j] = float32(float64(s.shift[j]) + m)
	}
	total = max(0, total) / float64(max(1, s.n-1))
	for i := range s.rows.Rows {
		for j, row := 0, s.rows.Row(i); j < len(row); j++ {
			row[j] -= offset[j]
		}
	}
	scale := 1 / float32(max(1, s.n-1))
	for i := range s.square.Rows {
		weight := float32(s.n) * offset[i]
		for j, row := 0, s.square.Row(i)[:i+1]; j <= i; j++ {
			row[j] = (row[j] - weight*offset[j]) * scale
			s.square.Data[j*s.d+i] = row[j]
		}
	}
	return mean, total
}
