package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hardneg/internal/records"
	"hardneg/stream"
)

func (c *command) exportCommand() *cobra.Command {
	var t target
	var path, format string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the current triplets as JSON lines",
		Long: `Write the current triplets, what compaction leaves of the triplets topic, as JSON lines, ordered by query,
positive and rank. Formats:
  hardneg                the records as they are
  sentence-transformers  {"anchor", "positive", "negative"} for each triplet
  flag-embedding         {"query", "pos": [...], "neg": [...]} for each query
In the last two, a document is its title, a newline and its text.`,
		Example: "  hardneg export --format sentence-transformers --output triplets.jsonl --data-dir ./data",
		Args:    arguments(),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		write, ok := formats[format]
		if !ok {
			return usage("--format %q is none of %s", format, strings.Join(formatNames, ", "))
		}
		return c.onKafka(cmd.Context(), t, func(on connected) error {
			view, err := readView(cmd.Context(), on.kafka, on.config.Topics.Triplets)
			if err != nil {
				return err
			}
			if path == "" {
				return view.write(c.stdout, write)
			}
			return writeFile(path, func(w io.Writer) error { return view.write(w, write) })
		})
	}
	cmd.Flags().StringVar(&path, "output", "", "file to write (default: standard output)")
	cmd.Flags().StringVar(&format, "format", formatNames[0], "form of the lines: "+strings.Join(formatNames, ", "))
	t.flags(cmd)
	return cmd
}

// slot is a place in the list of a query and a positive.
type slot struct {
	query, positive string
	rank            int
}

func (a slot) compare(b slot) int {
	return cmp.Or(strings.Compare(a.query, b.query), strings.Compare(a.positive, b.positive), cmp.Compare(a.rank, b.rank))
}

// view is the compacted content of the triplets topic, in order.
type view []viewed

type viewed struct {
	slot
	value []byte
}

// readView keeps the newest value of each slot.
func readView(ctx context.Context, kafka *stream.Client, topic string) (view, error) {
	newest := make(map[slot][]byte)
	err := kafka.ReadToEnd(ctx, topic, func(r stream.Record) error {
		var s slot
		var err error
		if s.query, s.positive, s.rank, err = records.ParseTripletKey(r.Key); err != nil {
			return fmt.Errorf("%s/%d at offset %d: %w", r.Topic, r.Partition, r.Offset, err)
		}
		if r.Value == nil {
			delete(newest, s)
		} else {
			newest[s] = slices.Clone(r.Value) // a value that is kept would keep its whole batch in memory
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	v := make(view, 0, len(newest))
	for s, value := range newest {
		v = append(v, viewed{s, value})
	}
	slices.SortFunc(v, func(a, b viewed) int { return a.compare(b.slot) })
	return v, nil
}

func (v view) write(w io.Writer, format func(io.Writer, view) error) error {
	buffered := bufio.NewWriterSize(w, 1<<16)
	return errors.Join(format(buffered, v), buffered.Flush())
}

// writeFile replaces the file once all is written, so a reader sees the old content or the new one.
func writeFile(path string, write func(io.Writer) error) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name()) // after an error; else it has another name by then
	if err := errors.Join(write(temporary), temporary.Chmod(0o644), temporary.Close()); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}
