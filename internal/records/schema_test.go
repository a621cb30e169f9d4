package records

import (
	"bytes"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func compileSchemas(t *testing.T) map[string]*jsonschema.Schema {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	for _, name := range Schemas() {
		raw, err := Schema(name)
		if err != nil {
			t.Fatal(err)
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			t.Fatalf("schema %s: %v", name, err)
		}
		if err := compiler.AddResource("urn:hardneg:schema:"+name, document); err != nil {
			t.Fatal(err)
		}
	}
	compiled := map[string]*jsonschema.Schema{}
	for _, name := range Schemas() {
		schema, err := compiler.Compile("urn:hardneg:schema:" + name)
		if err != nil {
			t.Fatalf("schema %s: %v", name, err)
		}
		compiled[name] = schema
	}
	return compiled
}

// manifestWith returns a manifest with one embedder.
func manifestWith(embedder string) string {
	return `{"schema":1,"id":"0123456789abcdef","created_at":"2026-01-02T03:04:05.6Z","embedders":[` + embedder + `],"dimensions":512,"samples":1000,"variance":[{"dimensions":1,"share":0.1}],"bytes":300,"reducer_bytes":200,"chunks":1,"sha256":"` + strings.Repeat("0f", 32) + `"}`
}

func TestSchemas(t *testing.T) {
	compiled := compileSchemas(t)
	weight := 0.5
	_, document := Document{ID: "a", Title: "T", Text: "t", URL: "u", UpdatedAt: "2026-01-02T03:04:05Z", Metadata: []byte(`{"b":1}`), Embeddings: map[string][]float32{"e": {1}}}.Encode()
	source := Source{Topic: "queries"}
	cut := someTriplet()
	cut.Query.Text = strings.Repeat("x", 100)
	tests := []struct {
		schema, value string
		valid         bool
	}{
		{"document", string(document), true},
		{"document", `{"text":"t","title":null,"embeddings":{"e":[1,2],"f":null},"more":[]}`, true},
		{"document", `{"id":"a"}`, false},
		{"document", `{"text":" "}`, false},
		{"document", `{"text":null}`, false},
		{"document", `{"title":"T"}`, false},
		{"document", `{"title":" ","text":""}`, false},
		{"document", `{"title":"T","text":""}`, true},
		{"document", `{"title":"T","text":null}`, true},
		{"document", `{"text":"t","updated_at":1790000000000,"url":["u"]}`, true},
		{"document", `{"text":"t","updated_at":"2026-01-02 03:04:05"}`, true},
		{"document", `{"text":"t","id":""}`, false},
		{"document", `{"text":"t","updated_at":"today"}`, false},
		{"document", `{"text":"t","embeddings":{"e":[]}}`, false},
		{"query", string(Query{Query: "q", QueryID: "i", Positives: []string{"a"}, Clicks: []Click{{DocID: "b", DwellMS: 5, Weight: &weight}, {DocID: "c"}}, SessionID: "s", Timestamp: "2026-01-02T03:04:05+02:00", Embeddings: map[string][]float32{"e": {1}}}.Encode()), true},
		{"query", `{"query":"q"}`, true},
		{"query", `{"query":"q","positives":["a"` + strings.Repeat(`,"a"`, MaxNamed-1) + `]}`, true},
		{"query", `{"query":"q","positives":["a"` + strings.Repeat(`,"a"`, MaxNamed) + `]}`, false},
		{"query", `{"query":"q","clicks":[{"doc_id":"a"}` + strings.Repeat(`,{"doc_id":"a"}`, MaxNamed) + `]}`, false},
		{"query", `{"query":"q","session_id":7,"timestamp":1790000000000}`, true},
		{"query", `{"query":""}`, false},
		{"query", `{"query":"q","clicks":[{"weight":1}]}`, false},
		{"query", `{"query":"q","clicks":[{"doc_id":"a","weight":0}]}`, false},
		{"query", `{"query":"q","clicks":[{"doc_id":"a","dwell_ms":1.5}]}`, false},
		{"query", `{"query":"q","positives":[1]}`, false},
		{"triplet", string(someTriplet().Encode(1 << 16)), true},
		{"triplet", string(cut.Encode(10)), true},
		{"triplet", `{"schema":1}`, false},
		{"refresh", string(Refresh{Kind: KindEvidence, QueryID: "q", Text: "t", Evidence: []Evidence{{"a", 1}}, Embeddings: map[string][]float32{"e": {1}}, Source: source}.Encode()), true},
		{"refresh", string(Refresh{Kind: KindForget, QueryID: "q", Source: source}.Encode()), true},
		{"refresh", string(Refresh{Kind: KindRefresh, QueryID: "q", Force: true, Published: map[string]int{"p": 2}, Source: Source{Topic: SourceAudit}}.Encode()), true},
		{"refresh", `{"kind":"refresh","query_id":"q","published":{"p":0},"source":{"topic":"audit","partition":0,"offset":0,"timestamp":0}}`, false},
		{"refresh", `{"kind":"evidence","query_id":"q","source":{"topic":"t","partition":0,"offset":0,"timestamp":0}}`, false},
		{"dead-letter-headers", `{"hardneg-error":"e","hardneg-stage":"intake","hardneg-topic":"t","hardneg-partition":"0","hardneg-offset":"12","hardneg-timestamp":"1790000000000"}`, true},
		{"dead-letter-headers", `{"hardneg-error":"e"}`, false},
		{"dead-letter-headers", `{"hardneg-replayed":"2/17","hardneg-topic":"t","hardneg-partition":"0","hardneg-offset":"12"}`, true},
		{"dead-letter-headers", `{"hardneg-replayed":"2/17","hardneg-topic":"t"}`, false},
		{"model-manifest", manifestWith(`{"name":"words","type":"lexical-word","weight":1,"dimensions":2048,"bytes":100}`), true},
		{"model-manifest", manifestWith(`{"name":"e5","type":"openai","weight":1,"dimensions":384,"bytes":0,"openai":{"url":"http://h/v1","query":{"model":"m","prefix":"query: ","body":{"a":1}},"passage":{"model":"m"},"request_dimensions":true}}`), true},
		{"model-manifest", manifestWith(`{"name":"e5","type":"openai","weight":1,"dimensions":384,"bytes":0,"openai":{"url":"http://h/v1","query":{"model":"m"}}}`), false},
		{"model-manifest", `{"schema":1,"id":"0123456789abcdef"}`, false},
		{"model-manifest", `{"schema":1,"id":"0123456789abcdef","created_at":"2026-01-02T03:04:05.6Z","embedders":[{"name":"words","type":"lexical-word","weight":1,"dimensions":2048,"bytes":100}],"dimensions":512,"samples":1000,"held_out":{"documents":50,"share":0.4},"bytes":300,"reducer_bytes":200,"chunks":1,"sha256":"` + strings.Repeat("0f", 32) + `"}`, true},
		{"model-manifest", `{"schema":1,"id":"0123456789abcdef","created_at":"2026-01-02T03:04:05.6Z","embedders":[{"name":"words","type":"lexical-word","weight":1,"dimensions":2048,"bytes":100}],"dimensions":512,"samples":1000,"held_out":{"documents":50},"bytes":300,"reducer_bytes":200,"chunks":1,"sha256":"` + strings.Repeat("0f", 32) + `"}`, false},
	}
	seen := map[string]bool{}
	for _, test := range tests {
		seen[test.schema] = true
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(test.value))
		if err != nil {
			t.Fatalf("%s: %v", test.value, err)
		}
		if err := compiled[test.schema].Validate(value); (err == nil) != test.valid {
			t.Errorf("%s %s: valid %v, want %v: %v", test.schema, test.value, err == nil, test.valid, err)
		}
	}
	for name := range compiled {
		if !seen[name] {
			t.Errorf("schema %s has no example here", name)
		}
	}
	if _, err := Schema("nothing"); err == nil || !strings.Contains(err.Error(), "triplet") {
		t.Errorf("an unknown schema: %v", err)
	}
}

// The schemas accept everything that the parsers accept.
func FuzzSchemasAgreeWithParsers(f *testing.F) {
	f.Add([]byte(`{"id":"a","text":"t","title":5}`))
	f.Add([]byte(`{"query":"q","clicks":[{"doc_id":"a","weight":2}],"positives":[""]}`))
	f.Add([]byte(`{"title":"T","text":null,"updated_at":1.79e9,"query":"q","session_id":[]}`))
	f.Add([]byte(`{"query":"q","timestamp":"2026-01-02T03:04:05.5-07:00","text":"t","embeddings":{"e":[0.5,null]}}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(value))
		if err != nil {
			return
		}
		compiled := compileSchemas(t)
		if _, _, err := ParseDocument([]byte("key-that-is-no-id"), value); err == nil {
			if err := compiled["document"].Validate(parsed); err != nil {
				t.Errorf("document %s: %v", value, err)
			}
		}
		if _, _, err := ParseQuery(nil, value); err == nil {
			if err := compiled["query"].Validate(parsed); err != nil {
				t.Errorf("query %s: %v", value, err)
			}
		}
	})
}
