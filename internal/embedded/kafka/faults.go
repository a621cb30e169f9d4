package kafka

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"reflect"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"hardneg/internal/embedded/fault"
)

// faults passes requests and answers between clients and broker and injects faults. Like the broker, it
// handles one request of a connection at a time. A call's name is the name of its API key: "Produce",
// "EndTxn", "OffsetFetch".
type faults struct {
	plan    *fault.Plan
	cluster *kfake.Cluster
	log     zerolog.Logger
	closed  <-chan struct{}

	mu    sync.Mutex
	armed map[*refusal]struct{}
}

// refusal is a request that the broker must answer with an error before it does anything.
type refusal struct {
	request kmsg.Request // as the broker parses it
	code    *kerr.Error
	handle  *kfake.FaultHandle // set when the request has reached the broker
}

func newFaults(plan *fault.Plan, cluster *kfake.Cluster, closed <-chan struct{}, log zerolog.Logger) *faults {
	f := &faults{plan: plan, cluster: cluster, closed: closed, log: log, armed: map[*refusal]struct{}{}}
	cluster.Control(f.onRequest)
	return f
}

// onRequest is called by the broker for each request, before the broker changes some of them. It asks kfake to
// return the error, because kfake knows where in an answer an error belongs.
func (f *faults) onRequest(request kmsg.Request) (kmsg.Response, error, bool) { //nolint:revive // kfake's order
	f.mu.Lock()
	defer f.mu.Unlock()
	for r := range f.armed {
		if r.handle == nil && reflect.DeepEqual(r.request, request) {
			r.handle = f.cluster.Fault(kfake.Fault{
				Keys: []kmsg.Key{kmsg.Key(request.Key())}, Err: r.code, When: func(other kmsg.Request) bool { return other == request },
			})
			break
		}
	}
	return nil, nil, false
}

func (f *faults) arm(request kmsg.Request, code *kerr.Error) *refusal {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &refusal{request: request, code: code}
	f.armed[r] = struct{}{}
	return r
}

// disarm reports whether the broker answered with the error.
func (f *faults) disarm(r *refusal) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.armed, r)
	if r.handle == nil {
		return false
	}
	r.handle.Remove()
	return r.handle.Hits() > 0
}

// between returns the connection that the broker gets instead of the client's.
func (f *faults) wrap(client net.Conn) net.Conn {
	near, far := net.Pipe()
	c := &faultyConn{faults: f, client: client, broker: near, requests: make(chan []byte), ended: make(chan struct{})}
	go c.read()
	go c.serve()
	return addressedPipe{far, client}
}

// addressedPipe is a pipe with the addresses of the client's connection.
type addressedPipe struct {
	net.Conn
	client net.Conn
}

func (a addressedPipe) RemoteAddr() net.Addr { return a.client.RemoteAddr() }
func (a addressedPipe) LocalAddr() net.Addr  { return a.client.LocalAddr() }

// faultyConn is one connection.
type faultyConn struct {
	*faults
	client, broker net.Conn
	requests       chan []byte
	ended          chan struct{}
	ending         sync.Once
}

// end closes both sides.
func (c *faultyConn) end() {
	c.ending.Do(func() {
		close(c.ended)
		_ = c.client.Close()
		_ = c.broker.Close()
	})
}

// read reads requests ahead, so that the broker learns at once when the client has gone.
func (c *faultyConn) read() {
	defer c.end()
	for {
		frame, err := readFrame(c.client)
		if err != nil {
			return
		}
		select {
		case c.requests <- frame:
		case <-c.ended:
			return
		}
	}
}

func (c *faultyConn) serve() {
	defer c.end()
	for {
		select {
		case <-c.ended:
			return
		case frame := <-c.requests:
			if err := c.exchange(frame); err != nil {
				return
			}
		}
	}
}

var errCut = errors.New("the connection is cut")

// exchange passes one request to the broker and its answer back.
func (c *faultyConn) exchange(frame []byte) error {
	key, version, request := parseRequest(frame)
	injected := c.plan.Next(kmsg.NameForKey(key), request)
	if !injected.After {
		if err := c.pause(injected.Delay); err != nil {
			return err
		}
		if injected.Cut {
			return errCut
		}
	}
	var code *kerr.Error
	if injected.Err != nil && !errors.As(injected.Err, &code) {
		code = kerr.UnknownServerError
	}
	var refused *refusal
	if code != nil && !injected.After {
		refused = c.arm(request, code)
	}
	if err := writeFrame(c.broker, frame); err != nil {
		return err
	}
	if produce, ok := request.(*kmsg.ProduceRequest); ok && produce.Acks == 0 {
		return nil // there is no answer
	}
	answer, err := readFrame(c.broker)
	if refused != nil && !c.disarm(refused) && err == nil {
		err = errors.New("the broker cannot answer this request with an error") // and has processed it
		c.log.Error().Str("request", kmsg.NameForKey(key)).AnErr("fault", code).Err(err).Msg("fault not injected")
	}
	if err != nil {
		return err
	}
	if injected.After {
		if err := c.pause(injected.Delay); err != nil {
			return err
		}
		if injected.Cut {
			return errCut
		}
		if code != nil {
			if answer, err = withCode(answer, key, version, code.Code); err != nil {
				c.log.Error().Err(err).Str("request", kmsg.NameForKey(key)).Msg("the answer of a fault cannot be made")
				return err
			}
		}
	}
	return writeFrame(c.client, answer)
}

func (c *faultyConn) pause(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.ended:
	case <-c.closed:
	}
	return errCut
}

// readFrame reads a request or an answer, and returns it without its length.
func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < 4 || n > 1<<30 {
		return nil, errors.New("a frame that is none")
	}
	frame := make([]byte, n)
	_, err := io.ReadFull(r, frame)
	return frame, err
}

func writeFrame(w io.Writer, frame []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(frame)), uint32(len(frame))), frame...))
	return err
}

// parseRequest decodes a request. It returns nil for a request that the broker will refuse.
func parseRequest(frame []byte) (key, version int16, request kmsg.Request) {
	if len(frame) < 10 {
		return -1, 0, nil
	}
	key, version = int16(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:]))
	rest := frame[8:] // after the correlation id
	if n := int(int16(binary.BigEndian.Uint16(rest))); n > 0 && len(rest) >= 2+n {
		rest = rest[2+n:]
	} else {
		rest = rest[2:]
	}
	request = kmsg.RequestForKey(key)
	if request == nil {
		return key, version, nil
	}
	request.SetVersion(version)
	if request.IsFlexible() {
		if len(rest) == 0 || rest[0] != 0 { // tagged fields in the header: no client in the tests sends any
			return key, version, nil
		}
		rest = rest[1:]
	}
	if request.ReadFrom(rest) != nil {
		return key, version, nil
	}
	return key, version, request
}

// withCode returns the answer with an error code in its innermost parts that have one: in the partitions if
// there are any, else in the answer as a whole.
func withCode(answer []byte, key, version, code int16) ([]byte, error) {
	response := kmsg.ResponseForKey(key)
	if response == nil {
		return nil, errors.New("an unknown answer")
	}
	response.SetVersion(version)
	header := 4 // correlation id
	if response.IsFlexible() && key != int16(kmsg.ApiVersions) {
		header++ // no tagged fields
	}
	if len(answer) < header {
		return nil, io.ErrUnexpectedEOF
	}
	if err := response.ReadFrom(answer[header:]); err != nil {
		return nil, err
	}
	if !setCode(reflect.ValueOf(response).Elem(), code) {
		return nil, errors.New("the answer has no error code")
	}
	return response.AppendTo(answer[:header:header]), nil
}

func setCode(v reflect.Value, code int16) bool {
	set := false
	for i := range v.NumField() {
		field := v.Field(i)
		if field.Kind() != reflect.Slice || field.Type().Elem().Kind() != reflect.Struct {
			continue
		}
		for j := range field.Len() {
			set = setCode(field.Index(j), code) || set
		}
	}
	if own := v.FieldByName("ErrorCode"); !set && own.IsValid() && own.Kind() == reflect.Int16 {
		own.SetInt(int64(code))
		return true
	}
	return set
}
