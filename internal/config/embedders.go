package config

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// The values of an embedder whose key is empty or 0.
const (
	defaultBuckets     = 4096
	defaultBatch       = 32
	defaultBatchBytes  = 64 << 10
	defaultConcurrency = 4
	defaultTimeout     = 30 * time.Second
	defaultRetryFor    = 10 * time.Second
)

// Complete returns the embedder with defaults for everything that is empty or 0.
func (e Embedder) Complete() Embedder {
	switch e.Type {
	case "lexical-word", "lexical-char":
		e.Dimensions = orElse(e.Dimensions, defaultBuckets)
	case "openai":
		e.EncodingFormat = orElse(e.EncodingFormat, "base64")
		e.Batch = orElse(e.Batch, defaultBatch)
		e.BatchBytes = orElse(e.BatchBytes, defaultBatchBytes)
		e.Concurrency = orElse(e.Concurrency, defaultConcurrency)
		e.Timeout = orElse(e.Timeout, defaultTimeout)
		e.RetryFor = orElse(e.RetryFor, defaultRetryFor)
		e.TLS.Enabled = strings.HasPrefix(e.URL, "https://")
	}
	return e
}

func orElse[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// Connected returns the embedder with the connection of another one: the server's address, the key and how
// requests are made. Everything that determines the vectors stays.
func (e Embedder) Connected(to Embedder) Embedder {
	e.URL, e.APIKey, e.APIKeyFile, e.Headers, e.TLS, e.Proxy = to.URL, to.APIKey, to.APIKeyFile, to.Headers, to.TLS, to.Proxy
	e.EncodingFormat, e.Batch, e.BatchBytes = to.EncodingFormat, to.Batch, to.BatchBytes
	e.Concurrency, e.Timeout, e.RetryFor = to.Concurrency, to.Timeout, to.RetryFor
	return e
}

func (v *validation) embedders() {
	if len(v.config.Embedders) == 0 {
		v.fail("embedders", "names no embedder")
	}
	seen := make(map[string]bool)
	for i, e := range v.config.Embedders {
		key := fmt.Sprintf("embedders[%d].", i)
		if e.Name != "" && seen[e.Name] {
			v.fail(key+"name", "%q is there twice", e.Name)
		}
		seen[e.Name] = true
		if e.Weight == 0 {
			v.fail(key+"weight", "must be above 0")
		}
		if e.Type == "carried" && e.Dimensions == 0 {
			v.fail(key+"dimensions", "missing: the length of the vectors that the records carry")
		}
		v.checkForeignKeys(key, e)
		if e.Type == "openai" {
			v.openAI(key, e)
		}
	}
}

// checkForeignKeys refuses keys that belong to other types of embedders.
func (v *validation) checkForeignKeys(key string, e Embedder) {
	list, _ := find(Fields(), "embedders")
	values := reflect.ValueOf(e)
	if e.Type == "" || !slices.Contains(list.Fields[1].Enum, e.Type) {
		return // the type is the mistake, and is reported elsewhere
	}
	for _, f := range list.Fields {
		if f.Of != "" && f.Of != e.Type && !values.Field(f.index).IsZero() {
			v.fail(key+f.Name, "belongs to %s; %s has none", f.Of, e.Type)
		}
	}
}

func (v *validation) openAI(key string, e Embedder) {
	v.embedderURL(key, e)
	if e.Model == "" && (e.QueryModel == "" || e.PassageModel == "") {
		v.fail(key+"model", "missing: the name of the model, as the server knows it; or both query_model and passage_model")
	}
	if e.Model != "" && e.QueryModel != "" && e.PassageModel != "" {
		v.fail(key+"model", "has no use beside query_model and passage_model")
	}
	if e.RequestDimensions && e.Dimensions == 0 {
		v.fail(key+"dimensions", "missing: request_dimensions asks the server for that many")
	}
	if e.APIKey != "" && e.APIKeyFile != "" {
		v.fail(key+"api_key_file", "is there beside api_key; give one of them")
	}
	if !httpguts.ValidHeaderFieldValue(string(e.APIKey)) {
		v.fail(key+"api_key", "holds a character that no header can")
	}
	for _, body := range []struct {
		name   string
		fields map[string]any
	}{{"body", e.Body}, {"query_body", e.QueryBody}, {"passage_body", e.PassageBody}} {
		for _, taken := range []struct{ name, instead string }{
			{"dimensions", "use request_dimensions"}, {"encoding_format", "use the embedder's encoding_format"},
			{"input", "it holds the texts"}, {"model", "use model, query_model or passage_model"},
		} {
			if _, isSet := body.fields[taken.name]; isSet {
				v.fail(key+body.name+"."+taken.name, "cannot be set here: %s", taken.instead)
			}
		}
	}
	v.headers(key, e)
	v.proxy(key+"proxy", string(e.Proxy))
}

func (v *validation) embedderURL(key string, e Embedder) {
	at, err := url.Parse(e.URL)
	secure := err == nil && at.Scheme == "https"
	switch {
	case e.URL == "":
		v.fail(key+"url", "missing: the base of the API, such as http://host:8080/v1")
	case err != nil || at.Host == "" || at.Scheme != "http" && !secure:
		v.fail(key+"url", "is no URL that begins with http:// or https:// and a host") // not shown, because it may contain a password
	case at.User != nil:
		v.fail(key+"url", "holds a name or a password: put them into api_key, api_key_file or headers")
	case at.Fragment != "":
		v.fail(key+"url", "must have no # part")
	case strings.HasSuffix(strings.TrimRight(at.Path, "/"), "/embeddings"):
		v.fail(key+"url", "ends in /embeddings, which is added to it: leave it out")
	case !secure && e.TLS != (TLS{}):
		v.fail(key+"tls", "is set, but url begins with http://")
	default:
		v.embedderQuery(key, at.RawQuery)
	}
	tls := e.TLS
	tls.Enabled = true
	v.tls(key+"tls", tls)
}

// secretParameters are the names under which servers take a key in the query string of a URL.
var secretParameters = []string{
	"access_token", "api-key", "api_key", "apikey", "auth", "code", "key", "password", "secret", "sig", "signature", "subscription-key", "token",
}

// embedderQuery checks the query string of a URL. The URL is published with the model, so it must hold no key.
func (v *validation) embedderQuery(key, query string) {
	parameters, err := url.ParseQuery(query)
	if err != nil {
		v.fail(key+"url", "has a ? part that is no list of name=value with & between them")
	}
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		if slices.Contains(secretParameters, strings.ToLower(name)) {
			v.fail(key+"url", "holds a key in its ? part, under %s: put it into api_key, api_key_file or headers", name)
		}
	}
}

func (v *validation) headers(key string, e Embedder) {
	names := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			v.fail(key+"headers", "%q is no name of a header", name)
		case !httpguts.ValidHeaderFieldValue(string(e.Headers[name])):
			v.fail(key+"headers."+name, "holds a character that no header can")
		case names[canonical]:
			v.fail(key+"headers", "%s is there twice, in different letters", canonical)
		case canonical == "Authorization" && (e.APIKey != "" || e.APIKeyFile != ""):
			v.fail(key+"headers."+name, "is what the API key becomes; give one of them")
		case slices.Contains([]string{"Content-Type", "Content-Length", "Content-Encoding", "Transfer-Encoding", "Accept-Encoding", "Connection", "Host"}, canonical):
			v.fail(key+"headers."+name, "cannot be set")
		}
		names[canonical] = true
	}
}

func (v *validation) proxy(key, text string) {
	at, err := url.Parse(text)
	if text != "" && (err != nil || at.Host == "" || !slices.Contains([]string{"http", "https", "socks5"}, at.Scheme)) {
		v.fail(key, "is no URL of a proxy, such as http://proxy:3128")
	}
}
