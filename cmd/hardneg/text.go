package main

import (
	"strings"
)

// brief is the beginning of a text, on one line, without characters that a terminal acts upon.
func brief(text string) string {
	const most = 100
	words := strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
	runes := []rune(strings.Join(strings.Fields(words), " "))
	if len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return string(runes)
}
