package embed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"hardneg/internal/config"
	"hardneg/internal/telemetry"
	"hardneg/internal/vectorcache"
)

func openCache(t testing.TB, path string) *Cache {
	t.Helper()
	vectors, err := vectorcache.Open(vectorcache.Options{Path: path, MaxBytes: 1 << 24, Log: zerolog.Nop(), Metrics: telemetry.NewMetrics(prometheus.NewRegistry())})
	if err != nil {
		t.Fatal(err)
	}
	cache := &Cache{Vectors: vectors, All: true}
	t.Cleanup(func() { _ = cache.Close() })
	return cache
}

// remote stands for an embedder that costs money for each text. It records what it is asked for and refuses
// texts with "bad" in them. At the text "down" the whole call fails for good; the vectors before it come with
// the error.
type remote struct {
	mu    sync.Mutex
	asked []string // kind and text, of all calls
	calls int
}

func (r *remote) Name() string    { return "r" }
func (r *remote) Dimensions() int { return 3 }

// vectorFor returns the vector that the remote embedder gives.
func vectorFor(kind Kind, text string) []float32 {
	random := rand.New(rand.NewPCG(uint64(kind), uint64(len(text))<<32+uint64(text[0])))
	return []float32{float32(random.NormFloat64()), float32(random.NormFloat64()), float32(len(text))}
}

func (r *remote) Embed(_ context.Context, kind Kind, items []Item) ([][]float32, []error, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	vectors, failures := make([][]float32, len(items)), make([]error, len(items))
	for i, item := range items {
		if vector, found, err := carriedVector(r, item); found {
			vectors[i], failures[i] = vector, err
			continue
		}
		r.asked = append(r.asked, fmt.Sprint(kind, item.Text))
		switch {
		case item.Text == "down":
			return vectors, failures, errors.New("unreachable")
		case strings.Contains(item.Text, "bad"):
			failures[i] = errors.New("refused: " + item.Text)
		default:
			vectors[i] = vectorFor(kind, item.Text)
		}
	}
	return vectors, failures, nil
}

func texts(list ...string) (items []Item) {
	for _, text := range list {
		items = append(items, Item{Text: text})
	}
	return items
}

// TestCached embeds texts step by step. Each step says which texts the embedder must be asked for.
func TestCached(t *testing.T) {
	path := t.TempDir()
	r := new(remote)
	embedder := openCache(t, path).wrap(r, config.Embedder{Name: "r", Type: "remote"})
	ask := func(kind Kind, items []Item, want ...string) {
		t.Helper()
		r.asked = nil
		vectors, failures, err := embedder.Embed(t.Context(), kind, items)
		if err != nil || len(vectors) != len(items) || len(failures) != len(items) {
			t.Fatalf("%d vectors, %d failures, error %v", len(vectors), len(failures), err)
		}
		for i, item := range items {
			bad := strings.Contains(item.Text, "bad")
			if bad && (vectors[i] != nil || failures[i] == nil || failures[i].Error() != "refused: "+item.Text) ||
				!bad && (failures[i] != nil || !slices.Equal(vectors[i], vectorFor(kind, item.Text))) {
				t.Errorf("item %d, %q: vector %v, error %v", i, item.Text, vectors[i], failures[i])
			}
		}
		if !slices.Equal(r.asked, want) {
			t.Errorf("asked for %q, want %q", r.asked, want)
		}
	}
	ask(Passage, texts("a", "bb", "ccc"), "0a", "0bb", "0ccc")
	ask(Passage, texts("ccc", "a"))
	ask(Passage, nil)
	ask(Query, texts("a"), "1a")                                                      // another kind
	ask(Passage, texts("d", "a", "ee", "bb", "fff", "ccc"), "0d", "0ee", "0fff")      // some are cached
	ask(Passage, texts("g", "g", "a", "h", "g", "h", "a"), "0g", "0h")                // each text once
	ask(Passage, texts("a", "bad", "i", "bad", "bad 2"), "0bad", "0i", "0bad 2")      // also refused texts
	ask(Passage, texts("bad", "i"), "0bad")                                           // refusals are not kept
	ask(Query, texts("g", "a", "g", "bad", "a"), "1g", "1bad")                        //
	embedder = openCache(t, path).wrap(r, config.Embedder{Name: "r", Type: "remote"}) // another process
	ask(Passage, texts("a", "ccc", "i", "new", "bad"), "0new", "0bad")
	if calls := r.calls; calls != 8 {
		t.Errorf("%d calls, want 8: none where all was there", calls)
	}
}

// TestCachedDown: a failed call returns no vectors, but the cache keeps what the embedder gave before the
// failure.
func TestCachedDown(t *testing.T) {
	r := new(remote)
	embedder := openCache(t, t.TempDir()).wrap(r, config.Embedder{Type: "remote"})
	vectors, failures, err := embedder.Embed(t.Context(), Passage, texts("a", "bad", "b", "down", "c"))
	if vectors != nil || failures != nil || err == nil || err.Error() != "unreachable" {
		t.Fatalf("%v, %v, %v", vectors, failures, err)
	}
	r.asked = nil
	if _, _, err := embedder.Embed(t.Context(), Passage, texts("a", "bad", "b", "c")); err != nil || !slices.Equal(r.asked, []string{"0bad", "0c"}) {
		t.Errorf("asked for %q, error %v", r.asked, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := embedder.Embed(ctx, Passage, texts("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v of a cancelled call", err)
	}
}

// TestCachedCarried: a carried vector is used. It is not kept, and a cached vector does not replace it.
func TestCachedCarried(t *testing.T) {
	r := new(remote)
	embedder := openCache(t, t.TempDir()).wrap(r, config.Embedder{Type: "remote"})
	own := func(vector ...float32) Item { return Item{Text: "a", Carried: map[string][]float32{"r": vector}} }
	for range 2 {
		vectors, failures, err := embedder.Embed(t.Context(), Passage, []Item{own(1, 2, 3), {Text: "a"}, own(4, 5, 6), own(1), {Text: "a"}})
		if err != nil || !slices.Equal(vectors[0], []float32{1, 2, 3}) || !slices.Equal(vectors[2], []float32{4, 5, 6}) ||
			failures[3] == nil || vectors[3] != nil || !slices.Equal(vectors[1], vectorFor(Passage, "a")) || !slices.Equal(vectors[4], vectors[1]) {
			t.Fatalf("%v, %v, %v", vectors, failures, err)
		}
	}
	if !slices.Equal(r.asked, []string{"0a"}) {
		t.Errorf("asked for %q, want one text", r.asked)
	}
}

// TestCachedIsTransparent compares cached and direct results, over random batches of texts, some of them
// refused.
func TestCachedIsTransparent(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	cache := openCache(t, t.TempDir())
	behinds, err := New([]config.Embedder{{Name: "words", Type: TypeLexicalWord, Dimensions: 256}, {Name: "characters", Type: TypeLexicalChar, Dimensions: 256}}, &Resources{Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	for i, plain := range lexicals(t) {
		behind := behinds[i].(Fitted)
		if _, _, err := behind.Embed(t.Context(), Passage, texts("a")); err == nil || !strings.Contains(err.Error(), "not fitted yet") {
			t.Errorf("error %v before it is fitted", err)
		}
		if err := behind.Fit(slices.Values(passages)); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			items := make([]Item, random.IntN(12))
			for i := range items {
				if items[i].Text = passages[random.IntN(len(passages))]; random.IntN(5) == 0 {
					items[i].Text = []string{"", "...", "\xff"}[random.IntN(3)]
				}
				if random.IntN(5) == 0 {
					items[i].Carried = map[string][]float32{plain.Name(): make([]float32, 255+random.IntN(2))}
					items[i].Carried[plain.Name()][0] = random.Float32()
				}
			}
			kind := Kind(random.IntN(2))
			want, wantFailures, _ := plain.Embed(t.Context(), kind, items)
			got, gotFailures, err := behind.Embed(t.Context(), kind, items)
			if err != nil || !reflect.DeepEqual(got, want) || fmt.Sprint(gotFailures) != fmt.Sprint(wantFailures) {
				t.Fatalf("%s: got %v, %v, %v, want %v, %v", plain.Name(), got, gotFailures, err, want, wantFailures)
			}
		}
	}
}

// TestCachedFitted: what an embedder learnt is part of the key, whether it was fitted or read back.
func TestCachedFitted(t *testing.T) {
	cache := openCache(t, t.TempDir())
	definition := config.Embedder{Name: "w", Type: TypeLexicalWord}
	embed := func(setup func(Fitted) error) ([]float32, []byte) {
		t.Helper()
		embedders, err := New([]config.Embedder{definition}, &Resources{Cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		embedder := embedders[0].(Fitted)
		if err := setup(embedder); err != nil {
			t.Fatal(err)
		}
		vector, err := one(t, embedder, Item{Text: passages[0]})
		if err != nil {
			t.Fatal(err)
		}
		data, err := embedder.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		return vector, data
	}
	first, data := embed(func(e Fitted) error { return e.Fit(slices.Values(passages)) })
	other, _ := embed(func(e Fitted) error { return e.Fit(slices.Values(passages[:3])) })
	again, _ := embed(func(e Fitted) error { return e.UnmarshalBinary(data) })
	if slices.Equal(first, other) || !slices.Equal(first, again) {
		t.Error("the vector does not follow what was learnt")
	}
}

// TestIdentity: the identity changes with what was learnt and with every field of a definition, except those
// that only say how a vector is used.
func TestIdentity(t *testing.T) {
	base := identity(config.Embedder{}, 3, nil)
	if identity(config.Embedder{}, 4, nil) == base || identity(config.Embedder{}, 3, []byte{1}) == base || identity(config.Embedder{}, 3, []byte{}) != base {
		t.Error("dimensions and what was learnt are not what they are in the identity")
	}
	if identity(config.Embedder{Dimensions: 3}, 3, nil) != base {
		t.Error("a default that is written out changes the identity")
	}
	free := []string{"Name", "Weight", // repeated here because a wrong entry gives wrong vectors
		"URL", "APIKey", "APIKeyFile", "Headers", "TLS", "Proxy", "EncodingFormat", "Batch", "BatchBytes", "Concurrency", "Timeout", "RetryFor"}
	kinds := reflect.TypeFor[config.Embedder]()
	for i := range kinds.NumField() {
		field := kinds.Field(i)
		if field.Name == "Dimensions" {
			continue
		}
		definition := config.Embedder{}
		set(t, reflect.ValueOf(&definition).Elem().Field(i))
		if changed := identity(definition, 3, nil) != base; changed == slices.Contains(free, field.Name) {
			t.Errorf("field %s: the identity changes: %v", field.Name, changed)
		}
	}
}

// set gives a field a value.
func set(t *testing.T, field reflect.Value) {
	switch {
	case field.CanInt():
		field.SetInt(7)
	case field.CanFloat():
		field.SetFloat(7)
	case field.Kind() == reflect.String:
		field.SetString("x")
	case field.Kind() == reflect.Bool:
		field.SetBool(true)
	case field.Kind() == reflect.Map:
		field.Set(reflect.MakeMap(field.Type()))
		value := reflect.New(field.Type().Elem()).Elem()
		if value.Kind() == reflect.String {
			value.SetString("x")
		}
		field.SetMapIndex(reflect.ValueOf("k").Convert(field.Type().Key()), value)
	case field.Kind() == reflect.Struct:
		set(t, field.Field(0))
	case field.Kind() == reflect.Slice:
		field.Set(reflect.MakeSlice(field.Type(), 1, 1))
	case field.Kind() == reflect.Pointer:
		field.Set(reflect.New(field.Type().Elem()))
	default:
		t.Fatalf("a definition has a field of type %v: set it here", field.Type())
	}
}

func TestKeeps(t *testing.T) {
	for _, test := range []struct {
		cache *Cache
		kept  []string
	}{
		{nil, nil},
		{&Cache{}, []string{"any other"}},
		{&Cache{All: true}, []string{TypeLexicalWord, TypeLexicalChar, "any other"}},
	} {
		for _, kind := range []string{TypeLexicalWord, TypeLexicalChar, TypeCarried, "any other"} {
			if got := test.cache.keeps(kind); got != slices.Contains(test.kept, kind) {
				t.Errorf("%+v, %s: %v", test.cache, kind, got)
			}
		}
	}
}

// TestCachedConcurrent: many callers at the same time get what a single caller gets. Run it with -race.
func TestCachedConcurrent(t *testing.T) {
	r := new(remote)
	embedder := openCache(t, t.TempDir()).wrap(r, config.Embedder{Type: "remote"})
	var callers sync.WaitGroup
	for caller := range 6 {
		callers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(caller), 1))
			for range 60 {
				var list []string
				for range 1 + random.IntN(10) {
					list = append(list, fmt.Sprint(random.IntN(300)))
				}
				vectors, _, err := embedder.Embed(context.Background(), Query, texts(list...))
				if err != nil {
					t.Error(err)
					return
				}
				for i, vector := range vectors {
					if !slices.Equal(vector, vectorFor(Query, list[i])) {
						t.Errorf("%q has the vector %v", list[i], vector)
					}
				}
			}
		})
	}
	callers.Wait()
}

// TestCachedServed: a server's vectors are kept under what determines them: neither the form of the
// definition nor the server's address matters, and the length may come from the server.
func TestCachedServed(t *testing.T) {
	server := newScripted(t)
	server.rule = refusing(400, "refuse")
	server.Start()
	t.Cleanup(server.Close)
	cache := openCache(t, t.TempDir())
	definition := config.Embedder{Name: "e5", Type: TypeOpenAI, URL: server.URL + "/v1", Model: "m", QueryPrefix: "q: ", Body: map[string]any{"n": uint64(1)}, RetryFor: 1}
	build := func(definition config.Embedder) Embedder {
		embedders, err := New([]config.Embedder{definition}, &Resources{Cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		if definition.Dimensions == 0 {
			if err := embedders[0].(Served).Probe(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		return embedders[0]
	}
	count := func(definition config.Embedder) (asked int) {
		t.Helper()
		embedder := build(definition)
		before := len(server.requests())
		vectors, failures, err := embedder.Embed(t.Context(), Query, itemsOf("a", "b"))
		if err != nil || failures[0] != nil || len(vectors[0]) != serverDimensions {
			t.Fatal(vectors, failures, err)
		}
		return len(server.requests()) - before
	}
	if n := count(definition); n != 1 {
		t.Errorf("%d requests at first", n)
	}
	for name, change := range map[string]func(*config.Embedder){
		"again":      func(*config.Embedder) {},
		"dimensions": func(e *config.Embedder) { e.Dimensions = serverDimensions },
		"connection": func(e *config.Embedder) { e.URL, e.APIKey, e.Batch, e.Name, e.Weight = e.URL+"/", "key", 1, "other", 3 },
		"by kind":    func(e *config.Embedder) { e.Model, e.QueryModel, e.PassageModel = "", "m", "m" },
		"number":     func(e *config.Embedder) { e.Body = map[string]any{"n": json.Number("1")} },
	} {
		same := definition
		change(&same)
		if n := count(same); n != 0 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
	for name, change := range map[string]func(*config.Embedder){
		"model":  func(e *config.Embedder) { e.Model = "n" },
		"prefix": func(e *config.Embedder) { e.QueryPrefix = "" },
		"body":   func(e *config.Embedder) { e.QueryBody = map[string]any{"n": 2} },
		"asked":  func(e *config.Embedder) { e.Dimensions, e.RequestDimensions = serverDimensions, true },
	} {
		other := definition
		change(&other)
		if n := count(other); n != 1 {
			t.Errorf("%s: %d requests", name, n)
		}
	}

	server.rule = nil
	server.script = []handler{healthy, status(401, ""), healthy}
	failing := definition
	failing.Batch, failing.Concurrency, failing.Dimensions = 1, 1, serverDimensions
	if _, _, err := build(failing).Embed(t.Context(), Query, itemsOf("c", "d")); !errors.Is(err, ErrDenied) {
		t.Fatal(err)
	}
	before := len(server.requests())
	if _, _, err := build(failing).Embed(t.Context(), Query, itemsOf("c", "d")); err != nil || len(server.requests()) != before+1 {
		t.Errorf("%d requests, error %v: what a failed call had is embedded again", len(server.requests())-before, err)
	}
}
