package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"hardneg/internal/service"
)

func (c *command) checkCommand() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Probe everything that the service depends on",
		Long: `Probe everything that the service depends on, before it runs or while it does: the brokers, the topics, their settings and whether they can be
read, the coordinators of transactions and groups, Qdrant and its version, the live collections, and the servers of embedders, which embed one
text of each kind. It writes no record and changes no setting.

The exit code is 0 if nothing failed, 3 if something could not be reached, and else 1. A note is worth knowing, and no failure.`,
		Example: "  hardneg check --config hardneg.yaml",
		Args:    arguments(),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, log, err := c.configuration(t)
		if err != nil {
			return err
		}
		if len(cfg.Kafka.Brokers) == 0 || cfg.Qdrant.Address == "" {
			return usage("which Kafka and Qdrant? Name the service by --data-dir, by --kafka and --qdrant, or in the configuration")
		}
		encoder := newEncoder(c.stdout)
		probes, failed, unreachable := 0, 0, error(nil)
		err = service.Check(cmd.Context(), cfg, log, func(p service.Probe) error {
			if probes++; p.Err != nil {
				failed++
				if unreachable == nil && service.Unreachable(p.Err) {
					unreachable = p.Err
				}
			}
			if c.output == "json" {
				return encoder.Encode(p)
			}
			_, err := fmt.Fprintf(c.stdout, "%-6s  %-28s %6s  %s\n", p.Outcome, p.What, p.Took.Round(time.Millisecond), flat(p.Detail))
			return err
		})
		switch {
		case err != nil:
			return err
		case unreachable != nil:
			return fmt.Errorf("%d of %d probes failed: %w", failed, probes, unreachable)
		case failed > 0:
			return fmt.Errorf("%d of %d probes failed", failed, probes)
		}
		return nil
	}
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}
