package index

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Config says how to reach Qdrant and how to use it.
type Config struct {
	Address           string // host:port of the gRPC service, such as localhost:6334
	APIKey            string
	TLS               *tls.Config    // nil: plain text
	Prefix            string         // of the names of collections and aliases
	ReplicationFactor int            // of new collections; above 1, every replica confirms every write
	ExactBelow        int            // search exactly while a collection has fewer points than this, by HNSW above
	Log               zerolog.Logger // the zero value logs nothing

	// Waiting is called, with the context of a call that failed, before the pause after which the call is
	// repeated. It lets a stage know that it waits and does not hang (stream.Waiting has this form). nil:
	// nothing is called.
	Waiting func(ctx context.Context)
}

const (
	pingTimeout = 5 * time.Second
	maxAnswer   = 1 << 30 // bytes; go-client's limit of 4 MiB is too low for big reads

	// The first version of Qdrant that knows update_filter. Older ones ignore it, and no guard of this
	// package would work, without any error.
	oldestMajor, oldestMinor = 1, 16
)

// Client is a connection to Qdrant. It is safe for concurrent use.
type Client struct {
	config     Config
	connection *qdrant.Client
}

// Dial connects to Qdrant and checks that it answers and has version 1.16 or newer. It returns ErrUnreachable
// if nothing listens at the address, and other errors if the configuration is wrong, the API key is refused
// or the server is too old.
func Dial(ctx context.Context, config Config) (*Client, error) {
	host, port, err := splitAddress(config.Address)
	if err != nil {
		return nil, err
	}
	if config.APIKey != "" && config.TLS == nil {
		config.Log.Warn().Str("address", config.Address).Msg("qdrant.api_key is sent without encryption: see qdrant.tls")
	}
	connection, err := qdrant.NewClient(&qdrant.Config{
		Host: host, Port: port, UseTLS: config.TLS != nil, TLSConfig: config.TLS,
		SkipCompatibilityCheck: true, // checkVersion does it, and refuses
		GrpcOptions: []grpc.DialOption{
			// Given the key, go-client would write a warning of its own for each of its connections, and not to
			// the log of the configuration.
			grpc.WithChainUnaryInterceptor(withKey(config.APIKey)),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer), grpc.MaxCallSendMsgSize(maxAnswer)),
			// gRPC's own pauses between connection attempts grow to two minutes, far above retryFor.
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: firstPause, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxPause},
				MinConnectTimeout: pingTimeout,
			}),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("qdrant at %s: %w", config.Address, err)
	}
	if config.Waiting == nil {
		config.Waiting = func(context.Context) {}
	}
	c := &Client{config: config, connection: connection}
	if err := c.checkVersion(ctx); err != nil {
		_ = connection.Close()
		return nil, err
	}
	if err := c.Ping(ctx); err != nil {
		_ = connection.Close()
		return nil, err
	}
	return c, nil
}

// withKey sends an API key with each call.
func withKey(key string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if key != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "api-key", key)
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}
}

// Ping checks that Qdrant answers. It makes one attempt of at most 5 s and returns ErrUnreachable or
// ErrUnavailable if that fails. It lists the collections, because Qdrant's health service says "serving"
// whatever happens behind it.
func (c *Client) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	_, err := c.connection.GetCollectionsClient().List(ctx, &qdrant.ListCollectionsRequest{})
	return c.pingError("ListCollections", err)
}

// Close closes the connection. Calls that are under way fail.
func (c *Client) Close() error { return c.connection.Close() }

// checkVersion refuses a server that is too old.
func (c *Client) checkVersion(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	reply, err := c.connection.GetQdrantClient().HealthCheck(ctx, &qdrant.HealthCheckRequest{})
	if err != nil {
		return c.pingError("HealthCheck", err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(reply.GetVersion(), "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("qdrant at %s: version %q cannot be read; %d.%d or later is needed", c.config.Address, reply.GetVersion(), oldestMajor, oldestMinor)
	}
	if major < oldestMajor || major == oldestMajor && minor < oldestMinor {
		return fmt.Errorf("qdrant at %s: version %s is too old, %d.%d or later is needed: it would ignore the guards of writes", c.config.Address, reply.GetVersion(), oldestMajor, oldestMinor)
	}
	return nil
}

// pingError wraps the error of a call that is made only once.
func (c *Client) pingError(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case status.Code(err) == codes.Unauthenticated || status.Code(err) == codes.PermissionDenied:
		return c.describe(name, "", fmt.Errorf("access refused, check qdrant.api_key: %w", err))
	}
	if _, sentinel := classify(err); sentinel != nil {
		err = fmt.Errorf("%w: %w", sentinel, err)
	}
	return c.describe(name, "", err)
}

// splitAddress splits host:port. It puts brackets around an IPv6 address, which go-client needs.
func splitAddress(address string) (host string, port int, err error) {
	host, name, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("qdrant address %q: %w; want host:port of the gRPC service, such as localhost:6334", address, err)
	}
	port, err = strconv.Atoi(name)
	if err != nil || port <= 0 || port > 65535 {
		return "", 0, fmt.Errorf("qdrant address %q: port %q is not a number from 1 to 65535", address, name)
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host, port, nil
}
