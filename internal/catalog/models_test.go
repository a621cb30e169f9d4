package catalog

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/model"
	"hardneg/internal/testenv"
	"hardneg/stream"
)

// someEmbedders are fitted in no time, and yet make a model of several chunks.
var someEmbedders = []config.Embedder{{Name: "words", Type: embed.TypeLexicalWord, Weight: 1, Dimensions: 64}}

// someModel returns a model of made-up passages, another one for each seed.
func someModel(t *testing.T, seed uint64) *model.Model {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	sample := make([]embed.Item, 60)
	for i := range sample {
		for range 12 {
			sample[i].Text += fmt.Sprintf(" w%d", random.IntN(50))
		}
	}
	m, err := model.Fit(t.Context(), nil, someEmbedders, config.Reduce{Method: "pca", Variance: 0.95, MaxDimensions: 8, Normalize: true, Seed: 1}, 10, sample)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// modelsTopic returns an empty models topic, and the log of its reader.
func modelsTopic(t *testing.T) (Models, *bytes.Buffer) {
	t.Helper()
	client, _ := testenv.Kafka(t, zerolog.Nop(), nil)
	cfg := config.Default()
	if err := EnsureTopics(t.Context(), client, cfg, ""); err != nil {
		t.Fatal(err)
	}
	log := &bytes.Buffer{}
	return Models{Kafka: client, Topic: cfg.Topics.Models, Log: zerolog.New(log)}, log
}

// write writes records of a model as a publisher would: chunks by their number, the manifest, or what a piece
// says in words.
func (t Models) write(tt *testing.T, m *model.Model, pieces ...any) {
	tt.Helper()
	manifest, chunks, err := m.Encode()
	if err != nil {
		tt.Fatal(err)
	}
	for _, piece := range pieces {
		out := stream.Output{Topic: t.Topic}
		switch p := piece.(type) {
		case int:
			out.Key, out.Value = []byte(fmt.Sprintf("%s/%06d", m.ID(), p)), chunks[p]
		case string: // "manifest", "damage 1", "delete 1", "delete manifest"
			var number int
			switch {
			case p == "manifest":
				out.Key, out.Value = []byte(m.ID()+"/manifest"), manifest
			case p == "delete manifest":
				out.Key = []byte(m.ID() + "/manifest")
			case strings.HasPrefix(p, "damage "):
				fmt.Sscanf(p, "damage %d", &number)
				out.Key, out.Value = []byte(fmt.Sprintf("%s/%06d", m.ID(), number)), slices.Clone(chunks[number])
				out.Value[len(out.Value)/2] ^= 1
			default:
				fmt.Sscanf(p, "delete %d", &number)
				out.Key = []byte(fmt.Sprintf("%s/%06d", m.ID(), number))
			}
		}
		if err := t.Kafka.Produce(tt.Context(), []stream.Output{out}); err != nil {
			tt.Fatal(err)
		}
	}
}

// TestWhichModelIsFirst writes histories of the topic, and checks which model a reader takes.
func TestWhichModelIsFirst(t *testing.T) {
	a, b := someModel(t, 1), someModel(t, 2)
	if n := a.Info().Chunks; n != 3 {
		t.Fatalf("%d chunks, want 3", n)
	}
	type step struct {
		m      *model.Model
		pieces []any
	}
	whole := []any{0, 1, 2, "manifest"}
	for _, test := range []struct {
		name   string
		steps  []step
		want   *model.Model
		logged string // why a model was passed over
	}{
		{"nothing", nil, nil, ""},
		{"one", []step{{a, whole}}, a, ""},
		{"two", []step{{b, whole}, {a, whole}}, b, ""},
		{"the manifest decides, not the chunks", []step{{a, []any{0, 1, 2}}, {b, whole}, {a, []any{"manifest"}}}, b, ""},
		{"interleaved", []step{{a, []any{0}}, {b, []any{0, 1}}, {a, []any{1, 2}}, {b, []any{2, "manifest"}}, {a, []any{"manifest"}}}, b, ""},
		{"torn before the manifest", []step{{a, []any{0, 1, 2}}, {b, whole}}, b, ""},
		{"a chunk is missing", []step{{a, []any{0, 2, "manifest"}}, {b, whole}}, b, "2 chunks, want 3"},
		{"a chunk is damaged", []step{{a, []any{0, "damage 1", 2, "manifest"}}, {b, whole}}, b, "SHA-256"},
		{"damaged, with nothing else", []step{{a, []any{0, "damage 1", 2, "manifest"}}}, nil, "SHA-256"},
		{"damaged, and published again", []step{{a, []any{0, "damage 1", 2, "manifest", 0, 1, 2, "manifest"}}}, a, ""},
		{"damaged, and published again after another", []step{{a, []any{0, "damage 1", 2, "manifest"}}, {b, whole}, {a, whole}}, b, ""},
		{"published twice, the second time in part", []step{{a, []any{0, 1, 2, "manifest", 0, 1}}, {b, whole}}, a, ""},
		{"the same after compaction", []step{{a, []any{2, "manifest", 0, 1}}, {b, whole}}, a, ""},
		{"published twice after another", []step{{a, whole}, {b, whole}, {a, whole}}, a, ""},
		{"deleted", []step{{a, whole}, {b, whole}, {a, []any{"delete manifest", "delete 0", "delete 1", "delete 2"}}}, b, ""},
		{"a chunk deleted", []step{{a, whole}, {b, whole}, {a, []any{"delete 1"}}}, b, "chunk 000001 was deleted"},
		{"deleted, and published again", []step{{a, whole}, {b, whole}, {a, []any{"delete manifest", "delete 1"}}, {a, whole}}, b, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			models, log := modelsTopic(t)
			for _, s := range test.steps {
				models.write(t, s.m, s.pieces...)
			}
			got, err := models.Read(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			if (got == nil) != (test.want == nil) || got != nil && got.ID() != test.want.ID() {
				t.Errorf("another model than wanted, or none: %v", got)
			}
			if said := log.String(); test.logged == "" && said != "" || !strings.Contains(said, test.logged) {
				t.Errorf("the log says %q, want %q", said, test.logged)
			}
			if test.want == nil {
				return
			}
			if got, err := models.Read(t.Context(), test.want.ID()); err != nil || got == nil || got.ID() != test.want.ID() {
				t.Errorf("by its id: %v, %v", got, err)
			}
		})
	}
}

// TestManyPublish lets several instances publish at the same time. Most have a model of their own, some the
// same one. All must go on with the same model, whatever the order of their records.
func TestManyPublish(t *testing.T) {
	models, log := modelsTopic(t)
	own := make([]*model.Model, 5)
	for i := range own {
		own[i] = someModel(t, uint64(i%4))
	}
	taken := make([]string, len(own))
	var instances sync.WaitGroup
	for i, m := range own {
		instances.Go(func() {
			quiet := models
			quiet.Log = zerolog.Nop()
			if _, err := quiet.Publish(t.Context(), m); err != nil {
				t.Error(err)
				return
			}
			first, err := quiet.Read(t.Context(), "")
			if err != nil || first == nil {
				t.Errorf("instance %d: %v, %v", i, first, err)
				return
			}
			taken[i] = first.ID()
		})
	}
	instances.Wait()
	first, err := models.Read(t.Context(), "")
	if err != nil || first == nil {
		t.Fatal(first, err)
	}
	for i, id := range taken {
		if id != first.ID() {
			t.Errorf("instance %d took %s, later readers take %s", i, id, first.ID())
		}
		if back, err := models.Read(t.Context(), own[i].ID()); err != nil || back == nil || back.ID() != own[i].ID() {
			t.Errorf("model %d cannot be read back: %v", i, err)
		}
	}
	if log.Len() > 0 {
		t.Errorf("the log says %s", log)
	}
}

// TestPublishOnce publishes a model several times: an incomplete model is written again, a complete one is
// not.
func TestPublishOnce(t *testing.T) {
	models, _ := modelsTopic(t)
	count := func() (n int) {
		err := models.Kafka.ReadToEnd(t.Context(), models.Topic, func(stream.Record) error { n++; return nil })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	a := someModel(t, 1)
	models.write(t, a, 0, 1)
	for i, want := range []struct {
		records int
		written bool
	}{{6, true}, {6, false}, {6, false}} {
		written, err := models.Publish(t.Context(), a)
		if err != nil || written != want.written || count() != want.records {
			t.Errorf("time %d: written %v, %d records, %v, want %+v", i, written, count(), err, want)
		}
	}
}

// TestListModels lists models in every state, with every reason why a model cannot be used.
func TestListModels(t *testing.T) {
	models, _ := modelsTopic(t)
	models.Log = zerolog.Nop()
	qdrant := testenv.Qdrant(t, zerolog.Nop(), nil)
	if listed, err := models.List(t.Context(), qdrant); err != nil || len(listed) != 0 {
		t.Fatalf("%+v, %v", listed, err)
	}
	live, held, unused, damaged, torn := someModel(t, 1), someModel(t, 2), someModel(t, 3), someModel(t, 4), someModel(t, 5)
	models.write(t, torn, 0, 2)
	models.write(t, damaged, 0, "damage 1", 2, "manifest")
	for _, m := range []*model.Model{unused, live, held} {
		if _, err := models.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	const gone = "00112233445566aa"
	for _, generation := range []string{live.ID() + "-17", live.ID(), held.ID() + "-18", gone, "somebody-elses", "cafe-elses"} {
		if _, err := qdrant.Open(t.Context(), generation, 8); err != nil { // the first generation becomes the live one
			t.Fatal(err)
		}
	}
	listed, err := models.List(t.Context(), qdrant)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		damaged.ID() + " broken [] false model " + damaged.ID() + ": the SHA-256 of the chunks",
		unused.ID() + " unused [] true ",
		live.ID() + " live [" + live.ID() + " " + live.ID() + "-17] false ",
		held.ID() + " held [" + held.ID() + "-18] false ",
		torn.ID() + " broken [] false there is no manifest: it is being published, or its publisher was stopped (2 chunks",
		gone + " held [" + gone + "] false topic hardneg.models does not have it",
	}
	if len(listed) != len(want) {
		t.Fatalf("%d models: %+v", len(listed), listed)
	}
	for i, m := range listed {
		if got := fmt.Sprintf("%s %s %v %v %s", m.ID, m.State, m.Generations, m.First, m.Problem); !strings.HasPrefix(got, want[i]) {
			t.Errorf("model %d is\n%s, want\n%s", i, got, want[i])
		}
		if (m.Manifest == nil) != (m.Problem != "") || m.Manifest != nil && m.Manifest.ID != m.ID {
			t.Errorf("model %d: manifest %+v", i, m.Manifest)
		}
	}
}
