package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"hardneg/internal/catalog"
	"hardneg/internal/rebuild"
)

func (c *command) rebuildCommand() *cobra.Command {
	var t target
	var abort, yes bool
	o := rebuild.Options{}
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Make a new generation with other embedders, beside the live one, and promote it",
		Long: `Fit the configured embedders and reducer anew, or take a model that 'hardneg fit' has published, make a second pair of
collections with it, and mine every query on them, while the service goes on. Once the new generation is where the live
one is, the aliases in Qdrant are switched in one call; the running service notices, ends what the old generation does,
publishes every list under the new one, and retracts what only the old one had. It erases the old one after --keep.

Documents, queries and evidence come from the live collections. What those do not have, vectors that records carried and
records that the live model refused, needs --from-topics, which reads the topics from their start, and so needs topics
that still have everything.

Interrupted at any point, it goes on when it is called again in the same way; --abort removes what it has made. The
service needs the new configuration for what a model does not hold, such as the API keys of new embedders.`,
		Example: `  hardneg rebuild --data-dir ./data --set 'embedders=[{name: words, type: lexical-word, dimensions: 4096}]'
  hardneg rebuild --config new.yaml --keep 24h
  hardneg rebuild --config new.yaml --abort`,
		Args: arguments(),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.onService(cmd.Context(), t, func(on catalog.Conn) (err error) {
			o.Conn = on
			if abort {
				return c.abortRebuild(cmd.Context(), on, yes)
			}
			if o.Cache, err = openCache(on); err != nil {
				return err
			}
			defer o.Cache.Close()
			shown := &steps{out: c.stderr}
			o.Progress = shown.show
			report, err := rebuild.Run(cmd.Context(), o)
			shown.end()
			if err != nil {
				return err
			}
			return c.print(report, func(w io.Writer) error { return printRebuild(w, report) })
		})
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.FromTopics, "from-topics", false, "read documents and query log from the topics, not from the live collections")
	flags.StringVar(&o.Model, "model", "", "id of a published model to use (default: fit the configured embedders)")
	flags.DurationVar(&o.Keep, "keep", time.Hour, "how long the old generation is kept once the new one is live")
	flags.BoolVar(&o.Default, "default-embedders", false, "use the default embedders, though the live ones are others")
	flags.BoolVar(&o.Hold, "hold", false, "end when the new generation is ready to be promoted; the next rebuild promotes it")
	flags.BoolVar(&abort, "abort", false, "remove the generation that is being made")
	flags.BoolVar(&yes, "yes", false, "with --abort: do not ask")
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}

func (c *command) abortRebuild(ctx context.Context, on catalog.Conn, yes bool) error {
	if !yes {
		if err := c.confirm("Remove the generation that is being made, with its collections, topic and groups?"); err != nil {
			return err
		}
	}
	id, err := rebuild.Abort(ctx, on)
	if err != nil {
		return err
	}
	if id == "" {
		_, err = fmt.Fprintln(c.stdout, "no generation is being made")
		return err
	}
	_, err = fmt.Fprintf(c.stdout, "generation %s is removed\n", id)
	return err
}

// confirm asks the person at the terminal. Without a terminal nobody can answer, so --yes is needed.
func (c *command) confirm(question string) error {
	if !isatty.IsTerminal(os.Stdin.Fd()) {
		return usage("this destroys: say --yes")
	}
	fmt.Fprintf(c.stderr, "%s [y/N] ", question)
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return errors.New("nothing is changed")
	}
	return nil
}

func printRebuild(w io.Writer, r *rebuild.Report) error {
	state := "is live"
	if !r.Promoted {
		state = "is ready to be promoted"
	}
	var took []string
	for _, step := range slices.Sorted(maps.Keys(r.Seconds)) {
		took = append(took, fmt.Sprintf("%s %.1f s", step, r.Seconds[step]))
	}
	_, err := fmt.Fprintf(w, "generation %s %s: %d documents, %d queries, %d dimensions; it replaces %s\n%s\n",
		r.Generation, state, r.Documents, r.Queries, r.Dimensions, r.Previous, strings.Join(took, ", "))
	if err == nil && r.Promoted {
		_, err = fmt.Fprintln(w, "give the service the embedders that this command was given: it needs them for what a model does not hold, such as keys")
	}
	return err
}

// steps shows how far the steps of a rebuild are, and how long each will take at the speed so far.
type steps struct {
	out     io.Writer
	step    string
	first   int64 // records that were done when the step began
	start   time.Time
	printed time.Time // when the last line was printed
	drawn   bool      // the cursor stands behind a line on the terminal
}

func (s *steps) show(p rebuild.Progress) {
	now := time.Now()
	if p.Step != s.step {
		s.end()
		s.step, s.first, s.start, s.printed = p.Step, p.Done, now, time.Time{}
	}
	redraw, every := terminal(s.out), lineEvery
	if redraw {
		every = 200 * time.Millisecond
	}
	if now.Sub(s.printed) < every && (p.Total == 0 || p.Done < p.Total) {
		return
	}
	s.printed = now
	line := s.line(p, now)
	if redraw {
		fmt.Fprintf(s.out, "\r\033[K%s", line)
		s.drawn = true
		return
	}
	fmt.Fprintln(s.out, line)
}

func (s *steps) line(p rebuild.Progress, now time.Time) string {
	if p.Total == 0 {
		return fmt.Sprintf("%s: %d to go", p.Step, -p.Done)
	}
	line := fmt.Sprintf("%s: %d of %d", p.Step, p.Done, p.Total)
	if took, done := now.Sub(s.start).Seconds(), p.Done-s.first; took > 0 && done > 0 {
		rate := float64(done) / took
		left := time.Duration(float64(p.Total-p.Done) / rate * float64(time.Second))
		line += fmt.Sprintf(", %.0f/s, %s left", rate, left.Round(time.Second))
	}
	return line
}

func (s *steps) end() {
	if s.drawn {
		fmt.Fprintln(s.out)
		s.drawn = false
	}
}
