package rebuild

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/stages"
)

// TestRebuildMissesADelete lets a tombstone disappear, as by compaction, while a rebuild is held. Its
// document would stay in the new generation for ever, so the rebuild must not promote it.
func TestRebuildMissesADelete(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 13, 6)
	stop := w.Instance()
	defer stop()
	w.Settle()
	held, err := run(w, func(o *Options) { o.Hold = true })
	if err != nil {
		t.Fatal(err)
	}
	w.Produce("documents", "d7", nil)
	delete(w.Docs, "d7")
	w.Settle()
	committed, err := w.Kafka.Committed(t.Context(), catalog.NamesOf(w.Config, "").Group(catalog.StageIndexer), w.Config.Topics.Documents)
	if err != nil {
		t.Fatal(err)
	}
	next := catalog.NamesOf(w.Config, held.Generation)
	if err := w.Kafka.CommitOffsets(t.Context(), next.Group(catalog.StageIndexer), w.Config.Topics.Documents, committed); err != nil {
		t.Fatal(err)
	}
	if _, err := run(w, nil); err == nil || !strings.Contains(err.Error(), "1 documents (d7) and 0 queries of the live one are missing or older") {
		t.Errorf("the rebuild: %v, want that it misses the delete of d7", err)
	}
}

// TestRebuildMissesEvidence deletes records from the query log, and rebuilds from the topics. The rebuild
// must notice the missing evidence, although the log still has a newer record of each query.
func TestRebuildMissesEvidence(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 14, 6)
	stop := w.Instance()
	defer stop()
	w.Settle()
	offsets, err := w.Kafka.Offsets(t.Context(), w.Config.Topics.Queries)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		w.Judge("q"+strconv.Itoa(i), "d"+strconv.Itoa(i+20))
	}
	w.Settle()
	for _, o := range offsets {
		if err := w.Kafka.DeleteRecords(t.Context(), w.Config.Topics.Queries, o.Partition, o.HighWatermark); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := run(w, nil); err == nil || !strings.Contains(err.Error(), "0 documents and 6 queries") {
		t.Errorf("the rebuild: %v, want that it misses evidence of 6 queries", err)
	}
}

// TestRebuildForgets rebuilds from the topics. Queries that nobody has asked for long are still in the log,
// but the new generation must forget them. A query that was forgotten and asked again must have only its new
// evidence.
func TestRebuildForgets(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 16, 6)
	stop := w.Instance()
	defer stop()
	w.Settle()
	live := w.Live()
	known, _, err := live.Known(t.Context(), "", 100, "")
	if err != nil || len(known) != 6 {
		t.Fatal(err, known)
	}
	// q0 is forgotten as the sweep does it, and then asked again.
	seen := known[slices.IndexFunc(known, func(k index.Known) bool { return k.QueryID == "q0" })].Newest.Timestamp
	w.Produce(w.Config.Topics.Refresh, "q0", json.RawMessage(stages.ForgetUpTo("q0", seen).Encode()))
	w.Settle()
	w.Judge("q0", "d30")
	w.Settle()
	w.Compare("after q0 was forgotten and asked for again")
	for _, retention := range []time.Duration{time.Hour, time.Millisecond} {
		w.Config.Queries.Retention = retention
		held, err := run(w, func(o *Options) { o.Hold = true })
		if err != nil {
			t.Fatal(err)
		}
		next, err := w.Index.Existing(t.Context(), held.Generation)
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
