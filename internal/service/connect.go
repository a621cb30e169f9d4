package service

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/telemetry"
	"hardneg/internal/vectorcache"
	"hardneg/stream"
)

// patience is how long a dependency may take to answer at start.
var patience = 15 * time.Second

// Unreachable reports whether an error means that Kafka, Qdrant or the server of an embedder could not be
// reached.
func Unreachable(err error) bool {
	return errors.Is(err, stream.ErrUnreachable) || errors.Is(err, index.ErrUnreachable) || errors.Is(err, embed.ErrUnavailable) || errors.Is(err, errSilent)
}

// ConnectKafka makes a client by the configuration and checks that a broker answers. If none does,
// Unreachable is true for the error. A *config.Error means that a file of certificates cannot be used.
func ConnectKafka(ctx context.Context, c *config.Config, log zerolog.Logger) (*stream.Client, error) {
	encryption, err := c.Kafka.TLS.Load("kafka.tls")
	if err != nil {
		return nil, err
	}
	sasl := c.Kafka.SASL
	client, err := stream.New(stream.Config{
		Brokers:  c.Kafka.Brokers,
		TLS:      encryption,
		SASL:     stream.SASL{Mechanism: sasl.Mechanism, Username: sasl.Username, Password: string(sasl.Password)},
		ClientID: c.Name,
		Log:      log,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := client.Ping(ctx); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// ConnectQdrant makes a client of Qdrant. Its errors are like the errors of ConnectKafka.
func ConnectQdrant(ctx context.Context, c *config.Config, log zerolog.Logger) (*index.Client, error) {
	encryption, err := c.Qdrant.TLS.Load("qdrant.tls")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return index.Dial(ctx, index.Config{
		Address:           c.Qdrant.Address,
		APIKey:            string(c.Qdrant.APIKey),
		TLS:               encryption,
		Prefix:            c.Qdrant.Prefix,
		ReplicationFactor: c.Qdrant.ReplicationFactor,
		ExactBelow:        c.Qdrant.ExactBelow,
		Log:               log,
		Waiting:           stream.Waiting,
	})
}

// OpenCache opens the cache of vectors. It returns nil if the configuration has none.
func OpenCache(c *config.Config, log zerolog.Logger, metrics *telemetry.Metrics) (*embed.Cache, error) {
	path := c.Cache.Path
	if path == "" && c.DataDir != "" {
		path = filepath.Join(c.DataDir, "cache")
	}
	if path == "" || c.Cache.MaxBytes == 0 {
		return nil, nil
	}
	vectors, err := vectorcache.Open(vectorcache.Options{Path: path, MaxBytes: int64(c.Cache.MaxBytes), Log: log, Metrics: metrics})
	if err != nil {
		return nil, err
	}
	return &embed.Cache{Vectors: vectors, All: c.Cache.Embedders == "all"}, nil
}
