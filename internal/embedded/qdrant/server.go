// Package qdrant is a small in-process index server. It answers Qdrant's gRPC services with exact search and
// keeps everything in one file. It is for trying hardneg and for tests: internal/service starts it, and so do
// the tests of index and, through internal/testenv, of many others.
//
// It has one node, and one unnamed float32 vector with distance Dot for each point. It has no HNSW, no
// quantisation and no access control. It refuses everything that it cannot do with codes.Unimplemented and
// ignores nothing.
//
// Durability: every write is one bbolt transaction that is synced to disk before it is acknowledged. So it
// survives a kill of the process and a power failure. A sync takes about a millisecond on an SSD, and callers
// write batches of hundreds of points.
//
// Consistency: a write is committed and becomes visible in memory under one exclusive lock. A read takes its
// bbolt snapshot under the shared lock. So a reader sees all of an acknowledged write, vectors and payloads
// together.
package qdrant

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	pb "github.com/qdrant/go-client/qdrant"
	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"hardneg/internal/embedded/fault"
)

// version is the version of the API. Clients use it to decide which calls they may make.
const version = "1.17.1"

const (
	maxRequest   = 256 << 20       // bytes
	stopTimeout  = 5 * time.Second // for running calls at Close
	fileTimeout  = time.Second     // to wait until another process releases the file
	databaseName = "index.db"
)

// Config says where to listen and where to keep the data.
type Config struct {
	Address string // host:port; port 0 picks a free one
	Dir     string // created if missing
	Log     zerolog.Logger
	Faults  *fault.Plan // calls that fail, for tests; nil means none. Calls are named "Points/Upsert", "Collections/List" and so on
}

// Server is a running index server.
type Server struct {
	log      zerolog.Logger
	db       *bolt.DB
	grpc     *grpc.Server
	listener net.Listener
	done     chan struct{}   // closed when serving has ended
	closing  context.Context // ends when Close begins
	close    context.CancelFunc

	writing     sync.Mutex   // one write at a time, from its first read to its end
	mu          sync.RWMutex // guards the fields below
	collections map[string]*collection
	aliases     map[string]string // alias -> collection
}

// Start opens the data in Dir and serves it at Address.
func Start(config Config) (*Server, error) {
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("embedded index: data folder: %w", err)
	}
	path := filepath.Join(config.Dir, databaseName)
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: fileTimeout, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("embedded index: %s is in use by another process", path)
	}
	if err != nil {
		return nil, fmt.Errorf("embedded index: open %s: %w", path, err)
	}
	s := &Server{log: config.Log, db: db, done: make(chan struct{}), collections: make(map[string]*collection), aliases: make(map[string]string)}
	s.closing, s.close = context.WithCancel(context.Background())
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("embedded index: read %s: %w", path, err), db.Close())
	}
	if s.listener, err = net.Listen("tcp", config.Address); err != nil {
		return nil, errors.Join(fmt.Errorf("embedded index: %w", err), db.Close())
	}
	interceptors := []grpc.UnaryServerInterceptor{refuseUnknown}
	listener := s.listener
	if config.Faults != nil {
		f := &faults{plan: config.Faults, closing: s.closing, conns: map[string]net.Conn{}}
		interceptors = append(interceptors, f.intercept)
		listener = tracking{listener, f}
	}
	s.grpc = grpc.NewServer(
		grpc.ChainUnaryInterceptor(interceptors...),
		grpc.MaxRecvMsgSize(maxRequest),
		// Qdrant's clients ping idle connections every few seconds. With gRPC's default they would be
		// disconnected.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	pb.RegisterQdrantServer(s.grpc, healthService{})
	pb.RegisterCollectionsServer(s.grpc, collectionsService{server: s})
	pb.RegisterPointsServer(s.grpc, pointsService{server: s})
	go func() {
		defer close(s.done)
		if err := s.grpc.Serve(listener); err != nil {
			s.log.Error().Err(err).Msg("embedded index stopped serving")
		}
	}()
	s.log.Info().Str("address", s.Addr()).Str("file", path).Int("collections", len(s.collections)).Msg("embedded index started")
	return s, nil
}

// Addr returns the address that the server listens on.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close lets running calls finish, for a few seconds, and closes the file.
func (s *Server) Close() error {
	s.close()
	timer := time.AfterFunc(stopTimeout, s.grpc.Stop)
	s.grpc.GracefulStop()
	timer.Stop()
	<-s.done
	return s.db.Close()
}

type healthService struct{ pb.UnimplementedQdrantServer }

func (healthService) HealthCheck(context.Context, *pb.HealthCheckRequest) (*pb.HealthCheckReply, error) {
	return &pb.HealthCheckReply{Title: "hardneg embedded index (Qdrant gRPC API, exact search)", Version: version}, nil
}

// find resolves a collection name or an alias.
func (s *Server) find(name string) (*collection, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if target, ok := s.aliases[name]; ok {
		name = target
	}
	if c, ok := s.collections[name]; ok {
		return c, nil
	}
	return nil, status.Errorf(codes.NotFound, "Not found: Collection `%s` doesn't exist!", name)
}

// refuseUnknown refuses requests with fields of a later API, and with shard keys. Ignoring them could change
// the meaning of a request.
func refuseUnknown(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	message := request.(proto.Message).ProtoReflect()
	if len(message.GetUnknown()) > 0 {
		return nil, unimplemented("fields of %s that came after version %s", message.Descriptor().Name(), version)
	}
	if sharded, ok := request.(interface{ GetShardKeySelector() *pb.ShardKeySelector }); ok && sharded.GetShardKeySelector() != nil {
		return nil, unimplemented("shard keys")
	}
	return handler(ctx, request)
}

func unimplemented(format string, args ...any) error {
	return status.Errorf(codes.Unimplemented, "the embedded index does not support "+format, args...)
}

func wrongInput(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, "Wrong input: "+format, args...)
}

// failed returns the answer to a failure of the storage.
func failed(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Errorf(codes.Internal, "Service internal error: %v", err)
}
