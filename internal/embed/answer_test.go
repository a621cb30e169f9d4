package embed

import (
	"slices"
	"strings"
	"testing"
	"time"

	"hardneg/internal/config"
)

// TestOtherAPI: an answer of another API is named, with what to configure. It is not asked for again before
// that.
func TestOtherAPI(t *testing.T) {
	for _, test := range []struct{ name, body, says string }{
		{"text-embeddings-inference at /embed", `[[0.1,0.2,0.3],[1,2,3]]`, "text-embeddings-inference at /embed, or a pipeline of Hugging Face: let url end in /v1"},
		{"Hugging Face, by token", ` [[[0.1,0.2,0.3]]]`, "text-embeddings-inference at /embed"},
		{"llama.cpp", `[{"index":0,"embedding":[[0.1,0.2,0.3]]}]`, "llama.cpp without /v1: let url end in /v1"},
		{"Ollama at /api/embeddings", `{"embedding":[]}`, "Ollama's own API: let url end in /v1 in place of /api"},
		{"Ollama at /api/embed", `{"model":"m","embeddings":[[0.1,0.2]],"total_duration":14143917}`, "Ollama's own API"},
		{"one nested vector", `{"embedding":[[0.1,0.2]]}`, "Ollama's own API: let url end in /v1 in place of /api; another server must have POST /v1/embeddings"},
		{"Cohere, second version", `{"id":"1","embeddings":{"float":[[0.1,0.2]]},"texts":["a"],"meta":{}}`, "Cohere's own API: set url to https://api.cohere.ai/compatibility/v1"},
		{"Cohere, first version", `{"id":"1","embeddings":[[0.1,0.2]],"texts":["a"],"response_type":"embeddings_floats"}`, "Cohere's own API"},
		{"Google, one text", `{"embedding":{"values":[0.1,0.2]}}`, "Google's own API: set url to https://generativelanguage.googleapis.com/v1beta/openai"},
		{"Google, a batch", `{"embeddings":[{"values":[0.1,0.2]}]}`, "Google's own API"},
		{"Vertex AI", `{"predictions":[{"embeddings":{"values":[0.1]}}]}`, "Vertex AI, KServe or Triton"},
		{"Triton", `{"model_name":"m","outputs":[{"name":"e","data":[1,2]}]}`, "Vertex AI, KServe or Triton"},
		{"a chat", `{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}]}`, "a chat: let url lead to a server of embeddings"},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, config.Embedder{}, func(t *testing.T, b *bench) {
				b.rule = status(200, test.body)
				start := time.Now()
				_, _, err := b.embed("a", "b", "c")
				expect(t, err, ErrDenied, "the answer does not have the OpenAI form; it looks like "+test.says)
				if n := len(b.requests()); n > 2 || time.Since(start) > longestPause {
					t.Errorf("%d requests in %v", n, time.Since(start))
				}
				b.embedder.dimensions = 0
				expect(t, b.embedder.Probe(t.Context()), ErrDenied, test.says)
			})
		})
	}
}

// TestAnswerKeepsSecrets: what is quoted of an answer with status 200 has no key in it.
func TestAnswerKeepsSecrets(t *testing.T) {
	for _, body := range []string{"<p>hunter2", `{"error":"hunter2"}`, `{"x":"hunter2"}`, `["hunter2"]`} {
		_, _, f := vectorsOf([]byte(body), 1, []string{"hunter2"})
		if f == nil || strings.Contains(f.text, "hunter2") || !strings.Contains(f.text, "********") {
			t.Errorf("%s: %v", body, f)
		}
	}
}

// FuzzAnswer reads arbitrary answers: it never panics, and each text gets a vector or a reason.
func FuzzAnswer(f *testing.F) {
	for _, body := range []string{
		`{"data":[{"index":1,"embedding":[1,2]},{"index":0,"embedding":"AACAPwAAAEA="}]}`,
		`{"data":[{"embedding":[1,2]},{"index":1,"embedding":[3,4]}]}`,
		`{"data":[{"index":null,"embedding":[1,2]},{"index":0,"embedding":[3,4]}]}`,
		`{"data":[{"index":"1","embedding":null},{"index":0.0,"embedding":[]}]}`,
		`{"data":[{"index":-1,"embedding":""},{"index":1e99,"embedding":{"float":[1]}}]}`,
		`{"data":[null,{"index":1}]}`,
		`{"data":[7,[1,2]]}`,
		`{"data":{"embedding":[1,2]}}`,
		`{"data":null}`,
		`{"data":[]}`,
		`{"data":[],"error":{"message":"x"}}`,
		`{"error":{"message":1}}`,
		`{"detail":[{"loc":["body"]}]}`,
		`{"data":[{"index":0,"embedding":[ ]}]}`,
		`{"data":[{"index":0,"embedding":[[1],2,{"a":1}]}]}`,
		`{"data":[{"index":0,"embedding":[NaN,-Infinity]},{"index":1,"embedding":[Infinity,null]}]}`,
		`{"data":[{"index":0,"embedding":["NaN",1e999]},{"index":1,"embedding":[1e-999,true]}]}`,
		`{"data":[{"index":0,"embedding":"$$$"},{"index":1,"embedding":"AAAAAAA="}]}`,
		`{"data":[{"index":0,"embedding":[0.1,0.`,
		`{"data":"\"NaN\\`,
		`[[1,2],[3,4]]`,
		`[{"index":0,"embedding":[[1,2]]}]`,
		`[]`,
		`{"embeddings":{"float":[[1]]}}`,
		`{"embeddings":[{"values":[1]}]}`,
		`{"embeddings":[[1]],"meta":{}}`,
		`{"embedding":[]}`,
		`{"choices":[]}`,
		`<!DOCTYPE html>`,
		"\xef\xbb\xbf{}",
		"null", "7", "",
	} {
		for texts := range 3 {
			f.Add(body, texts)
		}
	}
	f.Fuzz(func(t *testing.T, body string, texts int) {
		texts = max(0, min(texts, 100))
		vectors, flaws, fault := vectorsOf([]byte(body), texts, nil)
		switch {
		case fault != nil:
			if fault.text == "" || len(fault.text) > 4*longestMessage || fault.outcome != Invalid && fault.outcome != Denied && fault.outcome != Refused || !fault.maybeText() {
				t.Errorf("fault %+v", fault)
			}
		case len(vectors) != texts || len(flaws) != texts:
			t.Fatalf("%d vectors and %d reasons for %d texts", len(vectors), len(flaws), texts)
		default:
			for i := range vectors {
				if (len(vectors[i]) == 0) != (flaws[i] != nil) {
					t.Errorf("text %d: vector %v, reason %v", i, vectors[i], flaws[i])
				}
			}
			for _, dimensions := range []int{0, 2} {
				o := &openai{dimensions: dimensions}
				kept := slices.Clone(vectors)
				f := o.dropUnusable(kept, flaws)
				if got := slices.ContainsFunc(kept, func(v []float32) bool { return v != nil }); got == (f != nil) && texts > 0 {
					t.Errorf("%v beside the fault %v", kept, f)
				}
				for i, vector := range kept {
					if vector != nil && (checkVector(vector, "it") != nil || dimensions > 0 && len(vector) != dimensions) {
						t.Errorf("text %d keeps %v", i, vector)
					}
				}
			}
		}
		if said := message([]byte(body), nil); len(said) > longestMessage+len("…") {
			t.Errorf("a message of %d bytes", len(said))
		}
		if again := string(withoutBareNumbers(withoutBareNumbers([]byte(body)))); again != string(withoutBareNumbers([]byte(body))) {
			t.Errorf("%q is changed a second time", body)
		}
	})
}
