//go:build !amd64

package mining

var kernels []kernel
