package embed

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hardneg/internal/config"
)

// TestRequest checks the request for each kind of text.
func TestRequest(t *testing.T) {
	for _, test := range []struct {
		name       string
		definition config.Embedder
		kind       Kind
		body       string
		headers    map[string]string
	}{
		{"least", config.Embedder{Model: "m"}, Passage,
			`{"model":"m","encoding_format":"base64","input":["<a> & b"]}`,
			map[string]string{"Authorization": "", "Content-Type": "application/json", "Accept": "application/json", "User-Agent": "hardneg"}},
		{"query", config.Embedder{Model: "m", QueryPrefix: "query: ", PassagePrefix: "passage: ", EncodingFormat: "float"}, Query,
			`{"model":"m","encoding_format":"float","input":["query: <a> & b"]}`, nil},
		{"passage", config.Embedder{Model: "m", QueryPrefix: "query: ", PassagePrefix: "passage: "}, Passage,
			`{"model":"m","encoding_format":"base64","input":["passage: <a> & b"]}`, nil},
		{"model of queries", config.Embedder{QueryModel: "q", PassageModel: "p"}, Query, `{"model":"q","encoding_format":"base64","input":["<a> & b"]}`, nil},
		{"model of passages", config.Embedder{QueryModel: "q", PassageModel: "p"}, Passage, `{"model":"p","encoding_format":"base64","input":["<a> & b"]}`, nil},
		{"another model of queries", config.Embedder{Model: "m", QueryModel: "q"}, Passage, `{"model":"m","encoding_format":"base64","input":["<a> & b"]}`, nil},
		{"fields", config.Embedder{
			Model: "m", RequestDimensions: true,
			Body:      map[string]any{"truncate": true, "input_type": "any", "list": []any{uint64(1), nil}},
			QueryBody: map[string]any{"input_type": "query", "big": json.Number("12345678901234567890")}, PassageBody: map[string]any{"input_type": "passage"},
		}, Query, `{"model":"m","encoding_format":"base64","dimensions":3,"truncate":true,"input_type":"query","list":[1,null],"big":12345678901234567890,"input":["<a> & b"]}`, nil},
		{"without encoding_format", config.Embedder{Model: "m", EncodingFormat: "none"}, Passage, `{"model":"m","input":["<a> & b"]}`, nil},
		{"headers", config.Embedder{Model: "m", APIKey: "key", Headers: map[string]config.Secret{"x-team": "search", "user-agent": "me", "Accept": "*/*"}}, Passage,
			`{"model":"m","encoding_format":"base64","input":["<a> & b"]}`,
			map[string]string{"Authorization": "Bearer key", "X-Team": "search", "User-Agent": "me", "Accept": "*/*"}},
		{"a key of another kind", config.Embedder{Model: "m", Headers: map[string]config.Secret{"authorization": "Basic x"}}, Passage,
			`{"model":"m","encoding_format":"base64","input":["<a> & b"]}`, map[string]string{"Authorization": "Basic x"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, test.definition, func(t *testing.T, b *bench) {
				if _, failures, err := b.embedder.Embed(t.Context(), test.kind, itemsOf("<a> & b")); err != nil || failures[0] != nil {
					t.Fatal(failures, err)
				}
				got := b.requests()[0]
				var want map[string]any
				if err := json.Unmarshal([]byte(test.body), &want); err != nil {
					t.Fatal(err)
				}
				if got.path != "/v1/embeddings" || !reflect.DeepEqual(got.body, want) {
					t.Errorf("%s %v, want %v", got.path, got.body, want)
				}
				for name, value := range test.headers {
					if got.header.Get(name) != value {
						t.Errorf("%s: %q, want %q", name, got.header.Get(name), value)
					}
				}
			})
		})
	}
}

// TestAddress: /embeddings is added to the path of the url, and a query string stays behind it.
func TestAddress(t *testing.T) {
	for url, want := range map[string]string{
		"http://server:8080":     "/embeddings",
		"http://server:8080/v1":  "/v1/embeddings",
		"http://server:8080/v1/": "/v1/embeddings",
		"http://server:8080/v1?": "/v1/embeddings",
		"http://server:8080/openai/deployments/X?api-version=2024-10-21":         "/openai/deployments/X/embeddings?api-version=2024-10-21",
		"http://server:8080/openai/deployments/X/?api-version=2024-10-21&a=%2Fb": "/openai/deployments/X/embeddings?api-version=2024-10-21&a=%2Fb",
		"http://server:8080?a=b/": "/embeddings?a=b/",
	} {
		inBubble(t, config.Embedder{URL: url}, func(t *testing.T, b *bench) {
			b.succeed("a")
			if got := b.requests()[0].path; got != want {
				t.Errorf("%s: %s, want %s", url, got, want)
			}
			b.rule = status(401, "")
			_, _, err := b.embed("a")
			expect(t, err, ErrDenied, "embedder e5: http://server:8080"+want+", model")
		})
	}
}

// TestOrderAndEncoding: both encodings are understood, whichever was requested, with the entries in any
// order.
func TestOrderAndEncoding(t *testing.T) {
	for _, asks := range []string{"base64", "float", "none"} {
		for _, gets := range []string{"base64", "float"} {
			inBubble(t, config.Embedder{EncodingFormat: asks}, func(t *testing.T, b *bench) {
				b.rule = func(w http.ResponseWriter, _ *http.Request, a asked) bool {
					if a.format != strings.TrimPrefix(asks, "none") {
						t.Errorf("asked for %s", a.format)
					}
					a.format = gets
					answer := entries(a, nil)
					slices.Reverse(answer["data"].([]entry))
					say(w, 200, answer)
					return true
				}
				b.succeed(numbered(10)...)
			})
		}
	}
}

// TestBatches: no request has more texts or bytes than configured, except for one text that is larger by
// itself. Every text is sent once, in order.
func TestBatches(t *testing.T) {
	for _, test := range []struct {
		name  string
		texts []int // bytes of each text, with the prefix
		want  [][]int
	}{
		{"by number", []int{3, 3, 3, 3, 3, 3, 3, 3}, [][]int{{3, 3, 3}, {3, 3, 3}, {3, 3}}},
		{"by bytes", []int{10, 10, 10, 20, 5}, [][]int{{10, 10}, {10}, {20}, {5}}},
		{"larger by itself", []int{3, 500, 3, 3}, [][]int{{3}, {500}, {3, 3}}},
		{"just full", []int{10, 10, 10, 10}, [][]int{{10, 10}, {10, 10}}},
		{"one", []int{3}, [][]int{{3}}},
	} {
		inBubble(t, config.Embedder{Batch: 3, BatchBytes: 20, Concurrency: 1, PassagePrefix: "p:"}, func(t *testing.T, b *bench) {
			var texts []string
			for i, size := range test.texts {
				texts = append(texts, strings.Repeat(string(rune('a'+i)), size-2))
			}
			if _, _, err := b.embed(texts...); err != nil {
				t.Fatal(err)
			}
			var got [][]int
			var sent []string
			for _, request := range b.requests() {
				var sizes []int
				for _, text := range request.texts {
					sizes, sent = append(sizes, len(text)), append(sent, strings.TrimPrefix(text, "p:"))
				}
				got = append(got, sizes)
			}
			if !reflect.DeepEqual(got, test.want) || !slices.Equal(sent, texts) {
				t.Errorf("%s: %v, want %v", test.name, got, test.want)
			}
		})
	}
}

// TestCarriedWithoutCall: a carried vector is checked and used. The server is only asked for the other texts.
func TestCarriedWithoutCall(t *testing.T) {
	inBubble(t, config.Embedder{}, func(t *testing.T, b *bench) {
		carried := func(vector ...float32) Item {
			return Item{Text: "carried", Carried: map[string][]float32{"e5": vector}}
		}
		if _, failures, err := b.embedder.Embed(t.Context(), Query, []Item{carried(1, 2, 3), carried(1)}); err != nil || failures[0] != nil || failures[1] == nil {
			t.Fatal(failures, err)
		}
		if n := len(b.requests()); n != 0 {
			t.Errorf("%d requests", n)
		}
		vectors, _, err := b.embedder.Embed(t.Context(), Query, []Item{carried(1, 2, 3), {Text: "a"}, carried(4, 5, 6)})
		if err != nil || !slices.Equal(vectors[1], vectorOf("m", "a")) || vectors[2][0] != 4 || !slices.Equal(b.requests()[0].texts, []string{"a"}) {
			t.Error(vectors, err)
		}
	})
}

// TestProbe: if the length of the vectors is not configured, the server is asked for it, with both kinds of
// texts.
func TestProbe(t *testing.T) {
	inBubble(t, config.Embedder{QueryModel: "q", PassageModel: "p", QueryPrefix: "q: "}, func(t *testing.T, b *bench) {
		b.embedder.dimensions = 0
		_, _, err := b.embed("a")
		expect(t, err, ErrDenied, "it was not probed")
		b.script = []handler{status(503, "")}
		if err := b.embedder.Probe(t.Context()); err != nil || b.embedder.Dimensions() != serverDimensions {
			t.Fatal(b.embedder.Dimensions(), err)
		}
		var got []string
		for _, r := range b.requests() {
			got = append(got, r.model+": "+r.texts[0])
		}
		if want := "p: " + probeText + ", p: " + probeText + ", q: q: " + probeText; strings.Join(got, ", ") != want {
			t.Errorf("%v", got)
		}

		b.embedder.dimensions = 0
		b.rule = func(w http.ResponseWriter, _ *http.Request, a asked) bool {
			say(w, 200, entries(a, func(_ int, e entry) { e["embedding"] = make([]float32, len(a.model)+1) }))
			return true
		}
		expect(t, b.embedder.Probe(t.Context()), ErrDenied, "is all zeros")
		b.embedder.dimensions = 0
		b.rule = func(w http.ResponseWriter, _ *http.Request, a asked) bool {
			say(w, 200, entries(a, func(_ int, e entry) { e["embedding"] = []float32{1, 2, 3, 4}[:2+len(a.model)%2] }))
			return true
		}
		b.embedder.kinds[Query].fields["model"] = "qq"
		expect(t, b.embedder.Probe(t.Context()), ErrDenied, "the server gives vectors of 2 numbers, want 3")
		b.rule = status(401, "")
		b.embedder.dimensions = 0
		expect(t, b.embedder.Probe(t.Context()), ErrDenied, "401")
	})
}

// TestKeyFile: a changed key is used from the next request on. A request that was refused with the old key is
// repeated.
func TestKeyFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	write := func(key string) {
		if err := os.WriteFile(file, []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(" first\n")
	inBubble(t, config.Embedder{APIKeyFile: file}, func(t *testing.T, b *bench) {
		valid := "first"
		b.rule = func(w http.ResponseWriter, r *http.Request, _ asked) bool {
			return r.Header.Get("Authorization") != "Bearer "+valid && status(401, "")(w, r, asked{})
		}
		b.succeed("a")
		write("second")
		valid = "second"
		b.succeed("b")
		if got := b.outcomes(); got != "ok, ok" {
			t.Error(got)
		}
		b.script = []handler{func(w http.ResponseWriter, r *http.Request, _ asked) bool { // the key changes during the request
			write("third")
			valid = "third"
			return status(401, "")(w, r, asked{})
		}}
		b.succeed("c")
		if got := b.outcomes(); got != "ok, ok, denied, again ok" {
			t.Error(got)
		}
		valid = "fourth"
		_, _, err := b.embed("d")
		expect(t, err, ErrDenied, "401 Unauthorized")
		if n := len(b.requests()); n != 5 {
			t.Errorf("%d requests", n)
		}
		write("bad\x01key")
		_, _, err = b.embed("d")
		expect(t, err, ErrDenied, "api_key_file: "+file+" holds a character that no header can")
		os.Remove(file)
		_, _, err = b.embed("d")
		expect(t, err, ErrDenied, "api_key_file: open "+file)
		write("fourth")
		b.succeed("d")
	})
}

// TestConcurrencyBound: all callers together never have more requests running than configured.
func TestConcurrencyBound(t *testing.T) {
	inBubble(t, config.Embedder{Concurrency: 3, Batch: 2}, func(t *testing.T, b *bench) {
		b.rule = func(http.ResponseWriter, *http.Request, asked) bool {
			time.Sleep(time.Second)
			return false
		}
		start := time.Now()
		done := make(chan error)
		for range 4 {
			go func() {
				_, _, err := b.embed(numbered(12)...)
				done <- err
			}()
		}
		for range 4 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if b.most != 3 || len(b.requests()) != 24 || time.Since(start) != 8*time.Second {
			t.Errorf("%d at a time, %d requests, %v", b.most, len(b.requests()), time.Since(start))
		}
	})
}

// TestConcurrencyAdapts: the limit shrinks while the server is too busy, down to one at worst, and grows
// back.
func TestConcurrencyAdapts(t *testing.T) {
	inBubble(t, config.Embedder{Concurrency: 8, Batch: 1, RetryFor: time.Minute}, func(t *testing.T, b *bench) {
		limit := func() int { return b.requestsSeen[len(b.requestsSeen)-1].Limit }
		b.rule = func(w http.ResponseWriter, r *http.Request, a asked) bool {
			time.Sleep(100 * time.Millisecond)
			b.mu.Lock()
			busy := b.running > 2 // the capacity of this server
			b.mu.Unlock()
			return busy && status(429, "")(w, r, a)
		}
		b.succeed(numbered(40)...)
		synctest.Wait()
		var limits []int
		for _, r := range b.requestsSeen {
			limits = append(limits, r.Limit)
		}
		if least := slices.Min(limits); least > 3 || !strings.Contains(b.outcomes(), "busy") {
			t.Errorf("limits %v", limits)
		}
		b.rule = status(503, "")
		_, _, err := b.embed(numbered(40)...)
		expect(t, err, ErrUnavailable, "503")
		synctest.Wait()
		if limit() != 1 {
			t.Errorf("limit %d while all is refused", limit())
		}
		b.rule = healthy
		b.succeed(numbered(100)...)
		if limit() != 8 {
			t.Errorf("limit %d in the end", limit())
		}
	})
}

// TestTLS: the client checks the server's certificate with the configured authority and name, and shows its
// own certificate.
func TestTLS(t *testing.T) {
	s := newScripted(t)
	var shown atomic.Int32
	s.rule = func(_ http.ResponseWriter, r *http.Request, _ asked) bool {
		shown.Add(int32(len(r.TLS.PeerCertificates)))
		return false
	}
	s.Server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	dir := t.TempDir()
	write := func(name, kind string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	own := s.Server.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	ca := write("ca.pem", "CERTIFICATE", s.Certificate().Raw)
	client := write("client.pem", "CERTIFICATE", own.Certificate[0])
	clientKey := write("client-key.pem", "PRIVATE KEY", key)
	for _, test := range []struct {
		name  string
		tls   config.TLS
		want  string // part of the error
		shows int32
	}{
		{"unknown authority", config.TLS{}, "certificate signed by unknown authority", 0},
		{"known authority", config.TLS{CAFile: ca}, "", 0},
		{"another name", config.TLS{CAFile: ca, ServerName: "elsewhere.test"}, "not elsewhere.test", 0},
		{"the right name", config.TLS{CAFile: ca, ServerName: "example.com"}, "", 0},
		{"insecure", config.TLS{Insecure: true}, "", 0},
		{"client certificate", config.TLS{CAFile: ca, CertFile: client, KeyFile: clientKey}, "", 1},
		{"no file", config.TLS{CAFile: ca + "x"}, "tls.ca_file: open " + ca + "x", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			shown.Store(0)
			embedders, err := New([]config.Embedder{{Name: "e5", Type: TypeOpenAI, URL: s.URL + "/v1", Model: "m", Dimensions: 3, TLS: test.tls, RetryFor: 1}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, failures, err := embedders[0].Embed(t.Context(), Passage, itemsOf("a"))
			switch {
			case test.want == "" && (err != nil || failures[0] != nil):
				t.Error(err, failures)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v, want %s", err, test.want)
			}
			if shown.Load() != test.shows {
				t.Errorf("%d certificates shown", shown.Load())
			}
		})
	}
}

// TestProxy: requests go through the configured proxy.
func TestProxy(t *testing.T) {
	var asked atomic.Value
	s := newScripted(t)
	s.Start()
	t.Cleanup(s.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := strings.Cut(r.Header.Get("Proxy-Authorization"), " ")
		asked.Store(fmt.Sprint(r.URL, " ", user, " ", password != ""))
		r.RequestURI = ""
		r.URL, _ = url.Parse(s.URL + r.URL.Path)
		s.Config.Handler.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	through := config.Secret(strings.Replace(proxy.URL, "://", "://me:password@", 1))
	embedders, err := New([]config.Embedder{{Name: "e5", Type: TypeOpenAI, URL: "http://nowhere.test/v1", Model: "m", Dimensions: 3, Proxy: through, RetryFor: 1}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, failures, err := embedders[0].Embed(t.Context(), Passage, itemsOf("a")); err != nil || failures[0] != nil {
		t.Fatal(err, failures)
	}
	if asked.Load() != "http://nowhere.test/v1/embeddings Basic true" {
		t.Error(asked.Load())
	}
	proxy.Close()
	_, _, err = embedders[0].Embed(context.Background(), Passage, itemsOf("a"))
	expect(t, err, ErrUnavailable, "http://nowhere.test/v1/embeddings")
	if strings.Contains(err.Error(), "password") {
		t.Error(err)
	}
}

// TestConnections: a definition says what determines the vectors. The configured embedder of its name says
// the rest.
func TestConnections(t *testing.T) {
	s := newScripted(t)
	s.Start()
	t.Cleanup(s.Close)
	fitted := config.Embedder{Name: "e5", Type: TypeOpenAI, URL: "http://127.0.0.1:1/v1", QueryModel: "q", PassageModel: "p", PassagePrefix: "p: ", Dimensions: 3, RetryFor: 1}
	configured := config.Embedder{Name: "e5", Type: TypeOpenAI, URL: s.URL + "/v1", Model: "other", PassagePrefix: "x", APIKey: "key", Dimensions: 7}
	for _, test := range []struct {
		name       string
		configured []config.Embedder
		key        string
	}{
		{"of the name", []config.Embedder{{Name: "words", Type: TypeLexicalWord}, configured}, "Bearer key"},
		{"of another name", []config.Embedder{{Name: "e6", Type: TypeOpenAI, URL: "http://127.0.0.1:1/v1", APIKey: "key"}}, ""},
		{"of another type", []config.Embedder{{Name: "e5", Type: TypeCarried, Dimensions: 3}}, ""},
		{"none", nil, ""},
	} {
		if test.key == "" {
			fitted.URL = s.URL + "/v1"
		}
		embedders, err := New([]config.Embedder{fitted}, &Resources{Connections: test.configured})
		if err != nil {
			t.Fatal(err)
		}
		if _, failures, err := embedders[0].Embed(t.Context(), Passage, itemsOf("a")); err != nil || failures[0] != nil {
			t.Fatal(test.name, err, failures)
		}
		got := s.requests()[len(s.requests())-1]
		if got.model != "p" || got.texts[0] != "p: a" || got.header.Get("Authorization") != test.key {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
}
