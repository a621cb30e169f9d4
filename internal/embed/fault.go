package embed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Outcome is how a request to a server went.
type Outcome string

// The outcomes. Refused and OK say that the server works; Denied that somebody must change something; after the
// others the request is made again.
const (
	OK        Outcome = "ok"
	Refused   Outcome = "refused"   // 4xx: something is wrong with a text
	Denied    Outcome = "denied"    // 401, 403, 404 and the like, or vectors of another length
	Busy      Outcome = "busy"      // 429 or 503
	TimedOut  Outcome = "timeout"   // no answer in time
	Failed    Outcome = "failed"    // another 5xx, or a connection that could not be made or broke
	Invalid   Outcome = "invalid"   // an answer that is none
	cancelled Outcome = "cancelled" // by the caller: says nothing of the server
)

// Outcomes are those that an observer is told of.
var Outcomes = []Outcome{OK, Refused, Denied, Busy, TimedOut, Failed, Invalid}

// Request is what an observer is told of a request to a server.
type Request struct {
	Embedder string
	Outcome  Outcome
	Texts    int // that came back as vectors
	Took     time.Duration
	Again    bool // it repeats a request that failed
	Limit    int  // requests that may be under way at a time from now on
}

// fault is a request that gave no vectors.
type fault struct {
	outcome Outcome
	status  int           // of the answer; 0: none came
	text    string        // what went wrong, and where it is known what to do
	after   time.Duration // that the server asks to be left alone
	rekeyed bool          // the key file holds another key by now than the one that was refused
	cause   error
}

func (f *fault) Error() string { return f.text }
func (f *fault) Unwrap() error { return f.cause }

// again tells whether the same request may go well later.
func (f *fault) again() bool {
	return f.rekeyed || f.outcome != Refused && f.outcome != Denied && f.outcome != cancelled
}

// outcomeOf is the one table of what the status of an answer means.
func outcomeOf(status int) Outcome {
	switch {
	case status == http.StatusOK:
		return OK
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return Busy
	case status == http.StatusRequestTimeout, status == http.StatusGatewayTimeout:
		return TimedOut
	case status == http.StatusFailedDependency, // the model behind text-embeddings-inference failed
		status == http.StatusTooEarly, status == http.StatusConflict,
		status >= 500:
		return Failed
	case status == http.StatusUnauthorized, status == http.StatusPaymentRequired, status == http.StatusForbidden,
		status == http.StatusNotFound, status == http.StatusMethodNotAllowed, status == http.StatusProxyAuthRequired,
		status == http.StatusGone, status == http.StatusMisdirectedRequest, status == http.StatusUpgradeRequired,
		status == http.StatusUnavailableForLegalReasons,
		status >= 300 && status < 400:
		return Denied
	case status >= 400:
		return Refused
	}
	return Invalid // some other 2xx, which carries no vectors
}

// advice is what to do about a status that denies everything.
func advice(status int, location string) string {
	switch {
	case status == http.StatusUnauthorized:
		return "; is api_key or api_key_file right?"
	case status == http.StatusForbidden, status == http.StatusPaymentRequired:
		return "; may this key use this model?"
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed, status == http.StatusGone:
		return "; is url the base of the API, which mostly ends in /v1, and model a name that GET <url>/models lists?"
	case status == http.StatusProxyAuthRequired:
		return "; does the proxy want a name and a password?"
	case location != "":
		return fmt.Sprintf("; the server is elsewhere: url should lead to %.200q", location)
	}
	return ""
}

// longestMessage bounds what is quoted of a server's answer.
const longestMessage = 300

// message is what an answer says, cut and without what must stay secret. Servers say it as error.message (OpenAI,
// vLLM), error (text-embeddings-inference, Ollama), message, detail (Infinity), or as plain text.
func message(body []byte, secrets []string) string {
	var found struct {
		Error, Message, Detail json.RawMessage
	}
	text := ""
	if json.Unmarshal(body, &found) == nil {
		var inside struct{ Message string }
		for _, part := range []json.RawMessage{found.Error, found.Message, found.Detail} {
			switch {
			case text != "" || len(part) == 0:
			case json.Unmarshal(part, &text) == nil:
			case json.Unmarshal(part, &inside) == nil && inside.Message != "":
				text = inside.Message
			default:
				text = string(part)
			}
		}
	}
	if text == "" {
		text = string(body)
	}
	for _, secret := range secrets {
		if len(secret) >= 6 { // of a shorter one every trace of the message might be lost
			text = strings.ReplaceAll(text, secret, "********")
		}
	}
	return cut(strings.ToValidUTF8(strings.TrimSpace(text), "\uFFFD"), longestMessage)
}

// cut shortens a text at a character.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most] + "…"
}

// statusFault is the fault of an answer that is not 200.
func statusFault(answer *http.Response, body []byte, secrets []string) *fault {
	f := &fault{outcome: outcomeOf(answer.StatusCode), status: answer.StatusCode, after: retryAfter(answer.Header, time.Now())}
	f.text = strings.TrimSpace(fmt.Sprintf("%d %s", answer.StatusCode, http.StatusText(answer.StatusCode)))
	if said := message(body, secrets); said != "" {
		f.text += fmt.Sprintf(": %q", said)
	}
	if f.outcome == Denied {
		f.text += advice(answer.StatusCode, answer.Header.Get("Location"))
	}
	return f
}

// connectionFault is the fault of a request that got no whole answer.
func connectionFault(caller context.Context, timeout time.Duration, err error) *fault {
	switch {
	case caller.Err() != nil:
		return &fault{outcome: cancelled, text: caller.Err().Error(), cause: caller.Err()}
	case errors.Is(err, context.DeadlineExceeded):
		return &fault{outcome: TimedOut, text: fmt.Sprintf("no whole answer within %v", timeout)}
	}
	return &fault{outcome: Failed, text: err.Error(), cause: err}
}

// retryAfter reads Retry-After, in seconds or as a date, which is taken by the server's own clock where that is told.
func retryAfter(header http.Header, now time.Time) time.Duration {
	text := strings.TrimSpace(header.Get("Retry-After"))
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		if !(seconds > 0) {
			return 0
		}
		return time.Duration(min(seconds, longestAsked.Seconds()) * float64(time.Second))
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	if told, err := http.ParseTime(header.Get("Date")); err == nil {
		now = told
	}
	return min(max(at.Sub(now), 0), longestAsked)
}
