package reduce

import "gonum.org/v1/gonum/blas/blas32"

// Without a kernel for the processor, products use gonum's vector operations. gonum's own Sgemm cuts both
// factors into tiles of 64 × 64. So its inner loops are only 64 long, and jump through memory from row to
// row. The products of the reducer have long rows. Dot products and axpy over runs of portableRun values,
// with one side in the first-level cache and the other in the second, are 1.5 to 2 times as fast.
const (
	portableRun  = 512 // float32 values: 2 KiB
	portableRows = 8   // rows of a run that stay in the first-level cache
	portableDeep = 64  // rows of a run that stay in the second-level cache
)

// portableProducts computes c = a·bᵀ, for a (m × k), b (n × k) and c (m × n).
func portableProducts(a, b, c Matrix) {
	parallel(a.Rows, portableDeep, func(first, end int) {
		for i := first; i < end; i++ {
			clear(c.Row(i))
		}
		for deep := 0; deep < b.Rows; deep += portableDeep {
			for at := 0; at < a.Cols; at += portableRun {
				run := min(portableRun, a.Cols-at)
				for rows := first; rows < end; rows += portableRows {
					for j := deep; j < min(deep+portableDeep, b.Rows); j++ {
						y := blas32.Vector{N: run, Inc: 1, Data: b.Data[j*b.Cols+at:]}
						for i := rows; i < min(rows+portableRows, end); i++ {
							c.Data[i*c.Cols+j] += blas32.Dot(blas32.Vector{N: run, Inc: 1, Data: a.Data[i*a.Cols+at:]}, y)
						}
					}
				}
			}
		}
	})
}

// portableAddMul computes c += alpha·a·b, for a (m × k), b (k × n) and c (m × n).
func portableAddMul(alpha float32, a, b, c Matrix) {
	runs := (b.Cols + portableRun - 1) / portableRun
	parallel(runs, 1, func(first, end int) {
		for at := first * portableRun; at < min(end*portableRun, b.Cols); at += portableRun {
			run := min(portableRun, b.Cols-at)
			for deep := 0; deep < b.Rows; deep += portableDeep {
				for rows := 0; rows < a.Rows; rows += portableRows {
					for l := deep; l < min(deep+portableDeep, b.Rows); l++ {
						x := blas32.Vector{N: run, Inc: 1, Data: b.Data[l*b.Cols+at:]}
						for i := rows; i < min(rows+portableRows, a.Rows); i++ {
							blas32.Axpy(alpha*a.Data[i*a.Cols+l], x, blas32.Vector{N: run, Inc: 1, Data: c.Data[i*c.Cols+at:]})
						}
					}
				}
			}
		}
	})
}
