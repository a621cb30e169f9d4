package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

func serve(t *testing.T, address string) (*Server, *Health, *Metrics) {
	t.Helper()
	registry := prometheus.NewRegistry()
	health, metrics := NewHealth("indexer", "miner"), NewMetrics(registry)
	s, err := Serve(ServerConfig{Address: address, Health: health, Gatherer: registry, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s, health, metrics
}

func get(t *testing.T, s *Server, path string) (int, string) {
	t.Helper()
	answer, err := http.Get("http://" + s.Addr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func TestReadiness(t *testing.T) {
	s, health, metrics := serve(t, "127.0.0.1:0")
	expect := func(code int, missing map[string]string) {
		t.Helper()
		got, body := get(t, s, "/readyz")
		var answer struct {
			Ready   bool
			Missing map[string]string
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if got != code || answer.Ready != (code == 200) || len(answer.Missing) != len(missing) {
			t.Errorf("%d %s, want %d %v", got, body, code, missing)
		}
		for component, reason := range missing {
			if answer.Missing[component] != reason {
				t.Errorf("%s, want %v", body, missing)
			}
		}
		if code, _ := get(t, s, "/healthz"); code != 200 {
			t.Errorf("/healthz %d: the process lives, ready or not", code)
		}
	}
	expect(503, map[string]string{"indexer": "starting", "miner": "starting"})
	health.Set("indexer", nil)
	expect(503, map[string]string{"miner": "starting"})
	health.Set("miner", nil)
	expect(200, nil)
	health.Set("indexer", errors.New("qdrant is gone"))
	expect(503, map[string]string{"indexer": "qdrant is gone"})

	metrics.Records.WithLabelValues("miner").Add(3)
	metrics.Lag.WithLabelValues("miner", "0").Set(7)
	metrics.BatchSeconds.WithLabelValues("miner").Observe(0.1)
	_, body := get(t, s, "/metrics")
	for _, line := range []string{
		`hardneg_records_total{stage="miner"} 3`, `hardneg_lag{partition="0",stage="miner"} 7`,
		`hardneg_batch_seconds_count{stage="miner"} 1`, `hardneg_triplets_total{kind="retracted"} 0`,
		`hardneg_affected_queries_total{how="watch"} 0`, `hardneg_confirm_rounds_count 0`, `hardneg_mined_queries_total 0`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("/metrics lacks %s", line)
		}
	}
	for _, page := range []string{"", "goroutine?debug=1", "cmdline", "profile?seconds=1", "symbol", "trace"} {
		if code, _ := get(t, s, "/debug/pprof/"+page); code != 404 {
			t.Errorf("/debug/pprof/%s %d, though nobody asked for profiles", page, code)
		}
	}
	if code, _ := get(t, s, "/nothing"); code != 404 {
		t.Errorf("/nothing %d", code)
	}
	s.Handle("GET /page", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "page") }))
	if code, body := get(t, s, "/page"); code != 200 || body != "page" {
		t.Errorf("/page %d %s", code, body)
	}
}

// Profiles are served where that is asked for, and the command line, which can hold secrets, never is.
func TestPprof(t *testing.T) {
	s, err := Serve(ServerConfig{Address: "127.0.0.1:0", Health: NewHealth(), Gatherer: prometheus.NewRegistry(), Pprof: true, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	for page, want := range map[string]int{"": 200, "goroutine?debug=1": 200, "symbol": 200, "heap": 200, "cmdline": 404} {
		code, body := get(t, s, "/debug/pprof/"+page)
		if code != want {
			t.Errorf("/debug/pprof/%s %d, want %d", page, code, want)
		}
		if page == "cmdline" && strings.Contains(body, os.Args[0]) {
			t.Errorf("/debug/pprof/%s shows the command line", page)
		}
	}
}

func TestPortTaken(t *testing.T) {
	s, health, _ := serve(t, "127.0.0.1:0")
	_, err := Serve(ServerConfig{Address: s.Addr(), Health: health, Gatherer: prometheus.NewRegistry(), Log: zerolog.Nop()})
	if err == nil || !strings.Contains(err.Error(), s.Addr()+" is in use") {
		t.Errorf("%v", err)
	}
	if _, err = Serve(ServerConfig{Address: "203.0.113.1:80", Health: health, Gatherer: prometheus.NewRegistry()}); err == nil ||
		!strings.Contains(err.Error(), "http.address") {
		t.Errorf("%v", err)
	}
}

// TestCloseEndsSlowRequests: a running profile must not keep the process alive.
func TestCloseEndsSlowRequests(t *testing.T) {
	s, err := Serve(ServerConfig{Address: "127.0.0.1:0", Health: NewHealth(), Gatherer: prometheus.NewRegistry(), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	arrived := make(chan struct{})
	s.Handle("/slow", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	}))
	go func() {
		if answer, err := http.Get("http://" + s.Addr() + "/slow"); err == nil {
			answer.Body.Close()
		}
	}()
	<-arrived
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := s.Close(ctx); err != nil || time.Since(start) > time.Minute {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

func TestHealthZeroValue(t *testing.T) {
	var h Health
	h.Set("x", nil)
	if missing := h.Ready(); len(missing) != 0 {
		t.Error(missing)
	}
}

func TestLog(t *testing.T) {
	var out bytes.Buffer
	log, err := NewLog(&out, "warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Info().Msg("below")
	log.Warn().Str("topic", "documents").Msg("shown")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["message"] != "shown" || line["topic"] != "documents" {
		t.Errorf("%s: %v", out.String(), err)
	}
	out.Reset()
	if log, err = NewLog(&out, "info", "console"); err != nil {
		t.Fatal(err)
	}
	log.Info().Msg("shown")
	if !strings.Contains(out.String(), "INF shown") || strings.Contains(out.String(), "\x1b") {
		t.Errorf("%q", out.String())
	}
	for _, wrong := range [][2]string{{"loud", "json"}, {"", "json"}, {"info", "xml"}} {
		if _, err := NewLog(&out, wrong[0], wrong[1]); err == nil {
			t.Errorf("%v: no error", wrong)
		}
	}
}
