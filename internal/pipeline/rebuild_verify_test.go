package pipeline

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hardneg/index"
)

// TestRebuildMissesADelete: a tombstone that was compacted away while a rebuild was held would leave its document in the new
// generation for ever.
func TestRebuildMissesADelete(t *testing.T) {
	t.Parallel()
	w := loadedWorld(t, 13, 6)
	stop := w.instance()
	defer stop()
	w.settle()
	held, err := w.rebuild(func(o *RebuildOptions) { o.Hold = true })
	if err != nil {
		t.Fatal(err)
	}
	w.produce("documents", "d7", nil)
	delete(w.docs, "d7")
	w.settle()
	committed, err := w.kafka.Committed(t.Context(), Group(w.cfg, StageIndexer), w.cfg.Topics.Documents)
	if err != nil {
		t.Fatal(err)
	}
	next := forGeneration(w.cfg, held.Generation)
	if err := w.kafka.CommitOffsets(t.Context(), Group(next, StageIndexer), w.cfg.Topics.Documents, committed); err != nil {
		t.Fatal(err)
	}
	if _, err := w.rebuild(nil); err == nil || !strings.Contains(err.Error(), "1 documents (d7) and 0 queries of the live one are missing or older") {
		t.Errorf("the rebuild: %v, want that it misses the delete of d7", err)
	}
}

// TestRebuildMissesEvidence: what has left the query log is missed, also where a younger record of its query is there.
func TestRebuildMissesEvidence(t *testing.T) {
	t.Parallel()
	w := loadedWorld(t, 14, 6)
	stop := w.instance()
	defer stop()
	w.settle()
	offsets, err := w.kafka.Offsets(t.Context(), w.cfg.Topics.Queries)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		w.judge("q"+strconv.Itoa(i), "d"+strconv.Itoa(i+20))
	}
	w.settle()
	for _, o := range offsets {
		if err := w.kafka.DeleteRecords(t.Context(), w.cfg.Topics.Queries, o.Partition, o.HighWatermark); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.rebuild(nil); err == nil || !strings.Contains(err.Error(), "0 documents and 6 queries") {
		t.Errorf("the rebuild: %v, want that it misses evidence of 6 queries", err)
	}
}

// TestRebuildForgets: what nobody had asked for long is in the log, and is not mined for a generation from the topics, be it
// asked for again since or not.
func TestRebuildForgets(t *testing.T) {
	t.Parallel()
	w := loadedWorld(t, 16, 6)
	stop := w.instance()
	defer stop()
	w.settle()
	live := w.live()
	known, _, err := live.Known(t.Context(), "", 100, "")
	if err != nil || len(known) != 6 {
		t.Fatal(err, known)
	}
	// As the sweep has q0 forgotten, which is asked for again.
	seen := known[slices.IndexFunc(known, func(k index.Known) bool { return k.QueryID == "q0" })].Newest.Timestamp
	w.produce(w.cfg.Topics.Refresh, "q0", json.RawMessage(forgetUpTo("q0", seen).Encode()))
	w.settle()
	w.judge("q0", "d30")
	w.settle()
	w.compare("after q0 was forgotten and asked for again")
	for _, retention := range []time.Duration{time.Hour, time.Millisecond} {
		w.cfg.Queries.Retention = retention
		held, err := w.rebuild(func(o *RebuildOptions) { o.Hold = true })
		if err != nil {
			t.Fatal(err)
		}
		next, err := w.index.Existing(t.Context(), held.Generation)
		if err != nil {
			t.Fatal(err)
		}
		if known, _, err = next.Known(t.Context(), "", 100, ""); err != nil {
			t.Fatal(err)
		}
		if want := map[time.Duration]int{time.Hour: 6}[retention]; len(known) != want {
			t.Errorf("the new generation has %d queries where they are kept for %v, want %d", len(known), retention, want)
		}
		if retention < time.Hour {
			continue
		}
		states, err := next.States(t.Context(), []string{"q0"})
		if err != nil {
			t.Fatal(err)
		}
		var evidence []string
		for _, p := range states["q0"].Positives {
			evidence = append(evidence, p.Document)
		}
		if !slices.Equal(evidence, []string{"d30"}) {
			t.Errorf("in the new generation q0 has evidence %v, want d30 alone", evidence)
		}
	}
}
