package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"hardneg/internal/catalog"
	"hardneg/internal/deadletter"
	"hardneg/internal/window"
	"hardneg/stream"
)

func (c *command) dlqCommand() *cobra.Command {
	return group("dlq", "Look at the dead letters, and send their records again", c.dlqListCommand(), c.dlqShowCommand(), c.dlqReplayCommand())
}

// deadLetterFilter chooses dead letters by the flags that are set. An empty flag lets all through.
type deadLetterFilter struct{ stage, topic, key, reason, since string }

func (f *deadLetterFilter) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.stage, "stage", "", "those of a stage: indexer, intake, miner")
	cmd.Flags().StringVar(&f.topic, "topic", "", "those whose record was in this topic")
	cmd.Flags().StringVar(&f.key, "key", "", "those with this key")
	cmd.Flags().StringVar(&f.reason, "error", "", "those whose error contains this text")
	cmd.Flags().StringVar(&f.since, "since", "", "those since a time (2026-01-31T12:00:00Z), or for so long (24h, 7d)")
}

func (f *deadLetterFilter) given() bool { return *f != deadLetterFilter{} }

// choose checks the flags and turns them into a function.
func (f *deadLetterFilter) choose() (func(stream.DeadLetter) bool, error) {
	switch f.stage {
	case "", catalog.StageIndexer, catalog.StageIntake, catalog.StageMiner:
	default:
		return nil, usage("--stage %q is none of indexer, intake, miner", f.stage)
	}
	var since time.Time
	if f.since != "" {
		var ok bool
		if since, ok = window.ParseSince(f.since, time.Now()); !ok {
			return nil, usage("--since %q: want a time such as 2026-01-31T12:00:00Z, or how long ago, such as 24h or 7d", f.since)
		}
	}
	return func(l stream.DeadLetter) bool {
		return (f.stage == "" || l.Stage == f.stage) && (f.topic == "" || l.Record.Topic == f.topic) && (f.key == "" || string(l.Record.Key) == f.key) &&
			strings.Contains(l.Reason, f.reason) && !l.Time.Before(since)
	}, nil
}

// onDeadLetters is onKafka for commands that need the dead letters alone.
func (c *command) onDeadLetters(ctx context.Context, t target, f func(deadletter.Queue) error) error {
	return c.onKafka(ctx, t, func(on catalog.Conn) error {
		return f(deadletter.Queue{Conn: on})
	})
}

func (c *command) dlqListCommand() *cobra.Command {
	var t target
	var f deadLetterFilter
	var all bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the records that could not be used, and why",
		Long: `List the records that could not be used: the place of each dead letter (PARTITION/OFFSET, by which show and replay name it), when it was
written, the stage that wrote it, where the record was in the documents or the query log, its key, and what was wrong. Those whose record dlq replay has sent
again are left out without --all.`,
		Example: "  hardneg dlq list --data-dir ./data --stage indexer --since 24h",
		Args:    arguments(),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		choose, err := f.choose()
		if err != nil {
			return err
		}
		return c.onDeadLetters(cmd.Context(), t, func(d deadletter.Queue) error {
			each := func(show func(l stream.DeadLetter, replayed bool) error) error {
				return d.Each(cmd.Context(), func(l stream.DeadLetter, replayed bool) error {
					if !choose(l) || replayed && !all {
						return nil
					}
					return show(l, replayed)
				})
			}
			if c.output == "json" { // one line at a time: there can be very many
				encoder := newEncoder(c.stdout)
				return each(func(l stream.DeadLetter, replayed bool) error { return encoder.Encode(deadletter.ToJSON(l, replayed)) })
			}
			return printLetters(c.stdout, each)
		})
	}
	f.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "also those whose record was sent again")
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}

// printLetters prints the dead letters that each gives to its function.
func printLetters(w io.Writer, each func(func(l stream.DeadLetter, replayed bool) error) error) error {
	table, shown := newTable(w), 0
	err := each(func(l stream.DeadLetter, replayed bool) error {
		if shown++; shown == 1 {
			fmt.Fprintln(table, "LETTER\tWRITTEN\tSTAGE\tRECORD\tKEY\tERROR")
		}
		note := ""
		if replayed {
			note = "(sent again) "
		}
		_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s%s\n", l.At(), l.Time.UTC().Format(time.RFC3339), brief(l.Stage), sourcePlace(l),
			orDash(brief(string(l.Record.Key))), note, flat(l.Reason))
		return err
	})
	switch {
	case err != nil:
		return err
	case shown == 0:
		_, err := fmt.Fprintln(w, "no dead letters")
		return err
	}
	return table.Flush()
}

func (c *command) dlqShowCommand() *cobra.Command {
	var t target
	var raw bool
	cmd := &cobra.Command{
		Use:   "show LETTER",
		Short: "Show a record that could not be used",
		Long: `Show a dead letter, which is named by its place, PARTITION/OFFSET, as dlq list gives it. --raw writes the value of its record alone, byte
for byte.`,
		Example: "  hardneg dlq show 2/17 --data-dir ./data\n  hardneg dlq show 2/17 --raw --data-dir ./data > record.json",
		Args:    arguments("LETTER"),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		partition, offset, err := parseLetter(args[0])
		if err != nil {
			return err
		}
		return c.onDeadLetters(cmd.Context(), t, func(d deadletter.Queue) error {
			l, replayed, err := d.Get(cmd.Context(), partition, offset)
			if err != nil {
				return err
			}
			if raw {
				_, err := c.stdout.Write(l.Record.Value)
				return err
			}
			return c.print(deadletter.ToJSON(l, replayed), func(w io.Writer) error { return printLetter(w, l, replayed) })
		})
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "write the record's value alone")
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}

// parseLetter reads PARTITION/OFFSET.
func parseLetter(text string) (partition int32, offset int64, err error) {
	first, second, ok := strings.Cut(text, "/")
	p, err := strconv.ParseUint(first, 10, 31)
	o, err2 := strconv.ParseUint(second, 10, 63)
	if !ok || err != nil || err2 != nil {
		return 0, 0, usage("%q names no dead letter: want PARTITION/OFFSET, such as 2/17", text)
	}
	return int32(p), int64(o), nil
}

func placeOf(r stream.Record) string { return placeText(r.Topic, r.Partition, r.Offset) }

func placeText(topic string, partition int32, offset int64) string {
	return printable(fmt.Sprintf("%s/%d/%d", topic, partition, offset))
}

// sourcePlace returns the place of the record that a user wrote. A dead letter of the miner holds a record
// that hardneg made of it.
func sourcePlace(l stream.DeadLetter) string {
	s := deadletter.SourceOf(l)
	return placeText(s.Topic, s.Partition, s.Offset)
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func printLetter(w io.Writer, l stream.DeadLetter, replayed bool) error {
	r := l.Record
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-8s %s\n", name, fmt.Sprintf(format, args...))
	}
	again := ""
	if replayed {
		again = "; its record was sent again"
	}
	line("letter", "%s, written at %s%s", l.At(), deadletter.TimeText(l.Time), again)
	line("stage", "%s", printable(l.Stage))
	line("error", "%s", flat(l.Reason))
	line("record", "%s, of %s", placeOf(r), deadletter.TimeText(r.Time))
	if source := sourcePlace(l); source != placeOf(r) {
		line("source", "%s", source)
	}
	line("key", "%s", textOrNull(r.Key))
	for _, h := range r.Headers {
		line("header", "%s: %s", printable(h.Key), textOrNull(h.Value))
	}
	line("value", "%s", textOrNull(r.Value))
	_, err := io.WriteString(w, b.String())
	return err
}

// textOrNull shows a value on one line. It quotes bytes that are not text, and text that looks like null or
// begins with a quote: otherwise a reader could take one for another.
func textOrNull(b []byte) string {
	switch text := string(b); {
	case b == nil:
		return "null"
	case utf8.Valid(b) && printable(text) == text && text != "null" && !strings.HasPrefix(text, `"`):
		return text
	default:
		return strconv.Quote(text)
	}
}
