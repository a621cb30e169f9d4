package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/replay"
	"hardneg/internal/triplets"
	"hardneg/internal/window"
	"hardneg/stream"
)

// fileEndings are the endings of names that make --output a file if it has no prefix.
var fileEndings = []string{".jsonl", ".ndjson", ".json"}

// replayFlags holds the flags of replay as the user gave them.
type replayFlags struct {
	from, to, output, format, rules string
	exact                           bool
	memory                          int // MiB
}

func (c *command) replayCommand() *cobra.Command {
	var t target
	var f replayFlags
	o := replay.Options{}
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Mine a window of the query log again, into a topic or a file of its own",
		Long: `Mine a window of the query log against the current index, for a backfill. The evidence of the window alone counts, as
the live view counts it: weights, dwell times, forgets, the newest text. What the live view knows of a query beside
that is never a negative. Nothing of the live view is written.

--from and --to name the window: earliest, latest, an offset (12345), offsets of some partitions (0:100,1:250), a time
(2026-01-31T12:00:00Z), or how long ago (24h, 7d). It goes from the first up to, not including, the second. A time is the
first record at or after it in each partition, so that windows which follow one another share no record.

--output is a topic (topic:NAME) or a file (file:PATH). Without a prefix it is a file if it has a path separator or ends
in .jsonl, .ndjson or .json, and else a topic. A topic gets the records that the triplets topic would, and is made where
it is missing; it must not be one of the live ones. A file is replaced at the end; its lines are as export writes them,
queries in no order that means anything. All triplets of a replay have its begin for a revision and for mined_at.

A replay that was interrupted, or killed, goes on when it is started again with the same arguments, and gives what it
would have given; --restart begins it anew. What it knows is kept in a consumer group of its own, or in a file beside
the output.

Evidence beyond --memory is left to further passes over the window.`,
		Example: `  hardneg replay --from 7d --output topic:backfill --data-dir ./data
  hardneg replay --from earliest --output triplets.jsonl --format sentence-transformers --config hardneg.yaml`,
		Args: arguments(),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.check(&o); err != nil {
			return err
		}
		return c.onService(cmd.Context(), t, func(on catalog.Conn) (err error) {
			o.Conn = on
			if o.Cache, err = openCache(on); err != nil {
				return err
			}
			defer o.Cache.Close()
			out, closing, err := f.open(on.Kafka, on.Config)
			if err != nil {
				return err
			}
			defer closing()
			o.Output = out
			return c.replay(cmd.Context(), o, f)
		})
	}
	cmd.Flags().StringVar(&f.from, "from", "", "where the window begins")
	cmd.Flags().StringVar(&f.to, "to", "latest", "where it ends")
	cmd.Flags().StringVar(&f.output, "output", "", "where the triplets go: topic:NAME or file:PATH")
	cmd.Flags().StringVar(&f.format, "format", triplets.FormatNames[0], "form of a file's lines: "+strings.Join(triplets.FormatNames, ", "))
	cmd.Flags().StringVar(&f.rules, "rules", "published", "rules of mining: published (by the miners), or config")
	cmd.Flags().BoolVar(&f.exact, "exact", false, "search exactly, however large the collection is")
	cmd.Flags().Float64Var(&o.Rate, "rate", 0, "queries a second at most (default: as fast as it goes)")
	cmd.Flags().IntVar(&f.memory, "memory", replay.DefaultMemory>>20, "MiB of evidence to hold at a time")
	cmd.Flags().BoolVar(&o.Restart, "restart", false, "begin anew where a replay with these arguments is unfinished")
	t.flags(cmd)
	c.formFlag(cmd, "summary", "table", "json")
	return cmd
}

// check reads the flags into options.
func (f replayFlags) check(o *replay.Options) (err error) {
	switch {
	case f.from == "":
		return usage("--from is missing: where does the window begin? For all of the log, --from earliest")
	case f.output == "":
		return usage("--output is missing: topic:NAME or file:PATH")
	case triplets.Formats[f.format] == nil:
		return usage("--format %q is none of %s", f.format, strings.Join(triplets.FormatNames, ", "))
	case f.rules != "published" && f.rules != "config":
		return usage("--rules %q is none of published, config", f.rules)
	case !(o.Rate >= 0):
		return usage("--rate must be at least 0, is %v", o.Rate)
	case f.memory < 1:
		return usage("--memory must be at least 1, is %d", f.memory)
	}
	if o.From, err = window.ParseBound(f.from); err != nil {
		return usage("--from %w", err)
	}
	if o.To, err = window.ParseBound(f.to); err != nil {
		return usage("--to %w", err)
	}
	kind, name := f.destination()
	if name == "" || name == "-" {
		return usage("--output %q names nothing that a replay could go on with: want topic:NAME or file:PATH", f.output)
	}
	if kind == "topic" && f.format != triplets.FormatNames[0] {
		return usage("--format is of files: a topic gets records of the triplets topic")
	}
	o.OwnRules, o.Exactly, o.Memory = f.rules == "config", f.exact, int64(f.memory)<<20
	return nil
}

// destination splits --output into topic or file, and its name or path.
func (f replayFlags) destination() (kind, name string) {
	if kind, name, ok := strings.Cut(f.output, ":"); ok && (kind == "topic" || kind == "file") {
		return kind, name
	}
	if strings.ContainsRune(f.output, filepath.Separator) || slices.Contains(fileEndings, strings.ToLower(filepath.Ext(f.output))) {
		return "file", f.output
	}
	return "topic", f.output
}

// open makes the output. The output notes all arguments that decide what comes out, so that a replay with
// others does not go on with what this one has begun.
func (f replayFlags) open(kafka *stream.Client, cfg *config.Config) (out replay.Output, closing func(), err error) {
	same := fmt.Sprintf("--from %s --to %s --format %s --rules %s --exact=%v, topic %s, qdrant.prefix %q",
		f.from, f.to, f.format, f.rules, f.exact, cfg.Topics.Queries, cfg.Qdrant.Prefix)
	kind, name := f.destination()
	if kind == "file" {
		file := replay.NewFile(name, triplets.Formats[f.format], same)
		return file, file.Close, nil
	}
	out, err = replay.NewTopic(kafka, cfg, name, same)
	if err != nil {
		return nil, nil, usage("--output: %w", err)
	}
	return out, func() {}, nil
}

func (c *command) replay(ctx context.Context, o replay.Options, f replayFlags) error {
	shown := newShare(c.stderr, "replay")
	o.Progress = func(s replay.Status) {
		if s.Reading {
			shown.note(fmt.Sprintf("reading the window, %.0f %%", 100*s.Share))
		} else {
			shown.set(s.Share, s.Queries, "queries")
		}
	}
	report, err := replay.Run(ctx, o)
	shown.end()
	if errors.Is(err, window.ErrWindow) {
		return usageError{err}
	}
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w; the same command goes on with it", err)
		}
		return err
	}
	if err := c.printReplay(report, f); err != nil {
		return err
	}
	return o.Output.Forget(ctx)
}

// replaySummary is the result of a replay in JSON.
type replaySummary struct {
	Output string `json:"output"`
	*replay.Report
}

func (c *command) printReplay(r *replay.Report, f replayFlags) error {
	kind, name := f.destination()
	if c.output == "json" {
		return json.NewEncoder(c.stdout).Encode(replaySummary{kind + ":" + name, r})
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d records of the query log, from %s to %s\n", r.Records, f.from, f.to)
	resumed := ""
	if r.Resumed {
		resumed = ", having gone on with what was begun at " + time.UnixMilli(r.Revision).Format(time.RFC3339)
	}
	fmt.Fprintf(&b, "%d queries, %d pairs, %d triplets in %s %s, %.1f s%s\n", r.Queries, r.Pairs, r.Triplets, kind, name, r.Seconds, resumed)
	share := func(n int) float64 { return 100 * float64(n) / float64(max(1, r.Pairs)) }
	for _, policy := range slices.Sorted(maps.Keys(r.Covered)) {
		fmt.Fprintf(&b, "%-16s %d pairs (%.1f %%) have such a negative\n", policy, r.Covered[policy], share(r.Covered[policy]))
	}
	for _, reason := range slices.Sorted(maps.Keys(r.Short)) {
		fmt.Fprintf(&b, "%-16s %d pairs (%.1f %%) have empty slots for this reason\n", reason, r.Short[reason], share(r.Short[reason]))
	}
	if r.Bad > 0 {
		fmt.Fprintf(&b, "%d records cannot be used\n", r.Bad)
		for _, bad := range r.BadList {
			fmt.Fprintf(&b, "  partition %d offset %d: %s\n", bad.Partition, bad.Offset, brief(bad.Error))
		}
	}
	_, err := c.stdout.Write([]byte(b.String()))
	return err
}
