package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestOpenAI(t *testing.T) {
	c := load(t, `
embedders:
  - {name: e5, type: openai, url: "http://host:8080/v1", model: m, query_prefix: "query: ", passage_prefix: "passage: "}
  - name: other
    type: openai
    url: https://host/v1/
    query_model: q
    passage_model: p
    weight: 2
    dimensions: 256
    request_dimensions: true
    api_key: ${KEY}
    headers: {X-Team: "${TEAM:search}", x-n: 7}
    tls: {ca_file: ca.pem}
    proxy: http://proxy:3128
    encoding_format: float
    batch: 8
    batch_bytes: 1000
    concurrency: 2
    timeout: 5s
    retry_for: 1m
    body: {truncate: true, user: "${TEAM:search}", ratio: 0.5, n: -3, none: null, list: [1, {a: host:80}]}
    query_body:
      input_type: query
    passage_body: {input_type: passage}
`, []string{"KEY=secret"})
	want := []Embedder{{
		Name: "e5", Type: "openai", Weight: 1, URL: "http://host:8080/v1", Model: "m", QueryPrefix: "query: ", PassagePrefix: "passage: ",
		EncodingFormat: "base64", Batch: 32, BatchBytes: 65536, Concurrency: 4, Timeout: 30 * time.Second, RetryFor: 10 * time.Second,
	}, {
		Name: "other", Type: "openai", Weight: 2, Dimensions: 256, URL: "https://host/v1/", QueryModel: "q", PassageModel: "p", RequestDimensions: true,
		APIKey: "secret", Headers: map[string]Secret{"X-Team": "search", "x-n": "7"}, TLS: TLS{Enabled: true, CAFile: "ca.pem"}, Proxy: "http://proxy:3128",
		EncodingFormat: "float", Batch: 8, BatchBytes: 1000, Concurrency: 2, Timeout: 5 * time.Second, RetryFor: time.Minute,
		Body: map[string]any{
			"truncate": true, "user": "search", "ratio": 0.5, "n": int64(-3), "none": nil,
			"list": []any{uint64(1), map[string]any{"a": "host:80"}},
		},
		QueryBody: map[string]any{"input_type": "query"}, PassageBody: map[string]any{"input_type": "passage"},
	}}
	if !reflect.DeepEqual(c.Embedders, want) {
		t.Errorf("got\n%#v\nwant\n%#v", c.Embedders, want)
	}
	if text := c.String(); strings.Contains(text, "secret") || strings.Contains(text, "search\n    x-n") || strings.Contains(text, "proxy:3128") {
		t.Errorf("printed:\n%s", text)
	}
}

// TestOtherTypesPrintNoKeysOfOpenAI: keys that an embedder's type does not have are not printed.
func TestOtherTypesPrintNoKeysOfOpenAI(t *testing.T) {
	text := Default().String()
	for _, f := range embedderFields() {
		if f.Of != "" && strings.Contains(text[strings.Index(text, "embedders:"):strings.Index(text, "\nreduce:")], " "+f.Name+":") {
			t.Errorf("%s in\n%s", f.Name, text)
		}
	}
}

func embedderFields() []Field {
	list, _ := find(Fields(), "embedders")
	return list.Fields
}

// TestConnected: one embedder gives what determines the vectors, the other gives the connection. Together
// they cover all keys.
func TestConnected(t *testing.T) {
	connection := map[string]bool{
		"url": true, "api_key": true, "api_key_file": true, "headers": true, "tls": true, "proxy": true, "encoding_format": true,
		"batch": true, "batch_bytes": true, "concurrency": true, "timeout": true, "retry_for": true,
	}
	var full Embedder
	for _, f := range embedderFields() {
		value := reflect.ValueOf(&full).Elem().Field(f.index)
		switch value.Kind() {
		case reflect.String:
			value.SetString("x")
		case reflect.Int, reflect.Int64:
			value.SetInt(1)
		case reflect.Float64:
			value.SetFloat(1)
		case reflect.Bool:
			value.SetBool(true)
		case reflect.Map:
			value.Set(reflect.MakeMap(f.Type))
		case reflect.Struct:
			value.Field(1).SetString("x")
		}
		if value.IsZero() {
			t.Fatalf("%s was not set", f.Name)
		}
	}
	connected, definition := reflect.ValueOf(Embedder{}.Connected(full)), reflect.ValueOf(full.Connected(Embedder{}))
	for _, f := range embedderFields() {
		if got := !connected.Field(f.index).IsZero(); got != connection[f.Name] {
			t.Errorf("%s is taken over: %v", f.Name, got)
		}
		if got := definition.Field(f.index).IsZero(); got != connection[f.Name] {
			t.Errorf("%s is lost: %v", f.Name, got)
		}
	}
}

func TestCertificates(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for key, tls := range map[string]TLS{
		"kafka.tls.ca_file":   {Enabled: true, CAFile: file},
		"kafka.tls.cert_file": {Enabled: true, CertFile: file, KeyFile: file},
	} {
		_, err := tls.Load("kafka.tls")
		var wrong *Error
		if !errors.As(err, &wrong) || wrong.Problems[0].Key != key || !strings.Contains(err.Error(), file) && key == "kafka.tls.ca_file" {
			t.Errorf("%s: %v", key, err)
		}
	}
	if made, err := (TLS{}).Load("kafka.tls"); made != nil || err != nil {
		t.Errorf("off: %v, %v", made, err)
	}
	if made, err := (TLS{Enabled: true, ServerName: "x"}).Load("kafka.tls"); err != nil || made.ServerName != "x" {
		t.Errorf("on: %v, %v", made, err)
	}
}

// TestCheckFiles: the embedders' files are checked before anything starts.
func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := `
embedders:
  - {name: a, type: openai, url: "https://h/v1", model: m, api_key_file: KEY}
  - {name: b, type: openai, url: "https://h/v1", model: m, api_key_file: KEY-none, tls: {ca_file: KEY}}
`
	c := load(t, strings.ReplaceAll(file, "KEY", key), nil)
	err := c.CheckFiles()
	want := "hardneg.yaml:4:" + strings.Split(err.Error(), ":")[2] + ": embedders[1].api_key_file: open " + key + "-none: no such file or directory\n"
	if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "embedders[1].tls.ca_file: "+key+" holds no PEM certificate") ||
		strings.Contains(err.Error(), "embedders[0]") || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v\nwant %s", err, want)
	}
	if err := load(t, "", nil).CheckFiles(); err != nil {
		t.Error(err)
	}
}
