// Package qdrant is a small in-process index server: it answers the gRPC services of Qdrant with exact search and keeps
// everything in one file. It is for trying and testing: one node, one unnamed float32 vector with distance Dot a
// point, no HNSW, no quantisation, no access control. Whatever it does not do is refused with codes.Unimplemented, never ignored.
//
// Durability: every write is one bbolt transaction, synced to disk before it is acknowledged, so that it survives
// the kill of the process and a power failure. A sync costs about a millisecond on an SSD, and the callers write in
// batches of hundreds of points.
//
// Consistency: a write is committed and becomes visible in memory under one exclusive lock, and a read takes its
// bbolt snapshot under the shared one: a reader sees all of an acknowledged write, vectors and payloads together.
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

// version is that of the API spoken, by which clients decide what they may use.
const version = "1.17.1"

const (
	maxRequest   = 256 << 20       // bytes
	stopTimeout  = 5 * time.Second // for calls under way at Close
	fileTimeout  = time.Second     // to wait for another process to let go of the file
	databaseName = "index.db"
)

// Config says where to listen and where to keep the data.
type Config struct {
	Address string // host:port; port 0 picks a free one
	Dir     string // made if missing
	Log     zerolog.Logger
	Faults  *fault.Plan // calls that fail, for tests; nil: none. Calls are named "Points/Upsert", "Collections/List" and so on
}

// Server is a running index server.
type Server struct {
	log      zerolog.Logger
	db       *bolt.DB
	grpc     *grpc.Server
	listener net.Listener
	done     chan struct{}   // closed when serving ended
	closing  context.Context // ends when Close begins
	close    context.CancelFunc

	writing     sync.Mutex   // one write at a time, from its first look to its end
	mu          sync.RWMutex // guards what follows
	collections map[string]*collection
	aliases     map[string]string // alias -> collection
}

// Start opens the data in Dir and serves it at Address.
func Start(config Config) (*Server, error) {
	if err := os.MkdirAll(config.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("embedded index: data folder: %w", err)
	}
	path := filepath.Join(config.Dir, databaseName)
	db, err := bolt.Open(path, 0o644, &bolt.Options{Timeout: fileTimeout, FreelistType: bolt.FreelistMapType})
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
		// Clients of Qdrant ping idle connections every few seconds; gRPC's default would cut them off.
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

// Addr is the address that the server listens on.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close lets calls under way finish, for a few seconds, and closes the file.
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

// refuseUnknown turns away requests with fields of a later API, and with shard keys: to ignore them could change what
// the request means.
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

// failed is the answer to a failure of the storage.
func failed(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Errorf(codes.Internal, "Service internal error: %v", err)
}
