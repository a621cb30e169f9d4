package pipeline

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/records"
	"hardneg/mining"
	"hardneg/stream"
)

// TestSampleIsUniform: each document is as likely as any other to be in a sample, whenever it came and however often it
// was written. The bounds are five standard deviations of a hypergeometric count.
func TestSampleIsUniform(t *testing.T) {
	const documents, most, rounds = 100, 20, 2000
	start := rand.Uint64()
	t.Logf("seed %d", start)
	counts := map[string]int{}
	for round := range rounds {
		s := newSample(most, start+uint64(round))
		for i := range documents {
			for range 1 + i%3 {
				s.put(fmt.Sprint(i), embed.Item{})
			}
		}
		ids := s.ids()
		if len(ids) != most {
			t.Fatalf("%d documents, want %d", len(ids), most)
		}
		for _, id := range ids {
			counts[id]++
		}
	}
	p := float64(most) / documents
	for i := range documents {
		if n := float64(counts[fmt.Sprint(i)]); math.Abs(n-rounds*p) > 5*math.Sqrt(rounds*p*(1-p)) {
			t.Errorf("document %d is in %v of %d samples, want about %v", i, n, rounds, rounds*p)
		}
	}
}

// TestSampleOfHistories: after any history the sample has documents that are there, with their newest content, as many
// as are wanted where there are so many (unless most of those that were kept went), and does not depend on the order.
func TestSampleOfHistories(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		most, documents := 1+random.IntN(30), 1+random.IntN(200)
		s := newSample(most, seed)
		live := map[string]string{}
		deletes := 0
		for step := range random.IntN(800) {
			id := fmt.Sprint(random.IntN(documents))
			if random.IntN(20) == 0 {
				if _, ok := live[id]; ok {
					deletes++
				}
				delete(live, id)
				s.remove(id)
				continue
			}
			live[id] = fmt.Sprint("text ", step)
			s.put(id, embed.Item{Text: live[id]})
		}
		again := newSample(most, seed)
		for _, id := range slices.Backward(slices.Sorted(maps.Keys(live))) {
			again.put(id, embed.Item{Text: live[id]})
		}
		got, want := s.items(), again.items()
		if len(want) != min(most, len(live)) {
			t.Fatalf("%d of %d documents, want %d", len(want), len(live), most)
		}
		if !slices.IsSorted(s.ids()) || len(s.ids()) != len(got) {
			t.Fatalf("ids %v for %d items", s.ids(), len(got))
		}
		for i, id := range s.ids() {
			if text, ok := live[id]; !ok || got[i].Text != text {
				t.Fatalf("document %s is %q, want %q", id, got[i].Text, text)
			}
		}
		texts := map[string]bool{}
		for _, item := range want {
			texts[item.Text] = true
		}
		for _, item := range got {
			if !texts[item.Text] {
				t.Fatalf("%q is in the sample, but not in that of the same documents in another order", item.Text)
			}
		}
		if len(got) < len(want) && deletes <= most {
			t.Fatalf("%d documents of %d, want %d, after %d deletes", len(got), len(live), len(want), deletes)
		}
	}
}

// TestSampleAfterAPurge: where all that was kept is deleted, documents that come later get no better chance than those
// that were there and not kept: the sample is smaller, and still uniform.
func TestSampleAfterAPurge(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	put := func(s *sample, from, to int) {
		for i := from; i < to; i++ {
			s.put(fmt.Sprint(i), embed.Item{})
		}
	}
	s := newSample(5, seed)
	put(s, 0, 1000)
	kept := slices.Collect(maps.Keys(s.kept))
	for _, id := range kept {
		s.remove(id)
	}
	put(s, 1000, 1030)
	all := newSample(5000, seed) // which never cuts, so that it knows what is lowest
	put(all, 0, 1030)
	for _, id := range kept {
		all.remove(id)
	}
	all.cut(5)
	lowest := all.ids()
	got := s.ids()
	if len(got) > 5 {
		t.Errorf("%d documents", len(got))
	}
	for _, id := range got {
		if !slices.Contains(lowest, id) {
			t.Errorf("document %s is in the sample, where it is not one of the lowest %v", id, lowest)
		}
	}
}

// TestSampleTopic: of the topic as the indexer takes it, from all partitions.
func TestSampleTopic(t *testing.T) {
	models, _ := modelsTopic(t)
	topic := config.Default().Topics.Documents
	produce := func(key string, value any) {
		out := stream.Output{Topic: topic, Partition: stream.ByKey, Key: []byte(key)}
		switch v := value.(type) {
		case string:
			out.Value = []byte(v)
		case map[string]any:
			out.Value, _ = json.Marshal(v)
		}
		if err := models.Kafka.Produce(t.Context(), []stream.Output{out}); err != nil {
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
	items, err := sampleTopic(t.Context(), models.Kafka, topic, 1000, 1, func() { read++ })
	if err != nil || read != 80 || len(items) != len(want) {
		t.Fatalf("%d records, %d documents, %v, want %d", read, len(items), err, len(want))
	}
	for _, item := range items {
		if !want[item.Text] || strings.HasPrefix(item.Text, "title") != (len(item.Carried["own"]) == 2) {
			t.Errorf("%+v", item)
		}
	}
	some, err := sampleTopic(t.Context(), models.Kafka, topic, 7, 1, func() {})
	if err != nil || len(some) != 7 {
		t.Errorf("%d documents, %v", len(some), err)
	}
	same, err := sampleTopic(t.Context(), models.Kafka, topic, 7, 1, func() {})
	if err != nil || !slices.EqualFunc(some, same, func(a, b embed.Item) bool { return a.Text == b.Text }) {
		t.Errorf("another sample by the same seed: %v", err)
	}
}

// TestFitOnTheIndex: the same documents and seed give the same model, from the topic and from the live collection.
func TestFitOnTheIndex(t *testing.T) {
	w := newWorld(t, 1)
	o := FitOptions{Config: w.cfg, Kafka: w.kafka, Index: w.index, Sample: 50, Seed: 3, Log: zerolog.Nop(), Progress: func(string, int) {}}
	if _, err := Fit(t.Context(), o); err == nil || !strings.Contains(err.Error(), "v is of type carried, and the index does not hold the vectors that records carried") {
		t.Errorf("carried vectors: %v", err)
	}
	w.cfg.Embedders, w.cfg.Reduce, w.cfg.Fit.Minimum = someEmbedders, config.Reduce{Method: "pca", Variance: 0.95, MaxDimensions: 8, Normalize: true, Seed: 1}, 10
	if _, err := Fit(t.Context(), o); err == nil || !strings.Contains(err.Error(), "there is no live collection yet") {
		t.Errorf("nothing live: %v", err)
	}
	o.Index = nil
	if _, err := Fit(t.Context(), o); err == nil || !strings.Contains(err.Error(), "topic documents has no documents to fit on: load some first") {
		t.Errorf("no documents: %v", err)
	}
	x, err := w.index.Open(t.Context(), "g", 2)
	if err != nil {
		t.Fatal(err)
	}
	var docs []index.Document
	for i := range 120 {
		text := fmt.Sprintf("some words of document %d and %d %d %d", i, i*i, i%7, i%5)
		d := index.Document{Document: mining.Document{ID: fmt.Sprint(i), Hash: records.ContentHash("", text), Vector: []float32{1, 0}}, Text: text, Offset: int64(i)}
		if i%10 == 0 {
			d = index.Document{Document: mining.Document{ID: fmt.Sprint(i)}, Offset: int64(i), Deleted: true}
			w.produce("documents", d.ID, nil)
		} else {
			w.produce("documents", d.ID, map[string]any{"text": text})
		}
		docs = append(docs, d)
	}
	if err := x.WriteDocuments(t.Context(), docs, 0, 1000); err != nil {
		t.Fatal(err)
	}
	o.DryRun = true
	ofTopic, err := Fit(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	o.Index = w.index
	ofIndex, err := Fit(t.Context(), o)
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
	if other, err := Fit(t.Context(), o); err != nil || other.Manifest.ID == ofIndex.Manifest.ID {
		t.Errorf("another seed gives the same model: %v", err)
	}
}

// TestFitDecides: what was fitted before a view begins is what it begins with.
func TestFitDecides(t *testing.T) {
	w := newWorld(t, 1)
	for i := range 5 {
		w.produce("documents", fmt.Sprint(i), map[string]any{"text": "t", "embeddings": map[string]any{"v": w.random()}})
	}
	o := FitOptions{Config: w.cfg, Kafka: w.kafka, Sample: 5, Log: zerolog.Nop(), Progress: func(string, int) {}}
	first, err := Fit(t.Context(), o)
	if err != nil || !first.Published || first.First != first.Manifest.ID {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := Fit(t.Context(), o)
	if err != nil || again.Published || again.Manifest.ID != first.Manifest.ID {
		t.Errorf("the same once more: %+v, %v", again, err)
	}
	other := *w.cfg
	other.Embedders = []config.Embedder{{Name: "v", Type: "carried", Weight: 2, Dimensions: worldDimensions}}
	o.Config = &other
	second, err := Fit(t.Context(), o)
	if err != nil || !second.Published || second.Manifest.ID == first.Manifest.ID || second.First != first.Manifest.ID {
		t.Errorf("a second model: %+v, %v", second, err)
	}
	stop := w.instance()
	defer stop()
	w.settle()
	generation, ok, err := w.index.Active(t.Context())
	if err != nil || !ok || modelOf(generation) != first.Manifest.ID {
		t.Errorf("live is %s, want %s (%v)", generation, first.Manifest.ID, err)
	}
}
