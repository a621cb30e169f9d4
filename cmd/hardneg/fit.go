package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hardneg/internal/catalog"
	"hardneg/internal/fit"
	"hardneg/internal/model"
)

func (c *command) fitCommand() *cobra.Command {
	var t target
	var fromIndex bool
	o := fit.Options{}
	cmd := &cobra.Command{
		Use:   "fit",
		Short: "Fit a model on a sample of the documents, and publish it",
		Long: `Fit the configured embedders and reducer on a sample spread over all documents that are there, print what came of it,
and publish the model. What is live stays as it is. A view that has not begun takes the first complete model of the topic,
so a fit before the first run decides; a run that finds none fits on the first documents that arrive.

The sample depends on the seed and on which documents there are, not on their order: the same give the same model.
--from-index takes the texts from the live collection and not from the topic, without the vectors that records carried.`,
		Example: `  hardneg fit --dry-run --set reduce.max_dimensions=1024 --data-dir ./data
  hardneg fit --config hardneg.yaml --sample 50000 -o json`,
		Args: arguments(),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("sample") && o.Sample < 1 {
			return usage("--sample must be at least 1, is %d", o.Sample)
		}
		connect := c.onKafka
		if fromIndex {
			connect = c.onService
		}
		return connect(cmd.Context(), t, func(on catalog.Conn) error {
			o.Conn, o.FromIndex = on, fromIndex
			if !cmd.Flags().Changed("sample") {
				o.Sample = o.Config.Fit.Sample
			}
			if !cmd.Flags().Changed("seed") {
				o.Seed = o.Config.Reduce.Seed
			}
			report, err := c.fit(cmd.Context(), on, o)
			if err != nil {
				return err
			}
			return c.print(report, func(w io.Writer) error { return printFit(w, report, o.DryRun) })
		})
	}
	cmd.Flags().IntVar(&o.Sample, "sample", 0, "documents to fit on (default: fit.sample)")
	cmd.Flags().Uint64Var(&o.Seed, "seed", 0, "seed of the sample (default: reduce.seed)")
	cmd.Flags().BoolVar(&fromIndex, "from-index", false, "take the documents of the live collection, not those of the topic")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "publish nothing")
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}

// fit shows how far it is, and warns of a small sample.
func (c *command) fit(ctx context.Context, on catalog.Conn, o fit.Options) (report *fit.Report, err error) {
	if o.Cache, err = openCache(on); err != nil {
		return nil, err
	}
	defer o.Cache.Close()
	counted := &counts{out: c.stderr}
	o.Progress = counted.show
	report, err = fit.Fit(ctx, o)
	counted.end()
	if err != nil {
		return nil, err
	}
	fit.WarnOfFew(o.Log, report.Manifest.Samples, o.Config.Fit.Minimum)
	return report, nil
}

// counts shows the progress of steps that follow one another.
type counts struct {
	out  io.Writer
	name string
	now  *progress
}

func (s *counts) show(name string, done int) {
	if name != s.name {
		s.end()
		s.name, s.now = name, newProgress(s.out, name)
	}
	s.now.add(done - s.now.count)
}

func (s *counts) end() {
	if s.now != nil {
		s.now.end()
	}
	s.name, s.now = "", nil
}

func printFit(w io.Writer, r *fit.Report, dryRun bool) error {
	published := "published"
	switch {
	case dryRun:
		published = "not published"
	case !r.Published:
		published = "was published before"
	}
	rows := [][2]string{
		{"model", r.Manifest.ID + ", " + published},
		{"source", fmt.Sprintf("%s, %d read", r.Source, r.Read)},
		{"time", fmt.Sprintf("%.1f s reading, %.1f s fitting", r.Seconds["read"], r.Seconds["fit"])},
	}
	if r.First != "" && r.First != r.Manifest.ID {
		rows = append(rows, [2]string{"first", r.First + " was published before it: a view that has not begun takes that one"})
	}
	if err := printRows(w, append(rows, describe(r.Manifest)...)); err != nil {
		return err
	}
	return printParts(w, r.Manifest)
}

// describe describes a model in a few rows of name and value.
func describe(m model.Manifest) [][2]string {
	unreduced := 0
	for _, e := range m.Embedders {
		unreduced += e.Dimensions
	}
	rows := [][2]string{
		{"created", m.CreatedAt.Format(time.RFC3339)},
		{"samples", strconv.Itoa(m.Samples)},
		{"dimensions", fmt.Sprintf("%d of %d", m.Dimensions, unreduced)},
		{"bytes", fmt.Sprintf("%d in %d chunks", m.Bytes, m.Chunks)},
	}
	if len(m.Variance) > 0 {
		captured := fmt.Sprintf("%.3f of the sample's variance", capturedShare(m))
		if m.HeldOut != nil {
			captured += fmt.Sprintf(", %.3f of that of %d documents held out", m.HeldOut.Share, m.HeldOut.Documents)
		}
		rows = append(rows, [2]string{"captured", captured})
	}
	return rows
}

// capturedShare returns the share of the variance, from 0 to 1, that all axes of a model capture: the end
// of its curve. It is 1 for a model without a reduction.
func capturedShare(m model.Manifest) float64 {
	if len(m.Variance) == 0 {
		return 1
	}
	return m.Variance[len(m.Variance)-1].Share
}

func printRows(w io.Writer, rows [][2]string) error {
	table := newTable(w)
	for _, row := range rows {
		fmt.Fprintln(table, row[0]+"\t"+row[1])
	}
	return table.Flush()
}

// printParts prints the embedders and the variance curve.
func printParts(w io.Writer, m model.Manifest) error {
	table := newTable(w)
	fmt.Fprintln(table, "\nEMBEDDER\tTYPE\tWEIGHT\tDIMENSIONS\tFITTED BYTES")
	for _, e := range m.Embedders {
		fmt.Fprintf(table, "%s\t%s\t%g\t%d\t%d\n", e.Name, e.Type, e.Weight, e.Dimensions, e.Bytes)
	}
	if err := table.Flush(); err != nil || len(m.Variance) == 0 {
		return err
	}
	fmt.Fprintln(w, "\nDIMENSIONS  CAPTURED")
	for _, point := range m.Variance {
		_, err := fmt.Fprintf(w, "%10d  %.3f %s\n", point.Dimensions, point.Share, strings.Repeat("▇", int(point.Share*40+0.5)))
		if err != nil {
			return err
		}
	}
	return nil
}
