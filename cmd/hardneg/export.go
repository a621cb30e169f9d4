package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"hardneg/internal/catalog"
	"hardneg/internal/triplets"

	"github.com/spf13/cobra"
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
		form, ok := triplets.Formats[format]
		if !ok {
			return usage("--format %q is none of %s", format, strings.Join(triplets.FormatNames, ", "))
		}
		return c.onKafka(cmd.Context(), t, func(on catalog.Conn) error {
			view, err := triplets.Read(cmd.Context(), on.Kafka, on.Config.Topics.Triplets)
			if err != nil {
				return err
			}
			if path == "" {
				return writeView(c.stdout, view, form)
			}
			return writeFile(path, func(w io.Writer) error { return writeView(w, view, form) })
		})
	}
	cmd.Flags().StringVar(&path, "output", "", "file to write (default: standard output)")
	cmd.Flags().StringVar(&format, "format", triplets.FormatNames[0], "form of the lines: "+strings.Join(triplets.FormatNames, ", "))
	t.flags(cmd)
	return cmd
}

func writeView(w io.Writer, v triplets.View, format triplets.Format) error {
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
