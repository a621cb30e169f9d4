package main

import (
	"encoding/json"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/mattn/go-isatty"
)

// print prints a result: with -o json for programs, else by text.
func (c *command) print(result any, text func(io.Writer) error) error {
	if c.output == "json" {
		return c.printJSON(result)
	}
	return text(c.stdout)
}

// printJSON indents a result, so that people can read it, too.
func (c *command) printJSON(result any) error {
	encoder := newEncoder(c.stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(result)
}

// newEncoder leaves <, > and & as they are: nobody puts the output into a web page.
func newEncoder(w io.Writer) *json.Encoder {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder
}

func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }

// terminal reports whether a person watches the output on a terminal.
func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && isatty.IsTerminal(file.Fd())
}

// brief returns the beginning of a text on one line, without control characters.
func brief(text string) string { return cut(text, 100) }

func cut(text string, most int) string {
	runes := []rune(flat(text))
	if len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return string(runes)
}

// flat returns a whole text on one line, without control characters.
func flat(text string) string { return strings.Join(strings.Fields(printable(text)), " ") }

// printable puts spaces in place of control characters: a terminal would act upon them.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
}
