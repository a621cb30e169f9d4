package stages_test

import (
	"bytes"
	"context"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/records"
	"hardneg/internal/stages"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// writes is an index that notes the documents that are written, and a broker without offsets. It is also a
// model: its vector of the second document is not a number, so the index refuses that document.
type writes struct {
	stages.IndexerIndex
	written []index.Document
}

func (w *writes) Documents(context.Context, []string, index.Fields) (map[string]index.Document, error) {
	return nil, nil
}
func (w *writes) Watching(context.Context, []string) ([]string, error)      { return nil, nil }
func (w *writes) Entering(context.Context, [][]float32) ([][]string, error) { return nil, nil }
func (w *writes) Offsets(context.Context, string) ([]stream.Offsets, error) { return nil, nil }
func (w *writes) WriteDocuments(_ context.Context, docs []index.Document, _ int32, _ int64) error {
	w.written = docs
	for _, d := range docs {
		if err := index.CheckDocument(d); err != nil {
			return err
		}
	}
	return nil
}

func (w *writes) Vectors(_ context.Context, _ embed.Kind, items []embed.Item) ([][]float32, []error, error) {
	vectors := make([][]float32, len(items))
	for i := range vectors {
		vectors[i] = []float32{1, 0}
	}
	vectors[1][1] = float32(math.NaN())
	return vectors, make([]error, len(items)), nil
}

// unconnected returns the outputs of stages that have no servers.
func unconnected() stages.Outputs {
	return stages.Outputs{
		Names: catalog.NamesOf(config.Default(), ""), Publication: stages.Live{}, Log: zerolog.Nop(), Metrics: telemetry.NewMetrics(prometheus.NewRegistry()),
	}
}

// TestTheIndexRefusesADocument indexes a batch with a document that the index refuses. It must become a dead
// letter and a delete, and the other documents must be written.
func TestTheIndexRefusesADocument(t *testing.T) {
	w := &writes{}
	e, err := stages.NewEnv(unconnected(), "generation", catalog.RulesOf(config.Default()), w, w)
	if err != nil {
		t.Fatal(err)
	}
	var batch []stream.Record
	for i := range 3 {
		batch = append(batch, stream.Record{Topic: "documents", Offset: int64(i), Key: []byte(strconv.Itoa(i)), Value: []byte(`{"text":"t"}`)})
	}
	outputs, err := stages.NewIndexer(e, w, 0).Process(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	if len(outputs) != 1 || outputs[0].Topic != e.Names.Topics.DeadLetters || string(outputs[0].Key) != "1" {
		t.Errorf("outputs %+v, want a dead letter", outputs)
	}
	for i, d := range w.written {
		if d.ID != strconv.Itoa(i) || d.Deleted != (i == 1) || d.Offset != int64(i) {
			t.Errorf("document %d was written as %+v", i, d)
		}
	}
	if len(w.written) != 3 {
		t.Errorf("%d documents were written", len(w.written))
	}
}

// remembers is a model that keeps the texts it was given.
type remembers struct {
	writes
	texts []string
}

func (m *remembers) Vectors(_ context.Context, _ embed.Kind, items []embed.Item) ([][]float32, []error, error) {
	vectors := make([][]float32, len(items))
	for i, item := range items {
		m.texts, vectors[i] = append(m.texts, item.Text), []float32{1, 0}
	}
	return vectors, make([]error, len(items)), nil
}

// TestIndexerEmbedsATitleAlone: a document without a text is embedded by its title, as many of the BEIR collections have it.
func TestIndexerEmbedsATitleAlone(t *testing.T) {
	m := &remembers{}
	e, err := stages.NewEnv(unconnected(), "generation", catalog.RulesOf(config.Default()), m, m)
	if err != nil {
		t.Fatal(err)
	}
	outputs, err := stages.NewIndexer(e, m, 0).Process(t.Context(), []stream.Record{
		{Topic: "documents", Offset: 0, Key: []byte("a"), Value: []byte(`{"title":"A title","text":""}`)},
		{Topic: "documents", Offset: 1, Key: []byte("b"), Value: []byte(records.ByteOrderMark + `{"title":"Another","text":null}`)},
	})
	if err != nil || len(outputs) != 0 {
		t.Fatalf("%d outputs, want no dead letter: %v", len(outputs), err)
	}
	if !slices.Equal(m.texts, []string{"A title", "Another"}) {
		t.Errorf("embedded %q", m.texts)
	}
	for i, d := range m.written {
		if d.Deleted || d.Text != "" || d.Hash != records.ContentHash(d.Title, "") || len(d.MinHash) == 0 {
			t.Errorf("document %d was written as %+v", i, d)
		}
	}
	if len(m.written) != 2 {
		t.Errorf("%d documents were written", len(m.written))
	}
}

// TestIntakeBounds checks that the evidence of any record within Kafka's default limit fits into the refresh
// topic, and that a larger record becomes a dead letter. It also checks which carried vectors the evidence
// keeps.
func TestIntakeBounds(t *testing.T) {
	cfg := config.Default()
	cfg.Embedders = []config.Embedder{{Name: "v"}, {Name: "w"}}
	s := stages.Intake{Outputs: unconnected(), Reader: stages.QueryReader{Weights: *catalog.RulesOf(cfg).Evidence, Carries: cfg.Embedders}}
	run := func(value string) stream.Output {
		t.Helper()
		outputs, err := s.Process(t.Context(), []stream.Record{{Topic: "queries", Key: []byte("k"), Value: []byte(value)}})
		if err != nil || len(outputs) != 1 {
			t.Fatalf("%d outputs, %v", len(outputs), err)
		}
		return outputs[0]
	}
	id := strings.Repeat("\u2028", 341)
	for name, value := range map[string]string{
		"vectors":      `{"query":"q","embeddings":{"v":[0` + strings.Repeat(",0", catalog.DefaultLimit/2-30) + `]}}`,
		"text":         `{"query":"a` + strings.Repeat("\u2028", catalog.DefaultLimit/3-10) + `b"}`,
		"short ids":    `{"query":"a` + strings.Repeat("\u2028", 300_000) + `b","positives":["a"` + pipelinetest.ManyIDs(9_999, "") + `]}`,
		"long ids":     `{"query":"q","positives":["a"` + pipelinetest.ManyIDs(1_000, id[:1017]) + `]}`,
		"half of each": `{"query":"q","embeddings":{"w":[0` + strings.Repeat(",0", catalog.DefaultLimit/4) + `]},"positives":["a"` + pipelinetest.ManyIDs(9_999, "012345678901234567890123456789") + `]}`,
	} {
		if len(value) > catalog.DefaultLimit {
			t.Fatalf("%s: a record of %d bytes", name, len(value))
		}
		out := run(value)
		if out.Topic != cfg.Topics.Refresh {
			t.Errorf("%s: goes to %s: %s", name, out.Topic, out.Headers[0].Value)
		}
		t.Logf("%s: %d bytes become %d", name, len(value), len(out.Value))
	}
	large := `{"query":"` + strings.Repeat("x", catalog.MaxRefresh) + `"}` // Kafka may take such a record, if it is compressed
	out := run(large)
	if out.Topic != cfg.Topics.DeadLetters || string(out.Value) != large || !strings.Contains(string(out.Headers[0].Value), "at most 4194304 are allowed") {
		t.Errorf("what becomes too large goes to %s: %.200s", out.Topic, out.Headers)
	}

	out = run(`{"query":"q","query_id":"q","embeddings":{"u":[1,2],"v":[3,4]}}`)
	r, err := records.ParseRefresh(out.Key, out.Value)
	if err != nil || len(r.Embeddings) != 1 || !slices.Equal(r.Embeddings["v"], []float32{3, 4}) {
		t.Errorf("carried vectors %v, %v: want those of embedder v", r.Embeddings, err)
	}
	out = run(`{"query":"q","query_id":"q","embeddings":{"u":[1,2]}}`)
	if bytes.Contains(out.Value, []byte("embeddings")) {
		t.Errorf("carried vectors of an unknown embedder: %s", out.Value)
	}
}
