package main

import (
	"encoding/json"
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"hardneg/internal/service"
)

func (c *command) runCommand() *cobra.Command {
	var o service.Options
	var stages, dataDir, http string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the service",
		Long: `Run the stages until SIGINT or SIGTERM, which let them finish the transactions under way; a second signal ends at
once. With --embedded, Kafka and Qdrant run in this process too, for trying and testing: --data-dir keeps their data,
and --embedded-kafka and --embedded-qdrant fix their addresses. The addresses are printed, and written to
addresses.json in the data directory, where the other commands find them by --data-dir.`,
		Example: `  hardneg run --embedded --data-dir ./data
  hardneg run --config hardneg.yaml --stages indexer,miner`,
		Args: arguments(),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !o.Embedded && (o.KafkaAddress != "" || o.QdrantAddress != "") {
			return usage("--embedded-kafka and --embedded-qdrant need --embedded")
		}
		for flag, address := range map[string]string{"--embedded-kafka": o.KafkaAddress, "--embedded-qdrant": o.QdrantAddress} {
			if _, _, err := net.SplitHostPort(address); address != "" && err != nil {
				return usage("%s %q is not host:port", flag, address)
			}
		}
		var settings []string
		setting := func(key, value string) {
			if value != "" {
				settings = append(settings, key+"="+value)
			}
		}
		setting("stages", stages)
		setting("data_dir", dataDir)
		setting("http.address", http)
		cfg, log, err := c.load(settings...)
		if err != nil {
			return err
		}
		if !o.Embedded {
			if err := cfg.CheckAddresses(); err != nil {
				return err
			}
		}
		o.Config, o.Log = cfg, log
		o.Started = func(s service.Started) {
			if err := c.printStarted(s); err != nil {
				log.Warn().Err(err).Msg("the addresses could not be printed") // the service works without, so it goes on
			}
		}
		return service.Run(cmd.Context(), o)
	}
	flags := cmd.Flags()
	flags.StringVar(&stages, "stages", "", "stages to run, separated by commas: indexer, intake, miner (default: all)")
	flags.BoolVar(&o.Embedded, "embedded", false, "run Kafka and Qdrant in this process")
	flags.StringVar(&dataDir, "data-dir", "", "directory of the embedded servers (default: a temporary one, removed at the end)")
	flags.StringVar(&o.KafkaAddress, "embedded-kafka", "", "address of the embedded Kafka (default: a free port)")
	flags.StringVar(&o.QdrantAddress, "embedded-qdrant", "", "address of the embedded Qdrant (default: a free port)")
	flags.StringVar(&http, "http", "", "address of the HTTP server")
	c.outputFlag(cmd, "table", "json")
	return cmd
}

// printStarted prints the addresses at which other programs find the servers.
func (c *command) printStarted(s service.Started) error {
	if c.output == "json" {
		return json.NewEncoder(c.stdout).Encode(struct {
			service.Addresses
			DataDir string `json:"data_dir,omitempty"`
		}{s.Addresses, s.DataDir})
	}
	rows := [][]string{{"kafka", s.Kafka}, {"qdrant", s.Qdrant}, {"http", "http://" + s.HTTP}}
	if s.DataDir != "" {
		directory := s.DataDir
		if s.Temporary {
			directory += " (removed at the end)"
		}
		rows = append(rows, []string{"data", directory})
	}
	for _, row := range rows {
		if _, err := fmt.Fprintf(c.stdout, "%-8s%s\n", row[0], row[1]); err != nil {
			return err
		}
	}
	return nil
}
