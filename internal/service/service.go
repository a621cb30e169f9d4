// Package service starts the parts of `hardneg run`, and ends them in the opposite order: the embedded
// servers if they are asked for, the HTTP server, the clients, and the pipeline.
package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/config"
	embeddedkafka "hardneg/internal/embedded/kafka"
	embeddedqdrant "hardneg/internal/embedded/qdrant"
	"hardneg/internal/pipeline"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// Options say what to run.
type Options struct {
	// Config is the result of config.Load. If the servers are embedded, Run sets their addresses in it.
	Config *config.Config
	// Embedded starts Kafka and Qdrant in this process, with their data in Config.DataDir, or in a temporary
	// directory that is removed at the end.
	Embedded      bool
	KafkaAddress  string // of the embedded Kafka; empty: a free port of the loopback interface
	QdrantAddress string // of the embedded Qdrant; empty: as for Kafka
	Log           zerolog.Logger
	// Started, if set, is called once the servers listen. The stages start after it has returned.
	Started func(Started)
}

// Started describes a service whose servers listen.
type Started struct {
	Addresses
	DataDir   string            // empty: none
	Temporary bool              // DataDir is removed at the end
	Server    *telemetry.Server // for further pages
	Health    *telemetry.Health
}

// closing is how long the HTTP server waits at the end for requests under way.
const closing = 5 * time.Second

// Run runs the service until the context ends, which is no error. If a dependency cannot be reached at
// start, Unreachable is true for the error. A *config.Error means that the configuration is wrong.
func Run(ctx context.Context, o Options) (err error) {
	c := o.Config
	if err := c.CheckFiles(); err != nil {
		return err
	}
	var directory *dataDir
	if o.Embedded || c.DataDir != "" {
		directory, err = openDataDir(c.DataDir)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, directory.close()) }()
	}
	health := telemetry.NewHealth(c.Stages...)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics := telemetry.NewMetrics(registry)
	server, err := telemetry.Serve(telemetry.ServerConfig{
		Address: c.HTTP.Address, Health: health, Gatherer: registry, Pprof: c.HTTP.Pprof, Log: o.Log,
	})
	if err != nil {
		return err
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
		defer cancel()
		err = errors.Join(err, server.Close(ending))
	}()
	cache, err := OpenCache(c, o.Log, metrics)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cache.Close()) }()
	if o.Embedded {
		end, err := startEmbedded(o, directory.path)
		if err != nil {
			return err
		}
		defer end()
	}
	if err := c.CheckAddresses(); err != nil {
		return err
	}
	kafka, qdrant, err := connect(ctx, c, o.Log)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer kafka.Close()
	defer qdrant.Close()

	started := Started{
		Addresses: Addresses{Kafka: c.Kafka.Brokers[0], Qdrant: c.Qdrant.Address, HTTP: server.Addr()},
		Server:    server,
		Health:    health,
	}
	if directory != nil {
		started.DataDir, started.Temporary = directory.path, directory.temporary
		if err := started.write(directory.path); err != nil {
			return fmt.Errorf("data_dir: %w", err)
		}
	}
	if o.Started != nil {
		o.Started(started)
	}
	o.Log.Info().Strs("stages", c.Stages).Msg("starting the stages")
	err = pipeline.Run(ctx, pipeline.Options{
		Conn: catalog.Conn{Config: c, Kafka: kafka, Index: qdrant, Log: o.Log}, Cache: cache, Metrics: metrics, Health: health,
	})
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil
	}
	o.Log.Info().Msg("the stages have ended")
	return err
}

// StartEmbedded starts the embedded servers without any stage, on a data directory that has their data
// already. It sets their addresses in the configuration. It returns an error if a service runs on the
// directory.
func StartEmbedded(c *config.Config, log zerolog.Logger) (end func() error, err error) {
	if _, err := os.Stat(filepath.Join(c.DataDir, "kafka")); err != nil {
		return nil, fmt.Errorf("data_dir: %s has no data of embedded servers: %w", c.DataDir, err)
	}
	directory, err := openDataDir(c.DataDir)
	if err != nil {
		return nil, err
	}
	stop, err := startEmbedded(Options{Config: c, Log: log}, directory.path)
	if err != nil {
		return nil, errors.Join(err, directory.close())
	}
	return func() error {
		stop()
		return directory.close()
	}, nil
}

// startEmbedded starts the two servers and sets their addresses in the configuration.
func startEmbedded(o Options, directory string) (end func(), err error) {
	kafka, err := embeddedkafka.Start(embeddedkafka.Config{
		Address: free(o.KafkaAddress), Dir: filepath.Join(directory, "kafka"), Log: o.Log.With().Str("server", "kafka").Logger(),
	})
	if err != nil {
		return nil, err
	}
	qdrant, err := embeddedqdrant.Start(embeddedqdrant.Config{
		Address: free(o.QdrantAddress), Dir: filepath.Join(directory, "qdrant"), Log: o.Log.With().Str("server", "qdrant").Logger(),
	})
	if err != nil {
		return nil, errors.Join(err, kafka.Close())
	}
	c := o.Config
	c.Kafka.Brokers, c.Kafka.TLS, c.Kafka.SASL = []string{kafka.Addr()}, config.TLS{}, config.SASL{}
	c.Qdrant.Address, c.Qdrant.TLS, c.Qdrant.APIKey = qdrant.Addr(), config.TLS{}, ""
	return func() {
		if err := errors.Join(qdrant.Close(), kafka.Close()); err != nil {
			o.Log.Error().Err(err).Msg("the embedded servers did not end in order")
		}
	}, nil
}

func free(address string) string {
	if address == "" {
		return "127.0.0.1:0"
	}
	return address
}

// connect connects to both at the same time: if neither answers, the user waits only once.
func connect(ctx context.Context, c *config.Config, log zerolog.Logger) (kafka *stream.Client, qdrant *index.Client, err error) {
	var both sync.WaitGroup
	var noKafka, noQdrant error
	both.Go(func() { kafka, noKafka = ConnectKafka(ctx, c, log.With().Str("client", "kafka").Logger()) })
	both.Go(func() { qdrant, noQdrant = ConnectQdrant(ctx, c, log.With().Str("client", "qdrant").Logger()) })
	both.Wait()
	if err := errors.Join(noKafka, noQdrant); err != nil {
		if kafka != nil {
			kafka.Close()
		}
		if qdrant != nil {
			qdrant.Close()
		}
		return nil, nil, err
	}
	return kafka, qdrant, nil
}
