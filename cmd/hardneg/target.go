package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/service"
	"hardneg/internal/telemetry"
)

// target names the service that a client command works on.
type target struct{ dataDir, kafka, qdrant, http string }

// flags adds the flags that name the service.
func (t *target) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.dataDir, "data-dir", "", "find the service by its data directory")
	cmd.Flags().StringVar(&t.kafka, "kafka", "", "address of Kafka")
	cmd.Flags().StringVar(&t.qdrant, "qdrant", "", "address of Qdrant")
	cmd.Flags().StringVar(&t.http, "http", "", "HTTP address of the service")
}

// configuration loads the configuration of the service. An address comes from its flag, else from the data
// directory, else from the configuration itself.
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
		// The configuration can name a directory on another machine, where the service runs. So only a
		// directory that a flag names must have addresses.
		if err != nil && (t.dataDir != "" || !errors.Is(err, service.ErrNotRunning)) && t.kafka == "" {
			return nil, log, err
		}
	}
	var settings []string
	for _, s := range []struct{ key, flag, file string }{
		{"data_dir", t.dataDir, ""},
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

// openCache opens the cache of vectors, which the service uses too. It is nil if the configuration has none.
func openCache(on catalog.Conn) (*embed.Cache, error) {
	return service.OpenCache(on.Config, on.Log, telemetry.NewMetrics(prometheus.NewRegistry()))
}

// onKafka connects to the service's Kafka, calls f, and closes the connection.
func (c *command) onKafka(ctx context.Context, t target, f func(catalog.Conn) error) error {
	cfg, log, err := c.configuration(t)
	if err != nil {
		return err
	}
	if len(cfg.Kafka.Brokers) == 0 {
		return usage("which Kafka? Name the service by --data-dir, --kafka, or kafka.brokers in the configuration")
	}
	kafka, err := service.ConnectKafka(ctx, cfg, log)
	if err != nil {
		if t.dataDir != "" && t.kafka == "" && service.Unreachable(err) {
			err = fmt.Errorf("the service of %s does not answer, was it killed? %w", t.dataDir, err)
		}
		return err
	}
	defer kafka.Close()
	return f(catalog.Conn{Config: cfg, Kafka: kafka, Log: log})
}

// onService connects to the service's Kafka and Qdrant, calls f, and closes the connections.
func (c *command) onService(ctx context.Context, t target, f func(catalog.Conn) error) error {
	return c.onKafka(ctx, t, func(on catalog.Conn) error {
		if on.Config.Qdrant.Address == "" {
			return usage("which Qdrant? Name the service by --data-dir, --qdrant, or qdrant.address in the configuration")
		}
		qdrant, err := service.ConnectQdrant(ctx, on.Config, on.Log)
		if err != nil {
			return err
		}
		defer qdrant.Close()
		on.Index = qdrant
		return f(on)
	})
}
