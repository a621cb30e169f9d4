package embed

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
)

// answer is the body of a successful answer.
type answer struct {
	Data  *[]element `json:"data"` // nil if there is none
	Error json.RawMessage
}

// element is an embedding of an answer. Its fields are read later, one by one, so that one bad embedding does
// not make the others useless.
type element struct {
	Index     json.RawMessage `json:"index"`
	Embedding json.RawMessage `json:"embedding"`
}

// vectorsOf reads the answer to a request with the given number of texts. The vectors are in the order of the
// texts. Each text gets a vector or the reason why it has none. A fault means that nothing of the answer can be
// used.
//
// Vectors of an answer with too few embeddings are not used: nobody knows whether the server left a gap in its
// indexes, or counted on.
func vectorsOf(body []byte, texts int, secrets []string) (vectors [][]float32, flaws []error, f *fault) {
	elements, f := elementsOf(body, texts, secrets)
	if f != nil {
		return nil, nil, f
	}
	vectors, flaws = make([][]float32, texts), make([]error, texts)
	if len(elements) == 0 && texts == 1 {
		flaws[0] = errors.New("the answer has no embedding")
		return vectors, flaws, nil
	}
	if len(elements) != texts {
		f := unreadable("the answer has %s for %s", quantity(len(elements), "embedding"), quantity(texts, "text"))
		if len(elements) < texts {
			f.outcome = Refused // the server works, and gives no vector to one of the texts
		}
		return nil, nil, f
	}
	seen := make([]bool, texts)
	for i, e := range elements {
		at, given, err := e.index()
		switch {
		case err != nil:
			return nil, nil, unreadable("embedding %d of the answer: %v", i, err)
		case !given:
			at = i // Google's server leaves out an index of 0, others leave out all
		case at < 0 || at >= texts:
			return nil, nil, unreadable("embedding %d of the answer has index %d for %s", i, at, quantity(texts, "text"))
		}
		if seen[at] {
			return nil, nil, unreadable("the answer has index %d twice; where there is no index, the place in the list counts", at)
		}
		seen[at] = true
		vectors[at], flaws[at] = e.vector()
	}
	return vectors, flaws, nil
}

// elementsOf reads an answer, but not yet the embeddings in it.
func elementsOf(body []byte, texts int, secrets []string) ([]element, *fault) {
	var a answer
	err := json.Unmarshal(body, &a)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		readable := withoutBareNumbers(body)
		if !json.Valid(readable) {
			return nil, notJSON(body, err, secrets)
		}
		body, a = readable, answer{}
		err = json.Unmarshal(body, &a)
	}
	if a.Data == nil && len(a.Error) == 0 {
		if api := otherAPI(body); api != "" {
			return nil, &fault{outcome: Denied, status: http.StatusOK, text: "the answer does not have the OpenAI form; it looks like " + api}
		}
	}
	if a.Data == nil || len(*a.Data) != texts {
		if said := errorIn(body); said != "" {
			return nil, unreadable("the answer is an error with status 200: %q", quotable(said, longestMessage, secrets))
		}
	}
	if err != nil || a.Data == nil {
		return nil, unreadable("the answer does not have the OpenAI form, in which data is a list of objects; it begins %q", quotable(string(body), longestStart, secrets))
	}
	return *a.Data, nil
}

// longestStart limits, in bytes, how much is quoted of an answer that is not understood.
const longestStart = 80

// unreadable returns the fault of an answer with status 200 of which nothing can be used.
func unreadable(format string, values ...any) *fault {
	return &fault{outcome: Invalid, status: http.StatusOK, text: fmt.Sprintf(format, values...)}
}

// notJSON returns the fault of an answer that is no JSON.
func notJSON(body []byte, err error, secrets []string) *fault {
	switch text := bytes.TrimSpace(body); {
	case len(text) == 0:
		return unreadable("the answer is empty")
	case text[0] == '<':
		return unreadable("the answer is a page and no JSON: does url lead to the API, and not to a web page or a login? It begins %q", quotable(string(text), longestStart, secrets))
	}
	return unreadable("the answer is no JSON: %v", err)
}

// withoutBareNumbers replaces what Python writes for numbers that are not finite, and JSON does not know. Such a
// number then spoils its own vector, and not the whole answer.
func withoutBareNumbers(body []byte) []byte {
	out := make([]byte, 0, len(body))
	inText := false
	for i := 0; i < len(body); i++ {
		switch {
		case inText && body[i] == '\\' && i+1 < len(body):
			out = append(out, body[i])
			i++
		case body[i] == '"':
			inText = !inText
		case inText:
		case bytes.HasPrefix(body[i:], []byte("NaN")):
			out = append(out, "null"...)
			i += len("NaN") - 1
			continue
		case bytes.HasPrefix(body[i:], []byte("Infinity")):
			out = append(out, "1e999"...)
			i += len("Infinity") - 1
			continue
		}
		out = append(out, body[i])
	}
	return out
}

// otherAPI names the API that gives such an answer, and what to configure instead. It returns "" for an answer
// that it does not know.
func otherAPI(body []byte) string {
	var list []json.RawMessage
	if json.Unmarshal(body, &list) == nil && len(list) > 0 {
		var e element
		switch {
		case list[0][0] == '[':
			return "text-embeddings-inference at /embed, or a pipeline of Hugging Face: let url end in /v1"
		case json.Unmarshal(list[0], &e) == nil && e.Embedding != nil:
			return "llama.cpp without /v1: let url end in /v1"
		}
		return ""
	}
	var fields struct {
		Embedding, Embeddings, Predictions, Outputs, Choices, Texts, Meta json.RawMessage
	}
	if json.Unmarshal(body, &fields) != nil {
		return ""
	}
	switch google := "Google's own API: set url to https://generativelanguage.googleapis.com/v1beta/openai"; {
	case startsWith(fields.Embedding, '{'), startsWith(fields.Embeddings, '[') && bytes.Contains(fields.Embeddings[:min(len(fields.Embeddings), longestStart)], []byte(`"values"`)):
		return google
	case startsWith(fields.Embeddings, '{'), fields.Embeddings != nil && (fields.Texts != nil || fields.Meta != nil):
		return "Cohere's own API: set url to https://api.cohere.ai/compatibility/v1"
	case fields.Embeddings != nil, fields.Embedding != nil:
		return "Ollama's own API: let url end in /v1 in place of /api; another server must have POST /v1/embeddings"
	case fields.Predictions != nil, fields.Outputs != nil:
		return "Vertex AI, KServe or Triton: put a server with POST /v1/embeddings before it"
	case fields.Choices != nil:
		return "a chat: let url lead to a server of embeddings"
	}
	return ""
}

func startsWith(value json.RawMessage, first byte) bool { return len(value) > 0 && value[0] == first }

// index returns the index of an embedding, if the answer gives one.
func (e element) index() (at int, given bool, err error) {
	if len(e.Index) == 0 || string(e.Index) == "null" {
		return 0, false, nil
	}
	number, err := strconv.ParseFloat(string(bytes.Trim(e.Index, `"`)), 64)
	if err != nil || number != math.Trunc(number) || math.Abs(number) > math.MaxInt32 {
		return 0, false, fmt.Errorf("the index is %.20q, want a whole number", e.Index)
	}
	return int(number), true, nil
}

// vector reads an embedding: an array of numbers, or base64 of little-endian float32. The numbers may not be
// finite.
func (e element) vector() (vector []float32, err error) {
	switch data := e.Embedding; {
	case len(data) == 0:
		return nil, errors.New("the embedding is missing")
	case string(data) == "null":
		return nil, errors.New("the embedding is null")
	case data[0] == '"':
		vector, err = decodeBase64(data)
	case data[0] == '[':
		vector, err = parseNumbers(data[1 : len(data)-1])
	default:
		return nil, fmt.Errorf("the embedding is %.30q, want numbers or base64", data)
	}
	if err == nil && len(vector) == 0 {
		return nil, errors.New("the embedding is empty")
	}
	return vector, err
}

func decodeBase64(data []byte) ([]float32, error) {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return nil, err
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("the embedding is no base64: %w", err)
	}
	if len(raw)%4 != 0 {
		return nil, fmt.Errorf("the embedding has %d bytes, want a multiple of 4", len(raw))
	}
	vector := make([]float32, len(raw)/4)
	for i := range vector {
		vector[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return vector, nil
}

// parseNumbers reads the text between the brackets. Some servers write NaN as null, and encoding/json would
// silently turn it into 0.
func parseNumbers(data []byte) ([]float32, error) {
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return nil, nil
	}
	if data[0] == '[' {
		return nil, errors.New("the embedding is a list of lists, as of a model that gives a vector for each token: the server must pool them into one vector for the text")
	}
	vector := make([]float32, 0, bytes.Count(data, []byte(","))+1)
	for item := range bytes.SplitSeq(data, []byte(",")) {
		item = bytes.TrimSpace(item)
		if string(item) == "null" {
			vector = append(vector, float32(math.NaN()))
			continue
		}
		value, err := strconv.ParseFloat(string(item), 32)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return nil, fmt.Errorf("number %d of the embedding is %.20q", len(vector), item)
		}
		vector = append(vector, float32(value)) // a number out of range becomes infinite, which is refused later
	}
	return vector, nil
}
