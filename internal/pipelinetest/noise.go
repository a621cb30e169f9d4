package pipelinetest

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
)

// Noise returns a text of n bytes that no codec can compress much.
func Noise(n int) string {
	raw := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(raw)
	return base64.RawURLEncoding.EncodeToString(raw)[:n]
}

// ManyIDs returns n more elements of a JSON array of ids, each with a comma before it. The ids are numbers
// with a suffix.
func ManyIDs(n int, suffix string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"%d%s"`, i, suffix)
	}
	return b.String()
}
