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

// ErrWaitTimeout, as the error of a fault, makes a write return the status WaitTimeout and no error. Qdrant
// does so if a write takes longer than the request allows. Other calls return DeadlineExceeded.
var ErrWaitTimeout = status.Error(codes.DeadlineExceeded, "the write was not applied in time")

// busy is a ResourceExhausted error that says when the client may call again.
type busy struct{ after time.Duration }

// Busy, as the error of a fault, simulates Qdrant's rate limit. The call returns ResourceExhausted, with the
// seconds to wait in the trailer retry-after, or without that trailer if after is less than a second.
func Busy(after time.Duration) error { return busy{after} }

func (b busy) Error() string { return b.GRPCStatus().String() }
func (b busy) GRPCStatus() *status.Status {
	return status.New(codes.ResourceExhausted, "Rate limiting")
}

// faults injects the faults of a plan.
type faults struct {
	plan    *fault.Plan
	closing context.Context // ends delays
	mu      sync.Mutex
	conns   map[string]net.Conn // by the client's address
}

// intercept is a grpc.UnaryServerInterceptor.
func (f *faults) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	injected := f.plan.Next(strings.TrimPrefix(info.FullMethod, "/qdrant."), request)
	if !injected.After {
		if err := f.delay(ctx, injected.Delay); err != nil {
			return nil, err
		}
	}
	if !injected.After && (injected.Err != nil || injected.Cut) {
		return f.answer(ctx, injected, request)
	}
	reply, err := handler(ctx, request)
	if injected.After {
		if late := f.delay(ctx, injected.Delay); late != nil {
			return nil, late
		}
		if injected.Err != nil || injected.Cut {
			return f.answer(ctx, injected, request)
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

// answer returns the faulty answer for the client.
func (f *faults) answer(ctx context.Context, injected fault.Fault, request any) (any, error) {
	if injected.Cut {
		if client, ok := peer.FromContext(ctx); ok {
			f.mu.Lock()
			conn := f.conns[client.Addr.String()]
			f.mu.Unlock()
			if conn != nil {
				_ = conn.Close()
			}
		}
		return nil, status.Error(codes.Unavailable, "the connection is cut") // the client never sees this error
	}
	var limited busy
	if errors.As(injected.Err, &limited) && limited.after >= time.Second {
		if err := grpc.SetTrailer(ctx, metadata.Pairs("retry-after", strconv.Itoa(int(limited.after.Seconds())))); err != nil {
			return nil, fmt.Errorf("setting a trailer: %w", err)
		}
	}
	switch request.(type) {
	case *pb.UpsertPoints, *pb.DeletePoints, *pb.SetPayloadPoints, *pb.DeletePayloadPoints, *pb.ClearPayloadPoints:
		if errors.Is(injected.Err, ErrWaitTimeout) {
			return &pb.PointsOperationResponse{Result: &pb.UpdateResult{Status: pb.UpdateStatus_WaitTimeout}}, nil
		}
	}
	return nil, injected.Err
}

// tracking is a listener that remembers its connections, so that a fault can cut them.
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
