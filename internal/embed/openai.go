package embed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"hardneg/internal/config"
)

// openai asks a server with the OpenAI form of POST /v1/embeddings. docs/embedders.md says what becomes of each error.
//
// It is net/http with a loop of its own. The clients of that API (openai-go, go-openai) lack base64 or further fields
// in the request, and like go-retryablehttp they pause each request by itself, as long as Retry-After may say: here
// all requests to a server share one gate, and a batch that fails is cut up.
type openai struct {
	config.Embedder
	dimensions int // 0 until the server has told
	kinds      [2]requestKind
	client     *http.Client
	key        apiKey
	gate       *gate
	observe    func(context.Context, Request)
	broken     *fault // the files of the configuration cannot be used
}

// requestKind is what differs between queries and passages.
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
			// A redirect would make a GET of the POST, or lead texts to where nobody meant them to go.
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

// Resolved is a definition without its connection, in the form that all have which give the same vectors.
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

// AsServed is what determines the vectors that a server gives for a kind of text, beside the text.
type AsServed struct {
	Model  string
	Prefix string
	Body   map[string]any // fields of the request
}

// ServedAs resolves the keys of a kind of text.
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
	fields["model"], fields["encoding_format"] = k.Model, o.EncodingFormat
	if o.RequestDimensions {
		fields["dimensions"] = o.Embedder.Dimensions
	}
	return fields
}

func (o *openai) Name() string    { return o.Embedder.Name }
func (o *openai) Dimensions() int { return o.dimensions }

// probeText is a text that every server can embed: if it is refused, the fault is not in the texts.
const probeText = "How are hard negatives mined?"

// Probe asks the server for the length of its vectors, where it is not configured, and for both kinds.
func (o *openai) Probe(ctx context.Context) error {
	for _, kind := range []Kind{Passage, Query} {
		c := &call{openai: o, kind: kind, texts: []string{o.kinds[kind].prefix + probeText}}
		vectors, err := o.ask(ctx, kind, c.texts)
		if err == nil {
			err = flawOf(vectors[0], "the vector")
		}
		if err != nil {
			return o.whole(ctx, kind, err)
		}
		o.dimensions = len(vectors[0])
	}
	return nil
}

// call is one call of Embed.
type call struct {
	*openai
	kind     Kind
	texts    []string // by item, with the prefix; empty where the vector was carried
	vectors  [][]float32
	failures []error

	mu       sync.Mutex
	accepted bool // the server has given a vector of this kind in this call
}

// Embed is safe for concurrent use.
func (o *openai) Embed(ctx context.Context, kind Kind, items []Item) ([][]float32, []error, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if o.dimensions == 0 {
		return nil, nil, o.whole(ctx, kind, errors.New("the length of its vectors is not known: it was not probed"))
	}
	c := &call{
		openai: o, kind: kind,
		texts: make([]string, len(items)), vectors: make([][]float32, len(items)), failures: make([]error, len(items)),
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
		return c.vectors, nil, o.whole(ctx, kind, err)
	}
	return c.vectors, c.failures, nil
}

// batches cuts a list of texts by number and by bytes.
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

// embed fills in the vectors and failures of a batch. Where a text may be at fault it is looked for by halves.
func (c *call) embed(ctx context.Context, batch []int) error {
	texts := make([]string, len(batch))
	for at, i := range batch {
		texts[at] = c.texts[i]
	}
	vectors, err := c.ask(ctx, c.kind, texts)
	if err == nil {
		return c.take(ctx, batch, vectors)
	}
	var f *fault
	if !errors.As(err, &f) || !f.maybeText() {
		return err
	}
	if err := c.confirm(ctx, f); err != nil {
		return err
	}
	if len(batch) > 1 {
		half := len(batch) / 2
		if err := c.embed(ctx, batch[:half]); err != nil {
			return err
		}
		return c.embed(ctx, batch[half:])
	}
	c.failures[batch[0]] = c.wrapped(c.kind, " refuses the text:", f)
	return nil
}

// maybeText tells whether the texts may be why a request failed. Servers whose inference breaks on a text say 500, and
// go on saying so, while another text goes through: such a text must not hold its partition for ever.
func (f *fault) maybeText() bool {
	return f.outcome == Refused || f.status == http.StatusInternalServerError
}

// take keeps the vectors of a batch. A flawed one is asked for again, alone, for it may be its batch's fault.
func (c *call) take(ctx context.Context, batch []int, vectors [][]float32) error {
	var flawed []int
	var flaw error
	for at, i := range batch {
		if err := flawOf(vectors[at], "the vector"); err != nil {
			flawed, flaw = append(flawed, i), err
			continue
		}
		c.vectors[i] = vectors[at]
	}
	if len(flawed) < len(batch) {
		c.mu.Lock()
		c.accepted = true
		c.mu.Unlock()
	}
	if len(batch) == 1 && flaw != nil {
		f := &fault{outcome: Invalid, text: flaw.Error()}
		if err := c.confirm(ctx, f); err != nil {
			return err
		}
		c.failures[batch[0]] = c.wrapped(c.kind, " gives no usable vector:", f)
		return nil
	}
	for _, i := range flawed {
		if err := c.embed(ctx, []int{i}); err != nil {
			return err
		}
	}
	return nil
}

// confirm makes sure that it is the texts that the server does not like: it embeds another one. Or a wrong setting
// would make a dead letter of every record. The error is that of the whole call.
func (c *call) confirm(ctx context.Context, f *fault) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.accepted && f.status != http.StatusInternalServerError { // which may be a state that it is in now
		return nil
	}
	vectors, err := c.ask(ctx, c.kind, []string{c.kinds[c.kind].prefix + probeText})
	if err == nil {
		err = flawOf(vectors[0], "the vector")
	}
	var again *fault
	switch {
	case err == nil:
		c.accepted = true
		return nil
	case errors.As(err, &again) && again.outcome != Refused:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return &fault{outcome: Denied, status: f.status, text: fmt.Sprintf("%v; it does not take %q either: is the model's name right, and what else is configured?", f, probeText), cause: f}
}

// whole is the error of a whole call.
func (o *openai) whole(ctx context.Context, kind Kind, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	is := ErrDenied
	var f *fault
	if errors.As(err, &f) && f.again() {
		is = ErrUnavailable
	}
	return o.wrapped(kind, ":", fmt.Errorf("%w: %w", is, err))
}

// wrapped names the embedder, its server and the model.
func (o *openai) wrapped(kind Kind, what string, err error) error {
	return fmt.Errorf("embedder %s: %s, model %q%s %w", o.Embedder.Name, o.endpoint(), o.kinds[kind].model, what, err)
}

func (o *openai) endpoint() string { return strings.TrimRight(o.URL, "/") + "/embeddings" }

// ask makes one request, and makes it again while that may help, for RetryFor after its first failure. The error is a
// *fault, or the context's.
func (o *openai) ask(ctx context.Context, kind Kind, texts []string) ([][]float32, error) {
	if o.broken != nil {
		return nil, o.broken
	}
	var failed time.Time // for the first time
	for attempt := 1; ; attempt++ {
		patience := o.RetryFor
		if attempt > 1 {
			patience -= time.Since(failed)
		}
		closed, why, err := o.gate.enter(ctx, patience)
		if err != nil {
			return nil, err
		}
		if why != nil {
			return nil, why.given(fmt.Sprintf("asked %s, and not for %v to come", times(attempt-1), closed.Round(time.Millisecond)))
		}
		began := time.Now()
		vectors, f := o.request(ctx, kind, texts)
		limit := o.gate.leave(began, f)
		o.tell(ctx, Request{Took: time.Since(began), Again: attempt > 1, Limit: limit}, len(texts), f)
		if f == nil {
			return vectors, nil
		}
		if !f.again() {
			return nil, f
		}
		if attempt == 1 {
			failed = time.Now()
		}
	}
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// given is the fault with what was tried.
func (f *fault) given(tried string) *fault {
	out := *f
	out.text += " (" + tried + ")"
	return &out
}

func (o *openai) tell(ctx context.Context, r Request, texts int, f *fault) {
	r.Embedder, r.Outcome = o.Embedder.Name, OK
	if f == nil {
		r.Texts = texts
	} else {
		r.Outcome = f.outcome
	}
	if r.Outcome != cancelled && o.observe != nil {
		o.observe(ctx, r)
	}
}
