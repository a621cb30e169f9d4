package service

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"hardneg/internal/config"
)

func loadConfig(t *testing.T, set ...string) *config.Config {
	t.Helper()
	c, err := config.Load(config.Options{Set: append([]string{"http.address=127.0.0.1:0"}, set...)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// running is a service that runs in the background of a test.
type running struct {
	Started
	stop context.CancelFunc
	done chan error
}

func start(t *testing.T, o Options) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{stop: cancel, done: make(chan error, 1)}
	started := make(chan Started, 1)
	o.Log, o.Started = zerolog.Nop(), func(s Started) { started <- s }
	go func() { r.done <- Run(ctx, o) }()
	select {
	case r.Started = <-started:
	case err := <-r.done:
		cancel()
		t.Fatalf("the service ended at start: %v", err)
	}
	return r
}

func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	select {
	case err := <-r.done:
		if err != nil {
			t.Errorf("the service ended with %v", err)
		}
	case <-time.After(5 * time.Minute):
		t.Fatal("the service does not end")
	}
}

func TestEmbedded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	r := start(t, Options{Config: loadConfig(t, "data_dir="+dir), Embedded: true})

	text, err := os.ReadFile(filepath.Join(dir, "addresses.json"))
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]string
	if err := json.Unmarshal(text, &object); err != nil || len(object) != 3 {
		t.Errorf("%s: %v", text, err)
	}
	read, err := ReadAddresses(dir)
	if err != nil || read != r.Addresses || object["kafka"] != r.Kafka || object["qdrant"] != r.Qdrant || object["http"] != r.HTTP {
		t.Errorf("%+v, %v, the service said %+v", read, err, r.Addresses)
	}
	answer, err := http.Get("http://" + r.HTTP + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("/healthz %d", answer.StatusCode)
	}

	// A second one on the same directory is refused, and leaves the first one's addresses alone.
	err = Run(t.Context(), Options{Config: loadConfig(t, "data_dir="+dir), Embedded: true, Log: zerolog.Nop()})
	if err == nil || !strings.Contains(err.Error(), dir+" is in use") {
		t.Errorf("second service: %v", err)
	}
	if again, err := ReadAddresses(dir); err != nil || again != read {
		t.Errorf("after the second service: %+v, %v", again, err)
	}

	// A service on outside servers differs from an embedded one in its addresses alone.
	outside := start(t, Options{Config: loadConfig(t, "kafka.brokers="+r.Kafka, "qdrant.address="+r.Qdrant, "name=other", "stages=intake")})
	if outside.Kafka != r.Kafka || outside.DataDir != "" {
		t.Errorf("%+v", outside.Started)
	}
	outside.end(t)

	r.end(t)
	if _, err := ReadAddresses(dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after the end: %v", err)
	}
	for _, address := range []string{r.Kafka, r.Qdrant, r.HTTP} {
		if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			c.Close()
			t.Errorf("%s listens still", address)
		}
	}

	// The same directory, the same ports.
	again := start(t, Options{Config: loadConfig(t, "data_dir="+dir), Embedded: true, KafkaAddress: r.Kafka, QdrantAddress: r.Qdrant})
	if again.Kafka != r.Kafka || again.Qdrant != r.Qdrant {
		t.Errorf("%+v, want the addresses of %+v", again.Addresses, r.Addresses)
	}
	again.end(t)
}

func TestTemporaryDirectory(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	r := start(t, Options{Config: loadConfig(t), Embedded: true})
	if !r.Temporary || !strings.HasPrefix(r.DataDir, os.Getenv("TMPDIR")) {
		t.Errorf("%+v", r.Started)
	}
	if _, err := ReadAddresses(r.DataDir); err != nil {
		t.Error(err)
	}
	r.end(t)
	if _, err := os.Stat(r.DataDir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", r.DataDir, err)
	}
}

// TestStaleAddresses: the addresses that a killed service left must not look like the next service's.
func TestStaleAddresses(t *testing.T) {
	dir := t.TempDir()
	if err := (Addresses{Kafka: "127.0.0.1:1"}).write(dir); err != nil {
		t.Fatal(err)
	}
	d, err := openDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadAddresses(dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("%v", err)
	}
	if err := d.close(); err != nil {
		t.Error(err)
	}
}

func TestUnreachable(t *testing.T) {
	patience = time.Second // Cleanup sets it back after the parallel subtests have ended
	t.Cleanup(func() { patience = 15 * time.Second })
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections, and never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() }) // after the subtests, which are parallel
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			go func() { _, _ = io.Copy(io.Discard, c) }()
		}
	}()
	for name, address := range map[string]string{"nothing listens": "127.0.0.1:1", "silent": silent.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := Run(t.Context(), Options{Config: loadConfig(t, "kafka.brokers="+address, "qdrant.address="+address), Log: zerolog.Nop()})
			if !Unreachable(err) || !strings.Contains(err.Error(), address) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestCheckSilent: a server that never answers counts as one that cannot be reached.
func TestCheckSilent(t *testing.T) {
	probePatience = time.Second
	t.Cleanup(func() { probePatience = 20 * time.Second })
	hanging := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hanging }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(hanging) })
	var last Probe
	cfg := loadConfig(t, "kafka.brokers=127.0.0.1:1", "qdrant.address=127.0.0.1:1", "embedders=[{name: e5, type: openai, model: m, url: "+server.URL+"}]")
	if err := Check(t.Context(), cfg, zerolog.Nop(), func(p Probe) error { last = p; return nil }); err != nil {
		t.Fatal(err)
	}
	if last.What != "embedder e5" || last.Outcome != ProbeFailed || !Unreachable(last.Err) || !strings.Contains(last.Detail, "no answer within 1s: "+server.URL) {
		t.Errorf("%+v", last)
	}
}

func TestMissingAddresses(t *testing.T) {
	err := Run(t.Context(), Options{Config: loadConfig(t), Log: zerolog.Nop()})
	var wrong *config.Error
	if !errors.As(err, &wrong) || len(wrong.Problems) != 2 {
		t.Errorf("%v", err)
	}
}
