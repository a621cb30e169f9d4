package demo

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"hardneg/internal/records"
	"hardneg/mining"
)

// printer prints the demonstration, each line with the seconds since the start.
type printer struct {
	out      io.Writer
	terminal bool
	start    time.Time
}

func (p printer) heading(text string) {
	if p.terminal {
		text = "\x1b[1m" + text + "\x1b[0m"
	}
	fmt.Fprintf(p.out, "\n%s\n", text)
}

func (p printer) line(format string, args ...any) {
	fmt.Fprintf(p.out, "%5.1fs  %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}

// indented continues the previous line.
func (p printer) indented(format string, args ...any) {
	fmt.Fprintf(p.out, "        %s\n", fmt.Sprintf(format, args...))
}

// showTriplets prints a few triplets for a human reader.
func (d *demo) showTriplets() {
	d.heading("What was mined: query, positive, hard negative, and their cosines")
	for _, t := range interesting(d.view.snapshot()) {
		s := t.Similarity
		d.indented("query     %s", quote(t.Query.Text, 90))
		d.indented("positive  %-34s %s", t.Positive.ID, quote(t.Positive.Text, 56))
		d.indented("negative  %-34s %s", t.Negative.ID, quote(t.Negative.Text, 56))
		d.indented("cosines   query–positive %.3f, query–negative %.3f, positive–negative %.3f  (%s, rank %d)\n",
			s.QueryPositive, s.QueryNegative, s.PositiveNegative, t.Policy, t.Rank)
	}
}

// interesting picks triplets whose symbols most people know, or else the first ones. A triplet of the strict
// rule (policy semantic) comes first, if there is one.
func interesting(all []records.Triplet) []records.Triplet {
	var chosen []records.Triplet
	if i := slices.IndexFunc(all, func(t records.Triplet) bool { return t.Policy == mining.PolicySemantic }); i >= 0 {
		chosen = append(chosen, all[i])
	}
	for _, id := range []string{"net/http.Client.Do", "strings.Split", "os.ReadFile", "time.AfterFunc", "sync.Mutex", "encoding/json.Unmarshal", "bufio.Scanner", "os.OpenFile"} {
		i := slices.IndexFunc(all, func(t records.Triplet) bool { return t.Positive.ID == id && t.Rank == 1 })
		if i >= 0 && len(chosen) < tripletsShown {
			chosen = append(chosen, all[i])
		}
	}
	for _, t := range all {
		if len(chosen) < tripletsShown && t.Rank == 1 {
			chosen = append(chosen, t)
		}
	}
	return chosen
}

// printEffect prints a change and its effect.
func (d *demo) printEffect(s step, e effect) {
	d.line("%-8s %s", s.verb, s.what)
	if e.queries == 0 {
		d.indented("%8s no query is affected", "")
		return
	}
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{e.replaced, "replaced"}, {e.mined, "mined"}, {e.retracted, "retracted"}, {e.kept, "kept"}} {
		if p.n > 0 {
			parts = append(parts, count(p.n)+" "+p.what)
		}
	}
	d.indented("%8s %s affected, triplets: %s, at the reader within %d ms", "", plural(e.queries, "query", "queries"), strings.Join(parts, ", "), e.last.Milliseconds())
	for _, example := range e.examples {
		d.indented("%8s   %s", "", example)
	}
}

// summarise prints the end. timeUp says whether the demonstration's time is over.
func (d *demo) summarise(timeUp bool) {
	d.heading("Summary")
	d.line("%s documents, %s queries, %s triplets kept current", count(len(d.entries)), count(d.queries), count(d.view.size()))
	var queries, replaced, mined, retracted int
	var latencies []time.Duration
	for _, e := range d.effects {
		queries, replaced, mined, retracted = queries+e.queries, replaced+e.replaced, mined+e.mined, retracted+e.retracted
		if e.queries > 0 {
			latencies = append(latencies, e.last)
		}
	}
	if len(latencies) == 0 {
		d.line("no change had taken effect yet")
		if timeUp {
			d.line("loading comes first: give it longer, such as --duration 60s")
		}
		return
	}
	slices.Sort(latencies)
	d.line("%s of documents affected %s: %s triplets replaced, %s mined, %s retracted", plural(len(d.effects), "change", "changes"),
		plural(queries, "query", "queries"), count(replaced), count(mined), count(retracted))
	d.line("from produce to the last triplet at a read_committed reader: median %d ms, at most %d ms",
		latencies[len(latencies)/2].Milliseconds(), latencies[len(latencies)-1].Milliseconds())
}

// quote puts the beginning of a text, on one line, in quotation marks.
func quote(text string, most int) string {
	runes := []rune(strings.Join(strings.Fields(text), " "))
	if len(runes) > most {
		return "“" + strings.TrimSpace(string(runes[:most-1])) + "…”"
	}
	return "“" + string(runes) + "”"
}

// count writes a number with commas.
func count(n int) string {
	digits := strconv.Itoa(n)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}
