package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"hardneg/internal/catalog"
	"hardneg/internal/service"
)

func (c *command) resetCommand() *cobra.Command {
	var t target
	var embedded, yes, keepTriplets bool
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Delete a view, to begin again from its inputs",
		Long: `List what a view has made: collections and aliases in Qdrant, the topics of triplets, refreshes, models and dead
letters, consumer groups, and the cache in the data directory. With --yes it is deleted; what begins to run then makes
the view anew from the topics of documents and queries, which are never touched. So is the output of replays.

While stages run nothing is deleted. One that was interrupted goes on when it is called again. With --embedded the
servers are started for the command, on --data-dir, for the service that they belong to must not run.`,
		Example: `  hardneg reset --config hardneg.yaml
  hardneg reset --config hardneg.yaml --yes --keep-triplets
  hardneg reset --embedded --data-dir ./data --yes`,
		Args: arguments(),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if embedded {
			if t.dataDir == "" || t.kafka != "" || t.qdrant != "" {
				return usage("--embedded needs --data-dir, and no other address")
			}
			cfg, log, err := c.load("data_dir=" + t.dataDir)
			if err != nil {
				return err
			}
			end, err := service.StartEmbedded(cfg, log)
			if err != nil {
				return err
			}
			t.kafka, t.qdrant = cfg.Kafka.Brokers[0], cfg.Qdrant.Address
			return errors.Join(c.reset(cmd.Context(), t, keepTriplets, yes), end())
		}
		return c.reset(cmd.Context(), t, keepTriplets, yes)
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "delete it (default: only tell what would be deleted)")
	cmd.Flags().BoolVar(&keepTriplets, "keep-triplets", false, "leave the topic of triplets as it is")
	cmd.Flags().BoolVar(&embedded, "embedded", false, "start the embedded servers of the data directory for this command")
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}

// resetResult is the result of a reset in JSON.
type resetResult struct {
	*catalog.ResetPlan
	Deleted bool `json:"deleted"`
}

func (c *command) reset(ctx context.Context, t target, keepTriplets, yes bool) error {
	return c.onService(ctx, t, func(on catalog.Conn) error {
		o := catalog.ResetOptions{
			Conn: on, DataDir: cmp.Or(t.dataDir, on.Config.DataDir), KeepTriplets: keepTriplets,
		}
		plan, err := catalog.PlanReset(ctx, o)
		if err != nil {
			return err
		}
		if yes {
			if err := catalog.Reset(ctx, o, plan); err != nil {
				return err
			}
		}
		return c.printReset(plan, yes)
	})
}

func (c *command) printReset(p *catalog.ResetPlan, deleted bool) error {
	if c.output == "json" {
		return json.NewEncoder(c.stdout).Encode(resetResult{p, deleted})
	}
	if p.Empty() {
		_, err := fmt.Fprintln(c.stdout, "there is nothing to delete")
		return err
	}
	for _, part := range []struct {
		kind  string
		names []string
	}{{"group", p.Groups}, {"alias", p.Aliases}, {"collection", p.Collections}, {"topic", p.Topics}, {"folder", p.Folders}} {
		for _, name := range part.names {
			if _, err := fmt.Fprintf(c.stdout, "%-10s  %s\n", part.kind, name); err != nil {
				return err
			}
		}
	}
	if deleted {
		_, err := fmt.Fprintln(c.stdout, "deleted")
		return err
	}
	for _, running := range p.Running {
		if _, err := fmt.Fprintf(c.stdout, "%s: end every instance of the service first\n", running); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(c.stdout, "nothing was deleted; --yes deletes it")
	return err
}
