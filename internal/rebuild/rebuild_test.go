package rebuild

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/audit"
	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/pipeline"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/records"
	"hardneg/internal/stages"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// run makes a new generation from the topics: only the records carry the vectors of a world.
func run(w *pipelinetest.World, change func(*Options)) (*Report, error) {
	o := Options{Conn: w.Conn(), FromTopics: true, Keep: time.Hour}
	if change != nil {
		change(&o)
	}
	return Run(w.T.Context(), o)
}

// lexicalWorld returns a world of texts that any lexical embedder can embed.
func lexicalWorld(t *testing.T, documents int) *pipelinetest.World {
	w := pipelinetest.New(t, 1)
	w.Config.Embedders, w.Config.Reduce = pipelinetest.Lexical, config.Reduce{Method: "pca", Variance: 0.95, MaxDimensions: 8, Normalize: true, Seed: 1}
	for i, item := range pipelinetest.About("a", documents) {
		w.Produce("documents", "d"+strconv.Itoa(i), map[string]any{"text": item.Text})
	}
	w.Produce("queries", "q", map[string]any{"query": "a1 a2 a3", "query_id": "q", "positives": []string{"d1"}})
	return w
}

// published returns how many triplets of each generation the compacted view has.
func published(w *pipelinetest.World) map[string]int {
	w.T.Helper()
	view := map[string]string{}
	err := w.Kafka.ReadToEnd(w.T.Context(), w.Config.Topics.Triplets, func(r stream.Record) error {
		if delete(view, string(r.Key)); r.Value == nil {
			return nil
		}
		var triplet struct{ Generation string }
		err := json.Unmarshal(r.Value, &triplet)
		view[string(r.Key)] = triplet.Generation
		return err
	})
	if err != nil {
		w.T.Fatal(err)
	}
	counts := map[string]int{}
	for _, generation := range view {
		counts[generation]++
	}
	return counts
}

// TestRebuildTwice freezes a rebuild shortly before its end, while another rebuild promotes the same
// generation. Then the stages of the first one are members of the service's groups. They must not process
// records that the service has to publish.
func TestRebuildTwice(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 11, 12)
	stop := w.Instance()
	defer func() { stop() }()
	w.Settle()
	held, err := run(w, func(o *Options) { o.Hold = true })
	if err != nil {
		t.Fatal(err)
	}
	thaw := make(chan struct{})
	type outcome struct {
		report *Report
		err    error
	}
	first := make(chan outcome, 1)
	go func() {
		report, err := run(w, func(o *Options) {
			o.Log = zerolog.New(io.Discard).Hook(zerolog.HookFunc(func(_ *zerolog.Event, _ zerolog.Level, message string) {
				if message == "rebuild" { // a step begins; the stages run in other goroutines
					<-thaw
				}
			}))
		})
		first <- outcome{report, err}
	}()
	next := catalog.NamesOf(w.Config, held.Generation)
	w.Await(time.Minute, "the stages of the first rebuild", func() bool {
		for _, stage := range catalog.Stages {
			if n, err := w.Kafka.Members(t.Context(), next.Group(stage)); err != nil || n == 0 {
				return false
			}
		}
		return true
	})
	second, err := run(w, nil)
	if err != nil {
		t.Fatal(err)
	}
	close(thaw)
	o := <-first
	if o.err != nil || !o.report.Promoted || o.report.Generation != second.Generation {
		t.Fatalf("the first rebuild: %+v, %v; want that it finds its generation %s promoted", o.report, o.err, second.Generation)
	}
	w.Generation = second.Generation
	w.Settle()
	w.Compare("after both")
	if counts := published(w); len(counts) != 1 || counts[second.Generation] == 0 {
		t.Errorf("triplets by generation: %v, want those of %s alone", counts, second.Generation)
	}
}

// TestPromoteTheSuccessorAlone checks that a rebuild does not promote a generation that is no longer the
// successor of the live one.
func TestPromoteTheSuccessorAlone(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 12, 6)
	stop := w.Instance()
	defer func() { stop() }()
	w.Settle()
	held, err := run(w, func(o *Options) { o.Hold = true })
	if err != nil {
		t.Fatal(err)
	}
	known, err := catalog.ReadGenerations(t.Context(), w.Kafka, w.Config.Topics.Models)
	if err != nil {
		t.Fatal(err)
	}
	record := known[held.Generation]
	if _, err := current(t.Context(), w.Conn(), record); err != nil {
		t.Fatal(err)
	}
	stop()
	stop = func() {}
	other, err := w.Index.Create(t.Context(), held.Model+"-1", pipelinetest.Dimensions)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Index.Promote(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if _, err := current(t.Context(), w.Conn(), record); err == nil || !strings.Contains(err.Error(), "is live now") {
		t.Errorf("beside another live generation: %v", err)
	}
	record = &catalog.Generation{ID: held.Model + "-2", Previous: held.Model + "-1"}
	if _, err := current(t.Context(), w.Conn(), record); err == nil || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("of a generation that was removed: %v", err)
	}
}

// TestGenerationsInARow replaces a generation before it has erased its predecessor. The last generation must
// erase both.
func TestGenerationsInARow(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 15, 6)
	stop := w.Instance()
	defer stop()
	w.Settle()
	if _, err := run(w, nil); err != nil { // it keeps the first generation for an hour
		t.Fatal(err)
	}
	last, err := run(w, func(o *Options) { o.Keep = time.Millisecond })
	if err != nil {
		t.Fatal(err)
	}
	w.Await(time.Minute, "only the last generation", func() bool {
		held, err := w.Index.Held(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		topics, err := w.Kafka.Topics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		topics = slices.DeleteFunc(topics, func(topic string) bool { return !strings.HasPrefix(topic, w.Config.Topics.Refresh) })
		return slices.Equal(held, []string{last.Generation}) && slices.Equal(topics, []string{w.Config.Topics.Refresh + "-" + last.Generation})
	})
}

// TestInterruptedBeforeItFills checks that Abort removes everything that an interrupted rebuild has made.
func TestInterruptedBeforeItFills(t *testing.T) {
	t.Parallel()
	w := lexicalWorld(t, 30)
	stop := w.Instance()
	w.Settle()
	stop()
	first, err := w.Index.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The rebuild waits for the live miner, which does not run.
	w.Produce(w.Config.Topics.Refresh, "q", map[string]any{"kind": records.KindRefresh, "query_id": "q", "source": records.Source{Topic: records.SourceSweep}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = Run(ctx, Options{Conn: w.Conn(), Progress: func(Progress) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("the rebuild: %v", err)
	}
	if id, err := Abort(t.Context(), w.Conn()); err != nil || id == "" {
		t.Errorf("abort of %q: %v", id, err)
	}
	if held, err := w.Index.Held(t.Context()); err != nil || !slices.Equal(held, first) {
		t.Errorf("collections of %v are left, %v; want those of %v", held, err, first)
	}
	if topics, err := w.Kafka.Topics(t.Context()); err != nil || slices.ContainsFunc(topics, func(topic string) bool { return strings.HasPrefix(topic, w.Config.Topics.Refresh+"-") }) {
		t.Errorf("topics %v are left, %v", topics, err)
	}
}

// TestRebuildBesideNoService runs a rebuild while no service runs. It must go as far as the live generation
// has come, whatever the topics hold beyond that: the service may be down, or stuck at texts that its model
// cannot embed any more.
func TestRebuildBesideNoService(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 16, 6)
	stop := w.Instance()
	w.Settle()
	stop()
	for i := range pipelinetest.Documents {
		w.Write("d"+strconv.Itoa(i), w.Random())
	}
	for i := range 6 {
		w.Judge("q"+strconv.Itoa(i), "d"+strconv.Itoa(i))
	}
	held, err := run(w, func(o *Options) { o.Hold = true })
	if err != nil {
		t.Fatal(err)
	}
	for _, stage := range []string{catalog.StageIndexer, catalog.StageIntake} {
		var at [2]map[int32]int64
		for i, generation := range []string{"", held.Generation} {
			names := catalog.NamesOf(w.Config, generation)
			if at[i], err = w.Kafka.Committed(t.Context(), names.Group(stage), names.Input(stage)); err != nil {
				t.Fatal(err)
			}
		}
		if !maps.Equal(at[0], at[1]) {
			t.Errorf("the %s has come to %v, want that of the live generation, %v", stage, at[1], at[0])
		}
	}
}

// TestSuccessionOfAQuery changes a query after the promotion, before it is the query's turn to be published.
// All triplets of the old generation must be replaced or retracted, even those of a positive that the new
// generation does not know. One transaction must hold the query's records, so they lie at consecutive
// offsets.
func TestSuccessionOfAQuery(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 17, 6)
	stop := w.Instance()
	w.Settle()
	held, err := run(w, func(o *Options) { o.Hold = true })
	if err != nil {
		t.Fatal(err)
	}
	stop()
	old, err := w.Index.Existing(t.Context(), held.Previous)
	if err != nil {
		t.Fatal(err)
	}
	states, err := old.States(t.Context(), []string{"q0"})
	if err != nil {
		t.Fatal(err)
	}
	state := states["q0"]
	state.Published["only the old one"] = 2
	state.Revision += 1_000_000_000
	if err := old.WriteStates(t.Context(), []index.State{state}, state.Token); err != nil {
		t.Fatal(err)
	}
	next := catalog.NamesOf(w.Config, held.Generation)
	w.Produce(next.Topics.Refresh, "q0", map[string]any{"kind": records.KindRefresh, "query_id": "q0", "source": records.Source{Topic: "documents"}})
	promoted := make(chan error, 1)
	go func() {
		_, err := run(w, nil)
		promoted <- err
	}()
	w.Await(time.Minute, "the promotion", func() bool {
		live, _, err := w.Index.Active(t.Context())
		return err == nil && live == held.Generation
	})
	o := audit.Options{Conn: w.Conn()}
	if r, err := audit.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "are being published") {
		t.Errorf("an audit before anything is published: %+v, %v", r, err)
	}
	stop = w.Instance()
	defer func() { stop() }()
	if err := <-promoted; err != nil {
		t.Fatal(err)
	}
	w.Generation = held.Generation
	w.Settle()
	w.Compare("after the promotion")
	var offsets []int64
	var slots []string
	err = w.Kafka.ReadToEnd(t.Context(), w.Config.Topics.Triplets, func(r stream.Record) error {
		of := stream.Header{Key: records.HeaderGeneration, Value: []byte(held.Generation)}
		if !strings.HasPrefix(string(r.Key), `["q0",`) || !slices.ContainsFunc(r.Headers, func(h stream.Header) bool { return reflect.DeepEqual(h, of) }) {
			return nil
		}
		offsets, slots = append(offsets, r.Offset), append(slots, string(r.Key))
		var triplet records.Triplet
		if r.Value != nil {
			if err := json.Unmarshal(r.Value, &triplet); err != nil || triplet.Revision <= state.Revision {
				t.Errorf("%s at offset %d has revision %d, %v, not above %d", r.Key, r.Offset, triplet.Revision, err, state.Revision)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	at := slices.Index(slots, `["q0","only the old one",1]`)
	if at < 0 || offsets[at]-offsets[0] != int64(at) {
		t.Errorf("records %v at offsets %v: want the retraction of what only the old generation had in one transaction with the first", slots, offsets)
	}
}

// refusing is a model that refuses texts with a word.
type refusing struct{ word string }

func (m refusing) Vectors(_ context.Context, _ embed.Kind, items []embed.Item) ([][]float32, []error, error) {
	vectors, refusals := make([][]float32, len(items)), make([]error, len(items))
	for i, item := range items {
		if vectors[i] = []float32{1, 0}; strings.Contains(item.Text, m.word) {
			vectors[i], refusals[i] = nil, errors.New("refused")
		}
	}
	return vectors, refusals, nil
}

// TestRefusedOnce checks that a record which the new model refuses becomes one dead letter, even if a rebuild
// is interrupted. Seeding sends it, unless the new stages will read the record.
func TestRefusedOnce(t *testing.T) {
	t.Parallel()
	w := pipelinetest.New(t, 1)
	next, err := w.Index.Create(t.Context(), "next", 2)
	if err != nil {
		t.Fatal(err)
	}
	live, err := w.Index.Create(t.Context(), "live", 2)
	if err != nil {
		t.Fatal(err)
	}
	var documents []index.Document
	var states []index.State
	for i := range 4 { // the new stages will read the last two
		for _, topic := range []string{"documents", "queries"} {
			err := w.Kafka.Produce(t.Context(), []stream.Output{{Topic: topic, Partition: 0, Key: fmt.Appendf(nil, "%s %d", topic, i), Value: []byte("{}")}})
			if err != nil {
				t.Fatal(err)
			}
		}
		text := []string{"good", "bad"}[i%2]
		d := index.Document{Text: text, Offset: int64(i)}
		d.ID, d.Hash, d.Vector = "d"+strconv.Itoa(i), "h", []float32{1, 0}
		documents = append(documents, d)
		states = append(states, index.State{QueryID: "q" + strconv.Itoa(i), Text: text, Newest: index.Position{Offset: int64(i)}, Vector: []float32{1, 0}})
	}
	if err := live.SeedDocuments(t.Context(), documents); err != nil {
		t.Fatal(err)
	}
	if err := live.SeedStates(t.Context(), states); err != nil {
		t.Fatal(err)
	}
	names, rules := catalog.NamesOf(w.Config, ""), catalog.RulesOf(w.Config)
	out := stages.Outputs{Names: names, Publication: stages.Shadow{}, Log: w.Log, Metrics: telemetry.NewMetrics(prometheus.NewRegistry())}
	env, err := stages.NewEnv(out, "next", rules, refusing{"bad"}, w.Kafka)
	if err != nil {
		t.Fatal(err)
	}
	view := &catalog.View{Conn: w.Conn(), Live: catalog.Live{Generation: "live"}, Names: names, Collections: live, Rules: rules}
	r := &rebuild{
		rebuilder: newRebuilder(Options{Conn: w.Conn()}, survey{live: view}),
		record:    &catalog.Generation{ID: "next", Previous: "live", Documents: map[int32]int64{0: 2}, Queries: map[int32]int64{0: 2}},
		next:      &pipeline.Shadow{Collections: next, Env: env},
	}
	for range 2 { // the second time as after a kill
		if err := r.seedDocuments(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.seedQueries(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var deadLetters []string
	err = w.Kafka.ReadToEnd(t.Context(), w.Config.Topics.DeadLetters, func(r stream.Record) error {
		deadLetters = append(deadLetters, string(r.Key))
		return nil
	})
	slices.Sort(deadLetters)
	if want := []string{"documents 1", "queries 1"}; err != nil || !slices.Equal(deadLetters, want) {
		t.Errorf("dead letters of %q, %v; want %q", deadLetters, err, want)
	}
	for _, id := range []string{"d1", "d3"} {
		if documents, err := next.Documents(t.Context(), []string{id}, 0); err != nil || !documents[id].Deleted {
			t.Errorf("refused document %s: %+v, %v; want a marker", id, documents[id], err)
		}
	}
}
