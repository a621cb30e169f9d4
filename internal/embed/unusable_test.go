package embed

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"hardneg/internal/config"
)

// unusable is an answer with status 200 (or 204) that gives one text no usable vector. The server gives it to
// every request that holds the text "poison".
type unusable struct {
	name  string
	give  handler
	says  string        // part of the reason in the dead letter
	quick bool          // the answer has the right form: it is not asked for again for all of retry_for
	all   error         // error of a call if the server gives every text such an answer; nil: checked elsewhere
	most  time.Duration // longest time for a batch of 6 with one such text; 0: 20s
}

// spoiled answers in the right form, but changes the entry of the poisonous text.
func spoiled(change func(e entry)) handler {
	return func(w http.ResponseWriter, _ *http.Request, a asked) bool {
		say(w, 200, entries(a, func(i int, e entry) {
			if poisonous(a.texts[i]) {
				change(e)
			}
		}))
		return true
	}
}

// spoiledNumber answers with JSON in which the first number of the poisonous text's vector is written so.
func spoiledNumber(as string) handler {
	return func(w http.ResponseWriter, _ *http.Request, a asked) bool {
		var data []string
		for i, text := range a.texts {
			vector := vectorOf(a.model, text)
			first := fmt.Sprint(vector[0])
			if poisonous(text) {
				first = as
			}
			data = append(data, fmt.Sprintf(`{"object":"embedding \"NaN\"","index":%d,"embedding":[%s,%v,%v]}`, i, first, vector[1], vector[2]))
		}
		say(w, 200, `{"data":[`+strings.Join(data, ",")+`]}`)
		return true
	}
}

// reduced answers with another list of texts than it was asked for.
func reduced(to func(texts []string) []string) handler {
	return func(w http.ResponseWriter, _ *http.Request, a asked) bool {
		a.texts = to(a.texts)
		say(w, 200, entries(a, nil))
		return true
	}
}

func poisonous(text string) bool { return strings.Contains(text, "poison") }

// cutText answers with JSON that ends early, although the connection is well.
func cutText(w http.ResponseWriter, _ *http.Request, a asked) bool {
	say(w, 200, `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,0.2`)
	return true
}

func embedding(value any) handler { return spoiled(func(e entry) { e["embedding"] = value }) }

// unusables are all forms of an answer without a usable vector.
func unusables() []unusable {
	return []unusable{
		{name: "one entry too few", give: reduced(func(texts []string) []string { return slices.DeleteFunc(slices.Clone(texts), poisonous) }), says: "the answer has no embedding", quick: true},
		{name: "one entry too few, indexes with a gap", give: func(w http.ResponseWriter, _ *http.Request, a asked) bool {
			answer := entries(a, nil)
			data := []entry{}
			for i, e := range answer["data"].([]entry) {
				if !poisonous(a.texts[i]) {
					data = append(data, e)
				}
			}
			say(w, 200, map[string]any{"data": data})
			return true
		}, says: "the answer has no embedding", quick: true},
		{name: "one entry too many", give: reduced(func(texts []string) []string { return append(slices.Clone(texts), "x") }), says: "the answer has 2 embeddings for 1 text"},
		{name: "data is null", give: status(200, `{"object":"list","data":null}`), says: `in which data is a list of objects; it begins "{\"object\":\"list\",\"data\":null}"`},
		{name: "data is an object", give: status(200, `{"data":{"embedding":[1,2,3]}}`), says: "in which data is a list of objects; it begins"},
		{name: "the entry is null", give: func(w http.ResponseWriter, _ *http.Request, a asked) bool {
			data := entries(a, nil)["data"].([]entry)
			for i := range data {
				if poisonous(a.texts[i]) {
					data[i] = nil
				}
			}
			say(w, 200, map[string]any{"data": data})
			return true
		}, says: "the embedding is missing", quick: true},
		{name: "the entry is a number", give: status(200, `{"data":[7]}`), says: "in which data is a list of objects; it begins"},
		{name: "no embedding", give: spoiled(func(e entry) { delete(e, "embedding") }), says: "the embedding is missing", quick: true, all: ErrDenied},
		{name: "null", give: embedding(nil), says: "the embedding is null", quick: true, all: ErrDenied},
		{name: "empty list", give: embedding([]float32{}), says: "the embedding is empty", quick: true, all: ErrDenied},
		{name: "empty base64", give: embedding(""), says: "the embedding is empty", quick: true},
		{name: "an object", give: embedding(map[string]any{"float": []int{1, 2, 3}}), says: `the embedding is "{\"float\":[1,2,3]}", want numbers or base64`, quick: true},
		{name: "strings", give: embedding([]any{"1", 2, 3}), says: `number 0 of the embedding is "\"1\""`, quick: true, all: ErrDenied},
		{name: "nested", give: embedding([]any{[]float32{1, 2, 3}}), says: "the embedding is a list of lists", quick: true, all: ErrDenied},
		{name: "no base64", give: embedding("$$$"), says: "the embedding is no base64", quick: true, all: ErrDenied},
		{name: "half a number", give: embedding("AAAAAAA="), says: "the embedding has 5 bytes, want a multiple of 4", quick: true, all: ErrDenied},
		{name: "shorter", give: embedding([]float32{1, 2}), says: "the vector has 2 numbers, want 3", quick: true, all: ErrDenied},
		{name: "longer", give: embedding([]float32{1, 2, 3, 4}), says: "the vector has 4 numbers, want 3", quick: true, all: ErrDenied},
		{name: "far too long", give: embedding(make([]float32, 200_000)), says: "the answer to 1 text has more than "},
		{name: "zeros", give: embedding([]float32{0, 0, 0}), says: "the vector is all zeros", quick: true},
		{name: "NaN in base64", give: embedding(coded("base64", []float32{1, float32(math.NaN()), 0})), says: "number 1 of the vector is NaN", quick: true},
		{name: "null among the numbers", give: embedding([]any{nil, 2, 3}), says: "number 0 of the vector is NaN", quick: true},
		{name: "bare NaN", give: spoiledNumber("NaN"), says: "number 0 of the vector is NaN", quick: true},
		{name: "bare Infinity", give: spoiledNumber("Infinity"), says: "number 0 of the vector is +Inf", quick: true},
		{name: "bare -Infinity", give: spoiledNumber("-Infinity"), says: "number 0 of the vector is -Inf", quick: true},
		{name: "bare nan", give: spoiledNumber("nan"), says: "the answer is no JSON: invalid character 'a'"},
		{name: "true among the numbers", give: spoiledNumber("true"), says: `number 0 of the embedding is "true"`, quick: true},
		{name: "truncated", give: cutText, says: "the answer is no JSON: unexpected end of JSON input"},
		{name: "cut by the connection", give: cutOff, says: "the answer broke off after ", most: time.Minute},
		{name: "an empty body", give: status(200, ""), says: "the answer is empty"},
		{name: "204", give: status(204, ""), says: "204 No Content"},
		{name: "a page", give: status(200, "\n<!DOCTYPE html><html><title>Sign in</title>"), says: `the answer is a page and no JSON: does url lead to the API, and not to a web page or a login? It begins "<!DOCTYPE html><html>`},
		{name: "an error with status 200", give: status(200, `{"error":{"message":"CUDA error","code":500}}`), says: `the answer is an error with status 200: "CUDA error"`},
		{name: "an error as text", give: status(200, `{"error":"CUDA error"}`), says: `the answer is an error with status 200: "CUDA error"`},
		{name: "an error beside no data", give: status(200, `{"data":[],"error":{"message":"CUDA error"}}`), says: `the answer is an error with status 200: "CUDA error"`},
		{name: "a detail with status 200", give: status(200, `{"detail":"CUDA error"}`), says: `the answer is an error with status 200: "CUDA error"`},
		{name: "another API", give: status(200, `{"embedding":[]}`), says: "Ollama"},
		{name: "another API's list", give: status(200, `[[1,2,3]]`), says: "text-embeddings-inference"},
	}
}

// TestUnusableAnswer: if the server gives no usable answer as soon as a batch holds one text, but answers to
// other texts, the text is refused, and all others get their vectors. Such a text must not hold up its
// partition for ever.
func TestUnusableAnswer(t *testing.T) {
	for _, test := range unusables() {
		for _, batch := range []int{4, 1} {
			t.Run(fmt.Sprintf("%s/%d", test.name, batch), func(t *testing.T) {
				inBubble(t, config.Embedder{Batch: batch}, func(t *testing.T, b *bench) {
					b.rule = func(w http.ResponseWriter, r *http.Request, a asked) bool {
						return slices.ContainsFunc(a.texts, poisonous) && test.give(w, r, a)
					}
					texts := []string{"a", "b", "poison", "c", "d", "e"}
					start := time.Now()
					vectors, failures, err := b.embed(texts...)
					if err != nil {
						t.Fatal(err)
					}
					took := time.Since(start)
					for i, text := range texts {
						if i != 2 && (failures[i] != nil || !slices.Equal(vectors[i], vectorOf("m", text))) {
							t.Errorf("%q: vector %v, error %v", text, vectors[i], failures[i])
						}
					}
					said := fmt.Sprint(failures[2])
					if vectors[2] != nil || !strings.Contains(said, test.says) || !strings.HasPrefix(said, `embedder e5: http://server:8080/v1/embeddings, model "m" `) {
						t.Errorf("vector %v, error %v, want %s", vectors[2], said, test.says)
					}
					most := test.most
					switch {
					case test.quick:
						most = 2 * time.Second
					case most == 0:
						most = 20 * time.Second
					}
					if took > most {
						t.Errorf("took %v", took)
					}
				})
			})
		}
	}
}

// TestUnusableOnce: an answer that is unusable once says nothing about the text.
func TestUnusableOnce(t *testing.T) {
	for _, test := range unusables() {
		for _, texts := range [][]string{{"poison"}, {"a", "poison", "b"}} {
			t.Run(fmt.Sprintf("%s/%d", test.name, len(texts)), func(t *testing.T) {
				inBubble(t, config.Embedder{}, func(t *testing.T, b *bench) {
					b.script = []handler{test.give}
					b.succeed(texts...)
				})
			})
		}
	}
}

// TestUnusableForAll: if the server gives no usable answer to any text, the texts are not the problem: no
// text is refused.
func TestUnusableForAll(t *testing.T) {
	for _, test := range unusables() {
		for _, texts := range [][]string{{"poison"}, {"poison 1", "poison 2", "poison 3"}} {
			t.Run(fmt.Sprintf("%s/%d", test.name, len(texts)), func(t *testing.T) {
				inBubble(t, config.Embedder{PassagePrefix: "poison "}, func(t *testing.T, b *bench) {
					b.rule = test.give
					start := time.Now()
					_, failures, err := b.embed(texts...)
					if err == nil || failures != nil || time.Since(start) > 40*time.Second {
						t.Fatal(failures, err, time.Since(start))
					}
					if test.all != nil {
						expect(t, err, test.all)
					}
				})
			})
		}
	}
}

// TestShortPatience: a text is refused too if retry_for is shorter than the pause after a failure.
func TestShortPatience(t *testing.T) {
	for _, give := range []handler{status(200, "<html>"), status(500, "")} {
		inBubble(t, config.Embedder{RetryFor: time.Millisecond}, func(t *testing.T, b *bench) {
			b.rule = func(w http.ResponseWriter, r *http.Request, a asked) bool {
				return slices.ContainsFunc(a.texts, poisonous) && give(w, r, a)
			}
			_, failures, err := b.embed("a", "poison")
			if err != nil || failures[0] != nil || failures[1] == nil {
				t.Fatal(failures, err)
			}
		})
	}
}

// TestServerComesBack: a server that answers nonsense for all of retry_for, and is well again just when it is
// asked for another text, is no reason to refuse the text.
func TestServerComesBack(t *testing.T) {
	for _, give := range []handler{status(200, "<html>"), status(500, "")} {
		inBubble(t, config.Embedder{}, func(t *testing.T, b *bench) {
			b.rule = func(w http.ResponseWriter, r *http.Request, a asked) bool {
				if a.texts[0] == probeText {
					b.rule = healthy
				}
				return a.texts[0] != probeText && give(w, r, a)
			}
			b.succeed("a")
		})
	}
}

// TestNotAskedIsNotRefused: while another text's failure keeps the server from being asked, a text that was
// not asked for is not refused.
func TestNotAskedIsNotRefused(t *testing.T) {
	inBubble(t, config.Embedder{RetryFor: time.Millisecond}, func(t *testing.T, b *bench) {
		b.rule = func(w http.ResponseWriter, r *http.Request, a asked) bool {
			return slices.ContainsFunc(a.texts, poisonous) && status(500, "")(w, r, a)
		}
		for range 20 {
			done := make(chan bool)
			go func() {
				_, _, _ = b.embed("poison")
				close(done)
			}()
			time.Sleep(time.Duration(rand.IntN(2000)) * time.Millisecond)
			if _, failures, err := b.embed("a"); err == nil && failures[0] != nil {
				t.Fatal(failures)
			}
			<-done
		}
	})
}

// TestTwoModelsBehindOneAddress: while a balancer sends requests to an old and to a new server, whose vectors
// have other lengths, no text is refused: the call fails or gives vectors.
func TestTwoModelsBehindOneAddress(t *testing.T) {
	for seed := range uint64(50) {
		inBubble(t, config.Embedder{Batch: 4, Concurrency: 1}, func(t *testing.T, b *bench) {
			random := rand.New(rand.NewPCG(seed, 0))
			other := changed(func(_ int, e entry) { e["embedding"] = []float32{1, 2} })
			b.rule = func(w http.ResponseWriter, r *http.Request, a asked) bool {
				return random.IntN(2) == 0 && other(w, r, a)
			}
			for _, texts := range [][]string{{"a"}, {"a", "b", "c", "d", "e"}} {
				_, failures, err := b.embed(texts...)
				if err == nil && slices.ContainsFunc(failures, func(e error) bool { return e != nil }) {
					t.Errorf("seed %d: %v", seed, failures)
				}
			}
		})
	}
}

// TestAnswerWithoutIndex: where an answer has no index, the place in the list counts. Google's server leaves
// out an index of 0.
func TestAnswerWithoutIndex(t *testing.T) {
	for name, change := range map[string]func(i int, e entry){
		"left out where 0": func(i int, e entry) {
			if i == 0 {
				delete(e, "index")
			}
		},
		"null where 0": func(i int, e entry) {
			if i == 0 {
				e["index"] = nil
			}
		},
		"left out":         func(_ int, e entry) { delete(e, "index") },
		"null":             func(_ int, e entry) { e["index"] = nil },
		"left out for one": func(i int, e entry) { e["index"] = []any{0, 1, nil, 3}[i%4] },
		"as text":          func(i int, e entry) { e["index"] = fmt.Sprint(i) },
		"with a fraction":  func(i int, e entry) { e["index"] = fmtNumber(fmt.Sprintf("%d.0", i)) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, config.Embedder{Batch: 4}, func(t *testing.T, b *bench) {
				b.rule = changed(change)
				b.succeed("a")
				b.succeed(numbered(11)...)
				if strings.Contains(b.outcomes(), "invalid") {
					t.Error(b.outcomes())
				}
			})
		})
	}
}

// fmtNumber is a number in JSON, written as it is.
type fmtNumber string

func (n fmtNumber) MarshalJSON() ([]byte, error) { return []byte(n), nil }

// TestAnswerWithDoubledIndex: if two embeddings have the same index, or the place in the list of one is the
// index of another, the order is not known. The texts are then asked for one by one.
func TestAnswerWithDoubledIndex(t *testing.T) {
	reversed := func(change func(i int, e entry)) handler {
		return func(w http.ResponseWriter, _ *http.Request, a asked) bool {
			answer := entries(a, change)
			slices.Reverse(answer["data"].([]entry))
			say(w, 200, answer)
			return true
		}
	}
	for _, rule := range []handler{
		changed(func(i int, e entry) { e["index"] = i / 2 }),
		reversed(func(i int, e entry) { e["index"] = i / 2 }),
		reversed(func(i int, e entry) {
			if i == 0 {
				delete(e, "index")
			}
		}),
	} {
		inBubble(t, config.Embedder{}, func(t *testing.T, b *bench) {
			b.rule = rule
			b.succeed(numbered(5)...)
		})
	}
}
