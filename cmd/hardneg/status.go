package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"

	"hardneg/internal/catalog"

	"github.com/spf13/cobra"
)

func (c *command) statusCommand() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show where the view stands: generation, stages, lag",
		Long: `Show which generation is live and what else there is, how far each stage is behind its topic and how many members its group
has, and, of the instance that answers at the HTTP address, what it waits for. Kafka and Qdrant are asked; no instance needs to run.`,
		Args: arguments(),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.onService(cmd.Context(), t, func(on catalog.Conn) error {
			status, err := on.Status(cmd.Context())
			if err != nil {
				return err
			}
			shown := shownStatus{Status: status, Instance: readReady(cmd.Context(), on.Config.HTTP.Address)}
			return c.print(shown, shown.print)
		})
	}
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}

// shownStatus is the status of the view and of one instance.
type shownStatus struct {
	*catalog.Status
	Instance instance `json:"instance"`
}

// instance is what an instance of the service says of itself.
type instance struct {
	HTTP    string            `json:"http"`
	Answers bool              `json:"answers"`
	Ready   bool              `json:"ready"`
	Missing map[string]string `json:"missing,omitempty"` // by stage: what the stage waits for
}

// readReady asks an instance at its /readyz.
func readReady(ctx context.Context, address string) instance {
	i := instance{HTTP: address}
	err := ask(ctx, address, "/readyz", func(response *http.Response) error {
		return json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&i)
	})
	i.Answers = err == nil
	return i
}

func (s shownStatus) print(w io.Writer) error {
	switch {
	case s.Generation == "":
		fmt.Fprintln(w, "no generation is live yet: the service waits for documents or fits its first model (its log says which), and mines when it has")
	case s.Publishing:
		fmt.Fprintf(w, "generation %s is live, and its triplets are being published\n", s.Generation)
	default:
		fmt.Fprintf(w, "generation %s is live\n", s.Generation)
	}
	fmt.Fprintf(w, "%d documents, %d queries\n", s.Documents, s.Queries)
	switch i := s.Instance; {
	case !i.Answers:
		fmt.Fprintf(w, "no instance answers at %s\n", i.HTTP)
	case i.Ready:
		fmt.Fprintf(w, "the instance at %s is ready\n", i.HTTP)
	default:
		for _, stage := range slices.Sorted(maps.Keys(i.Missing)) {
			fmt.Fprintf(w, "the instance at %s is not ready: %s: %s\n", i.HTTP, stage, i.Missing[stage])
		}
	}
	table := newTable(w)
	fmt.Fprintln(table, "STAGE\tGROUP\tMEMBERS\tTOPIC\tPARTITIONS\tLAG")
	rows := func(stages []catalog.StageStatus) {
		for _, x := range stages {
			fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%d\t%d\n", x.Stage, x.Group, x.Members, x.Topic, x.Partitions, x.Lag)
		}
	}
	rows(s.Stages)
	if err := table.Flush(); err != nil {
		return err
	}
	for _, g := range s.Others {
		fmt.Fprintf(w, "\ngeneration %s %s\n", g.Generation, phaseText(g))
		rows(g.Stages)
		if err := table.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// phaseText says why there is another generation beside the live one.
func phaseText(g catalog.OtherGeneration) string {
	if g.Phase == catalog.PhaseReplaced {
		return "was replaced, and is kept for a while"
	}
	for _, stage := range g.Stages {
		if stage.Members > 0 {
			return "is being made by a rebuild that runs: " + g.Phase
		}
	}
	return "was begun by a rebuild that does not run now (" + g.Phase + "): the same command goes on with it or promotes it, --abort removes it"
}
