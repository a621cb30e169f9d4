package mining

import (
	"crypto/sha256"
	"encoding/hex"
)

// ContentHash identifies the content of a document: the first 32 hexadecimal digits of SHA-256 over the
// title, a newline (0x0A) and the text. It is never empty.
func ContentHash(title, text string) string {
	h := sha256.New()
	h.Write([]byte(title))
	h.Write([]byte{'\n'})
	h.Write([]byte(text))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// sameContent compares content hashes. An empty hash says nothing about the content, so it equals no other.
func sameContent(a, b string) bool { return a != "" && a == b }
