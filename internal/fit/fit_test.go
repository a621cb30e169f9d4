package fit_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/fit"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/records"
	"hardneg/mining"
	"hardneg/stream"
)

// TestSampleTopic samples a topic of several partitions. The sample must have the documents that the indexer
// would have.
func TestSampleTopic(t *testing.T) {
	w := pipelinetest.New(t, 1)
	topic := w.Config.Topics.Documents
	produce := func(key string, value any) {
		out := stream.Output{Topic: topic, Partition: stream.ByKey, Key: []byte(key)}
		switch v := value.(type) {
		case string:
			out.Value = []byte(v)
		case map[string]any:
			out.Value, _ = json.Marshal(v)
		}
		if err := w.Kafka.Produce(t.Context(), []stream.Output{out}); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]bool{}
	for i := range 40 {
		id := fmt.Sprintf("d%d", i)
		produce(id, map[string]any{"text": "old"})
		switch i % 4 {
		case 0:
			produce(id, map[string]any{"title": "title", "text": "new " + id, "embeddings": map[string]any{"own": []float32{1, float32(i)}}})
			want["title\nnew "+id] = true
		case 1:
			produce(id, nil)
		case 2:
			produce(id, `{"text":5}`) // counts as a delete
		default:
			produce(id, map[string]any{"text": "other " + id})
			want["other "+id] = true
		}
	}
	read := 0
	items, err := fit.SampleTopic(t.Context(), w.Kafka, topic, 1000, 1, func() { read++ })
	if err != nil || read != 80 || len(items) != len(want) {
		t.Fatalf("%d records, %d documents, %v, want %d", read, len(items), err, len(want))
	}
	for _, item := range items {
		if !want[item.Text] || strings.HasPrefix(item.Text, "title") != (len(item.Carried["own"]) == 2) {
			t.Errorf("%+v", item)
		}
	}
	some, err := fit.SampleTopic(t.Context(), w.Kafka, topic, 7, 1, func() {})
	if err != nil || len(some) != 7 {
		t.Errorf("%d documents, %v", len(some), err)
	}
	same, err := fit.SampleTopic(t.Context(), w.Kafka, topic, 7, 1, func() {})
	if err != nil || !slices.EqualFunc(some, same, func(a, b embed.Item) bool { return a.Text == b.Text }) {
		t.Errorf("another sample by the same seed: %v", err)
	}
}

// TestFitOnTheIndex checks that the same documents and seed give the same model, from the topic and from the
// live collection.
func TestFitOnTheIndex(t *testing.T) {
	w := pipelinetest.New(t, 1)
	o := fit.Options{Conn: w.Conn(), FromIndex: true, Sample: 50, Seed: 3, Progress: func(string, int) {}}
	if _, err := fit.Fit(t.Context(), o); err == nil || !strings.Contains(err.Error(), "v is of type carried, and the index does not hold the vectors that records carried") {
		t.Errorf("carried vectors: %v", err)
	}
	w.Config.Embedders, w.Config.Reduce, w.Config.Fit.Minimum = pipelinetest.Lexical, config.Reduce{Method: "pca", Variance: 0.95, MaxDimensions: 8, Normalize: true, Seed: 1}, 10
	if _, err := fit.Fit(t.Context(), o); err == nil || !strings.Contains(err.Error(), "there is no live collection yet") {
		t.Errorf("nothing live: %v", err)
	}
	o.FromIndex = false
	if _, err := fit.Fit(t.Context(), o); err == nil || !strings.Contains(err.Error(), "topic documents has no documents to fit on: load some first") {
		t.Errorf("no documents: %v", err)
	}
	x, err := w.Index.Open(t.Context(), "g", 2)
	if err != nil {
		t.Fatal(err)
	}
	var docs []index.Document
	for i := range 120 {
		text := fmt.Sprintf("some words of document %d and %d %d %d", i, i*i, i%7, i%5)
		d := index.Document{Document: mining.Document{ID: fmt.Sprint(i), Hash: records.ContentHash("", text), Vector: []float32{1, 0}}, Text: text, Offset: int64(i)}
		if i%10 == 0 {
			d = index.Document{Document: mining.Document{ID: fmt.Sprint(i)}, Offset: int64(i), Deleted: true}
			w.Produce("documents", d.ID, nil)
		} else {
			w.Produce("documents", d.ID, map[string]any{"text": text})
		}
		docs = append(docs, d)
	}
	if err := x.WriteDocuments(t.Context(), docs, 0, 1000); err != nil {
		t.Fatal(err)
	}
	o.DryRun = true
	ofTopic, err := fit.Fit(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	o.FromIndex = true
	ofIndex, err := fit.Fit(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if ofTopic.Manifest.ID != ofIndex.Manifest.ID || ofTopic.Manifest.Samples != 50 || ofTopic.Read != 120 || ofIndex.Read != 120 || ofIndex.Source != "generation g" {
		t.Errorf("of the topic %+v\nof the index %+v", ofTopic, ofIndex)
	}
	if ofIndex.Published || ofIndex.First != "" {
		t.Errorf("a dry run published: %+v", ofIndex)
	}
	o.Seed = 4
	if other, err := fit.Fit(t.Context(), o); err != nil || other.Manifest.ID == ofIndex.Manifest.ID {
		t.Errorf("another seed gives the same model: %v", err)
	}
}

// TestFitDecides checks that a view begins with a model that was fitted before.
func TestFitDecides(t *testing.T) {
	w := pipelinetest.New(t, 1)
	for i := range 5 {
		w.Produce("documents", fmt.Sprint(i), map[string]any{"text": "t", "embeddings": map[string]any{"v": w.Random()}})
	}
	o := fit.Options{Conn: w.Conn(), Sample: 5, Progress: func(string, int) {}}
	first, err := fit.Fit(t.Context(), o)
	if err != nil || !first.Published || first.First != first.Manifest.ID {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := fit.Fit(t.Context(), o)
	if err != nil || again.Published || again.Manifest.ID != first.Manifest.ID {
		t.Errorf("the same once more: %+v, %v", again, err)
	}
	other := *w.Config
	other.Embedders = []config.Embedder{{Name: "v", Type: "carried", Weight: 2, Dimensions: pipelinetest.Dimensions}}
	o.Config = &other
	second, err := fit.Fit(t.Context(), o)
	if err != nil || !second.Published || second.Manifest.ID == first.Manifest.ID || second.First != first.Manifest.ID {
		t.Errorf("a second model: %+v, %v", second, err)
	}
	stop := w.Instance()
	defer stop()
	w.Settle()
	generation, ok, err := w.Index.Active(t.Context())
	if err != nil || !ok || catalog.ModelOf(generation) != first.Manifest.ID {
		t.Errorf("live is %s, want %s (%v)", generation, first.Manifest.ID, err)
	}
}
