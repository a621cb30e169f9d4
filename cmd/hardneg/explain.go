package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hardneg/internal/audit"
	"hardneg/internal/catalog"
	"hardneg/mining"
)

func (c *command) explainCommand() *cobra.Command {
	var t target
	var most int
	o := audit.ExplainOptions{}
	cmd := &cobra.Command{
		Use:   "explain QUERY_ID",
		Short: "Show why a query has the negatives that it has",
		Long: `Show how the lists of a query come to be: the evidence, the tiers with their ranges of cosines, and of every document that they came to the
two cosines and what kept it or let it pass. It is computed anew, by exact search and by the rules that the miners published; where the stored
list is another one, that is said.

--document asks for one document alone, also for one that no tier came to.`,
		Example: `  hardneg explain 42 --data-dir ./data
  hardneg explain 42 --positive doc-7 --document doc-9 --data-dir ./data`,
		Args: arguments("QUERY_ID"),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if most < 1 {
			return usage("--max must be at least 1, is %d", most)
		}
		o.Query = args[0]
		return c.onService(cmd.Context(), t, func(on catalog.Conn) error {
			o.Conn = on
			e, err := audit.Explain(cmd.Context(), o)
			if err != nil {
				return err
			}
			if o.Positive != "" && len(e.Pairs) == 0 {
				return fmt.Errorf("query %q has no list for %q; its evidence: %s", o.Query, o.Positive, orDash(evidenceLine(e)))
			}
			return c.print(e, func(w io.Writer) error { return printExplanation(w, e, most) })
		})
	}
	cmd.Flags().StringVar(&o.Positive, "positive", "", "the list of this positive alone")
	cmd.Flags().StringVar(&o.Document, "document", "", "what became of this document")
	cmd.Flags().IntVar(&most, "max", 30, "documents of a list to show")
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}

// verdictTexts holds, by verdict, the text that says what a tier made of a document.
var verdictTexts = map[string]string{
	"chosen": "negative", "skipped": "skipped, as one of the first", "taken_before": "taken by an earlier tier", "same_content": "the same content as one before it",
	"nearer_to_positive": "not nearer to the query than to the positive", "is_evidence": "the log names it for the query", "copy_of_evidence": "a copy of",
	"near_duplicate": "nearly the vector of", "near_text": "nearly the text of", "not_sampled": "not drawn",
	mining.EndNot: "the list was full before", audit.OutOfRange: "out of its range", audit.Behind: "not reached: the tier ended before",
}

func sentence(d mining.Decision) string {
	text := verdictTexts[d.Verdict.String()]
	switch d.Verdict {
	case mining.Chosen:
		text = fmt.Sprintf("%s %d", text, d.Rank)
	case mining.CopyOfEvidence:
		text += " " + brief(d.Of)
	case mining.NearDuplicate:
		text += fmt.Sprintf(" %s (cosine %.3f)", brief(d.Of), d.Similarity)
	case mining.NearText:
		text += fmt.Sprintf(" %s (%.0f %% of their word shingles)", brief(d.Of), 100*d.Similarity)
	}
	return text
}

func evidenceLine(e *audit.Explanation) string {
	parts := make([]string, len(e.Evidence))
	for i, x := range e.Evidence {
		parts[i] = fmt.Sprintf("%s (weight %v)", brief(x.Document), x.Weight)
		if !x.Positive {
			parts[i] = fmt.Sprintf("%s (weight %v, too little for a list)", brief(x.Document), x.Weight)
		}
		if !x.Indexed {
			parts[i] += " not indexed"
		}
	}
	return strings.Join(parts, ", ")
}

func printExplanation(w io.Writer, e *audit.Explanation, most int) error {
	var b strings.Builder
	text := brief(e.Text)
	if e.Text == "" {
		text = "(forgotten)"
	}
	fmt.Fprintf(&b, "query     %s  %s\nevidence  %s\n", brief(e.Query), text, orDash(evidenceLine(e)))
	for _, p := range e.Pairs {
		fmt.Fprintf(&b, "\npositive  %s  %s\n", brief(p.Positive), brief(e.Titles[p.Positive]))
		if p.Reason == mining.ReasonPositiveMissing {
			b.WriteString("          it is not indexed, so there is no list\n")
			continue
		}
		fmt.Fprintf(&b, "          cosine to the query %.3f; %d negatives", p.Similarity, len(p.Negatives))
		switch p.Reason {
		case mining.ReasonDepth:
			b.WriteString(", for the last tier's rank window ended")
		case mining.ReasonExhausted:
			b.WriteString(", for no further document lies in the last tier's range")
		}
		b.WriteString("\n")
		for i, tier := range p.Tiers {
			fmt.Fprintf(&b, "tier %d    %s, up to %d: %s\n", i+1, tier.Policy, tier.UpTo, tierLine(tier))
		}
		if p.Document != nil {
			printDocument(&b, p)
		} else {
			printDecisions(&b, p, e.Titles, most)
		}
		if len(p.Stored) > 0 {
			b.WriteString("the list as it is stored is another one: it is being mined, or hardneg audit says more\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func tierLine(t mining.TierLog) string {
	cosines := fmt.Sprintf("cosines from %.3f to %.3f", t.Low, t.High)
	switch {
	case t.Low > t.High:
		return "its range is empty"
	case t.Policy == mining.PolicySemantic:
		cosines = fmt.Sprintf("cosines above %.3f", t.Low)
	case t.Low < -1:
		cosines = fmt.Sprintf("cosines up to %.3f", t.High)
	}
	end := map[string]string{
		mining.EndFull: "it filled its slots", mining.EndDepth: "its rank window ended", mining.EndExhausted: "no further document lies in its range", mining.EndNot: verdictTexts[mining.EndNot],
	}[t.End]
	return fmt.Sprintf("%s; %d documents looked at; %s", cosines, len(t.Decisions), end)
}

func printDocument(b *strings.Builder, p audit.ExplainedPair) {
	d := p.Document
	if !d.Indexed {
		fmt.Fprintf(b, "document  %s is not indexed\n", brief(d.ID))
		return
	}
	parts := make([]string, len(d.Tiers))
	for i, verdict := range d.Tiers {
		tier := p.Tiers[i]
		parts[i] = verdictTexts[verdict]
		switch verdict {
		case audit.OutOfRange:
			parts[i] = outOfRange(tier, float64(d.QueryDocument), p.Similarity)
		case audit.Behind:
			parts[i] = "not reached: nearer documents filled its slots"
			if tier.End == mining.EndDepth {
				parts[i] = "not reached: its rank window ended before"
			}
		}
		for _, x := range tier.Decisions {
			if x.Document == d.ID {
				parts[i] = sentence(x)
			}
		}
		parts[i] = tier.Policy + ": " + parts[i]
	}
	if !slices.ContainsFunc(d.Tiers, func(verdict string) bool { return verdict != mining.IsEvidence.String() }) {
		parts = []string{"the log names it for the query: never a negative of it"}
	}
	fmt.Fprintf(b, "document  %s  cosine to the query %.3f, to the positive %.3f; %s\n", brief(d.ID), d.QueryDocument, d.PositiveDocument, strings.Join(parts, "; "))
}

// outOfRange says on which side of a tier's range a cosine is.
func outOfRange(t mining.TierLog, cosine float64, positive float32) string {
	switch {
	case t.Policy == mining.PolicySemantic:
		return fmt.Sprintf("%.3f is not above %.3f", cosine, t.Low)
	case cosine < t.Low:
		return fmt.Sprintf("%.3f is below %.3f", cosine, t.Low)
	case cosine > float64(positive):
		return fmt.Sprintf("%.3f is above %.3f", cosine, t.High)
	}
	return fmt.Sprintf("%.3f is above %.3f, too near to the positive's %.3f", cosine, t.High, positive)
}

// printDecisions shows the documents in order of their similarity to the query. Each line says what the
// tiers made of one document.
func printDecisions(b *strings.Builder, p audit.ExplainedPair, titles map[string]string, most int) {
	type row struct {
		mining.Decision
		what []string
	}
	var rows []*row
	at := map[string]*row{}
	for _, tier := range p.Tiers {
		for _, d := range tier.Decisions {
			if at[d.Document] == nil {
				at[d.Document] = &row{Decision: d}
				rows = append(rows, at[d.Document])
			}
			at[d.Document].what = append(at[d.Document].what, tier.Policy+": "+sentence(d))
		}
	}
	if len(rows) == 0 {
		return
	}
	slices.SortStableFunc(rows, func(a, b *row) int { return cmp.Compare(b.QueryDocument, a.QueryDocument) })
	table := newTable(b)
	fmt.Fprintln(table, "TO QUERY\tTO POSITIVE\tDOCUMENT\tTITLE\tDECISION")
	for _, r := range rows[:min(most, len(rows))] {
		fmt.Fprintf(table, "%.3f\t%.3f\t%s\t%s\t%s\n", r.QueryDocument, r.PositiveDocument, brief(r.Document), orDash(short(titles[r.Document])), strings.Join(r.what, "; "))
	}
	_ = table.Flush() // writing into memory cannot fail
	if left := len(rows) - most; left > 0 {
		fmt.Fprintf(b, "and %d more; --max shows them\n", left)
	}
}

// short is brief for a column of a table.
func short(text string) string { return cut(text, 40) }
