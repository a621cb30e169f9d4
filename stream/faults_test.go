package stream

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// faultyConn loses answers: the request takes effect, and then the connection breaks.
type faultyConn struct {
	net.Conn
	faults *faults
	broken atomic.Bool
}

// faults says what goes wrong on the connections of a client.
type faults struct {
	mu     sync.Mutex
	rng    *rand.Rand
	lose   float64       // probability that a request's answer is lost
	refuse float64       // probability that a request never reaches the broker
	frozen chan struct{} // not nil: nothing moves until it is closed
	lost   int
}

func (f *faults) wait() {
	f.mu.Lock()
	frozen := f.frozen
	f.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
}

func (f *faults) freeze() (thaw func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	frozen := make(chan struct{})
	f.frozen = frozen
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.frozen = nil
		close(frozen)
	}
}

func (f *faults) losses() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost
}

func (f *faults) draw() float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rng.Float64()
}

func (c *faultyConn) Write(b []byte) (int, error) {
	c.faults.wait()
	switch p := c.faults.draw(); {
	case p < c.faults.refuse:
		c.broken.Store(true)
		return 0, &net.OpError{Op: "write", Net: "tcp", Addr: c.RemoteAddr(), Err: syscall.EPIPE}
	case p < c.faults.refuse+c.faults.lose:
		c.broken.Store(true)
		c.faults.mu.Lock()
		c.faults.lost++
		c.faults.mu.Unlock()
	}
	return c.Conn.Write(b)
}

func (c *faultyConn) Read(b []byte) (int, error) {
	c.faults.wait()
	n, err := c.Conn.Read(b) // the broker has answered, so the effect is there
	c.faults.wait()
	if c.broken.Load() {
		_ = c.Conn.Close()
		return 0, &net.OpError{Op: "read", Net: "tcp", Addr: c.RemoteAddr(), Err: syscall.ECONNRESET}
	}
	return n, err
}

// faultyClient returns a client with faults on the connections of its transport. If groups is set, the
// connections for group membership have faults, too.
func faultyClient(t *testing.T, f *faults, groups bool) *Client {
	c := clientOf(t, brokerAddr)
	dial := c.tr.Dial
	c.tr.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &faultyConn{Conn: conn, faults: f}, nil
	}
	if groups {
		c.dialer.DialFunc = c.tr.Dial
	}
	return c
}

// Answers and requests are lost at any step, and still every record comes out once.
func TestLostAnswers(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := testClient(t)
	in, out := testTopic(t, c, "in", 2), testTopic(t, c, "out", 2)
	f := &faults{rng: rand.New(rand.NewPCG(seed, 0)), lose: 0.01, refuse: 0.002}
	w := &recorder{t: t}
	s := stageOf(in, w, passOn(out))
	s.MaxRecords = 10
	runStage(t, faultyClient(t, f, false), s)
	// In one round of records few answers may be lost by chance, so the test runs rounds until enough were
	// lost.
	n, deadline := 0, time.Now().Add(time.Minute)
	for f.losses() < 5 || len(w.all(Failed)) < 2 || !noLag(t, c, s.Group, in) {
		if noLag(t, c, s.Group, in) {
			if err := c.Produce(testContext(t), numbered(in, n, 500)); err != nil {
				t.Fatal(err)
			}
			n += 500
		}
		if time.Now().After(deadline) {
			t.Fatalf("not done with %d records; %d answers lost, failures %+v", n, f.losses(), w.all(Failed))
		}
		time.Sleep(20 * time.Millisecond)
	}
	exactlyOnce(t, out, n)
	tokensGrow(t, w)
	t.Logf("%d records, %d answers lost, %d failures, %d assignments", n, f.losses(), len(w.all(Failed)), len(w.all(Assigned)))
}

// An instance hangs for longer than its session. Another one takes over. Then the first one wakes up in the
// middle of a transaction.
func TestFrozenInstance(t *testing.T) {
	c := testClient(t)
	in, out := testTopic(t, c, "in", 1), testTopic(t, c, "out", 1)
	const n = 300
	if err := c.Produce(testContext(t), numbered(in, 0, n)); err != nil {
		t.Fatal(err)
	}
	f := &faults{rng: rand.New(rand.NewPCG(1, 0))}
	var thaw func()
	frozen := make(chan struct{})
	var batches atomic.Int64
	first, second := &recorder{t: t}, &recorder{t: t}
	s := stageOf(in, first, func(a Assignment) Processor {
		return processFunc(func(ctx context.Context, batch []Record) ([]Output, error) {
			if batches.Add(1) == 5 {
				thaw = f.freeze()
				close(frozen)
			}
			return passOn(out)(a).Process(ctx, batch)
		})
	})
	s.MaxRecords, s.SessionTimeout = 10, 6*time.Second
	runStage(t, faultyClient(t, f, true), s)
	<-frozen
	s2 := s
	s2.New, s2.Observe = passOn(out), second.observe
	runStage(t, c, s2)
	eventually(t, "the second takes over and consumes all", func() bool { return noLag(t, c, s.Group, in) })
	thaw()
	if err := c.Produce(testContext(t), numbered(in, n, 100)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first notices", func() bool { return len(first.all(Revoked))+len(first.all(Fenced)) > 0 })
	eventually(t, "the rest is consumed", func() bool { return noLag(t, c, s.Group, in) })
	exactlyOnce(t, out, n+100)
	tokensGrow(t, first, second)
}
