// Package pipelinetest gives tests a small world: embedded servers, random changes of documents and queries,
// instances of the pipeline that come, go and overlap, and an oracle that computes the view by brute force.
// The records carry their vectors, so the vectors have few dimensions and documents lie close together. Only
// tests of hardneg import it.
package pipelinetest

import (
	"context"
	"encoding/json"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/embedded/fault"
	"hardneg/internal/pipeline"
	"hardneg/internal/telemetry"
	"hardneg/internal/testenv"
	"hardneg/stream"
)

// Size of a world, and its rules.
const (
	Documents  = 40   // ids d0 to d39
	Queries    = 8    // ids that Step draws: q0 to q7
	Dimensions = 4    // of vectors
	Negatives  = 3    // mining.negatives
	Margin     = 0.05 // relative margin of the second tier
)

// World is a Kafka, a Qdrant, inputs, and an oracle that knows the view of these inputs. New, NewFaulty and
// Loaded make one.
type World struct {
	T          *testing.T
	Rng        *rand.Rand
	Config     *config.Config
	Generation string // Settle waits for the stages of this generation; empty: of the first one
	Kafka      *stream.Client
	Broker     string // address of Kafka
	Index      *index.Client
	Log        zerolog.Logger
	Docs       map[string]Document  // the oracle's documents, by id
	Logged     map[string]*Query    // the oracle's queries, by id
	Vector     map[string][]float32 // of query texts

	texts int // number of texts that were made, so that each text is new
}

// Document is a document of the oracle.
type Document struct {
	Text   string
	Vector []float32
}

// Query is a query of the oracle.
type Query struct{ Positives map[string]bool }

// New returns a world with embedded servers and empty topics.
func New(t *testing.T, seed uint64) *World { return NewFaulty(t, seed, nil, nil) }

// NewFaulty returns a world whose servers fail as the plans say.
func NewFaulty(t *testing.T, seed uint64, kafkaFaults, qdrantFaults *fault.Plan) *World {
	t.Helper()
	log := zerolog.Nop()
	if os.Getenv("HARDNEG_TEST_LOG") != "" {
		log = zerolog.New(zerolog.NewConsoleWriter()).Level(zerolog.DebugLevel)
	}
	cfg := config.Default()
	cfg.Embedders = []config.Embedder{{Name: "v", Type: "carried", Weight: 1, Dimensions: Dimensions}}
	cfg.Reduce.Method = "none"
	cfg.Topics.Partitions = 3
	cfg.Fit.Minimum, cfg.Fit.Wait = 1, 100*time.Millisecond
	margin := Margin
	cfg.Mining.Negatives = Negatives
	cfg.Mining.Tiers = []config.Tier{{Policy: "semantic", UpTo: 1}, {Policy: "positive-aware", UpTo: Negatives, RelativeMargin: &margin}}
	cfg.Kafka.MaxBatch = 20
	cfg.Sweep.Rate = 0 // a sweep would mend lists that the stages have missed
	cfg.Kafka.SessionTimeout = 6 * time.Second
	kafka, address := testenv.Kafka(t, log, kafkaFaults)
	w := &World{
		T: t, Rng: rand.New(rand.NewPCG(seed, 1)), Config: cfg, Log: log,
		Kafka: kafka, Broker: address, Index: testenv.Qdrant(t, log, qdrantFaults),
		Docs: map[string]Document{}, Logged: map[string]*Query{}, Vector: map[string][]float32{},
	}
	if err := catalog.EnsureTopics(t.Context(), w.Kafka, cfg, ""); err != nil {
		t.Fatal(err)
	}
	return w
}

// Conn returns what commands need to reach the servers of the world.
func (w *World) Conn() catalog.Conn {
	return catalog.Conn{Config: w.Config, Kafka: w.Kafka, Index: w.Index, Log: w.Log}
}

// Options returns the options of an instance in this world.
func (w *World) Options(metrics *telemetry.Metrics) pipeline.Options {
	return pipeline.Options{Conn: w.Conn(), Metrics: metrics, Health: telemetry.NewHealth()}
}

// Live returns the collections of the live generation.
func (w *World) Live() *index.Index {
	w.T.Helper()
	live, err := w.Index.Live(w.T.Context())
	if err != nil {
		w.T.Fatal(err)
	}
	return live
}

// Instance runs all stages in this process until stop is called; stop waits for their end.
func (w *World) Instance() (stop func()) {
	return w.Measured(telemetry.NewMetrics(prometheus.NewRegistry()))
}

// Measured is Instance with metrics that the test can read.
func (w *World) Measured(metrics *telemetry.Metrics) (stop func()) {
	ctx, cancel := context.WithCancel(w.T.Context())
	done := make(chan error, 1)
	go func() {
		done <- pipeline.Run(ctx, w.Options(metrics))
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			w.T.Errorf("an instance ended with: %v", err)
		}
	}
}

// Random returns a random unit vector.
func (w *World) Random() []float32 {
	v := make([]float32, Dimensions)
	var norm float64
	for i := range v {
		v[i] = float32(w.Rng.NormFloat64())
		norm += float64(v[i]) * float64(v[i])
	}
	for i := range v {
		v[i] = float32(float64(v[i]) / math.Sqrt(norm))
	}
	return v
}

// Produce writes one record with a value in JSON. With a nil value it writes a tombstone.
func (w *World) Produce(topic, key string, value any) {
	w.T.Helper()
	out := stream.Output{Topic: topic, Partition: stream.ByKey, Key: []byte(key)}
	if value != nil {
		encoded, err := json.Marshal(value)
		if err != nil {
			w.T.Fatal(err)
		}
		out.Value = encoded
	}
	if err := w.Kafka.Produce(w.T.Context(), []stream.Output{out}); err != nil {
		w.T.Fatal(err)
	}
}

// Step makes one random change of the inputs.
func (w *World) Step() {
	doc := "d" + strconv.Itoa(w.Rng.IntN(Documents))
	query := "q" + strconv.Itoa(w.Rng.IntN(Queries))
	switch x := w.Rng.Float64(); {
	case x < 0.70:
		d := Document{Text: "text " + strconv.Itoa(w.texts), Vector: w.Random()}
		w.texts++
		if old, ok := w.Docs[doc]; ok && w.Rng.IntN(4) == 0 {
			d.Text = old.Text // only the vector changes
		} else if others := slices.Sorted(maps.Keys(w.Docs)); len(others) > 0 && w.Rng.IntN(6) == 0 {
			d = w.Docs[others[w.Rng.IntN(len(others))]] // a copy of another document
		}
		w.Docs[doc] = d
		w.Produce("documents", doc, map[string]any{"id": doc, "text": d.Text, "embeddings": map[string]any{"v": d.Vector}})
	case x < 0.93:
		delete(w.Docs, doc)
		w.Produce("documents", doc, nil)
	case x < 0.99:
		if w.Vector[query] == nil {
			w.Vector[query] = w.Random()
		}
		q := w.Logged[query]
		if q == nil {
			q = &Query{Positives: map[string]bool{}}
			w.Logged[query] = q
		}
		q.Positives[doc] = true
		w.Produce("queries", query, map[string]any{
			"query": query, "query_id": query, "positives": []string{doc}, "embeddings": map[string]any{"v": w.Vector[query]},
		})
	default:
		delete(w.Logged, query)
		w.Produce("queries", query, nil)
		time.Sleep(2 * time.Millisecond) // so that later records have a later timestamp
	}
}

// Got returns the compacted content of the triplets topic: id and text of the negative by key.
func (w *World) Got() map[string]string {
	w.T.Helper()
	view := map[string]string{}
	err := w.Kafka.ReadToEnd(w.T.Context(), w.Config.Topics.Triplets, func(r stream.Record) error {
		if r.Value == nil {
			delete(view, string(r.Key))
			return nil
		}
		var triplet struct{ Negative struct{ ID, Text string } }
		if err := json.Unmarshal(r.Value, &triplet); err != nil {
			return err
		}
		view[string(r.Key)] = triplet.Negative.ID + " " + triplet.Negative.Text
		return nil
	})
	if err != nil {
		w.T.Fatal(err)
	}
	return view
}

// Settle waits until every stage has committed everything in its input.
func (w *World) Settle() {
	w.T.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for quiet := 0; quiet < 3; {
		lag := int64(0)
		names := catalog.NamesOf(w.Config, w.Generation)
		for _, stage := range catalog.Stages {
			ends, err := w.Kafka.Offsets(w.T.Context(), names.Input(stage))
			if err != nil {
				w.T.Fatal(err)
			}
			at, err := w.Kafka.Committed(w.T.Context(), names.Group(stage), names.Input(stage))
			if err != nil {
				w.T.Fatal(err)
			}
			for _, e := range ends {
				lag += e.HighWatermark - at[e.Partition]
			}
		}
		if quiet++; lag > 0 {
			quiet = 0
		}
		if time.Now().After(deadline) {
			w.T.Fatalf("still %d records behind after three minutes", lag)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Compare fails the test if the triplets topic differs from the oracle.
func (w *World) Compare(when string) {
	w.T.Helper()
	want, got := w.Want(), w.Got()
	if maps.Equal(want, got) {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if got[key] != want[key] {
			w.T.Errorf("%s: %s is %q, want %q", when, key, got[key], want[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[key]; !ok {
			w.T.Errorf("%s: %s is %q, want nothing", when, key, got[key])
		}
	}
}

// Loaded returns a world with all documents, and a number of queries, in the topics. No instance has run in
// it.
func Loaded(t *testing.T, seed uint64, queries int) *World {
	t.Helper()
	w := New(t, seed)
	for i := range Documents {
		w.Write("d"+strconv.Itoa(i), w.Random())
	}
	for i := range queries {
		query := "q" + strconv.Itoa(i)
		w.Vector[query] = w.Random()
		w.Judge(query, "d"+strconv.Itoa(i), "d"+strconv.Itoa(i+queries))
	}
	return w
}

// Write writes a document with a vector and a new text.
func (w *World) Write(id string, vector []float32) {
	w.T.Helper()
	w.Docs[id] = Document{Text: "text " + strconv.Itoa(w.texts), Vector: vector}
	w.texts++
	w.Produce("documents", id, map[string]any{"id": id, "text": w.Docs[id].Text, "embeddings": map[string]any{"v": vector}})
}

// Judge logs a query with positives. In the oracle they replace earlier ones.
func (w *World) Judge(query string, positives ...string) {
	w.T.Helper()
	w.Logged[query] = &Query{Positives: map[string]bool{}}
	for _, p := range positives {
		w.Logged[query].Positives[p] = true
	}
	w.Produce("queries", query, map[string]any{
		"query": query, "query_id": query, "positives": positives, "embeddings": map[string]any{"v": w.Vector[query]},
	})
}

// Reconfigured calls stop, and starts another instance with a changed configuration.
func (w *World) Reconfigured(stop func(), change func(*config.Config)) (again func(), metrics *telemetry.Metrics) {
	w.T.Helper()
	stop()
	cfg := *w.Config
	cfg.Mining.Tiers = slices.Clone(cfg.Mining.Tiers)
	change(&cfg)
	w.Config = &cfg
	metrics = telemetry.NewMetrics(prometheus.NewRegistry())
	return w.Measured(metrics), metrics
}

// Await waits until done returns true, and returns how long that took. It fails the test if that takes longer
// than most.
func (w *World) Await(most time.Duration, what string, done func() bool) time.Duration {
	w.T.Helper()
	start := time.Now()
	for !done() {
		if time.Since(start) > most {
			w.T.Fatalf("%s: not after %v", what, most)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(start)
}

// Value returns the value of a counter or a gauge.
func Value(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	m := families[0].GetMetric()[0]
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}
