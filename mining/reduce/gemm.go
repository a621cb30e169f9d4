package reduce

import (
	"runtime"
	"sync"
)

// kernel multiplies small tiles in registers: c (rows × cols) += a (rows × k)·b (k × cols), with k ≥ 1. b is
// packed row after row. lda and ldc, the strides of a and c, are in bytes. gonum computes with vectors of 4
// values. These kernels have 8 and 16 values, and multiply and add in one instruction. So the products of the
// reducer are 5 to 10 times as fast.
type kernel struct {
	name       string
	rows, cols int
	multiply   func(k int, a *float32, lda int, b, c *float32, ldc int)
}

// The largest tile of any kernel, and the size of the blocks of a product (Goto and van de Geijn, "Anatomy of
// High-Performance Matrix Multiplication", ACM TOMS 2008).
const (
	kernelRows, kernelCols = 12, 32

	gemmDeep = 256 // rows of b at a time: the parts of a and b that a tile needs stay in the first-level cache
	gemmWide = 256 // columns of b at a time: packed, they stay in the second-level cache
	gemmTall = 240 // rows of a at a time: a multiple of all kernels' rows
)

// product is the working memory of one product: a packed block of b, and the tiles at the edges of a and c.
type product struct {
	kernel
	packed [gemmDeep * gemmWide]float32
	rows   [kernelRows * gemmDeep]float32
	tile   [kernelRows * kernelCols]float32
}

var products = sync.Pool{New: func() any { return new(product) }}

// fastest is the kernel in use. nil means that the processor has none: then the portable products are used.
var fastest = func() *kernel {
	if len(kernels) == 0 {
		return nil
	}
	return &kernels[0]
}()

// Products computes c = a·bᵀ, the dot product of each row of a with each row of b. a is m × k, b is n × k and
// c is m × n. Products does not check these sizes. It uses all processors. An element of c depends only on
// its two rows: it is summed in the same order whatever m and n are, and on any number of processors.
// Different kinds of processor can differ in the last bits.
func Products(a, b, c Matrix) {
	if fastest == nil {
		portableProducts(a, b, c)
		return
	}
	if a.Rows < b.Rows { // packing takes time: pack the smaller one
		t := NewMatrix(b.Rows, a.Rows)
		Products(b, a, t)
		transpose(t, c)
		return
	}
	parallel(a.Rows, gemmTall, func(first, end int) {
		p := newProduct()
		defer products.Put(p)
		clear(c.Data[first*c.Cols : end*c.Cols])
		for l := 0; l < a.Cols; l += gemmDeep {
			deep := min(gemmDeep, a.Cols-l)
			for j := 0; j < b.Rows; j += gemmWide {
				wide := min(gemmWide, b.Rows-j)
				p.packTransposed(b, j, wide, l, deep)
				p.add(a, first, end, l, deep, c, j, wide)
			}
		}
	})
}

// addMul computes c += alpha·a·b, for a (m × k), b (k × n) and c (m × n). What Products says of an element
// holds here too.
func addMul(alpha float32, a, b, c Matrix) {
	if fastest == nil {
		portableAddMul(alpha, a, b, c)
		return
	}
	parallel(b.Cols, gemmWide, func(first, end int) {
		p := newProduct()
		defer products.Put(p)
		for l := 0; l < a.Cols; l += gemmDeep {
			deep := min(gemmDeep, a.Cols-l)
			p.pack(alpha, b, first, end-first, l, deep)
			p.add(a, 0, a.Rows, l, deep, c, first, end-first)
		}
	})
}

// addSquare computes c += aᵀ·a on and below the diagonal of c. a is m × n, across is its transpose, and c is
// n × n. The elements above the diagonal get no meaningful values.
func addSquare(across, a, c Matrix) {
	if fastest == nil {
		portableAddMul(1, across, a, c)
		return
	}
	parallel(a.Cols, gemmWide, func(first, end int) {
		p := newProduct()
		defer products.Put(p)
		for l := 0; l < a.Rows; l += gemmDeep {
			deep := min(gemmDeep, a.Rows-l)
			p.pack(1, a, first, end-first, l, deep)
			p.add(across, first, across.Rows, l, deep, c, first, end-first)
		}
	})
}

func newProduct() *product {
	p := products.Get().(*product)
	p.kernel = *fastest
	return p
}

// pack copies rows l…l+deep and columns j…j+wide of alpha·b into panels of the kernel's width, each row after
// row.
func (p *product) pack(alpha float32, b Matrix, j, wide, l, deep int) {
	cols := p.cols
	for i := range deep {
		row := b.Data[(l+i)*b.Cols+j : (l+i)*b.Cols+j+wide]
		for at := i * cols; len(row) > 0; at += deep * cols {
			to := p.packed[at : at+cols]
			n := copy(to, row)
			clear(to[n:])
			row = row[n:]
			if alpha != 1 {
				for x := range to[:n] {
					to[x] *= alpha
				}
			}
		}
	}
}

// packTransposed does the same as pack with rows l…l+deep and columns j…j+wide of bᵀ.
func (p *product) packTransposed(b Matrix, j, wide, l, deep int) {
	cols := p.cols
	for panel := 0; panel < wide; panel += cols {
		to := p.packed[panel*deep : (panel+cols)*deep]
		for x := range cols {
			if panel+x >= wide {
				for at := x; at < len(to); at += cols {
					to[at] = 0
				}
				continue
			}
			row := b.Data[(j+panel+x)*b.Cols+l:]
			at := x
			for _, v := range row[:deep] {
				to[at] = v
				at += cols
			}
		}
	}
}

// add multiplies rows first…end and columns l…l+deep of a by the packed block, and adds the result to columns
// j…j+wide of c.
func (p *product) add(a Matrix, first, end, l, deep int, c Matrix, j, wide int) {
	for i := first; i < end; i += p.kernel.rows {
		rows, lda := &a.Data[i*a.Cols+l], 4*a.Cols
		high := min(p.kernel.rows, end-i)
		if high < p.kernel.rows {
			for r := range high {
				copy(p.rows[r*deep:(r+1)*deep], a.Data[(i+r)*a.Cols+l:])
			}
			rows, lda = &p.rows[0], 4*deep // the rows from high on hold old values, and nobody reads their products
		}
		for panel := 0; panel < wide; panel += p.cols {
			packed := &p.packed[panel*deep]
			columns := min(p.cols, wide-panel)
			if high == p.kernel.rows && columns == p.cols {
				p.multiply(deep, rows, lda, packed, &c.Data[i*c.Cols+j+panel], 4*c.Cols)
				continue
			}
			clear(p.tile[:])
			p.multiply(deep, rows, lda, packed, &p.tile[0], 4*p.cols)
			for r := range high {
				to := c.Data[(i+r)*c.Cols+j+panel:][:columns]
				for x, v := range p.tile[r*p.cols:][:columns] {
					to[x] += v
				}
			}
		}
	}
}

// parallel cuts 0…n into pieces of the given size, and calls do for each of them, on all processors.
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
