package kafka

import (
	"context"
	"net"
	"sync"
)

// gate is the broker's listener. Until it is opened it only accepts in-process connections, so that no client
// can read or write before the log is repaired. Clients that connect earlier wait in the socket's backlog.
type gate struct {
	net.Listener // for clients outside the process
	advertised   advertised
	conns        chan net.Conn // waiting for Accept
	opened       sync.Once
	closed       chan struct{}
	closing      sync.Once
	faults       *faults // of connections from outside, set before they are accepted; nil means no faults

	mu     sync.Mutex
	public map[net.Conn]struct{} // accepted and not yet closed; nil means that no more are accepted
}

// advertised is the address that clients must connect to.
type advertised string

func (a advertised) Network() string { return "tcp" }
func (a advertised) String() string  { return string(a) }

func newGate(l net.Listener, host string) *gate {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // nobody can connect to "all addresses"
	}
	return &gate{
		Listener: l, advertised: advertised(net.JoinHostPort(host, port)),
		conns: make(chan net.Conn), closed: make(chan struct{}), public: map[net.Conn]struct{}{},
	}
}

// Addr returns the address that the broker advertises.
func (g *gate) Addr() net.Addr { return g.advertised }

// Accept waits for a connection, from inside or outside the process.
func (g *gate) Accept() (net.Conn, error) {
	select {
	case c := <-g.conns:
		return c, nil
	case <-g.closed:
		return nil, net.ErrClosed
	}
}

// dial makes an in-process connection, with the signature that kgo.Dialer wants.
func (g *gate) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case g.conns <- server:
		return client, nil
	case <-g.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// open lets clients from outside connect.
func (g *gate) open() {
	g.opened.Do(func() {
		go func() {
			for {
				c, err := g.Listener.Accept()
				if err != nil {
					return
				}
				c = g.track(c)
				if g.faults != nil {
					c = g.faults.wrap(c)
				}
				select {
				case g.conns <- c:
				case <-g.closed:
					_ = c.Close()
					return
				}
			}
		}()
	})
}

// closePublic closes the public listener and its connections. In-process connections stay open.
func (g *gate) closePublic() {
	_ = g.Listener.Close()
	g.mu.Lock()
	conns := g.public
	g.public = nil
	g.mu.Unlock()
	for c := range conns {
		_ = c.Close()
	}
}

// Close ends Accept.
func (g *gate) Close() error {
	g.closing.Do(func() { close(g.closed) })
	return g.Listener.Close()
}

// track remembers a connection until it is closed.
func (g *gate) track(c net.Conn) net.Conn {
	t := &tracked{Conn: c, gate: g}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.public == nil {
		_ = c.Close()
	} else {
		g.public[t] = struct{}{}
	}
	return t
}

type tracked struct {
	net.Conn
	gate *gate
}

func (t *tracked) Close() error {
	t.gate.mu.Lock()
	delete(t.gate.public, t)
	t.gate.mu.Unlock()
	return t.Conn.Close()
}
