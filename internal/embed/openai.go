package embed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"hardneg/internal/config"
)

// openai asks a server with the OpenAI form of POST /v1/embeddings. docs/embedders.md says how each error is
// handled.
//
// It uses net/http with its own retry loop. The clients of that API (openai-go, go-openai) do not support
// base64 or further fields in the request. They and go-retryablehttp also pause each request separately, for
// as long as Retry-After says. Here all requests to a server share one gate, and a failed batch is split.
type openai struct {
	config.Embedder
	dimensions int // 0 until the server has answered
	kinds      [2]requestKind
	client     *http.Client
	key        apiKey
	gate       *gate
	observe    func(context.Context, Request)
	broken     *fault // set if files named in the configuration cannot be used
}

// requestKind holds what differs between queries and passages.
type requestKind struct {
	model, prefix string
	fields        map[string]any
}

func newOpenAI(definition config.Embedder, observe func(context.Context, Request)) (*openai, error) {
	definition = definition.Complete()
	passages, queries := ServedAs(definition, Passage), ServedAs(definition, Query)
	if definition.URL == "" || passages.Model == "" || queries.Model == "" {
		return nil, fmt.Errorf("%s: type %s needs url, and model or both query_model and passage_model", definition.Name, TypeOpenAI)
	}
	transport, err := newTransport(definition)
	if err != nil && transport == nil {
		return nil, fmt.Errorf("%s: %w", definition.Name, err)
	}
	o := &openai{
		Embedder: definition, dimensions: definition.Dimensions, observe: observe, gate: newGate(definition.Concurrency),
		key: apiKey{fixed: string(definition.APIKey), file: definition.APIKeyFile},
		client: &http.Client{
			Transport: transport,
			// A redirect would turn the POST into a GET, or send texts to a place that nobody configured.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if err != nil {
		o.broken = &fault{outcome: Denied, text: err.Error(), cause: err}
	}
	o.kinds[Passage] = requestKind{passages.Model, passages.Prefix, o.fields(passages)}
	o.kinds[Query] = requestKind{queries.Model, queries.Prefix, o.fields(queries)}
	return o, nil
}

// Resolved returns a definition without its connection. All definitions that give the same vectors have the
// same resolved form.
func Resolved(e config.Embedder) config.Embedder {
	e = e.Connected(config.Embedder{})
	if e.Type != TypeOpenAI {
		return e
	}
	passages, queries := ServedAs(e, Passage), ServedAs(e, Query)
	e.Model, e.Body = "", nil
	e.PassageModel, e.PassageBody = passages.Model, passages.Body
	e.QueryModel, e.QueryBody = queries.Model, queries.Body
	return e
}

// AsServed holds everything except the text that determines the vectors a server gives for a kind of text.
type AsServed struct {
	Model  string
	Prefix string
	Body   map[string]any // fields of the request
}

// ServedAs resolves a definition's keys for one kind of text.
func ServedAs(e config.Embedder, kind Kind) AsServed {
	model, prefix, body := e.PassageModel, e.PassagePrefix, e.PassageBody
	if kind == Query {
		model, prefix, body = e.QueryModel, e.QueryPrefix, e.QueryBody
	}
	if model == "" {
		model = e.Model
	}
	merged := map[string]any{}
	maps.Copy(merged, e.Body)
	maps.Copy(merged, body)
	return AsServed{model, prefix, merged}
}

func (o *openai) fields(k AsServed) map[string]any {
	fields := k.Body
	fields["model"] = k.Model
	if o.EncodingFormat != "none" {
		fields["encoding_format"] = o.EncodingFormat
	}
	if o.RequestDimensions {
		fields["dimensions"] = o.Embedder.Dimensions
	}
	return fields
}

func (o *openai) Name() string    { return o.Embedder.Name }
func (o *openai) Dimensions() int { return o.dimensions }

// probeText is a text that every server can embed. If a server refuses it, the texts are not the problem.
const probeText = "How are hard negatives mined?"

// probe returns the text to try a server with, as it is sent.
func (o *openai) probe(kind Kind) string { return o.kinds[kind].prefix + probeText }

// Probe asks the server for the length of its vectors if it is not configured. It asks for both kinds of
// texts.
func (o *openai) Probe(ctx context.Context) error {
	for _, kind := range []Kind{Passage, Query} {
		vectors, err := o.ask(ctx, kind, []string{o.probe(kind)})
		if err != nil {
			return o.callError(ctx, kind, err)
		}
		o.dimensions = len(vectors[0])
	}
	return nil
}

// call is one call of Embed.
type call struct {
	*openai
	kind     Kind
	texts    []string // by item, with the prefix; empty if the record carried the vector
	vectors  [][]float32
	failures []error

	accepted   atomic.Bool   // the server has given a vector of this kind during this call
	confirming chan struct{} // holds one element while a batch asks for another text
}

// Embed is safe for concurrent use.
func (o *openai) Embed(ctx context.Context, kind Kind, items []Item) ([][]float32, []error, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if o.dimensions == 0 {
		return nil, nil, o.callError(ctx, kind, errors.New("the length of its vectors is not known: it was not probed"))
	}
	c := &call{
		openai: o, kind: kind,
		texts: make([]string, len(items)), vectors: make([][]float32, len(items)), failures: make([]error, len(items)),
		confirming: make(chan struct{}, 1),
	}
	var todo []int
	for i, item := range items {
		vector, found, err := carriedVector(o, item)
		if found {
			c.vectors[i], c.failures[i] = vector, err
			continue
		}
		c.texts[i] = o.kinds[kind].prefix + item.Text
		todo = append(todo, i)
	}
	if len(todo) == 0 {
		return c.vectors, c.failures, nil
	}
	group, grouped := errgroup.WithContext(ctx)
	group.SetLimit(o.Concurrency)
	for _, batch := range o.batches(c.texts, todo) {
		group.Go(func() error { return c.embed(grouped, batch) })
	}
	if err := group.Wait(); err != nil {
		return c.vectors, nil, o.callError(ctx, kind, err)
	}
	return c.vectors, c.failures, nil
}

// batches splits a list of texts by number and by bytes.
func (o *openai) batches(texts []string, todo []int) [][]int {
	var all [][]int
	from, bytes := 0, 0
	for at, i := range todo {
		if at > from && (at-from >= o.Batch || bytes+len(texts[i]) > o.BatchBytes) {
			all = append(all, todo[from:at])
			from, bytes = at, 0
		}
		bytes += len(texts[i])
	}
	return append(all, todo[from:])
}

// embed fills in the vectors and failures of a batch. If a text may be the problem, embed splits the batch in
// halves until it has found it.
func (c *call) embed(ctx context.Context, batch []int) error {
	texts := make([]string, len(batch))
	for at, i := range batch {
		texts[at] = c.texts[i]
	}
	vectors, err := c.ask(ctx, c.kind, texts)
	if err == nil {
		return c.keepVectors(ctx, batch, vectors)
	}
	var f *fault
	if !errors.As(err, &f) || !f.maybeText() {
		return err
	}
	if err := c.confirm(ctx, f); err != nil {
		return err
	}
	if len(batch) == 1 {
		return c.refuse(ctx, batch[0], f)
	}
	half := len(batch) / 2
	if err := c.embed(ctx, batch[:half]); err != nil {
		return err
	}
	return c.embed(ctx, batch[half:])
}

// keepVectors keeps the vectors of a batch. It asks again for a text without a usable vector, with that text
// alone, because the batch may have caused the flaw.
func (c *call) keepVectors(ctx context.Context, batch []int, vectors [][]float32) error {
	c.accepted.Store(true)
	for at, i := range batch {
		c.vectors[i] = vectors[at]
	}
	for at, i := range batch {
		if vectors[at] != nil {
			continue
		}
		if err := c.embed(ctx, []int{i}); err != nil {
			return err
		}
	}
	return nil
}

// confirm checks that the server refuses these texts and not every text, by embedding another one. Without
// this check, a wrong setting would turn every record into a dead letter. The error concerns the whole call.
func (c *call) confirm(ctx context.Context, f *fault) error {
	select {
	case c.confirming <- struct{}{}:
		defer func() { <-c.confirming }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.accepted.Load() && f.outcome == Refused {
		return nil // any other fault may come from the server's present state, so it is checked each time
	}
	_, err := c.ask(ctx, c.kind, []string{c.probe(c.kind)})
	var again *fault
	switch {
	case err == nil:
		c.accepted.Store(true)
		return nil
	case errors.As(err, &again) && again.outcome != Refused:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	question := "is the model's name right, and what else is configured?"
	if strings.Contains(f.text, "encoding_format") {
		question = "set encoding_format to float, or to none to leave it out of requests"
	}
	return &fault{outcome: Denied, text: fmt.Sprintf("%v; it does not take %q either: %s", f, probeText, question), cause: f}
}

// refuse fills in the failure of a single text, after the server has accepted another one. A status of 4xx
// says that the text is refused. After any other fault, the text is tried a last time: perhaps the server was
// down until it was asked for the other text.
func (c *call) refuse(ctx context.Context, i int, f *fault) error {
	if f.outcome != Refused || f.status == http.StatusOK {
		texts := []string{c.texts[i]}
		if f.length != "" && c.Batch > 1 {
			// Behind one address there may be an old and a new server, whose vectors have other lengths. The
			// other text goes along, so that one server answers for both.
			texts = append(texts, c.probe(c.kind))
		}
		vectors, err := c.try(ctx, c.kind, texts, false)
		var again *fault
		switch {
		case err == nil && vectors[0] != nil:
			c.vectors[i] = vectors[0]
			return nil
		case err == nil: // the other text has a vector
		case !errors.As(err, &again) || !again.maybeText(), len(texts) > 1 && again.length != "":
			return err
		}
	}
	what, why := f.refusal()
	c.failures[i] = c.wrapError(c.kind, what, why)
	return nil
}

// callError returns the error of a whole call.
func (o *openai) callError(ctx context.Context, kind Kind, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	sentinel := ErrDenied
	var f *fault
	if errors.As(err, &f) && f.again() {
		sentinel = ErrUnavailable
	}
	return o.wrapError(kind, ":", fmt.Errorf("%w: %w", sentinel, err))
}

// wrapError adds the embedder's name, its server and the model to an error.
func (o *openai) wrapError(kind Kind, what string, err error) error {
	return fmt.Errorf("embedder %s: %s, model %q%s %w", o.Embedder.Name, o.endpoint(), o.kinds[kind].model, what, err)
}

// endpoint returns the address of requests. A query string, such as Azure's api-version, stays at the end.
func (o *openai) endpoint() string {
	base, query, found := strings.Cut(o.URL, "?")
	base = strings.TrimRight(base, "/") + "/embeddings"
	if found && query != "" {
		return base + "?" + query
	}
	return base
}

// ask makes one request and repeats it while that may help, for at most RetryFor after the first failure. The
// error is a *fault or the context's.
func (o *openai) ask(ctx context.Context, kind Kind, texts []string) ([][]float32, error) {
	return o.try(ctx, kind, texts, true)
}

// try makes a request, and repeats it if it may. An unusable answer to several texts is not asked for again,
// because half of them will be.
//
// In the vectors, a text without a usable vector has nil. At least one text has a vector.
func (o *openai) try(ctx context.Context, kind Kind, texts []string, repeat bool) ([][]float32, error) {
	if o.broken != nil {
		return nil, o.broken
	}
	var failed time.Time // time of the first failure
	var last *fault
	for attempt := 1; ; attempt++ {
		patience := o.RetryFor
		if attempt > 1 {
			patience -= time.Since(failed)
		}
		closed, why, err := o.gate.enter(ctx, patience)
		if attempt == 1 && why != nil && why.maybeText() {
			// A bad text has closed the gate, here or in another call. The server may be well, so this request is
			// made even if retry_for is short.
			closed, why, err = o.gate.enter(ctx, longestPause)
		}
		if err != nil {
			return nil, err
		}
		if why != nil {
			return nil, stopped(last, why, attempt-1, closed)
		}
		began := time.Now()
		vectors, f := o.request(ctx, kind, texts)
		limit := o.gate.leave(began, f)
		o.report(ctx, Request{Took: time.Since(began), Again: attempt > 1, Limit: limit}, vectors, f)
		if f == nil {
			return vectors, nil
		}
		if !repeat || !f.again() || f.outcome == Invalid && len(texts) > 1 {
			return nil, f
		}
		if last = f; attempt == 1 {
			failed = time.Now()
		}
	}
}

// stopped returns the fault of a request that the gate holds up for too long: the request's own last failure. If
// it was never made, this is the failure that closed the gate.
func stopped(last, closedBy *fault, attempts int, closed time.Duration) *fault {
	out := *closedBy
	if last != nil {
		out = *last
	}
	out.unasked = last == nil
	tried := quantity(attempts, "time")
	if attempts == 1 {
		tried = "once"
	}
	out.text += fmt.Sprintf(" (asked %s, and not for %v to come)", tried, closed.Round(time.Millisecond))
	return &out
}

// quantity returns a number with a noun.
func quantity(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func (o *openai) report(ctx context.Context, r Request, vectors [][]float32, f *fault) {
	r.Embedder, r.Outcome = o.Embedder.Name, OK
	if f != nil {
		r.Outcome = f.outcome
	} else {
		for _, vector := range vectors {
			if vector != nil {
				r.Texts++
			}
		}
	}
	if r.Outcome != cancelled && o.observe != nil {
		o.observe(ctx, r)
	}
}
