package embed

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hardneg/internal/config"
)

// TestPassingFaults: a request that failed but may succeed later is repeated, and succeeds.
func TestPassingFaults(t *testing.T) {
	inSeconds := func(n time.Duration) string { return time.Now().Add(n * time.Second).UTC().Format(http.TimeFormat) }
	for _, test := range []struct {
		name     string
		script   func() []handler
		outcomes string
		least    time.Duration
		most     time.Duration
	}{
		{"429, Retry-After in seconds", func() []handler { return []handler{status(429, "", "Retry-After", "7")} }, "busy, again ok", 7 * time.Second, 7 * time.Second},
		{"429, Retry-After in parts of a second", func() []handler { return []handler{status(429, "", "Retry-After", "2.5")} }, "busy, again ok", 2500 * time.Millisecond, 2500 * time.Millisecond},
		{"429, Retry-After as a date", func() []handler { return []handler{status(429, "", "Retry-After", inSeconds(7))} }, "busy, again ok", 7 * time.Second, 7 * time.Second},
		{"429, Retry-After as a date by the server's clock", func() []handler {
			return []handler{status(429, "", "Date", inSeconds(-3600), "Retry-After", inSeconds(-3593))}
		}, "busy, again ok", 7 * time.Second, 7 * time.Second},
		{"429, a Retry-After that is none", func() []handler { return []handler{status(429, "", "Retry-After", "soon")} }, "busy, again ok", firstPause / 2, firstPause},
		{"429, Retry-After in the past", func() []handler { return []handler{status(429, "", "Retry-After", inSeconds(-7))} }, "busy, again ok", firstPause / 2, firstPause},
		{"503", func() []handler { return []handler{status(503, "")} }, "busy, again ok", firstPause / 2, firstPause},
		{"500", func() []handler { return []handler{status(500, "")} }, "failed, again ok", firstPause / 2, firstPause},
		{"pauses grow", func() []handler { return []handler{status(500, ""), status(502, ""), status(424, "")} }, "failed, again failed, again failed, again ok", firstPause * 7 / 2, firstPause * 7},
		{"time-out", func() []handler { return []handler{hang} }, "timeout, again ok", 30*time.Second + firstPause/2, 30*time.Second + firstPause},
		{"cut within the body", func() []handler { return []handler{cutOff} }, "failed, again ok", firstPause / 2, firstPause},
		{"no JSON", func() []handler { return []handler{status(200, "<html>")} }, "invalid, ok, ok, ok", firstPause / 2, firstPause},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, config.Embedder{}, func(t *testing.T, b *bench) {
				b.script = test.script()
				start := time.Now()
				b.succeed("a", "b", "c")
				if took := time.Since(start); took < test.least || took > test.most {
					t.Errorf("took %v, want %v to %v", took, test.least, test.most)
				}
				if got := b.outcomes(); got != test.outcomes {
					t.Errorf("%s, want %s", got, test.outcomes)
				}
			})
		})
	}
}

// TestLastingFaults: the whole call fails in bounded time, and the error says what failed, where, and for
// which model. Once the server is well, the next call succeeds.
func TestLastingFaults(t *testing.T) {
	zero, nan := []float32{0, 0, 0}, []float32{1, float32(math.NaN()), 0}
	embedding := func(value any) handler { return changed(func(_ int, e entry) { e["embedding"] = value }) }
	index := func(of func(i int) any) handler { return changed(func(i int, e entry) { e["index"] = of(i) }) }
	for _, test := range []struct {
		name   string
		rule   handler
		is     error
		says   string
		within time.Duration // of the first request, not counting timeouts
	}{
		{"429", status(429, `{"error":{"message":"slow down"}}`), ErrUnavailable, `429 Too Many Requests: "slow down" (asked `, 10 * time.Second},
		{"503", status(503, "starting"), ErrUnavailable, `503 Service Unavailable: "starting" (asked `, 10 * time.Second},
		{"500", status(500, `{"error":"out of memory"}`), ErrUnavailable, `500 Internal Server Error: "out of memory" (asked `, 25 * time.Second},
		{"599", status(599, ""), ErrUnavailable, `599 (asked `, 10 * time.Second},
		{"time-out", hang, ErrUnavailable, "no whole answer within 30s (asked ", 71 * time.Second},
		{"cut", cutOff, ErrUnavailable, "the answer broke off after ", 25 * time.Second},
		{"no JSON", status(200, "<html>"), ErrUnavailable, `the answer is a page and no JSON: does url lead to the API, and not to a web page or a login? It begins "<html>" (asked `, 10*time.Second + firstPause},
		{"empty", status(200, ""), ErrUnavailable, "the answer is empty (asked ", 10*time.Second + firstPause},
		{"an error as a success", status(200, `{"error":{"message":"no such model"}}`), ErrUnavailable, `the answer is an error with status 200: "no such model"`, 10*time.Second + firstPause},
		{"204", status(204, ""), ErrUnavailable, "204 No Content", 10*time.Second + firstPause},
		{"too few", func(w http.ResponseWriter, _ *http.Request, a asked) bool {
			a.texts = a.texts[1:]
			say(w, 200, entries(a, nil))
			return true
		}, ErrDenied, `the answer has 2 embeddings for 3 texts; it does not take "How are hard negatives mined?" either`, firstPause},
		{"too many", func(w http.ResponseWriter, _ *http.Request, a asked) bool {
			a.texts = append(a.texts, "x")
			say(w, 200, entries(a, nil))
			return true
		}, ErrUnavailable, "the answer has 2 embeddings for 1 text (asked ", 10*time.Second + firstPause},
		{"index outside", index(func(i int) any { return i + 1 }), ErrUnavailable, "embedding 0 of the answer has index 1 for 1 text (asked ", 10*time.Second + firstPause},
		{"negative index", index(func(i int) any { return i - 1 }), ErrUnavailable, "embedding 0 of the answer has index -1 for 1 text (asked ", 10*time.Second + firstPause},
		{"huge", func(w http.ResponseWriter, _ *http.Request, _ asked) bool {
			line := strings.Repeat(" ", 1<<16)
			for range 1 << 10 {
				if _, err := fmt.Fprint(w, line); err != nil {
					break
				}
			}
			return true
		}, ErrUnavailable, "the answer to 1 text has more than 66656 bytes (asked ", 10*time.Second + firstPause},

		{"401", status(401, `{"error":{"message":"bad key"}}`), ErrDenied, `401 Unauthorized: "bad key"; is api_key or api_key_file right?`, 0},
		{"402", status(402, ""), ErrDenied, `402 Payment Required; may this key use this model?`, 0},
		{"403", status(403, `{"detail":"not yours"}`), ErrDenied, `403 Forbidden: "not yours"; may this key use this model?`, 0},
		{"404, wrong model", status(404, `{"error":{"message":"The model m does not exist.","type":"NotFoundError","code":404}}`), ErrDenied,
			`404 Not Found: "The model m does not exist."; is url the base of the API, which mostly ends in /v1, and model a name that GET <url>/models lists?`, 0},
		{"404, wrong url", status(404, "404 page not found"), ErrDenied, `404 Not Found: "404 page not found"; is url the base`, 0},
		{"405", status(405, ""), ErrDenied, "405 Method Not Allowed; is url the base", 0},
		{"301", status(301, "", "Location", "https://server/v1/embeddings"), ErrDenied, `301 Moved Permanently; the server is elsewhere: url should lead to "https://server/v1/embeddings"`, 0},
		{"307", status(307, "", "Location", "https://other/"), ErrDenied, `url should lead to "https://other/"`, 0},
		{"a wrong model is a bad request", status(400, `{"message":"Invalid model: m"}`), ErrDenied,
			`400 Bad Request: "Invalid model: m"; it does not take "How are hard negatives mined?" either`, 0},
		{"encoding_format is not known", status(422, `{"detail":[{"loc":["body","encoding_format"],"msg":"Extra inputs are not permitted"}]}`), ErrDenied,
			`either: set encoding_format to float, or to none to leave it out of requests`, 0},
		{"other dimensions", embedding([]float32{1, 2}), ErrDenied, "the server gives vectors of 2 numbers, want 3: another model runs there, or dimensions is wrong", firstPause},
		{"null", embedding(nil), ErrDenied, `the embedding is null; it does not take "How are`, 0},
		{"empty embedding", embedding([]float32{}), ErrDenied, `the embedding is empty; it does not take "How are`, 0},
		{"strings", embedding([]any{"1", 2, 3}), ErrDenied, `number 0 of the embedding is "\"1\""; it does not take "How are`, 0},
		{"by token", embedding([]any{[]float32{1, 2, 3}}), ErrDenied, `the server must pool them into one vector for the text; it does not take "How are`, 0},
		{"no base64", embedding("$$$"), ErrDenied, "the embedding is no base64", 0},
		{"half a number", embedding("AAAAAAA="), ErrDenied, "the embedding has 5 bytes, want a multiple of 4", 0},
		{"zeros alone", embedding(zero), ErrDenied, `the vector is all zeros, which has no direction; it does not take "How are`, 0},
		{"NaN alone", embedding(coded("base64", nan)), ErrDenied, "number 1 of the vector is NaN, want a finite one", 0},
		{"null is no zero", embedding([]any{1, nil, 3}), ErrDenied, "number 1 of the vector is NaN, want a finite one", 0},
		{"out of range", embedding([]any{1, 2, -1e39}), ErrDenied, "number 2 of the vector is -Inf, want a finite one", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, config.Embedder{}, func(t *testing.T, b *bench) {
				b.rule = test.rule
				start := time.Now()
				vectors, failures, err := b.embed("a", "b", "c")
				expect(t, err, test.is, "embedder e5: http://server:8080/v1/embeddings, model \"m\": "+test.is.Error()+": ", test.says)
				if failures != nil || slices.ContainsFunc(vectors, func(v []float32) bool { return v != nil }) {
					t.Errorf("vectors %v, failures %v beside the error", vectors, failures)
				}
				if took := time.Since(start); took > test.within {
					t.Errorf("took %v", took)
				}
				if n := len(b.requests()); n > 30 || test.is == ErrDenied && n > 5 {
					t.Errorf("%d requests", n)
				}
				b.rule = healthy
				b.succeed("a", "b", "c")
			})
		})
	}
}

// TestVectorsBesideAnError: vectors that came before a call failed are returned with its error.
func TestVectorsBesideAnError(t *testing.T) {
	inBubble(t, config.Embedder{Batch: 2, Concurrency: 1}, func(t *testing.T, b *bench) {
		b.script = []handler{healthy, healthy}
		b.rule = status(503, "")
		texts := numbered(8)
		vectors, failures, err := b.embed(texts...)
		expect(t, err, ErrUnavailable, "503")
		if failures != nil || len(vectors) != len(texts) {
			t.Fatal(vectors, failures)
		}
		for i, vector := range vectors {
			if want := vectorOf("m", texts[i]); i < 4 && !slices.Equal(vector, want) || i >= 4 && vector != nil {
				t.Errorf("%d: %v", i, vector)
			}
		}
	})
}

// TestConnectionRefused: no server listens.
func TestConnectionRefused(t *testing.T) {
	inBubble(t, config.Embedder{RetryFor: time.Minute}, func(t *testing.T, b *bench) {
		b.pipes.Close()
		start := time.Now()
		_, _, err := b.embed("a")
		expect(t, err, ErrUnavailable, "http://server:8080/v1/embeddings", "connection refused (asked ")
		if took := time.Since(start); took < time.Minute-longestPause || took > time.Minute {
			t.Errorf("took %v", took)
		}
	})
}

// TestLongRetryAfter: if a server asks for a longer pause than the caller allows, the call fails at once. The
// server is not called again until then, up to a sensible limit.
func TestLongRetryAfter(t *testing.T) {
	for asks, pause := range map[string]time.Duration{"60": time.Minute, "31536000": longestRetryAfter, "Fri, 01 Jan 2100 00:00:00 GMT": longestRetryAfter} {
		inBubble(t, config.Embedder{}, func(t *testing.T, b *bench) {
			b.script = []handler{status(429, "", "Retry-After", asks)}
			start := time.Now()
			_, _, err := b.embed("a")
			expect(t, err, ErrUnavailable, fmt.Sprintf("429 Too Many Requests (asked once, and not for %v to come)", pause))
			_, _, err = b.embed("a")
			expect(t, err, ErrUnavailable, fmt.Sprintf("(asked 0 times, and not for %v to come)", pause))
			if n := len(b.requests()); n != 1 || time.Since(start) > 0 {
				t.Errorf("%d requests in %v", n, time.Since(start))
			}
			time.Sleep(pause)
			b.succeed("a")
		})
	}
}

// TestRefusedTexts: a refused batch is split until each bad text is alone. The other texts get their vectors.
func TestRefusedTexts(t *testing.T) {
	for _, code := range []int{400, 413, 415, 422} {
		inBubble(t, config.Embedder{PassagePrefix: "p: ", Concurrency: 1}, func(t *testing.T, b *bench) {
			b.rule = refusing(code, "bad")
			texts := numbered(40)
			texts[7], texts[8], texts[39] = "bad 7", "bad 8", "bad 39"
			vectors, failures, err := b.embed(texts...)
			if err != nil {
				t.Fatal(err)
			}
			for i, text := range texts {
				if !strings.HasPrefix(text, "bad") {
					if failures[i] != nil || !slices.Equal(vectors[i], vectorOf("m", "p: "+text)) {
						t.Errorf("%q: %v, %v", text, vectors[i], failures[i])
					}
					continue
				}
				want := fmt.Sprintf(`embedder e5: http://server:8080/v1/embeddings, model "m" refuses the text: %d %s: "the input has the word bad"`, code, http.StatusText(code))
				if vectors[i] != nil || failures[i] == nil || failures[i].Error() != want {
					t.Errorf("%q: %v, %v", text, vectors[i], failures[i])
				}
			}
			if n := len(b.requests()); n > 25 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestRefusedAlone: a call may have only one text. Another text then confirms that this one is the problem.
func TestRefusedAlone(t *testing.T) {
	inBubble(t, config.Embedder{}, func(t *testing.T, b *bench) {
		b.rule = refusing(400, "bad")
		for range 2 {
			_, failures, err := b.embed("bad")
			if err != nil || failures[0] == nil {
				t.Errorf("%v, %v", failures, err)
			}
		}
		if got := b.outcomes(); got != "refused, ok, refused, ok" {
			t.Error(got)
		}
		b.rule = func(w http.ResponseWriter, r *http.Request, a asked) bool {
			return refusing(400, "bad")(w, r, a) || status(503, "restarting")(w, r, a)
		}
		_, _, err := b.embed("bad")
		expect(t, err, ErrUnavailable, "restarting") // it could not be confirmed
	})
}

// TestFlawedVectors: a text without a usable vector, even alone, is refused. A flaw that the batch caused is
// not.
func TestFlawedVectors(t *testing.T) {
	inBubble(t, config.Embedder{}, func(t *testing.T, b *bench) {
		b.rule = func(w http.ResponseWriter, _ *http.Request, a asked) bool {
			say(w, 200, entries(a, func(i int, e entry) {
				if a.texts[i] == "empty" || a.texts[i] == "padded" && len(a.texts) > 1 {
					e["embedding"] = []float32{0, 0, 0}
				}
			}))
			return true
		}
		vectors, failures, err := b.embed("a", "empty", "padded")
		if err != nil || failures[0] != nil || failures[2] != nil || vectors[1] != nil || !slices.Equal(vectors[2], vectorOf("m", "padded")) {
			t.Fatal(vectors, failures, err)
		}
		want := `embedder e5: http://server:8080/v1/embeddings, model "m" gives no usable vector: the vector is all zeros, which has no direction`
		if failures[1] == nil || failures[1].Error() != want {
			t.Errorf("%v, want %s", failures[1], want)
		}
	})
}

// TestPoison: a text that breaks the server's inference each time, while another text succeeds, is refused:
// it must not hold up its partition for ever. A server that answers 500 to every text is down.
func TestPoison(t *testing.T) {
	inBubble(t, config.Embedder{Batch: 4}, func(t *testing.T, b *bench) {
		b.rule = refusing(500, "poison")
		vectors, failures, err := b.embed("a", "b", "poison", "c", "d", "e")
		if err != nil {
			t.Fatal(err)
		}
		for i := range vectors {
			if (failures[i] != nil) != (i == 2) {
				t.Errorf("%d: %v", i, failures[i])
			}
		}
		if !strings.Contains(fmt.Sprint(failures[2]), `refuses the text: 500 Internal Server Error: "the input has the word poison" (asked `) {
			t.Error(failures[2])
		}
		for _, code := range []int{502, 503, 504} {
			b.rule = refusing(code, "poison")
			_, _, err := b.embed("a", "poison")
			expect(t, err, ErrUnavailable, fmt.Sprint(code))
			time.Sleep(longestPause)
		}
	})
}

// TestCancelledRequest: when the caller ends its context, a request or a wait ends at once.
func TestCancelledRequest(t *testing.T) {
	inBubble(t, config.Embedder{}, func(t *testing.T, b *bench) {
		for _, rule := range []handler{hang, status(503, "")} {
			b.rule = rule
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() {
				_, _, err := b.embedder.Embed(ctx, Query, itemsOf(numbered(100)...))
				done <- err
			}()
			time.Sleep(100 * time.Millisecond)
			start := time.Now()
			cancel()
			if err := <-done; err != context.Canceled || time.Since(start) != 0 {
				t.Errorf("error %v after %v", err, time.Since(start))
			}
			synctest.Wait()
			b.mu.Lock()
			if b.running != 0 {
				t.Errorf("%d requests go on", b.running)
			}
			b.mu.Unlock()
		}
		if strings.Contains(b.outcomes(), string(cancelled)) {
			t.Error("an observer was told of what the caller ended")
		}
	})
}

// TestMessageKeepsSecrets: a key that the server repeats is not passed on, and long messages are cut.
func TestMessageKeepsSecrets(t *testing.T) {
	definition := config.Embedder{APIKey: "hunter2", Headers: map[string]config.Secret{"X-Token": "Bearer hunter3"}}
	inBubble(t, definition, func(t *testing.T, b *bench) {
		b.rule = func(w http.ResponseWriter, r *http.Request, _ asked) bool {
			said := r.Header.Get("Authorization") + "|" + r.Header.Get("X-Token") + "|" + strings.Repeat("ä", 1000)
			return status(401, map[string]any{"error": map[string]any{"message": said}})(w, r, asked{})
		}
		_, _, err := b.embed("a")
		expect(t, err, ErrDenied, `: "Bearer ********|********|ää`)
		if strings.Contains(err.Error(), "hunter") || len(err.Error()) > 600 {
			t.Error(err)
		}
	})
}
