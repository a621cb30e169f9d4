//go:build !amd64

package reduce

// kernels is empty: only amd64 has kernels in assembly.
var kernels []kernel
