package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"hardneg/index"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/service"
	"hardneg/internal/telemetry"
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

// connected is a service's Kafka and, where that is needed, its Qdrant.
type connected struct {
	config *config.Config
	kafka  *stream.Client
	qdrant *index.Client // nil: not asked for
	log    zerolog.Logger
}

// cache opens the cache of vectors, which the service shares; nil without one.
func (c connected) cache() (*embed.Cache, error) {
	return service.OpenCache(c.config, c.log, telemetry.NewMetrics(prometheus.NewRegistry()))
}

func (c connected) close() {
	c.kafka.Close()
	if c.qdrant != nil {
		_ = c.qdrant.Close()
	}
}

// connect finds the service's Kafka and Qdrant.
func (c *command) connect(ctx context.Context, t target, qdrant bool) (connected, error) {
	cfg, kafka, err := c.connectKafka(ctx, t)
	if err != nil {
		return connected{}, err
	}
	found := connected{config: cfg, kafka: kafka}
	if found.log, err = telemetry.NewLog(c.stderr, cfg.Log.Level, cfg.Log.Format); err == nil && qdrant {
		if cfg.Qdrant.Address == "" {
			err = usage("which Qdrant? Name the service by --data-dir, --qdrant, or qdrant.address in the configuration")
		} else {
			found.qdrant, err = service.ConnectQdrant(ctx, cfg, found.log)
		}
	}
	if err != nil {
		kafka.Close()
	}
	return found, err
}
