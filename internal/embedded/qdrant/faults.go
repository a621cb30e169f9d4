package qdrant

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"hardneg/internal/embedded/fault"
)

// ErrWaitTimeout as the error of a fault has a write answered as Qdrant does when it takes longer than the request
// allows: no error, and the status WaitTimeout. Other calls answer DeadlineExceeded.
var ErrWaitTimeout = status.Error(codes.DeadlineExceeded, "the write was not applied in time")

// busy is a ResourceExhausted that says when to come again.
type busy struct{ after time.Duration }

// Busy as the error of a fault is what Qdrant answers above its rate limit: ResourceExhausted, with the seconds to wait
// in the trailer retry-after; with less than a second, without one.
func Busy(after time.Duration) error { return busy{after} }

func (b busy) Error() string { return b.GRPCStatus().String() }
func (b busy) GRPCStatus() *status.Status {
	return status.New(codes.ResourceExhausted, "Rate limiting")
}

// faults injects what a plan says.
type faults struct {
	plan    *fault.Plan
	closing context.Context // ends delays
	mu      sync.Mutex
	conns   map[string]net.Conn // by the client's address
}

// intercept is a grpc.UnaryServerInterceptor.
func (f *faults) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	what := f.plan.Next(strings.TrimPrefix(info.FullMethod, "/qdrant."), request)
	if !what.After {
		if err := f.delay(ctx, what.Delay); err != nil {
			return nil, err
		}
	}
	if !what.After && (what.Err != nil || what.Cut) {
		return f.answer(ctx, what, request)
	}
	reply, err := handler(ctx, request)
	if what.After {
		if late := f.delay(ctx, what.Delay); late != nil {
			return nil, late
		}
		if what.Err != nil || what.Cut {
			return f.answer(ctx, what, request)
		}
	}
	return reply, err
}

func (f *faults) delay(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-f.closing.Done():
		return status.Error(codes.Unavailable, "the server closes")
	}
}

// answer is what the client gets in place of an answer.
func (f *faults) answer(ctx context.Context, what fault.Fault, request any) (any, error) {
	if what.Cut {
		if client, ok := peer.FromContext(ctx); ok {
			f.mu.Lock()
			conn := f.conns[client.Addr.String()]
			f.mu.Unlock()
			if conn != nil {
				_ = conn.Close()
			}
		}
		return nil, status.Error(codes.Unavailable, "the connection is cut") // which nobody hears
	}
	var limited busy
	if errors.As(what.Err, &limited) && limited.after >= time.Second {
		if err := grpc.SetTrailer(ctx, metadata.Pairs("retry-after", strconv.Itoa(int(limited.after.Seconds())))); err != nil {
			return nil, fmt.Errorf("setting a trailer: %w", err)
		}
	}
	switch request.(type) {
	case *pb.UpsertPoints, *pb.DeletePoints, *pb.SetPayloadPoints, *pb.DeletePayloadPoints, *pb.ClearPayloadPoints:
		if errors.Is(what.Err, ErrWaitTimeout) {
			return &pb.PointsOperationResponse{Result: &pb.UpdateResult{Status: pb.UpdateStatus_WaitTimeout}}, nil
		}
	}
	return nil, what.Err
}

// tracking is a listener whose connections the faults can cut.
type tracking struct {
	net.Listener
	*faults
}

func (t tracking) Accept() (net.Conn, error) {
	conn, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns[conn.RemoteAddr().String()] = conn
	return trackedConn{conn, t.faults}, nil
}

type trackedConn struct {
	net.Conn
	*faults
}

func (c trackedConn) Close() error {
	c.mu.Lock()
	delete(c.conns, c.RemoteAddr().String())
	c.mu.Unlock()
	return c.Conn.Close()
}
