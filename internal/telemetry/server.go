package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
)

// ServerConfig holds the parameters of Serve.
type ServerConfig struct {
	Address  string // host:port; port 0 takes a free one
	Health   *Health
	Gatherer prometheus.Gatherer
	Pprof    bool // answer /debug/pprof
	Log      zerolog.Logger
}

// Server answers /healthz, /readyz, /metrics and, if it is asked to, /debug/pprof.
type Server struct {
	listener net.Listener
	mux      *http.ServeMux
	http     *http.Server
	done     chan struct{}
}

// Serve listens at the address and answers until Close. If the port is taken, the error says what to do.
func Serve(config ServerConfig) (*Server, error) {
	listener, err := net.Listen("tcp", config.Address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("http.address: %s is in use by another process; choose another, or port 0 for a free one", config.Address)
	}
	if err != nil {
		return nil, fmt.Errorf("http.address: cannot listen at %q: %w", config.Address, err)
	}
	mux := http.NewServeMux()
	s := &Server{listener: listener, mux: mux, done: make(chan struct{})}
	s.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", ready(config.Health))
	mux.Handle("GET /metrics", promhttp.HandlerFor(config.Gatherer, promhttp.HandlerOpts{}))
	if config.Pprof { // without pprof.Cmdline: the command line can hold secrets
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			config.Log.Error().Err(err).Msg("the HTTP server ended")
		}
	}()
	return s, nil
}

// Addr returns the address that the server listens at, with the actual port.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Handle adds a page. Patterns have the form of http.ServeMux.
func (s *Server) Handle(pattern string, handler http.Handler) { s.mux.Handle(pattern, handler) }

// Close ends the server. Running requests may finish until the context ends.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil { // for example a profile that is still running
		err = s.http.Close()
	}
	<-s.done
	return err
}

// ready answers 200 if every component runs, otherwise 503. Both have the body
// {"ready":bool,"missing":{component:reason}}.
func ready(health *Health) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		missing := health.Ready()
		w.Header().Set("Content-Type", "application/json")
		if len(missing) > 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		answer := struct {
			Ready   bool              `json:"ready"`
			Missing map[string]string `json:"missing"`
		}{len(missing) == 0, missing}
		_ = json.NewEncoder(w).Encode(answer) // the client may be gone, which does not matter
	}
}
