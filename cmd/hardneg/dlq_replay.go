package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"hardneg/internal/deadletter"
	"hardneg/stream"
)

func (c *command) dlqReplayCommand() *cobra.Command {
	var t target
	var f deadLetterFilter
	var all bool
	o := deadletter.ReplayOptions{}
	cmd := &cobra.Command{
		Use:   "replay [LETTER...]",
		Short: "Send records that could not be used again",
		Long: `Send the records of dead letters again to the topics that they came from, once what was wrong is mended: a model that refused a text, a
limit, a vector's length. They go out as they were, with their timestamps, so that what was forgotten since stays so.

Which ones: the dead letters that are named by their places, those that the filters choose, or --all. Each record goes out once, whatever
is interrupted. Left are documents that came again or were deleted since, and records that are malformed: they would come back. A record that
is left is told with the reason, and is no failure. --dry-run tells and sends nothing.`,
		Example: `  hardneg dlq replay 2/17 --data-dir ./data
  hardneg dlq replay --stage indexer --error "413" --since 24h --dry-run --data-dir ./data`,
		Args: cobra.ArbitraryArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		named := map[string]stream.DeadLetter{}
		for _, arg := range args {
			partition, offset, err := parseLetter(arg)
			if err != nil {
				return err
			}
			l := stream.DeadLetter{Partition: partition, Offset: offset}
			named[l.At()] = l
		}
		ways := 0
		for _, given := range []bool{len(named) > 0, f.given(), all} {
			if given {
				ways++
			}
		}
		if ways != 1 {
			return usage("which dead letters? Name them by their places (2/17), or choose them by filters such as --stage, or take --all")
		}
		choose, err := f.choose()
		if err != nil {
			return err
		}
		o.Choose = func(l stream.DeadLetter) bool {
			if len(named) > 0 {
				_, ok := named[l.At()]
				return ok
			}
			return choose(l)
		}
		return c.onDeadLetters(cmd.Context(), t, func(d deadletter.Queue) error {
			var missing []error
			for _, at := range slices.Sorted(maps.Keys(named)) {
				if _, err := d.Find(cmd.Context(), named[at].Partition, named[at].Offset); errors.Is(err, deadletter.ErrNotFound) {
					missing = append(missing, err)
				} else if err != nil {
					return err
				}
			}
			if len(missing) > 0 {
				return errors.Join(missing...)
			}
			return c.replayLetters(cmd.Context(), d, o, len(named) > 0)
		})
	}
	f.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all dead letters whose record was not sent again yet")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "tell what would be sent, and send nothing")
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}

// replayedLetter says in JSON what became of a dead letter.
type replayedLetter struct {
	Letter string `json:"letter"`
	Record string `json:"record"` // topic/partition/offset
	To     string `json:"to,omitempty"`
	Left   string `json:"left,omitempty"` // why it was not sent
}

func (c *command) replayLetters(ctx context.Context, d deadletter.Queue, o deadletter.ReplayOptions, named bool) error {
	shown := newProgress(c.stderr, "reading documents")
	defer shown.end()
	last := 0
	o.Checked = func(n int) { shown.add(n - last); last = n }
	encoder := newEncoder(c.stdout)
	sent, left := 0, 0
	o.Tell = func(x deadletter.Outcome) error {
		line := replayedLetter{Letter: x.DeadLetter.At(), Record: placeOf(x.DeadLetter.Record), Left: x.Left}
		switch {
		case x.Before && !named:
			return nil // filters choose it again at each call, which is no news
		case x.Left == "":
			sent++
			line.To = fmt.Sprintf("%s/%d", x.To.Topic, x.To.Partition)
		default:
			left++
		}
		if c.output == "json" {
			return encoder.Encode(line)
		}
		text := fmt.Sprintf("%s  %s  to %s", line.Letter, line.Record, line.To)
		if line.Left != "" {
			text = fmt.Sprintf("%s  %s  left: %s", line.Letter, line.Record, flat(line.Left))
		}
		_, err := fmt.Fprintln(c.stdout, text)
		return err
	}
	if err := d.Replay(ctx, o); err != nil {
		return err
	}
	if c.output != "json" {
		what := "sent again"
		if o.DryRun {
			what = "would be sent again"
		}
		hint := ""
		if sent > 0 && !o.DryRun {
			hint = "; what the service still refuses comes back as a new dead letter (hardneg dlq list --since 1m)"
		}
		if _, err := fmt.Fprintf(c.stdout, "%d %s, %d left%s\n", sent, what, left, hint); err != nil {
			return err
		}
	}
	return nil
}
