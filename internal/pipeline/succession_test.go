package pipeline_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/pipeline"
	"hardneg/internal/pipelinetest"
	"hardneg/stream"
)

// TestLateStateHidesNoQuery publishes a new generation while a miner of the old one, fenced in the middle of
// a batch, still stores a state. The query of that state must go through refresh all the same, and so must a
// query that only the old generation knows.
func TestLateStateHidesNoQuery(t *testing.T) {
	t.Parallel()
	w := pipelinetest.New(t, 1)
	open := func(generation string) *index.Index {
		x, err := w.Index.Create(t.Context(), generation, 2)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	const token = 5
	write := func(x *index.Index, id string, published map[string]int) {
		state := index.State{QueryID: id, Text: "t", Vector: []float32{1, 0}, Token: token, Published: published}
		if err := x.WriteStates(t.Context(), []index.State{state}, token); err != nil {
			t.Error(err)
		}
	}
	old, next := open("0000000000000001"), open("0000000000000002")
	for id, published := range map[string]map[string]int{"both": {"d": 1}, "late": nil, "old": {"d": 2}, "old, nothing published": nil} {
		write(old, id, published)
		if !strings.HasPrefix(id, "old") {
			write(next, id, nil)
		}
	}
	if err := catalog.EnsureTopics(t.Context(), w.Kafka, w.Config, ""); err != nil {
		t.Fatal(err)
	}
	sent := func() (ids []string) {
		err := w.Kafka.ReadToEnd(t.Context(), w.Config.Topics.Refresh, func(r stream.Record) error {
			ids = append(ids, string(r.Key))
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		slices.Sort(ids)
		return ids
	}
	late := sync.OnceFunc(func() { write(old, "late", map[string]int{"d": 3}) })
	now := func() time.Time { // PublishAll calls it after the first scan, before it sends anything
		late()
		return time.Now()
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // it does not end by itself, because no miner runs
		_ = pipeline.PublishAll(ctx, w.Conn(), &catalog.Generation{ID: "0000000000000002", Previous: "0000000000000001"}, next, old, now)
	}()
	want := []string{"both", "late", "old"}
	w.Await(time.Minute, "all that there is to publish", func() bool { return len(sent()) >= len(want) })
	if got := sent(); !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}
