package service

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
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
const patience = 8 * time.Second

// Unreachable tells whether an error means that Kafka or Qdrant could not be reached.
func Unreachable(err error) bool {
	return errors.Is(err, stream.ErrUnreachable) || errors.Is(err, index.ErrUnreachable)
}

// ConnectKafka makes a client by the configuration and checks that a broker answers. Unreachable tells whether
// none does; a *config.Error is a file of certificates that can't be used.
func ConnectKafka(ctx context.Context, c *config.Config, log zerolog.Logger) (*stream.Client, error) {
	encryption, err := tlsConfig("kafka.tls", c.Kafka.TLS)
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

// ConnectQdrant is ConnectKafka for Qdrant.
func ConnectQdrant(ctx context.Context, c *config.Config, log zerolog.Logger) (*index.Client, error) {
	encryption, err := tlsConfig("qdrant.tls", c.Qdrant.TLS)
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
		ReadConsistency:   c.Qdrant.ReadConsistency,
		ReplicationFactor: c.Qdrant.ReplicationFactor,
		ExactBelow:        c.Qdrant.ExactBelow,
		Log:               log,
		Waiting:           stream.Waiting,
	})
}

// OpenCache opens the cache of vectors; nil where the configuration has none.
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

// tlsConfig is nil without encryption.
func tlsConfig(key string, t config.TLS) (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil
	}
	wrong := func(field string, err error) error {
		return &config.Error{Problems: []config.Problem{{Key: key + "." + field, Message: err.Error()}}}
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.Insecure}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, wrong("ca_file", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, wrong("ca_file", fmt.Errorf("%s holds no PEM certificate", t.CAFile))
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, wrong("cert_file", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}
