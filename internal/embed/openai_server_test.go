package embed

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hardneg/internal/config"
)

const serverDimensions = 3

// asked is a request that a server received.
type asked struct {
	at     time.Time
	header http.Header
	path   string // with the query string
	model  string
	format string
	texts  []string
	body   map[string]any
}

// handler answers a request. If it returns false, the server gives the healthy answer.
type handler func(w http.ResponseWriter, r *http.Request, a asked) bool

// scripted is an embeddings server that does what a test says. Each of the first requests uses up one step of
// the script. Then rule answers, and every request that it leaves gets vectors.
type scripted struct {
	*httptest.Server
	t    *testing.T
	rule handler

	mu      sync.Mutex
	script  []handler
	asked   []asked
	running int
	most    int // the most requests that ran at the same time
}

func newScripted(t *testing.T, script ...handler) *scripted {
	s := &scripted{t: t, script: script}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	return s
}

func (s *scripted) serve(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	var body struct {
		Model  string
		Format string `json:"encoding_format"`
		Input  []string
	}
	a := asked{at: time.Now(), header: r.Header.Clone(), path: r.URL.RequestURI()}
	if err := errors.Join(err, json.Unmarshal(raw, &body), json.Unmarshal(raw, &a.body)); err != nil || r.Method != http.MethodPost {
		s.t.Errorf("%s %s: %v", r.Method, raw, err)
	}
	a.model, a.format, a.texts = body.Model, body.Format, body.Input
	s.mu.Lock()
	s.asked = append(s.asked, a)
	s.running++
	s.most = max(s.most, s.running)
	next := s.rule
	if len(s.script) > 0 {
		next, s.script = s.script[0], s.script[1:]
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running--
	}()
	if next == nil || !next(w, r, a) {
		say(w, 200, entries(a, nil))
	}
}

// requests returns the requests received so far.
func (s *scripted) requests() []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// vectorOf returns the server's vector for a text.
func vectorOf(model, text string) []float32 {
	sum := sha256.Sum256([]byte(model + "\n" + text))
	vector := make([]float32, serverDimensions)
	for i := range vector {
		vector[i] = float32(int32(binary.LittleEndian.Uint32(sum[4*i:]))) / (1 << 31)
	}
	return vector
}

// entry is an element of data.
type entry map[string]any

// entries returns the healthy answer. change, if not nil, may alter each entry.
func entries(a asked, change func(i int, e entry)) map[string]any {
	data := make([]entry, len(a.texts))
	for i, text := range a.texts {
		data[i] = entry{"object": "embedding", "index": i, "embedding": coded(a.format, vectorOf(a.model, text))}
		if change != nil {
			change(i, data[i])
		}
	}
	return map[string]any{"object": "list", "data": data, "model": a.model}
}

func coded(format string, vector []float32) any {
	if format != "base64" {
		return vector
	}
	var raw []byte
	for _, value := range vector {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(value))
	}
	return base64.StdEncoding.EncodeToString(raw)
}

// say answers with JSON, or with a string as it is.
func say(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if text, ok := body.(string); ok {
		_, _ = io.WriteString(w, text)
		return
	}
	_ = json.NewEncoder(w).Encode(body)
}

// status answers with a status, a body, and headers in pairs.
func status(code int, body any, headers ...string) handler {
	return func(w http.ResponseWriter, _ *http.Request, _ asked) bool {
		for pair := range slices.Chunk(headers, 2) {
			w.Header().Set(pair[0], pair[1])
		}
		say(w, code, body)
		return true
	}
}

// changed answers with entries that change has altered.
func changed(change func(i int, e entry)) handler {
	return func(w http.ResponseWriter, _ *http.Request, a asked) bool {
		say(w, 200, entries(a, change))
		return true
	}
}

// refusing refuses the whole batch if one of its texts contains the word.
func refusing(code int, word string) handler {
	return func(w http.ResponseWriter, _ *http.Request, a asked) bool {
		if !slices.ContainsFunc(a.texts, func(text string) bool { return strings.Contains(text, word) }) {
			return false
		}
		say(w, code, map[string]any{"error": map[string]any{"message": "the input has the word " + word, "type": "invalid_request_error"}})
		return true
	}
}

func healthy(http.ResponseWriter, *http.Request, asked) bool { return false }

// hang answers only after the client has gone.
func hang(_ http.ResponseWriter, r *http.Request, _ asked) bool {
	<-r.Context().Done()
	return true
}

// cutOff breaks the connection in the middle of the body.
func cutOff(w http.ResponseWriter, _ *http.Request, a asked) bool {
	body, err := json.Marshal(entries(a, nil))
	if err != nil {
		panic(err)
	}
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:len(body)/2])
	conn.Close()
	return true
}

// pipes is a listener for connections within the process. In a bubble of testing/synctest all waiting then
// takes no real time.
type pipes struct {
	made   chan net.Conn
	closed chan struct{}
	close  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.made:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.close.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.made <- theirs:
		return ours, nil
	case <-p.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// bench is an embedder and its server, in a bubble.
type bench struct {
	*scripted
	t        *testing.T
	embedder *openai
	pipes    *pipes

	requestsSeenMu sync.Mutex
	requestsSeen   []Request
}

// inBubble runs a test with a clock that only moves while all goroutines wait.
func inBubble(t *testing.T, definition config.Embedder, test func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, scripted: newScripted(t), pipes: &pipes{made: make(chan net.Conn), closed: make(chan struct{})}}
		b.Listener.Close()
		b.Listener = b.pipes
		b.Start()
		if definition.Name == "" {
			definition.Name = "e5"
		}
		if definition.Model == "" && definition.QueryModel == "" {
			definition.Model = "m"
		}
		if definition.Dimensions == 0 {
			definition.Dimensions = serverDimensions
		}
		definition.Type = TypeOpenAI
		if definition.URL == "" {
			definition.URL = "http://server:8080/v1/"
		}
		embedders, err := New([]config.Embedder{definition}, &Resources{Observe: b.observe})
		if err != nil {
			t.Fatal(err)
		}
		b.embedder = embedders[0].(*openai)
		transport := b.embedder.client.Transport.(*http.Transport)
		transport.DialContext, transport.Proxy = b.pipes.dial, nil
		t.Cleanup(func() {
			transport.CloseIdleConnections()
			b.Close()
		})
		test(t, b)
	})
}

func (b *bench) observe(_ context.Context, r Request) {
	b.requestsSeenMu.Lock()
	defer b.requestsSeenMu.Unlock()
	b.requestsSeen = append(b.requestsSeen, r)
}

// outcomes returns the outcomes of the requests, in order.
func (b *bench) outcomes() string {
	b.requestsSeenMu.Lock()
	defer b.requestsSeenMu.Unlock()
	var all []string
	for _, r := range b.requestsSeen {
		name := string(r.Outcome)
		if r.Again {
			name = "again " + name
		}
		all = append(all, name)
	}
	return strings.Join(all, ", ")
}

// embed embeds texts as passages.
func (b *bench) embed(texts ...string) ([][]float32, []error, error) {
	b.t.Helper()
	return b.embedder.Embed(b.t.Context(), Passage, itemsOf(texts...))
}

func itemsOf(texts ...string) []Item {
	items := make([]Item, len(texts))
	for i, text := range texts {
		items[i].Text = text
	}
	return items
}

// succeed embeds texts and expects their vectors.
func (b *bench) succeed(texts ...string) {
	b.t.Helper()
	vectors, failures, err := b.embed(texts...)
	if err != nil {
		b.t.Fatal(err)
	}
	for i, text := range texts {
		if failures[i] != nil || !slices.Equal(vectors[i], vectorOf("m", text)) {
			b.t.Errorf("%q: vector %v, error %v, want %v", text, vectors[i], failures[i], vectorOf("m", text))
		}
	}
}

// expect checks the error of a whole call: its kind, and parts of its text.
func expect(t *testing.T, err, is error, says ...string) {
	t.Helper()
	if !errors.Is(err, is) {
		t.Fatalf("error %v, want one that is %q", err, is)
	}
	for _, part := range says {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
	for _, other := range []error{ErrUnavailable, ErrDenied, context.Canceled} {
		if other != is && errors.Is(err, other) {
			t.Errorf("error %q is %q too", err, other)
		}
	}
}

// numbered returns n different texts.
func numbered(n int) []string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprintf("text %d", i)
	}
	return texts
}
