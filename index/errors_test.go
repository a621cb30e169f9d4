package index_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"hardneg/index"
	embedded "hardneg/internal/embedded/qdrant"

	"github.com/qdrant/go-client/qdrant"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// faulty is a proxy between the client and an embedded server. A fault answers a call in place of the server,
// before or after the call has taken effect.
type faulty struct {
	mu    sync.Mutex
	fault func(method string, request proto.Message, forward func() (proto.Message, error)) (proto.Message, error)
}

func (f *faulty) set(fault func(method string, request proto.Message, forward func() (proto.Message, error)) (proto.Message, error)) {
	f.mu.Lock()
	f.fault = fault
	f.mu.Unlock()
}

type faultyPoints struct {
	qdrant.UnimplementedPointsServer
	client qdrant.PointsClient
	*faulty
}

func (f faultyPoints) Upsert(ctx context.Context, in *qdrant.UpsertPoints) (*qdrant.PointsOperationResponse, error) {
	out, err := f.through("Upsert", in, func() (proto.Message, error) { return f.client.Upsert(ctx, in) })
	answer, _ := out.(*qdrant.PointsOperationResponse)
	return answer, err
}

func (f faultyPoints) Get(ctx context.Context, in *qdrant.GetPoints) (*qdrant.GetResponse, error) {
	out, err := f.through("Get", in, func() (proto.Message, error) { return f.client.Get(ctx, in) })
	answer, _ := out.(*qdrant.GetResponse)
	return answer, err
}

func (f faultyPoints) CreateFieldIndex(ctx context.Context, in *qdrant.CreateFieldIndexCollection) (*qdrant.PointsOperationResponse, error) {
	return f.client.CreateFieldIndex(ctx, in)
}

func (f *faulty) through(method string, request proto.Message, forward func() (proto.Message, error)) (proto.Message, error) {
	f.mu.Lock()
	fault := f.fault
	f.mu.Unlock()
	if fault == nil {
		return forward()
	}
	return fault(method, request, forward)
}

// forwarding passes calls of the other services on. A test may give it another version number or another
// description of a collection to answer.
type forwarding struct {
	qdrant.UnimplementedQdrantServer
	version string
}

func (f forwarding) HealthCheck(context.Context, *qdrant.HealthCheckRequest) (*qdrant.HealthCheckReply, error) {
	return &qdrant.HealthCheckReply{Version: f.version}, nil
}

type forwardingCollections struct {
	qdrant.UnimplementedCollectionsServer
	behind   qdrant.CollectionsClient
	describe func(*qdrant.CollectionInfo)
}

func (f forwardingCollections) Get(ctx context.Context, in *qdrant.GetCollectionInfoRequest) (*qdrant.GetCollectionInfoResponse, error) {
	answer, err := f.behind.Get(ctx, in)
	if err == nil && f.describe != nil {
		f.describe(answer.GetResult())
	}
	return answer, err
}
func (f forwardingCollections) List(ctx context.Context, in *qdrant.ListCollectionsRequest) (*qdrant.ListCollectionsResponse, error) {
	return f.behind.List(ctx, in)
}
func (f forwardingCollections) Create(ctx context.Context, in *qdrant.CreateCollection) (*qdrant.CollectionOperationResponse, error) {
	return f.behind.Create(ctx, in)
}
func (f forwardingCollections) UpdateAliases(ctx context.Context, in *qdrant.ChangeAliases) (*qdrant.CollectionOperationResponse, error) {
	return f.behind.UpdateAliases(ctx, in)
}
func (f forwardingCollections) ListAliases(ctx context.Context, in *qdrant.ListAliasesRequest) (*qdrant.ListAliasesResponse, error) {
	return f.behind.ListAliases(ctx, in)
}

// startFaulty starts a faulty proxy in front of a new embedded server, and returns its address.
func startFaulty(t *testing.T, version string, describe func(*qdrant.CollectionInfo)) (string, *faulty) {
	t.Helper()
	behind := raw(t, startEmbedded(t, t.TempDir(), "127.0.0.1:0").Addr())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	qdrant.RegisterQdrantServer(server, forwarding{version: version})
	qdrant.RegisterPointsServer(server, faultyPoints{client: behind.GetPointsClient(), faulty: f})
	qdrant.RegisterCollectionsServer(server, forwardingCollections{behind: behind.GetCollectionsClient(), describe: describe})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String(), f
}

func TestUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close() // nothing listens there now
	start := time.Now()
	_, err = index.Dial(t.Context(), index.Config{Address: address, Log: zerolog.Nop()})
	if !errors.Is(err, index.ErrUnreachable) || !errors.Is(err, index.ErrUnavailable) || !strings.Contains(err.Error(), "qdrant at "+address) {
		t.Errorf("dial: %v", err)
	}
	if took := time.Since(start); took > 7*time.Second {
		t.Errorf("dial took %s to say so", took)
	}
}

func TestBadConfig(t *testing.T) {
	for address, want := range map[string]string{
		"localhost":       `qdrant address "localhost": address localhost: missing port in address; want host:port of the gRPC service, such as localhost:6334`,
		"localhost:grpc":  `qdrant address "localhost:grpc": port "grpc" is not a number from 1 to 65535`,
		"localhost:70000": `qdrant address "localhost:70000": port "70000" is not a number from 1 to 65535`,
	} {
		if _, err := index.Dial(t.Context(), index.Config{Address: address}); err == nil || err.Error() != want {
			t.Errorf("dial %s: %v, want %s", address, err, want)
		}
	}
}

func TestOldServer(t *testing.T) {
	for version, want := range map[string]string{"1.15.4": "too old, 1.16 or later", "0.99": "too old", "next": `version "next" cannot be read`} {
		address, _ := startFaulty(t, version, nil)
		if _, err := index.Dial(t.Context(), index.Config{Address: address, Log: zerolog.Nop()}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("version %s: %v, want %s", version, err, want)
		}
	}
	for _, version := range []string{"1.16.0", "1.18.3", "2.0.0-dev"} {
		address, _ := startFaulty(t, version, nil)
		dial(t, index.Config{Address: address, Log: zerolog.Nop()})
	}
}

func TestUnsuitableCollections(t *testing.T) {
	for want, describe := range map[string]func(*qdrant.CollectionInfo){
		`has distance Cosine, want Dot`: func(info *qdrant.CollectionInfo) {
			info.Config.Params.VectorsConfig.GetParams().Distance = qdrant.Distance_Cosine
		},
		`has named vectors`: func(info *qdrant.CollectionInfo) {
			info.Config.Params.VectorsConfig = qdrant.NewVectorsConfigMap(map[string]*qdrant.VectorParams{"a": {Size: dimensions}})
		},
		`stores vectors as Float16, want Float32`: func(info *qdrant.CollectionInfo) {
			info.Config.Params.VectorsConfig.GetParams().Datatype = qdrant.Datatype_Float16.Enum()
		},
		`has 3 replicas but confirms writes after 1`: func(info *qdrant.CollectionInfo) {
			info.Config.Params.ReplicationFactor = proto.Uint32(3)
		},
	} {
		address, _ := startFaulty(t, "1.17.0", describe)
		if _, err := dial(t, index.Config{Address: address, Log: zerolog.Nop()}).Open(t.Context(), "g1", dimensions); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("open: %v, want %s", err, want)
		}
	}
}

// TestFinalErrors: errors that repeating cannot cure are returned after one attempt.
func TestFinalErrors(t *testing.T) {
	address, f := startFaulty(t, "1.17.0", nil)
	x, r := open(t, index.Config{Address: address, Log: zerolog.Nop()}), random(t)
	calls := 0
	for _, failure := range []error{status.Error(codes.InvalidArgument, "Wrong input: x"), status.Error(codes.PermissionDenied, "read only key"), status.Error(codes.ResourceExhausted, "grpc: received message larger than max (6 vs. 5)")} {
		calls = 0
		f.set(func(string, proto.Message, func() (proto.Message, error)) (proto.Message, error) {
			calls++
			return nil, failure
		})
		err := x.WriteDocuments(t.Context(), []index.Document{document(r, "a", 0, 1)}, 0, 1)
		want := "qdrant at " + address + `: Upsert on collection "documents-g1": ` + failure.Error()
		if err == nil || err.Error() != want || errors.Is(err, index.ErrUnavailable) || calls != 1 {
			t.Errorf("%v after %d calls, want %s after 1", err, calls, want)
		}
	}
	f.set(func(string, proto.Message, func() (proto.Message, error)) (proto.Message, error) {
		return &qdrant.PointsOperationResponse{Result: &qdrant.UpdateResult{Status: qdrant.UpdateStatus_Acknowledged}}, nil
	})
	if err := x.WriteDocuments(t.Context(), []index.Document{document(r, "a", 0, 1)}, 0, 1); err == nil || !strings.Contains(err.Error(), "status Acknowledged instead of Completed") {
		t.Errorf("a write that is only acknowledged: %v", err)
	}
}

// TestLargeStates reads states whose answer is above gRPC's limit: the client asks for fewer at a time.
func TestLargeStates(t *testing.T) {
	address, f := startFaulty(t, "1.17.0", nil)
	x, r := open(t, index.Config{Address: address, Log: zerolog.Nop()}), random(t)
	var ids []string
	for i := range 20 {
		d := document(r, fmt.Sprintf("d%d", i), 0, int64(i))
		ids = append(ids, d.ID)
		write(t, x, 0, int64(i), d)
	}
	most := 0
	f.set(func(method string, request proto.Message, forward func() (proto.Message, error)) (proto.Message, error) {
		if get, ok := request.(*qdrant.GetPoints); ok {
			if len(get.GetIds()) > 3 {
				return nil, status.Error(codes.ResourceExhausted, "grpc: received message larger than max (6 vs. 5)")
			}
			most = max(most, len(get.GetIds()))
		}
		return forward()
	})
	found, err := x.Documents(t.Context(), ids, 0)
	if err != nil || len(found) != len(ids) || most < 2 {
		t.Fatalf("%d of %d documents, at most %d at a time: %v", len(found), len(ids), most, err)
	}
}

// TestGivesUp waits until a call that fails again and again is given up.
func TestGivesUp(t *testing.T) {
	t.Parallel()
	address, f := startFaulty(t, "1.17.0", nil)
	x := open(t, index.Config{Address: address, Log: zerolog.Nop()})
	f.set(func(string, proto.Message, func() (proto.Message, error)) (proto.Message, error) {
		return nil, status.Error(codes.Unavailable, "restarting")
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := x.Documents(ctx, []string{"a"}, 0); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, index.ErrUnavailable) {
		t.Errorf("the caller's deadline passed: %v", err)
	}
	start := time.Now()
	_, err := x.Documents(t.Context(), []string{"a"}, 0)
	if took := time.Since(start); took < 8*time.Second || took > 30*time.Second {
		t.Errorf("gave up after %s, want about 10 s", took)
	}
	if !errors.Is(err, index.ErrUnreachable) || !strings.Contains(err.Error(), "qdrant at "+address+`: Get on collection "documents-g1": qdrant is unavailable: nothing answers (tried for `) {
		t.Errorf("%v", err)
	}
}

// TestServerComesBack stops the server during a call and starts it again, at the same address and with the
// same data.
func TestServerComesBack(t *testing.T) {
	dir := t.TempDir()
	server := startEmbedded(t, dir, "127.0.0.1:0")
	address := server.Addr()
	x, r := open(t, index.Config{Address: address, Log: zerolog.Nop()}), random(t)
	d := document(r, "a", 0, 1)
	write(t, x, 0, 1, d)
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	var restarting sync.WaitGroup
	restarting.Go(func() {
		time.Sleep(time.Second)
		var err error
		for range 100 { // another process may have taken the port meanwhile
			if server, err = embedded.Start(embedded.Config{Address: address, Dir: dir, Log: zerolog.Nop()}); err == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Error(err)
	})
	t.Cleanup(func() {
		restarting.Wait()
		_ = server.Close()
	})
	got, ok := read(t, x, "a")
	if !ok || got.Hash != d.Hash || got.Text != d.Text {
		t.Errorf("after the restart: %+v", got)
	}
	hits, err := x.Search(t.Context(), [][]float32{d.Vector}, 1)
	if err != nil || len(hits[0].Documents) != 1 || hits[0].Documents[0].Hash != d.Hash {
		t.Errorf("search after the restart: %+v, %v", hits, err)
	}
}

// TestBatchesAreBounded checks the points and bytes of each request of a large write.
func TestBatchesAreBounded(t *testing.T) {
	address, f := startFaulty(t, "1.17.0", nil)
	x, r := open(t, index.Config{Address: address, Log: zerolog.Nop()}), random(t)
	var points []int
	f.set(func(_ string, request proto.Message, forward func() (proto.Message, error)) (proto.Message, error) {
		in := request.(*qdrant.UpsertPoints)
		if size := proto.Size(in); size > 5<<20 && len(in.GetPoints()) > 1 {
			t.Errorf("a request of %d bytes", size)
		}
		points = append(points, len(in.GetPoints()))
		return forward()
	})
	var docs []index.Document
	for i := range 700 {
		d := document(r, string(rune('A'+i)), 0, int64(i))
		if i >= 600 {
			d.Text = strings.Repeat("x", 200_000)
		}
		if i == 699 {
			d.Text = strings.Repeat("x", 6<<20) // above the limit by itself: it goes out alone
		}
		docs = append(docs, d)
	}
	write(t, x, 0, 700, docs...)
	total := 0
	for _, n := range points {
		total += n
		if n > 256 {
			t.Errorf("a request of %d points", n)
		}
	}
	if total != 700 || points[len(points)-1] != 1 || len(points) < 6 {
		t.Errorf("requests of %v points", points)
	}
}
