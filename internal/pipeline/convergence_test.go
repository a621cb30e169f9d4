package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/config"
	"hardneg/internal/embedded/fault"
	embeddedkafka "hardneg/internal/embedded/kafka"
	embeddedqdrant "hardneg/internal/embedded/qdrant"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// The view must be what a batch job computes from the logs, whatever the instances did to each other meanwhile.
// Vectors are carried by the records, so that the world is small, dense and cheap; instances come, go and overlap.

const (
	worldDocuments  = 40
	worldQueries    = 8
	worldDimensions = 4
	worldNegatives  = 3
	worldMargin     = 0.05
)

type world struct {
	t      *testing.T
	rng    *rand.Rand
	cfg    *config.Config
	kafka  *stream.Client
	broker string // its address
	index  *index.Client
	log    zerolog.Logger
	texts  int
	docs   map[string]worldDocument
	logged map[string]*worldQuery
	vector map[string][]float32 // of query texts
}

type worldDocument struct {
	text   string
	vector []float32
}

type worldQuery struct{ positives map[string]bool }

func newWorld(t *testing.T, seed uint64) *world { return newFaultyWorld(t, seed, nil, nil) }

// newFaultyWorld is a world whose servers fail by plans.
func newFaultyWorld(t *testing.T, seed uint64, kafkaFaults, qdrantFaults *fault.Plan) *world {
	t.Helper()
	quietLog := zerolog.Nop()
	if os.Getenv("HARDNEG_TEST_LOG") != "" {
		quietLog = zerolog.New(zerolog.NewConsoleWriter()).Level(zerolog.DebugLevel)
	}
	kafkaServer, err := embeddedkafka.Start(embeddedkafka.Config{Address: "127.0.0.1:0", Dir: t.TempDir(), Log: zerolog.Nop(), Faults: kafkaFaults})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kafkaServer.Close() })
	qdrantServer, err := embeddedqdrant.Start(embeddedqdrant.Config{Address: "127.0.0.1:0", Dir: t.TempDir(), Log: zerolog.Nop(), Faults: qdrantFaults})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = qdrantServer.Close() })
	cfg := config.Default()
	cfg.Embedders = []config.Embedder{{Name: "v", Type: "carried", Weight: 1, Dimensions: worldDimensions}}
	cfg.Reduce.Method = "none"
	cfg.Topics.Partitions = 3
	cfg.Fit.Minimum, cfg.Fit.Wait = 1, 100*time.Millisecond
	margin := worldMargin
	cfg.Mining.Negatives = worldNegatives
	cfg.Mining.Tiers = []config.Tier{{Policy: "semantic", UpTo: 1}, {Policy: "positive-aware", UpTo: worldNegatives, RelativeMargin: &margin}}
	cfg.Kafka.MaxBatch = 20
	cfg.Sweep.Rate = 0 // which would mend what is missed
	cfg.Kafka.SessionTimeout = 6 * time.Second
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), cfg: cfg, log: quietLog, broker: kafkaServer.Addr(),
		docs: map[string]worldDocument{}, logged: map[string]*worldQuery{}, vector: map[string][]float32{},
	}
	if w.kafka, err = stream.New(stream.Config{Brokers: []string{kafkaServer.Addr()}, ClientID: "test", Log: quietLog}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.kafka.Close)
	w.index, err = index.Dial(t.Context(), index.Config{Address: qdrantServer.Addr(), ExactBelow: 1 << 30, Log: quietLog})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.index.Close() })
	if err := EnsureTopics(t.Context(), w.kafka, cfg); err != nil {
		t.Fatal(err)
	}
	return w
}

// live is the index of the live generation.
func (w *world) live() *index.Index {
	w.t.Helper()
	live, err := w.index.Live(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return live
}

// instance runs all stages until stop is called; stop waits.
func (w *world) instance() (stop func()) {
	return w.measured(telemetry.NewMetrics(prometheus.NewRegistry()))
}

func (w *world) measured(metrics *telemetry.Metrics) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Options{
			Config: w.cfg, Kafka: w.kafka, Index: w.index, Log: w.log,
			Metrics: metrics, Health: telemetry.NewHealth(),
		})
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("an instance ended with: %v", err)
		}
	}
}

func (w *world) random() []float32 {
	v := make([]float32, worldDimensions)
	var norm float64
	for i := range v {
		v[i] = float32(w.rng.NormFloat64())
		norm += float64(v[i]) * float64(v[i])
	}
	for i := range v {
		v[i] = float32(float64(v[i]) / math.Sqrt(norm))
	}
	return v
}

func (w *world) produce(topic, key string, value any) {
	w.t.Helper()
	out := stream.Output{Topic: topic, Partition: stream.ByKey, Key: []byte(key)}
	if value != nil {
		encoded, err := json.Marshal(value)
		if err != nil {
			w.t.Fatal(err)
		}
		out.Value = encoded
	}
	if err := w.kafka.Produce(w.t.Context(), []stream.Output{out}); err != nil {
		w.t.Fatal(err)
	}
}

// step is one random change of the inputs.
func (w *world) step() {
	doc := "d" + strconv.Itoa(w.rng.IntN(worldDocuments))
	query := "q" + strconv.Itoa(w.rng.IntN(worldQueries))
	switch x := w.rng.Float64(); {
	case x < 0.70:
		d := worldDocument{text: "text " + strconv.Itoa(w.texts), vector: w.random()}
		w.texts++
		if old, ok := w.docs[doc]; ok && w.rng.IntN(4) == 0 {
			d.text = old.text // the vector alone changes
		} else if others := slices.Sorted(maps.Keys(w.docs)); len(others) > 0 && w.rng.IntN(6) == 0 {
			d = w.docs[others[w.rng.IntN(len(others))]] // a copy of another document
		}
		w.docs[doc] = d
		w.produce("documents", doc, map[string]any{"id": doc, "text": d.text, "embeddings": map[string]any{"v": d.vector}})
	case x < 0.93:
		delete(w.docs, doc)
		w.produce("documents", doc, nil)
	case x < 0.99:
		if w.vector[query] == nil {
			w.vector[query] = w.random()
		}
		q := w.logged[query]
		if q == nil {
			q = &worldQuery{positives: map[string]bool{}}
			w.logged[query] = q
		}
		q.positives[doc] = true
		w.produce("queries", query, map[string]any{
			"query": query, "query_id": query, "positives": []string{doc}, "embeddings": map[string]any{"v": w.vector[query]},
		})
	default:
		delete(w.logged, query)
		w.produce("queries", query, nil)
		time.Sleep(2 * time.Millisecond) // what comes later in the log is younger by the clock too
	}
}

// want is the batch computation, written from the rules and nothing else.
func (w *world) want() map[string]string {
	cos := func(a, b []float32) float64 {
		var s float64
		for i := range a {
			s += float64(a[i]) * float64(b[i])
		}
		return float64(float32(s))
	}
	view := map[string]string{}
	for query, q := range w.logged {
		vector := w.vector[query]
		barred := func(id string, d worldDocument) bool {
			for p := range q.positives {
				if other, ok := w.docs[p]; p == id || ok && (other.text == d.text || cos(other.vector, d.vector) >= 0.98) {
					return true
				}
			}
			return false
		}
		var order []string
		for id, d := range w.docs {
			if !barred(id, d) {
				order = append(order, id)
			}
		}
		slices.SortFunc(order, func(a, b string) int {
			x, y := math.Round(cos(vector, w.docs[a].vector)*1e6), math.Round(cos(vector, w.docs[b].vector)*1e6)
			if x != y {
				return int(math.Copysign(1, y-x))
			}
			return strings.Compare(a, b)
		})
		for p := range q.positives {
			positive, ok := w.docs[p]
			if !ok {
				continue
			}
			qp := cos(vector, positive.vector)
			var list []string
			texts := map[string]bool{}
			take := func(upto int, in func(qd, pd float64) bool) {
				for _, id := range order {
					d := w.docs[id]
					if len(list) < upto && !texts[d.text] && in(cos(vector, d.vector), cos(positive.vector, d.vector)) {
						list, texts[d.text] = append(list, id), true
					}
				}
			}
			take(1, func(qd, pd float64) bool { return qd > qp && qd > pd })
			take(worldNegatives, func(qd, _ float64) bool { return qd <= qp-worldMargin*math.Abs(qp) })
			for i, id := range list {
				view[fmt.Sprintf(`["%s","%s",%d]`, query, p, i+1)] = id + " " + w.docs[id].text
			}
		}
	}
	return view
}

// got is the compacted view.
func (w *world) got() map[string]string {
	w.t.Helper()
	view := map[string]string{}
	err := w.kafka.ReadToEnd(w.t.Context(), w.cfg.Topics.Triplets, func(r stream.Record) error {
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
		w.t.Fatal(err)
	}
	return view
}

// settle waits until every stage has committed what there is to read.
func (w *world) settle() {
	w.t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for quiet := 0; quiet < 3; {
		lag := int64(0)
		for _, stage := range []string{StageIndexer, StageIntake, StageMiner} {
			ends, err := w.kafka.Offsets(w.t.Context(), inputTopic(w.cfg, stage))
			if err != nil {
				w.t.Fatal(err)
			}
			at, err := w.kafka.Committed(w.t.Context(), Group(w.cfg, stage), inputTopic(w.cfg, stage))
			if err != nil {
				w.t.Fatal(err)
			}
			for _, e := range ends {
				lag += e.HighWatermark - at[e.Partition]
			}
		}
		if quiet++; lag > 0 {
			quiet = 0
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("still %d records behind after three minutes", lag)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (w *world) compare(when string) {
	w.t.Helper()
	want, got := w.want(), w.got()
	if maps.Equal(want, got) {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if got[key] != want[key] {
			w.t.Errorf("%s: %s is %q, want %q", when, key, got[key], want[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[key]; !ok {
			w.t.Errorf("%s: %s is %q, want nothing", when, key, got[key])
		}
	}
}

// worldSeed is that of HARDNEG_TEST_SEED, or a new one, which is printed.
func worldSeed(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("HARDNEG_TEST_SEED"); s != "" {
		parsed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = parsed
	}
	t.Logf("HARDNEG_TEST_SEED=%d", seed)
	return seed
}

func TestViewConverges(t *testing.T) {
	seed := worldSeed(t)
	w := newWorld(t, seed)
	for range 40 {
		w.step()
	}
	stop := w.instance()
	w.settle()
	w.compare("after the first load")
	for round := 0; round < 6 || round < 30 && len(w.want()) < 5; round++ {
		var second func()
		if round%2 == 1 {
			second = w.instance()
		}
		for range 60 {
			w.step()
			if w.rng.IntN(20) == 0 {
				time.Sleep(time.Duration(w.rng.IntN(30)) * time.Millisecond)
			}
		}
		if second != nil {
			stop()
			stop = second
		}
		w.settle()
		w.compare(fmt.Sprintf("after round %d", round))
	}
	stop()
	if len(w.want()) < 5 {
		t.Fatal("the history ended nearly empty: nothing was tested")
	}
}
