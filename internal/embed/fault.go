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

// Outcome is the result of a request to a server.
type Outcome string

// The outcomes. OK and Refused mean that the server works. Denied means that somebody must change something.
// After any other outcome the request is repeated.
const (
	OK        Outcome = "ok"
	Refused   Outcome = "refused"   // 4xx, or no usable vector: something is wrong with a text
	Denied    Outcome = "denied"    // 401, 403, 404 and similar, vectors of another length, or another API
	Busy      Outcome = "busy"      // 429 or 503
	TimedOut  Outcome = "timeout"   // no answer in time
	Failed    Outcome = "failed"    // another 5xx, or the connection could not be made or broke
	Invalid   Outcome = "invalid"   // the answer makes no sense
	cancelled Outcome = "cancelled" // the caller ended the request: it says nothing about the server
)

// Outcomes are the outcomes that an observer can see.
var Outcomes = []Outcome{OK, Refused, Denied, Busy, TimedOut, Failed, Invalid}

// Request describes a finished request to a server, for an observer.
type Request struct {
	Embedder string
	Outcome  Outcome
	Texts    int // number of texts that got vectors
	Took     time.Duration
	Again    bool // this request repeats one that failed
	Limit    int  // number of requests that may run at the same time from now on
}

// fault is the error of a request that gave no vectors.
type fault struct {
	outcome Outcome
	status  int           // of the answer; 0 if there was no answer
	text    string        // what went wrong, and what to do about it if that is known
	after   time.Duration // the server asks not to be called for this long
	rekeyed bool          // the key file now holds another key than the refused one
	unasked bool          // the server was not asked for these texts, because of an earlier failure
	length  string        // if the vectors have another length than expected: what is wrong with the first one
	cause   error
}

func (f *fault) Error() string { return f.text }
func (f *fault) Unwrap() error { return f.cause }

// again reports whether the same request may succeed later.
func (f *fault) again() bool {
	return f.rekeyed || f.outcome != Refused && f.outcome != Denied && f.outcome != cancelled
}

// maybeText reports whether one of the texts may have made the request fail. If inference breaks on a text,
// servers answer 500 each time, or answer 200 and then send no vector, no JSON, or only a part of it, although
// other texts succeed. Such a text must not hold up its partition for ever.
func (f *fault) maybeText() bool {
	if f.unasked {
		return false
	}
	switch f.outcome {
	case Refused, Invalid:
		return true
	}
	return f.status == http.StatusInternalServerError || f.status == http.StatusOK
}

// refusal says why a single text is refused.
func (f *fault) refusal() (what string, why error) {
	switch {
	case f.length != "":
		return " gives no usable vector:", errors.New(f.length)
	case f.status == http.StatusOK && f.outcome == Refused:
		return " gives no usable vector:", f
	case f.status == http.StatusOK:
		return " gives no usable answer to the text:", f
	}
	return " refuses the text:", f
}

// outcomeOf is the only table from the status of an answer to its meaning.
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

// advice says what to do about a status that refuses every request.
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

// longestMessage limits, in bytes, how much of a server's answer is quoted.
const longestMessage = 300

// message returns the error message in an answer, or the answer itself, shortened and without secrets.
func message(body []byte, secrets []string) string {
	text := errorIn(body)
	if text == "" {
		text = string(body)
	}
	return quotable(text, longestMessage, secrets)
}

// errorIn returns the error message in an answer. Servers send it as error.message (OpenAI, vLLM), error
// (text-embeddings-inference, Ollama), message or detail (Infinity). Without any, errorIn returns "".
func errorIn(body []byte) (text string) {
	var fields struct {
		Error, Message, Detail json.RawMessage
	}
	if json.Unmarshal(body, &fields) != nil {
		return ""
	}
	var inside struct{ Message string }
	for _, part := range []json.RawMessage{fields.Error, fields.Message, fields.Detail} {
		switch {
		case text != "" || len(part) == 0:
		case json.Unmarshal(part, &text) == nil:
		case json.Unmarshal(part, &inside) == nil && inside.Message != "":
			text = inside.Message
		default:
			text = string(part)
		}
	}
	return text
}

// quotable shortens what a server said, and masks the secrets in it.
func quotable(text string, most int, secrets []string) string {
	for _, secret := range secrets {
		if len(secret) >= 6 { // removing a shorter secret might remove most of the message
			text = strings.ReplaceAll(text, secret, "********")
		}
	}
	return cut(strings.ToValidUTF8(strings.TrimSpace(text), "\uFFFD"), most)
}

// cut shortens a text to at most so many bytes, and cuts between two characters.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most] + "…"
}

// statusFault returns the fault of an answer whose status is not 200.
func statusFault(answer *http.Response, body []byte, secrets []string) *fault {
	f := &fault{outcome: outcomeOf(answer.StatusCode), status: answer.StatusCode, after: retryAfter(answer.Header, time.Now())}
	f.text = strings.TrimSpace(fmt.Sprintf("%d %s", answer.StatusCode, http.StatusText(answer.StatusCode)))
	if quoted := message(body, secrets); quoted != "" {
		f.text += fmt.Sprintf(": %q", quoted)
	}
	if f.outcome == Denied {
		f.text += advice(answer.StatusCode, answer.Header.Get("Location"))
	}
	return f
}

// connectionFault returns the fault of a request that got no complete answer.
func connectionFault(caller context.Context, timeout time.Duration, err error) *fault {
	switch {
	case caller.Err() != nil:
		return &fault{outcome: cancelled, text: caller.Err().Error(), cause: caller.Err()}
	case errors.Is(err, context.DeadlineExceeded):
		return &fault{outcome: TimedOut, text: fmt.Sprintf("no whole answer within %v", timeout)}
	}
	return &fault{outcome: Failed, text: err.Error(), cause: err}
}

// retryAfter reads Retry-After: seconds or a date. A date is compared with the server's own clock if the
// answer gives it.
func retryAfter(header http.Header, now time.Time) time.Duration {
	text := strings.TrimSpace(header.Get("Retry-After"))
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		if !(seconds > 0) {
			return 0
		}
		return time.Duration(min(seconds, longestRetryAfter.Seconds()) * float64(time.Second))
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	if serverTime, err := http.ParseTime(header.Get("Date")); err == nil {
		now = serverTime
	}
	return min(max(at.Sub(now), 0), longestRetryAfter)
}
