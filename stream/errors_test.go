package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/rawproduce"
)

func TestActions(t *testing.T) {
	want := map[action][]int{
		retry:  {3, 5, 6, 8, 9, 14, 15, 16, 19, 41, 51, 74, 75, 78, 88, 89},
		fenced: {22, 25, 27, 47, 82, 90},
		fatal:  {10, 12, 17, 21, 23, 24, 26, 29, 30, 31, 32, 33, 34, 35, 43, 44, 50, 53, 54, 58, 76, 87},
	}
	expected := map[int]action{}
	for a, codes := range want {
		for _, c := range codes {
			expected[c] = a
		}
	}
	for code := -1; code <= 130; code++ {
		if code == 0 {
			continue
		}
		err := fmt.Errorf("step: %w", check(int16(code), "topic/0"))
		if got := actionFor(err); got != expected[code] { // a code that is not listed means restart
			t.Errorf("code %d: %v, want %v", code, got, expected[code])
		}
		if got := lost(err); got != (code == 7 || code == 13) {
			t.Errorf("code %d: lost is %v", code, got)
		}
	}
	dial := &net.OpError{Op: "dial", Err: errors.New("refused")}
	for _, c := range []struct {
		err  error
		want action
		lost bool
	}{
		{io.EOF, restart, true},
		{io.ErrUnexpectedEOF, restart, true},
		{fmt.Errorf("read: %w", context.DeadlineExceeded), restart, true},
		{context.Canceled, restart, false},
		{dial, restart, true},
		{errors.New("Qdrant is down"), restart, false},
		{ErrFenced, fenced, false},
		{fmt.Errorf("state of q1: %w", &FencedError{Token: 7}), fenced, false},
		{fmt.Errorf("x: %w", ErrTooLarge), fatal, false},
		{fmt.Errorf("x: %w", ErrOffsetOutOfRange), fatal, false},
		{errForeignGroup, fatal, false},
		{protocol.NewErrNoTopic("t"), retry, false},
		{protocol.NewErrNoPartition("t", 1), retry, false},
		{protocol.NewErrNoLeader("t", 1), retry, false},
		{rawproduce.NewError(errors.New("mismatching leaders (1!=2)")), retry, false},
	} {
		if got := actionFor(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
		if got := lost(c.err); got != c.lost {
			t.Errorf("%v: lost is %v", c.err, got)
		}
	}
}

func TestWorst(t *testing.T) {
	moving, indefinite := kafka.NotLeaderForPartition, io.EOF
	stop, zombie := kafka.TopicAuthorizationFailed, kafka.ProducerFenced
	for _, c := range []struct {
		errs []error
		want error
	}{
		{nil, nil},
		{[]error{moving}, moving},
		{[]error{moving, indefinite}, indefinite},
		{[]error{stop, moving, indefinite}, stop},
		{[]error{moving, zombie, stop}, zombie},
	} {
		if got := mostSevere(c.errs); got != c.want {
			t.Errorf("worst(%v) = %v, want %v", c.errs, got, c.want)
		}
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	c := clientOf(t, addr)
	err = c.Ping(testContext(t))
	if !errors.Is(err, ErrUnreachable) || !contains(err, addr) {
		t.Errorf("Ping: %v", err)
	}
}

// TestAgainCancelled: if ctx is cancelled while retryWhile waits, the error is a context.Canceled, so
// that the stop of a service does not look like a failure.
func TestAgainCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	err := retryWhile(ctx, retriableOrLost, func() error {
		cancel()
		return fmt.Errorf("topic x: %w", kafka.UnknownTopicOrPartition)
	})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, kafka.UnknownTopicOrPartition) || actionFor(err) != retry {
		t.Errorf("%v, action %v", err, actionFor(err))
	}
}
