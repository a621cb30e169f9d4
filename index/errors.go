package index

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrUnavailable is wrapped by the error of a call that failed for 10 s in a way that may pass. Try again
// later.
var ErrUnavailable = errors.New("qdrant is unavailable")

// ErrUnreachable is an ErrUnavailable, too: nothing answered at the address.
var ErrUnreachable = fmt.Errorf("%w: nothing answers", ErrUnavailable)

const (
	callTimeout = 30 * time.Second // of one attempt
	writeWait   = 20               // seconds that the server may take to apply a write; must be below callTimeout
	retryFor    = 10 * time.Second // no attempt begins later than this after the first one
	firstPause  = 50 * time.Millisecond
	maxPause    = time.Second
)

// classify is the one table of failures. It returns whether a failed call may be repeated, and the error to
// wrap if repeating did not help.
func classify(err error) (retriable bool, sentinel error) {
	var limited *qdrant.QdrantResourceExhaustedError
	if errors.As(err, &limited) {
		return true, ErrUnavailable
	}
	st := status.Convert(err)
	switch st.Code() {
	case codes.Unavailable:
		return true, ErrUnreachable
	case codes.DeadlineExceeded:
		return true, ErrUnavailable
	case codes.Internal, codes.FailedPrecondition, codes.Aborted, codes.Canceled:
		// A Qdrant that starts, restores a shard, runs out of disk or moves a replica answers with these. It answers
		// a wrong request with InvalidArgument or NotFound.
		return true, ErrUnavailable
	case codes.ResourceExhausted:
		if tooLarge(err) {
			return false, nil
		}
		return true, ErrUnavailable
	}
	return false, nil
}

// tooLarge reports whether a message is above gRPC's limit. Repeating does not help; the caller must ask for
// less.
func tooLarge(err error) bool {
	return status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "larger than max")
}

// call makes one request and repeats it for retryFor if classify allows. Every request of this package may be
// repeated: reads change nothing, and a write is guarded and holds the whole point, so a second one changes
// nothing more.
func call[T any](ctx context.Context, c *Client, name, collection string, request func(context.Context) (T, error)) (T, error) {
	start, pause := time.Now(), firstPause
	for {
		attempt, cancel := context.WithTimeout(ctx, callTimeout)
		answer, err := request(attempt)
		cancel()
		if err == nil {
			return answer, nil
		}
		var none T
		if ctx.Err() != nil {
			return none, c.describe(name, collection, ctx.Err())
		}
		retriable, sentinel := classify(err)
		if !retriable {
			return none, c.describe(name, collection, err)
		}
		wait := pause
		var limited *qdrant.QdrantResourceExhaustedError // the server says how long to wait
		if errors.As(err, &limited) {
			wait = max(wait, time.Duration(limited.RetryAfterS)*time.Second)
		}
		if time.Since(start)+wait > retryFor {
			return none, c.describe(name, collection, fmt.Errorf("%w (tried for %s): %w", sentinel, time.Since(start).Round(time.Millisecond), err))
		}
		c.config.Log.Warn().Err(err).Str("call", name).Str("collection", collection).Str("address", c.config.Address).
			Dur("pause", wait).Msg("qdrant call failed, trying again")
		c.config.Waiting(ctx)
		select {
		case <-ctx.Done():
			return none, c.describe(name, collection, ctx.Err())
		case <-time.After(wait):
		}
		pause = min(2*pause, maxPause)
	}
}

// describe adds the call, the collection and the address to an error.
func (c *Client) describe(name, collection string, err error) error {
	if collection == "" {
		return fmt.Errorf("qdrant at %s: %s: %w", c.config.Address, name, err)
	}
	return fmt.Errorf("qdrant at %s: %s on collection %q: %w", c.config.Address, name, collection, err)
}

// completed returns an error unless every later read sees the write. A server that runs out of time reports
// that in the status of its answer and returns no error.
func completed(answer *qdrant.PointsOperationResponse, err error) (*qdrant.UpdateResult, error) {
	if err != nil {
		return nil, err
	}
	result := answer.GetResult()
	switch result.GetStatus() {
	case qdrant.UpdateStatus_Completed:
		return result, nil
	case qdrant.UpdateStatus_WaitTimeout, qdrant.UpdateStatus_ClockRejected:
		return nil, status.Errorf(codes.DeadlineExceeded, "the write was accepted but not applied (%s)", result.GetStatus())
	}
	return nil, fmt.Errorf("the write was answered with status %s instead of Completed", result.GetStatus())
}
