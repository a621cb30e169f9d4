package index_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"hardneg/index"

	"github.com/qdrant/go-client/qdrant"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
)

// bare is a Qdrant that has nothing.
type bare struct {
	qdrant.UnimplementedQdrantServer
	qdrant.UnimplementedCollectionsServer
}

func (bare) HealthCheck(context.Context, *qdrant.HealthCheckRequest) (*qdrant.HealthCheckReply, error) {
	return &qdrant.HealthCheckReply{Version: "1.18.3"}, nil
}

func (bare) List(context.Context, *qdrant.ListCollectionsRequest) (*qdrant.ListCollectionsResponse, error) {
	return &qdrant.ListCollectionsResponse{}, nil
}

// The API key goes with each call. If it goes without encryption one line in the client's own log says so, and
// nothing is written to any other.
func TestAPIKey(t *testing.T) {
	var elsewhere bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&elsewhere, nil)))
	defer slog.SetDefault(before)
	https := httptest.NewTLSServer(nil) // for its certificate
	defer https.Close()
	for _, encrypted := range []bool{false, true} {
		for _, key := range []string{"", "hunter2"} {
			var mu sync.Mutex
			var keys []string
			options := []grpc.ServerOption{grpc.UnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
				sent, _ := metadata.FromIncomingContext(ctx)
				mu.Lock()
				keys = append(keys, strings.Join(sent["api-key"], " "))
				mu.Unlock()
				return handle(ctx, request)
			})}
			var client *tls.Config
			if encrypted {
				options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&https.TLS.Certificates[0])))
				client = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // a test
			}
			server := grpc.NewServer(options...)
			qdrant.RegisterQdrantServer(server, bare{})
			qdrant.RegisterCollectionsServer(server, bare{})
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _ = server.Serve(listener) }()
			defer server.Stop()

			var log bytes.Buffer
			c, err := index.Dial(t.Context(), index.Config{Address: listener.Addr().String(), APIKey: key, TLS: client, Log: zerolog.New(&log)})
			if err != nil {
				t.Fatal(err)
			}
			for range 5 {
				if err := c.Ping(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			_ = c.Close()
			mu.Lock()
			for _, got := range keys {
				if got != key {
					t.Errorf("a call has the keys %q, want %q", got, key)
				}
			}
			mu.Unlock()
			lines := strings.Count(log.String(), "qdrant.api_key is sent without encryption")
			if want := map[bool]int{true: 1}[key != "" && !encrypted]; lines != want || strings.Contains(log.String(), "hunter2") {
				t.Errorf("key %q, encrypted %v: %d lines, want %d:\n%s", key, encrypted, lines, want, log.String())
			}
		}
	}
	if elsewhere.Len() > 0 {
		t.Errorf("another log has\n%s", elsewhere.String())
	}
}
