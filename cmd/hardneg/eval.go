package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hardneg/internal/catalog"
	"hardneg/internal/evaluate"
	"hardneg/mining"
)

// evalSample is how many queries eval looks at by default.
const evalSample = 1000

func (c *command) evalCommand() *cobra.Command {
	var t target
	var s sample
	o := evaluate.Options{}
	cmd := &cobra.Command{
		Use:   "eval",
		Short: "Measure the lists as training data, and the vectors as a ranking",
		Long: `Measure, on a sample of the queries or on all: how many of the pairs of query and positive have full lists, which policies fill them, and why
slots are empty; of the negatives of each policy, how many are nearer to the query than the positive, how many contain the query word for
word, how near they are to the query and to the positive, and how often one document serves; and how well the generation's vectors rank by exact search (nDCG@10, MRR@10, recall@100), where the
positives of the query log are taken for all that is relevant.`,
		Example: "  hardneg eval --data-dir ./data --all",
		Args:    arguments(),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.read(cmd); err != nil {
			return err
		}
		o.Sample, o.Seed = s.size, s.seed
		return c.onService(cmd.Context(), t, func(on catalog.Conn) error {
			o.Conn = on
			shown := newShare(c.stderr, "eval")
			o.Progress = func(done, total int) { shown.set(float64(done)/float64(max(1, total)), done, "queries") }
			e, err := evaluate.Run(cmd.Context(), o)
			shown.end()
			if err != nil {
				return err
			}
			return c.print(e, func(w io.Writer) error { return printEvaluation(w, e) })
		})
	}
	s.flags(cmd, evalSample, "look at")
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}

// reasonTexts holds, by reason, the text that says why slots are empty.
var reasonTexts = map[string]string{
	string(mining.ReasonPositiveMissing): "positive not indexed", string(mining.ReasonExhausted): "no more in range", string(mining.ReasonDepth): "rank window ended",
}

func printEvaluation(w io.Writer, e *evaluate.Evaluation) error {
	var b strings.Builder
	share := func(n, of int) string { return fmt.Sprintf("%d (%.1f %%)", n, 100*float64(n)/float64(max(1, of))) }
	of := "all"
	if e.Seed != nil {
		of = fmt.Sprintf("a sample with seed %d", *e.Seed)
	}
	at := make([]string, len(evaluate.QuantilesAt))
	for i, q := range evaluate.QuantilesAt {
		at[i] = fmt.Sprintf("%.0f %%", 100*q)
	}
	fmt.Fprintf(&b, "generation %s, %d queries that have lists, of %d (%s); cosines are quantiles at %s\n", e.Generation, e.Queries, e.Known, of, strings.Join(at, ", "))
	l := e.Lists
	fmt.Fprintf(&b, "\n%d pairs of query and positive\n", l.Pairs)
	fmt.Fprintf(&b, "  %-33s %s\n  %-33s %s\n", "full lists", share(l.Full, l.Pairs), "empty lists", share(l.Empty, l.Pairs))
	for _, policy := range slices.Sorted(maps.Keys(l.Covered)) {
		fmt.Fprintf(&b, "  %-33s %s\n", "with a negative by "+policy, share(l.Covered[policy], l.Pairs))
	}
	for _, reason := range slices.Sorted(maps.Keys(l.Short)) {
		fmt.Fprintf(&b, "  %-33s %s\n", "short: "+reasonTexts[reason], share(l.Short[reason], l.Pairs))
	}
	for i, pair := range l.Missing[:min(3, len(l.Missing))] {
		name := ""
		if i == 0 {
			name = "not indexed, such as"
		}
		fmt.Fprintf(&b, "  %-33s %s of query %s\n", name, brief(pair.Positive), brief(pair.Query))
	}
	row := func(name string, values []float64) {
		if len(values) == 0 {
			return
		}
		fmt.Fprintf(&b, "  %-33s", name)
		for _, v := range values {
			fmt.Fprintf(&b, " %+.3f", v)
		}
		b.WriteString("\n")
	}
	row("cos(Q,P)", l.Similarity)
	n := e.Negatives
	fmt.Fprintf(&b, "\n%d negatives, %d documents\n", n.Slots, n.Documents)
	for _, policy := range slices.Sorted(maps.Keys(n.Policies)) {
		p := n.Policies[policy]
		fmt.Fprintf(&b, "  %-33s %s\n", "by "+policy, share(p.Slots, n.Slots))
		fmt.Fprintf(&b, "  %-33s %s\n  %-33s %s\n", "  nearer than the positive", share(p.AbovePositive, p.Slots), "  containing the query", share(p.Verbatim, p.Slots))
		row("  cos(Q,P) - cos(Q,N)", p.Margin)
		row("  cos(P,N)", p.ToPositive)
	}
	for i, d := range n.MostUsed[:min(3, len(n.MostUsed))] {
		name := ""
		if i == 0 {
			name = "most used"
		}
		fmt.Fprintf(&b, "  %-33s %s times %s\n", name, share(d.Slots, n.Slots), brief(d.Document))
	}
	r := e.Ranking
	fmt.Fprintf(&b, "\nranking of %d queries by exact search\n  %-33s %.3f\n  %-33s %.3f\n  %-33s %.3f\n  %-33s %s\n", r.Queries,
		"nDCG@10", r.NDCG, "MRR@10", r.MRR, "recall@100", r.Recall, "positives that rank first", share(r.First, r.Pairs))
	_, err := io.WriteString(w, b.String())
	return err
}
