package pipeline

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	embeddedkafka "hardneg/internal/embedded/kafka"

	"hardneg/index"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/records"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// noise is text of n bytes that does not get smaller.
func noise(n int) string {
	raw := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(raw)
	return base64.RawURLEncoding.EncodeToString(raw)[:n]
}

// TestNoRecordBlocks: records that are legal JSON and cannot be used are dead letters, byte for byte, and what comes
// after them is done.
func TestNoRecordBlocks(t *testing.T) {
	t.Parallel()
	w := loadedWorld(t, 11, 12)
	stop := w.instance()
	defer func() { stop() }()
	w.settle()

	var refused []string
	var bad []stream.Output
	document := func(id, value string) {
		delete(w.docs, id) // what it replaced is gone
		refused = append(refused, value)
		bad = append(bad, stream.Output{Topic: w.cfg.Topics.Documents, Partition: stream.ByKey, Key: []byte(id), Value: []byte(value)})
	}
	query := func(value string) {
		refused = append(refused, value)
		bad = append(bad, stream.Output{Topic: w.cfg.Topics.Queries, Partition: stream.ByKey, Key: []byte("any"), Value: []byte(value)})
	}
	vector := `"embeddings":{"v":[1` + strings.Repeat(",0", worldDimensions-1) + `]}`
	document("d0", `{"id":"d0","text":"x","metadata":{"x":1e400},`+vector+`}`)
	document("d1", `{"id":"d1","text":"x","metadata":`+strings.Repeat(`{"a":`, 5100)+"1"+strings.Repeat("}", 5100)+`,`+vector+`}`)
	document("new", `{"id":"new","text":7,"more":"`+noise(defaultLimit-300)+`"}`) // with its headers larger than Kafka's default limit
	query(`{"query":"q",` + vector + `,"positives":["a"` + manyIDs(94_539, "") + `]}`)
	query(`{"query":"q","query_id":"q","embeddings":{"v":[0` + strings.Repeat(",1", 520_000) + `]},"positives":["d2"]}`) // the miner's
	if err := w.kafka.Produce(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		w.step()
	}
	w.settle()
	w.compare("after records that cannot be used")

	var letters []string
	var ofMiner int
	err := w.kafka.ReadToEnd(t.Context(), w.cfg.Topics.DeadLetters, func(r stream.Record) error {
		value := string(r.Value)
		for _, h := range r.Headers {
			if h.Key == stream.HeaderStage && string(h.Value) == StageMiner {
				ofMiner++
				value = refused[len(refused)-1]
			}
		}
		letters = append(letters, value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(letters)
	slices.Sort(refused)
	if !slices.Equal(letters, refused) || ofMiner != 1 {
		t.Errorf("%d dead letters, %d of them the miner's, are not the %d records that cannot be used", len(letters), ofMiner, len(refused))
	}
}

// writes is an index that takes documents, and a model that gives the second of them no vector that an index holds.
type writes struct {
	store
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

func unconnected(cfg *config.Config) *Pipeline {
	return &Pipeline{cfg: cfg, carries: cfg.Embedders, log: zerolog.Nop(), metrics: telemetry.NewMetrics(prometheus.NewRegistry()), now: time.Now}
}

// TestTheIndexRefusesADocument: it is a dead letter and a delete, and the others of its batch are written.
func TestTheIndexRefusesADocument(t *testing.T) {
	w := &writes{}
	p := unconnected(config.Default())
	p.index, p.broker, p.model = w, w, w
	var batch []stream.Record
	for i := range 3 {
		batch = append(batch, stream.Record{Topic: "documents", Offset: int64(i), Key: []byte(strconv.Itoa(i)), Value: []byte(`{"text":"t"}`)})
	}
	outputs, err := indexer{p, 0}.Process(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	if len(outputs) != 1 || outputs[0].Topic != p.cfg.Topics.DeadLetters || string(outputs[0].Key) != "1" {
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

// TestIntakeBounds: whatever a record of Kafka's default limit holds, what comes of it fits into the refresh topic.
func TestIntakeBounds(t *testing.T) {
	cfg := config.Default()
	cfg.Embedders = []config.Embedder{{Name: "v"}, {Name: "w"}}
	p := unconnected(cfg)
	run := func(value string) stream.Output {
		t.Helper()
		outputs, err := intake{p}.Process(t.Context(), []stream.Record{{Topic: "queries", Key: []byte("k"), Value: []byte(value)}})
		if err != nil || len(outputs) != 1 {
			t.Fatalf("%d outputs, %v", len(outputs), err)
		}
		return outputs[0]
	}
	id := strings.Repeat("\u2028", 341)
	for name, value := range map[string]string{
		"vectors":      `{"query":"q","embeddings":{"v":[0` + strings.Repeat(",0", defaultLimit/2-30) + `]}}`,
		"text":         `{"query":"a` + strings.Repeat("\u2028", defaultLimit/3-10) + `b"}`,
		"short ids":    `{"query":"a` + strings.Repeat("\u2028", 300_000) + `b","positives":["a"` + manyIDs(9_999, "") + `]}`,
		"long ids":     `{"query":"q","positives":["a"` + manyIDs(1_000, id[:1017]) + `]}`,
		"half of each": `{"query":"q","embeddings":{"w":[0` + strings.Repeat(",0", defaultLimit/4) + `]},"positives":["a"` + manyIDs(9_999, "012345678901234567890123456789") + `]}`,
	} {
		if len(value) > defaultLimit {
			t.Fatalf("%s: a record of %d bytes", name, len(value))
		}
		out := run(value)
		if out.Topic != cfg.Topics.Refresh {
			t.Errorf("%s: goes to %s: %s", name, out.Topic, out.Headers[0].Value)
		}
		t.Logf("%s: %d bytes become %d", name, len(value), len(out.Value))
	}
	large := `{"query":"` + strings.Repeat("x", maxRefresh) + `"}` // which a batch may hold, compressed
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

// manyIDs is the rest of a JSON array of n ids, without its bracket.
func manyIDs(n int, suffix string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"%d%s"`, i, suffix)
	}
	return b.String()
}

// TestTopicsThatAreTooSmall: the service does not start on topics that could not take what must go into them.
func TestTopicsThatAreTooSmall(t *testing.T) {
	server, err := embeddedkafka.Start(embeddedkafka.Config{Address: "127.0.0.1:0", Dir: t.TempDir(), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	client, err := stream.New(stream.Config{Brokers: []string{server.Addr()}, ClientID: "test", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	queue := func(limit int) map[string]string {
		return map[string]string{"cleanup.policy": "delete", "retention.ms": "-1", "max.message.bytes": strconv.Itoa(limit)}
	}
	compacted := func(limit int) map[string]string {
		return map[string]string{"cleanup.policy": "compact", "max.message.bytes": strconv.Itoa(limit)}
	}
	for i, test := range []struct {
		name    string
		exists  func(*config.Config) []stream.Topic
		want    string // of the error; "": none
		letters int    // max.message.bytes of the dead letters afterwards
	}{
		{"none exist", func(*config.Config) []stream.Topic { return nil }, "", maxRefresh + 2*extra},
		{"small dead letters", func(c *config.Config) []stream.Topic {
			return []stream.Topic{{Name: c.Topics.DeadLetters, Config: queue(maxRefresh)}}
		}, "", maxRefresh + 2*extra},
		{"dead letters that suffice", func(c *config.Config) []stream.Topic {
			return []stream.Topic{{Name: c.Topics.DeadLetters, Config: queue(maxRefresh + 2*extra)}}
		}, "", maxRefresh + 2*extra},
		{"large documents", func(c *config.Config) []stream.Topic {
			return []stream.Topic{{Name: c.Topics.Documents, Config: compacted(10_000_000)}}
		}, "", 20_000_000 + extra},
		{"large queries, and dead letters by default", func(c *config.Config) []stream.Topic {
			return []stream.Topic{{Name: c.Topics.Queries, Config: queue(10_000_000)}, {Name: c.Topics.DeadLetters, Config: queue(maxRefresh + 2*extra)}}
		}, "", 10_000_000 + extra},
		{"small refresh", func(c *config.Config) []stream.Topic {
			return []stream.Topic{{Name: c.Topics.Refresh, Config: queue(defaultLimit)}}
		}, "", maxRefresh + 2*extra},
		{"small triplets", func(c *config.Config) []stream.Topic {
			return []stream.Topic{{Name: c.Topics.Triplets, Config: compacted(300_000)}}
		}, "triplets has max.message.bytes=300000, where at least 393216 is needed", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := config.Default()
			for _, name := range []*string{
				&cfg.Topics.Documents, &cfg.Topics.Queries, &cfg.Topics.Triplets, &cfg.Topics.Refresh, &cfg.Topics.Models, &cfg.Topics.DeadLetters,
			} {
				*name = fmt.Sprintf("%d-%s", i, *name)
			}
			if err := client.EnsureTopics(t.Context(), test.exists(cfg)...); err != nil {
				t.Fatal(err)
			}
			err := EnsureTopics(t.Context(), client, cfg)
			switch {
			case test.want == "" && err != nil, test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error %v, want %q", err, test.want)
			case err != nil && !strings.Contains(err.Error(), "kafka-configs --bootstrap-server "+server.Addr()+" --alter --entity-type topics --entity-name "):
				t.Errorf("error %v: without the command that mends it", err)
			}
			if test.letters == 0 {
				return
			}
			limits, err := client.MaxMessageBytes(t.Context(), cfg.Topics.DeadLetters)
			if err != nil || limits[cfg.Topics.DeadLetters] != test.letters {
				t.Errorf("the dead letters take %v, %v, want %d", limits, err, test.letters)
			}
		})
	}
}
