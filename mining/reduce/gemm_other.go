//go:build !amd64

package reduce

var kernels []kernel
