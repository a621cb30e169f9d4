package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"

	"hardneg/internal/demo"
)

func (c *command) demoCommand() *cobra.Command {
	var duration time.Duration
	var http string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show what hardneg does, with nothing to set up",
		Long: `Run everything in one process on the documentation of the Go standard library, read from the Go installation on this
machine: load it, show a few mined triplets, and then edit, delete and add documents, and tell which triplets changed
and how fast. It runs until SIGINT, or for --duration, and leaves nothing behind.`,
		Example: "  hardneg demo --duration 60s",
		Args:    cobra.NoArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if duration < 0 {
			return usage("--duration %v is negative", duration)
		}
		settings := demo.Settings
		if http != "" {
			settings = append(settings[:len(settings):len(settings)], "http.address="+http)
		}
		cfg, log, err := c.load(settings...)
		if err != nil {
			return err
		}
		colours := terminal(c.stdout) && os.Getenv("NO_COLOR") == ""
		return demo.Run(cmd.Context(), demo.Options{Config: cfg, Log: log, Out: c.stdout, Terminal: colours, Duration: duration})
	}
	cmd.Flags().DurationVar(&duration, "duration", 0, "end by itself after this time")
	cmd.Flags().StringVar(&http, "http", "", "address of the HTTP server (default: a free port)")
	return cmd
}
