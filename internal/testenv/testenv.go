// Package testenv gives tests their surroundings: embedded servers with a client, and the seed of a random
// test. It imports no package that runs stages, so every package can use it in its own tests. Only tests of
// hardneg import it.
package testenv

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/embedded/fault"
	embeddedkafka "hardneg/internal/embedded/kafka"
	embeddedqdrant "hardneg/internal/embedded/qdrant"
	"hardneg/stream"
)

// Kafka starts an embedded broker without topics, and returns a client of it and its address. faults may be
// nil. Broker and client are closed when the test ends.
func Kafka(t testing.TB, log zerolog.Logger, faults *fault.Plan) (client *stream.Client, address string) {
	t.Helper()
	server, err := embeddedkafka.Start(embeddedkafka.Config{Address: "127.0.0.1:0", Dir: t.TempDir(), Log: zerolog.Nop(), Faults: faults})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	client, err = stream.New(stream.Config{Brokers: []string{server.Addr()}, ClientID: "test", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client, server.Addr()
}

// Qdrant starts an embedded Qdrant without collections, and returns a client of it that always searches
// exactly. faults may be nil. Server and client are closed when the test ends.
func Qdrant(t testing.TB, log zerolog.Logger, faults *fault.Plan) *index.Client {
	t.Helper()
	server, err := embeddedqdrant.Start(embeddedqdrant.Config{Address: "127.0.0.1:0", Dir: t.TempDir(), Log: zerolog.Nop(), Faults: faults})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	client, err := index.Dial(t.Context(), index.Config{Address: server.Addr(), ExactBelow: 1 << 30, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// Seed returns the seed in HARDNEG_TEST_SEED, or a new one. It prints it.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("HARDNEG_TEST_SEED"); s != "" {
		parsed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = parsed
	}
	t.Logf("HARDNEG_TEST_SEED=%d", seed)
	return seed
}
