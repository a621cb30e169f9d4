package pipelinetest

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
)

// Noise is text of n bytes that no codec makes smaller.
func Noise(n int) string {
	raw := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(raw)
	return base64.RawURLEncoding.EncodeToString(raw)[:n]
}

// ManyIDs is the rest of a JSON array of n ids, without its bracket.
func ManyIDs(n int, suffix string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"%d%s"`, i, suffix)
	}
	return b.String()
}
