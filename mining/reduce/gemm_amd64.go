package reduce

import "golang.org/x/sys/cpu"

//go:noescape
func multiplyAVX2(k int, a *float32, lda int, b, c *float32, ldc int)

//go:noescape
func multiplyAVX512(k int, a *float32, lda int, b, c *float32, ldc int)

// kernels lists the kernels that this processor can run, the fastest first.
var kernels = func() (found []kernel) {
	if cpu.X86.HasAVX512F {
		found = append(found, kernel{"AVX-512", 12, 32, multiplyAVX512})
	}
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		found = append(found, kernel{"AVX2", 6, 16, multiplyAVX2})
	}
	return found
}()
