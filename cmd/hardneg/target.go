package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"hardneg/internal/config"
	"hardneg/internal/service"
	"hardneg/stream"
)

// target is which service a client command is about.
type target struct{ dataDir, kafka, qdrant, http string }

// flags adds the flags that name it.
func (t *target) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.dataDir, "data-dir", "", "find the service by its data directory")
	cmd.Flags().StringVar(&t.kafka, "kafka", "", "address of Kafka")
	cmd.Flags().StringVar(&t.qdrant, "qdrant", "", "address of Qdrant")
	cmd.Flags().StringVar(&t.http, "http", "", "HTTP address of the service")
}

// configuration is that of the service: the addresses come from their flags, else from the data directory, else
// from the configuration.
func (c *command) configuration(t target) (*config.Config, zerolog.Logger, error) {
	cfg, log, err := c.load()
	if err != nil {
		return nil, log, err
	}
	addresses := service.Addresses{}
	if dir := t.dataDir; dir != "" || cfg.DataDir != "" {
		if dir == "" {
			dir = cfg.DataDir
		}
		addresses, err = service.ReadAddresses(dir)
		// A directory that the configuration names may be that of a service elsewhere.
		if err != nil && (t.dataDir != "" || !errors.Is(err, service.ErrNotRunning)) && t.kafka == "" {
			return nil, log, err
		}
	}
	var settings []string
	for _, s := range []struct{ key, flag, file string }{
		{"kafka.brokers", t.kafka, addresses.Kafka},
		{"qdrant.address", t.qdrant, addresses.Qdrant},
		{"http.address", t.http, addresses.HTTP},
	} {
		if s.flag != "" {
			settings = append(settings, s.key+"="+s.flag)
		} else if s.file != "" {
			settings = append(settings, s.key+"="+s.file)
		}
	}
	return c.load(settings...)
}

// connectKafka finds the service's Kafka.
func (c *command) connectKafka(ctx context.Context, t target) (*config.Config, *stream.Client, error) {
	cfg, log, err := c.configuration(t)
	if err != nil {
		return nil, nil, err
	}
	if len(cfg.Kafka.Brokers) == 0 {
		return nil, nil, usage("which Kafka? Name the service by --data-dir, --kafka, or kafka.brokers in the configuration")
	}
	client, err := service.ConnectKafka(ctx, cfg, log)
	if err != nil && t.dataDir != "" && t.kafka == "" && service.Unreachable(err) {
		err = fmt.Errorf("the service of %s does not answer, was it killed? %w", t.dataDir, err)
	}
	return cfg, client, err
}
