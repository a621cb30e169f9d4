package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"hardneg/internal/audit"
	"hardneg/internal/catalog"

	"github.com/spf13/cobra"
)

// auditSample is how many queries audit checks by default.
const auditSample = 100

func (c *command) auditCommand() *cobra.Command {
	var t target
	var s sample
	o := audit.Options{}
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Recompute queries from scratch and report differences",
		Long: `Recompute the lists of a sample of queries, or of all, from scratch by exact search, and report where the stored
states or the triplets topic differ from that. The service may run meanwhile: a query differs if it still does once
the stages have worked off what was waiting for them. The exit code is 1 if there are differences. Queries that change too
often to be judged are counted, and are none.

--repair sends the queries that differ through refresh, where the miner mines them again, and looks again; the exit
code is then 1 if differences are left. The rules are those that the miners published, whatever this command's configuration says.

Kinds of differences. Of the stored state: positive (which documents have a list), stored (a slot), watch, entry and astray
(what decides which changes reach the query), rank (a published slot that it could not retract). Of the triplets topic:
missing, extra, published (other content), unknown (of a query without a state), stray (what no miner writes).`,
		Example: `  hardneg audit --data-dir ./data --sample 500
  hardneg audit --config hardneg.yaml --all --repair -o json`,
		Args: arguments(),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.read(cmd); err != nil {
			return err
		}
		o.Sample, o.Seed = s.size, s.seed
		return c.onService(cmd.Context(), t, func(on catalog.Conn) error {
			o.Conn = on
			report, err := audit.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if err := c.print(report, func(w io.Writer) error { return printAudit(w, report) }); err != nil {
				return err
			}
			return auditOutcome(report)
		})
	}
	s.flags(cmd, auditSample, "check")
	cmd.Flags().BoolVar(&o.Repair, "repair", false, "send the queries that differ through refresh")
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}

// auditOutcome returns an error if differences are left.
func auditOutcome(r *audit.Report) error {
	idle := ""
	if r.Behind > 0 {
		idle = fmt.Sprintf("; %d records wait for stages that make no progress: does the service run?", r.Behind)
	}
	switch {
	case r.Repaired != nil && len(r.Repaired.Left) > 0:
		return fmt.Errorf("%d differences are left after the repair%s", len(r.Repaired.Left), idle)
	case r.Repaired == nil && len(r.Differences) > 0:
		return fmt.Errorf("%d differences; --repair mends them%s", len(r.Differences), idle)
	}
	return nil
}

func printAudit(w io.Writer, r *audit.Report) error {
	of := "all queries"
	if r.Seed != nil {
		of = fmt.Sprintf("a sample with seed %d", *r.Seed)
	}
	if r.Unknown > 0 {
		of += fmt.Sprintf(", and %d that the triplets alone know", r.Unknown)
	}
	_, err := fmt.Fprintf(w, "%d of %d queries checked (%s): %d pairs, %d slots, %d triplets\n%d differences%s\n",
		r.Queries, r.Known, of, r.Pairs, r.Slots, r.Triplets, len(r.Differences), byKind(r.Kinds))
	if err != nil {
		return err
	}
	if r.UnderWay > 0 {
		if _, err := fmt.Fprintf(w, "%d more queries changed too often to be judged\n", r.UnderWay); err != nil {
			return err
		}
	}
	if err := printDifferences(w, r.Differences); err != nil || r.Repaired == nil {
		return err
	}
	changing := ""
	if r.Repaired.UnderWay > 0 {
		changing = fmt.Sprintf("; %d of them changed too often to be judged again", r.Repaired.UnderWay)
	}
	_, err = fmt.Fprintf(w, "%d queries mined again, %d strays removed: %d differences left%s\n",
		r.Repaired.Queries, r.Repaired.Strays, len(r.Repaired.Left), changing)
	if err != nil {
		return err
	}
	return printDifferences(w, r.Repaired.Left)
}

func byKind(kinds map[string]int) string {
	parts := make([]string, 0, len(kinds))
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		parts = append(parts, fmt.Sprintf("%s %d", kind, kinds[kind]))
	}
	if len(parts) == 0 {
		return ""
	}
	return ": " + strings.Join(parts, ", ")
}

func printDifferences(w io.Writer, differences []audit.Difference) error {
	if len(differences) == 0 {
		return nil
	}
	table := newTable(w)
	fmt.Fprintln(table, "KIND\tQUERY\tPOSITIVE\tRANK\tSTORED\tPUBLISHED\tRECOMPUTED")
	for _, d := range differences {
		rank := ""
		if d.Rank > 0 {
			rank = strconv.Itoa(d.Rank)
		}
		cells := []string{d.Kind, d.Query, d.Positive, rank, d.Stored, d.Published, d.Recomputed}
		for i, cell := range cells {
			cells[i] = orDash(brief(cell))
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	return table.Flush()
}
