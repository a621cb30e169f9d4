package model

import (
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"hardneg/internal/config"
	"hardneg/internal/embed"
)

// embeddingServer gives vectors of 4 numbers, by model and text. It answers without a vector to a text with the
// word "silent", without an entry to one with "missing", and with an error of status 200 to a batch with
// "broken". While denied is set, it refuses every request.
func embeddingServer(t *testing.T) (url string, denied *atomic.Bool, requests *atomic.Int32) {
	denied, requests = new(atomic.Bool), new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		var body struct {
			Model string
			Input []string
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		if denied.Load() {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		data := []map[string]any{}
		for i, text := range body.Input {
			if strings.Contains(text, "broken") {
				_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": "CUDA error"}})
				return
			}
			if strings.Contains(text, "missing") {
				continue
			}
			hash := fnv.New64a()
			hash.Write([]byte(body.Model + text))
			sum := hash.Sum64()
			e := map[string]any{"index": i, "embedding": []float32{1, float32(sum & 0xff), float32(sum >> 8 & 0xff), float32(sum >> 16 & 0xff)}}
			if strings.Contains(text, "silent") {
				e["embedding"] = nil
			}
			data = append(data, e)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
	}))
	t.Cleanup(server.Close)
	return server.URL + "/v1", denied, requests
}

func served(url string) config.Embedder {
	return config.Embedder{
		Name: "e5", Type: embed.TypeOpenAI, Weight: 1, URL: url, Model: "m", QueryPrefix: "query: ", PassagePrefix: "passage: ",
		Body: map[string]any{"truncate": true, "ratio": 0.5, "big": uint64(18446744073709551615), "s": "<&>"}, QueryBody: map[string]any{"input_type": "query"},
		APIKey: "hunter2", Headers: map[string]config.Secret{"X-Key": "hunter3"}, Proxy: "", Timeout: 1e9, RetryFor: 1,
	}
}

var unreduced = config.Reduce{Method: "none"}

// TestServedModel fits a model with a server that gives the length of its vectors. The model is published,
// read again without a request to the server, and used with another connection.
func TestServedModel(t *testing.T) {
	url, _, requests := embeddingServer(t)
	definitions := append(slices.Clone(small), served(url))
	m := mustFit(t, definitions, unreduced, 10, prose(1, 100))
	manifest, chunks := encode(t, m)
	for _, secret := range []string{"hunter2", "hunter3", "X-Key"} {
		if strings.Contains(string(manifest), secret) {
			t.Errorf("%s is in the manifest: %s", secret, manifest)
		}
	}
	want := `"dimensions":4,"bytes":0,"openai":{"url":"` + url + `","query":{"model":"m","prefix":"query: ","body":{"big":18446744073709551615,"input_type":"query","ratio":0.5,"s":"\u003c\u0026\u003e","truncate":true}},` +
		`"passage":{"model":"m","prefix":"passage: ","body":{"big":18446744073709551615,"ratio":0.5,"s":"\u003c\u0026\u003e","truncate":true}}}}`
	if !strings.Contains(string(manifest), want) {
		t.Errorf("the manifest\n%s\nlacks\n%s", manifest, want)
	}

	asked := requests.Load()
	elsewhere, denied, _ := embeddingServer(t)
	connection := config.Embedder{Name: "e5", Type: embed.TypeOpenAI, URL: elsewhere, Model: "other", RetryFor: 1}
	back, err := Decode(&embed.Resources{Connections: []config.Embedder{connection}}, manifest, chunks)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := encode(t, back); string(again) != string(manifest) || back.Dimensions() != m.Dimensions() {
		t.Errorf("read and written again:\n%s\nwant\n%s", again, manifest)
	}
	got, _ := mustVectors(t, back, prose(2, 20))
	if requests.Load() != asked {
		t.Error("the server of the manifest was asked, where another is configured")
	}
	fallback, err := Decode(nil, manifest, chunks)
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]*Model{"fitted": m, "without a connection": fallback} {
		if other, _ := mustVectors(t, other, prose(2, 20)); !slices.EqualFunc(got, other, slices.Equal[[]float32]) {
			t.Errorf("%s: other vectors", name)
		}
	}

	denied.Store(true)
	if _, _, err := back.Vectors(t.Context(), embed.Query, prose(2, 3)); !errors.Is(err, embed.ErrDenied) || !strings.Contains(err.Error(), "embedder e5: "+elsewhere) {
		t.Errorf("%v", err)
	}
}

// TestServedFitFails: an error of the server is not reported as an error of the sample.
func TestServedFitFails(t *testing.T) {
	url, denied, _ := embeddingServer(t)
	denied.Store(true)
	for _, dimensions := range []int{0, 4} {
		definition := served(url)
		definition.Dimensions = dimensions
		if _, err := Fit(t.Context(), nil, []config.Embedder{definition}, unreduced, 1, prose(1, 5)); !errors.Is(err, embed.ErrDenied) || errors.Is(err, ErrSample) {
			t.Errorf("%v", err)
		}
	}
	definition := served("http://127.0.0.1:1")
	if _, err := Fit(t.Context(), nil, []config.Embedder{definition}, unreduced, 1, prose(1, 5)); !errors.Is(err, embed.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

// TestServedFitLeavesOut: a text to which the server gives no usable answer is left out of the sample, and the
// model is the same as without it.
func TestServedFitLeavesOut(t *testing.T) {
	url, _, _ := embeddingServer(t)
	want := mustFit(t, []config.Embedder{served(url)}, unreduced, 1, prose(1, 100))
	for word, places := range map[string][]int{"silent": {100, 50, 0}, "missing": {100, 50, 0}, "broken": {50}} {
		sample := prose(1, 100)
		for _, at := range places {
			sample = slices.Insert(sample, at, embed.Item{Text: "a " + word + " text"})
		}
		m, err := Fit(t.Context(), nil, []config.Embedder{served(url)}, unreduced, 1, sample)
		if err != nil {
			t.Errorf("%s: %v", word, err)
			continue
		}
		if m.ID() != want.ID() || m.Info().Samples != 100 {
			t.Errorf("%s: model %s of %d texts, want %s of 100", word, m.ID(), m.Info().Samples, want.ID())
		}
	}
}

// TestServedIdentity: what determines the vectors also determines the id, and whether a configuration matches
// the model. The server's address and the way of asking it do not.
func TestServedIdentity(t *testing.T) {
	url, _, _ := embeddingServer(t)
	elsewhere, _, _ := embeddingServer(t)
	sample := prose(1, 20)
	fit := func(change func(*config.Embedder)) (config.Embedder, *Model) {
		definition := served(url)
		change(&definition)
		m, err := Fit(context.Background(), nil, []config.Embedder{definition}, unreduced, 1, sample)
		if err != nil {
			t.Fatal(err)
		}
		return definition, m
	}
	_, m := fit(func(*config.Embedder) {})
	for name, test := range map[string]struct {
		same   bool
		change func(*config.Embedder)
	}{
		"nothing":           {true, func(*config.Embedder) {}},
		"url":               {true, func(e *config.Embedder) { e.URL = elsewhere }},
		"key":               {true, func(e *config.Embedder) { e.APIKey = "" }},
		"headers":           {true, func(e *config.Embedder) { e.Headers = nil }},
		"concurrency":       {true, func(e *config.Embedder) { e.Concurrency, e.Batch, e.EncodingFormat, e.RetryFor = 9, 1, "float", 5 }},
		"dimensions":        {true, func(e *config.Embedder) { e.Dimensions = 4 }},
		"models by kind":    {true, func(e *config.Embedder) { e.Model, e.QueryModel, e.PassageModel = "", "m", "m" }},
		"body of passages":  {true, func(e *config.Embedder) { e.PassageBody = map[string]any{"truncate": true} }},
		"number's type":     {true, func(e *config.Embedder) { e.Body["big"] = json.Number("18446744073709551615") }},
		"model":             {false, func(e *config.Embedder) { e.Model = "n" }},
		"query model":       {false, func(e *config.Embedder) { e.QueryModel = "n" }},
		"query prefix":      {false, func(e *config.Embedder) { e.QueryPrefix = "query:" }},
		"passage prefix":    {false, func(e *config.Embedder) { e.PassagePrefix = "" }},
		"body":              {false, func(e *config.Embedder) { e.Body["truncate"] = false }},
		"body of queries":   {false, func(e *config.Embedder) { e.QueryBody = nil }},
		"asked dimensions":  {false, func(e *config.Embedder) { e.Dimensions, e.RequestDimensions = 4, true }},
		"weight":            {false, func(e *config.Embedder) { e.Weight = 2 }},
		"prefixes exchange": {false, func(e *config.Embedder) { e.QueryPrefix, e.PassagePrefix = e.PassagePrefix, e.QueryPrefix }},
	} {
		definition, other := fit(test.change)
		if (other.ID() == m.ID()) != test.same {
			t.Errorf("%s: id %s, was %s", name, other.ID(), m.ID())
		}
		if m.Info().Embedders[0].Is(definition) != test.same || !other.Info().Embedders[0].Is(definition) {
			t.Errorf("%s: Is says otherwise", name)
		}
	}
	if definition := served(url); m.Info().Embedders[0].Is(small[0]) || m.Info().Embedders[0].Is(config.Embedder{Name: definition.Name, Type: embed.TypeCarried, Weight: 1, Dimensions: 4}) {
		t.Error("another type is the same")
	}
	wrong := served(url)
	if wrong.Dimensions = 5; m.Info().Embedders[0].Is(wrong) {
		t.Error("another length is the same")
	}
}

// TestEarlierManifest: a model that was published before the type openai existed can be read, with the same
// id.
func TestEarlierManifest(t *testing.T) {
	manifest := `{"schema":1,"id":"eb5fe16c342dac9b","created_at":"2026-11-25T09:27:25Z","embedders":[{"name":"own","type":"carried","weight":0.5,"dimensions":3,"bytes":0}],` +
		`"dimensions":3,"samples":4,"bytes":24,"reducer_bytes":24,"chunks":1,"sha256":"4a41bd30c5a9362b72e57263ba6d885dc36ae3140c67b7c891cb4574dd556432"}`
	chunk := "\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	m, err := Decode(nil, []byte(manifest), [][]byte{[]byte(chunk)})
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := encode(t, m); string(again) != manifest {
		t.Errorf("%s\nwas\n%s", again, manifest)
	}
	if e := m.Info().Embedders[0]; !e.Is(config.Embedder{Name: "own", Type: embed.TypeCarried, Weight: 0.5, Dimensions: 3}) {
		t.Errorf("%+v", e)
	}
}

// TestServedManifestDamaged: a manifest that does not say how to ask the server is refused.
func TestServedManifestDamaged(t *testing.T) {
	url, _, _ := embeddingServer(t)
	m := mustFit(t, []config.Embedder{served(url)}, unreduced, 1, prose(1, 5))
	manifest, chunks := encode(t, m)
	edit := func(change func(*Manifest)) []byte {
		var described Manifest
		if err := json.Unmarshal(manifest, &described); err != nil {
			t.Fatal(err)
		}
		change(&described)
		described.ID = identify(described)
		data, err := json.Marshal(described)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, test := range map[string]struct {
		manifest []byte
		want     string
	}{
		"nothing":  {edit(func(m *Manifest) { m.Embedders[0].Served = nil }), "e5: type openai needs url"},
		"no model": {edit(func(m *Manifest) { m.Embedders[0].Served.Query.Model = "" }), "e5: type openai needs url"},
		"body":     {[]byte(strings.Replace(string(manifest), `"body":{`, `"body":7,"x":{`, 1)), "the manifest is not JSON"},
		"changed":  {[]byte(strings.Replace(string(manifest), `"prefix":"query: "`, `"prefix":"query:"`, 1)), "the content is that of model"},
	} {
		if _, err := Decode(nil, test.manifest, chunks); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
	if _, err := Decode(nil, []byte(strings.Replace(string(manifest), url, "http://elsewhere", 1)), chunks); err != nil {
		t.Errorf("another url: %v", err)
	}
}
