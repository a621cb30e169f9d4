package embed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"hardneg/internal/config"
)

// newTransport returns an embedder's HTTP transport. If only its files are wrong, it returns both a transport
// and an error.
func newTransport(e config.Embedder) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    e.Concurrency,
		IdleConnTimeout:        30 * time.Second, // servers close idle connections after a while, at worst during a request
		TLSHandshakeTimeout:    10 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if e.Proxy != "" {
		proxy, err := url.Parse(string(e.Proxy))
		if err != nil {
			return nil, errors.New("proxy is no URL")
		}
		t.Proxy = http.ProxyURL(proxy)
	}
	encryption, err := e.TLS.Load("embedder " + e.Name + ": tls")
	t.TLSClientConfig = encryption
	return t, err
}

// apiKey is a fixed key from the configuration, or a file whose content may change.
type apiKey struct{ fixed, file string }

// read returns the key for the next request. Reading the small local file each time is the simplest way.
func (k apiKey) read() (string, error) {
	if k.file == "" {
		return k.fixed, nil
	}
	text, err := os.ReadFile(k.file)
	if err != nil {
		return "", fmt.Errorf("api_key_file: %w", err)
	}
	key := strings.TrimSpace(string(text))
	if !httpguts.ValidHeaderFieldValue(key) {
		return "", fmt.Errorf("api_key_file: %s holds a character that no header can", k.file)
	}
	return key, nil
}

// changed reports whether the key has changed meanwhile.
func (k apiKey) changed(from string) bool {
	now, err := k.read()
	return err == nil && now != from
}

// Limits for reading an answer. A float32 in decimal has at most 16 characters, but some servers print
// float64.
const (
	numberBytes    = 32
	embeddingBytes = 1 << 10 // everything around an embedding
	answerBytes    = 64 << 10
)

// request makes one request and reads the vectors, in the order of the texts.
func (o *openai) request(caller context.Context, kind Kind, texts []string) ([][]float32, *fault) {
	ctx, cancel := context.WithTimeout(caller, o.Timeout)
	defer cancel()
	key, err := o.key.read()
	if err != nil {
		return nil, &fault{outcome: Denied, text: err.Error(), cause: err}
	}
	request, err := o.prepare(ctx, kind, texts, key)
	if err != nil {
		return nil, &fault{outcome: Denied, text: err.Error(), cause: err}
	}
	response, err := o.client.Do(request)
	if err != nil {
		var inner *url.Error // its text repeats method and URL
		if errors.As(err, &inner) {
			err = inner.Err
		}
		return nil, connectionFault(caller, o.Timeout, err)
	}
	defer response.Body.Close()
	most := o.answerLimit(len(texts))
	if response.StatusCode != http.StatusOK {
		most = answerBytes
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, int64(most)+1))
	if response.StatusCode != http.StatusOK {
		f := statusFault(response, body, o.secrets(key)) // with as much of the body as could be read
		f.rekeyed = f.status == http.StatusUnauthorized && o.key.changed(key)
		return nil, f
	}
	if err != nil {
		f := connectionFault(caller, o.Timeout, fmt.Errorf("the answer broke off after %d bytes: %w", len(body), err))
		if f.outcome == Failed {
			f.status = http.StatusOK
		}
		return nil, f
	}
	if len(body) > most {
		return nil, unreadable("the answer to %s has more than %d bytes", quantity(len(texts), "text"), most)
	}
	vectors, flaws, f := vectorsOf(body, len(texts), o.secrets(key))
	if f != nil {
		return nil, f
	}
	return vectors, o.dropUnusable(vectors, flaws)
}

func (o *openai) prepare(ctx context.Context, kind Kind, texts []string, key string) (*http.Request, error) {
	fields := maps.Clone(o.kinds[kind].fields)
	fields["input"] = texts
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(fields); err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, o.endpoint(), &body)
	if err != nil {
		return nil, err
	}
	for name, value := range o.Headers {
		request.Header.Set(name, string(value))
	}
	request.Header.Set("Content-Type", "application/json")
	if request.Header.Get("Accept") == "" {
		request.Header.Set("Accept", "application/json")
	}
	if request.Header.Get("User-Agent") == "" {
		request.Header.Set("User-Agent", "hardneg")
	}
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	return request, nil
}

// secrets returns the texts that a server's answer may repeat but a message must not contain.
func (o *openai) secrets(key string) []string {
	all := []string{key}
	for _, value := range o.Headers {
		all = append(all, string(value), strings.TrimPrefix(string(value), "Bearer "))
	}
	return all
}

func (o *openai) answerLimit(texts int) int {
	dimensions := o.dimensions
	if dimensions == 0 {
		dimensions = maxDimensions
	}
	return answerBytes + texts*(embeddingBytes+numberBytes*dimensions)
}

// dropUnusable replaces vectors that cannot be used by nil. It returns a fault if no vector is left.
//
// It compares the length of the vectors with the length that was configured or probed. While that is not known,
// all vectors must be as long as the first one.
func (o *openai) dropUnusable(vectors [][]float32, flaws []error) *fault {
	want, usable := o.dimensions, false
	var worst *fault
	for i, vector := range vectors {
		err := flaws[i]
		if want == 0 && err == nil {
			want = len(vector)
		}
		switch {
		case err != nil:
		case len(vector) > maxDimensions:
			err = fmt.Errorf("the vector has %d numbers, and at most %d are possible", len(vector), maxDimensions)
		case len(vector) != want:
			if worst == nil {
				worst = &fault{
					outcome: Denied, status: http.StatusOK, length: fmt.Sprintf("the vector has %d numbers, want %d", len(vector), want),
					text: fmt.Sprintf("the server gives vectors of %d numbers, want %d: another model runs there, or dimensions is wrong", len(vector), want),
				}
			}
			vectors[i] = nil
			continue
		default:
			err = checkVector(vector, "the vector")
		}
		if err == nil {
			usable = true
			continue
		}
		vectors[i] = nil
		if worst == nil {
			worst = &fault{outcome: Refused, status: http.StatusOK, text: err.Error(), cause: err}
		}
	}
	if usable {
		return nil
	}
	return worst
}
