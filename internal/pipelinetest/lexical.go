package pipelinetest

import (
	"fmt"

	"hardneg/internal/config"
	"hardneg/internal/embed"
)

// Lexical are embedders that are fitted in no time, and yet make a model of several chunks.
var Lexical = []config.Embedder{{Name: "words", Type: embed.TypeLexicalWord, Weight: 1, Dimensions: 64}}

// About returns n passages. All their words begin with a prefix, so passages with different prefixes share no
// word.
func About(prefix string, n int) []embed.Item {
	items := make([]embed.Item, n)
	for i := range items {
		for j := range 6 {
			items[i].Text += fmt.Sprintf(" %s%d", prefix, (i*7+j*j*3+i%11*j)%40)
		}
	}
	return items
}
