package mining

import (
	"runtime"
	"sync"

	"gonum.org/v1/gonum/blas/blas32"
)

// gonum's Sgemm cuts both factors into tiles of 64 × 64, so its inner loops are 64 long and hop through memory, row
// by row. The products of the reducer have long rows: its dot product and axpy over runs of gemmRun, with one side
// in the first-level cache and the other in the second, are 1.5 to 2 times as fast. Every element is
// summed in the same order on any number of processors.
const (
	gemmRun  = 512 // float32 values: 2 KiB
	gemmRows = 8   // rows of a run that stay in the first-level cache
	gemmDeep = 64  // rows of a run that stay in the second-level cache
)

// mulTransposed computes c = a·bᵀ, for a (m × k), b (n × k) and c (m × n).
func mulTransposed(a, b, c Matrix) {
	parallel(a.Rows, gemmDeep, func(first, end int) {
		for i := first; i < end; i++ {
			clear(c.Row(i))
		}
		for deep := 0; deep < b.Rows; deep += gemmDeep {
			for at := 0; at < a.Cols; at += gemmRun {
				run := min(gemmRun, a.Cols-at)
				for rows := first; rows < end; rows += gemmRows {
					for j := deep; j < min(deep+gemmDeep, b.Rows); j++ {
						y := blas32.Vector{N: run, Inc: 1, Data: b.Data[j*b.Cols+at:]}
						for i := rows; i < min(rows+gemmRows, end); i++ {
							c.Data[i*c.Cols+j] += blas32.Dot(blas32.Vector{N: run, Inc: 1, Data: a.Data[i*a.Cols+at:]}, y)
						}
					}
				}
			}
		}
	})
}

// addMul computes c += alpha·a·b, for a (m × k), b (k × n) and c (m × n).
func addMul(alpha float32, a, b, c Matrix) {
	runs := (b.Cols + gemmRun - 1) / gemmRun
	parallel(runs, 1, func(first, end int) {
		for at := first * gemmRun; at < min(end*gemmRun, b.Cols); at += gemmRun {
			run := min(gemmRun, b.Cols-at)
			for deep := 0; deep < b.Rows; deep += gemmDeep {
				for rows := 0; rows < a.Rows; rows += gemmRows {
					for l := deep; l < min(deep+gemmDeep, b.Rows); l++ {
						x := blas32.Vector{N: run, Inc: 1, Data: b.Data[l*b.Cols+at:]}
						for i := rows; i < min(rows+gemmRows, a.Rows); i++ {
							blas32.Axpy(alpha*a.Data[i*a.Cols+l], x, blas32.Vector{N: run, Inc: 1, Data: c.Data[i*c.Cols+at:]})
						}
					}
				}
			}
		}
	})
}

// parallel calls do for the pieces of 0…n of the given size, on all processors.
func parallel(n, size int, do func(first, end int)) {
	workers := min(runtime.GOMAXPROCS(0), (n+size-1)/size)
	if workers <= 1 {
		for first := 0; first < n; first += size {
			do(first, min(first+size, n))
		}
		return
	}
	var group sync.WaitGroup
	pieces := make(chan int, workers)
	for range workers {
		group.Go(func() {
			for first := range pieces {
				do(first, min(first+size, n))
			}
		})
	}
	for first := 0; first < n; first += size {
		pieces <- first
	}
	close(pieces)
	group.Wait()
}
