package main

import (
	"strings"
)

// brief is the beginning of a text, on one line, without characters that a terminal acts upon.
func brief(text string) string {
	const most = 100
	runes := []rune(flat(text))
	if len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return string(runes)
}

// flat is a whole text on one line.
func flat(text string) string { return strings.Join(strings.Fields(printable(text)), " ") }

// printable is a text with spaces for the characters that a terminal acts upon.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
}
