package catalog_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"hardneg/internal/catalog"
	"hardneg/internal/pipelinetest"
	"hardneg/stream"
)

// TestReset deletes a view, first a part of it and then the rest. Then an instance makes the view anew from
// its inputs.
func TestReset(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 7, 6)
	stop := w.Instance()
	w.Settle()
	w.Compare("before the reset")
	// Other programs have topics, groups and collections beside the view.
	foreign := []string{"documents-archive", "hardneg.refresh-old", "another"}
	for _, name := range foreign {
		if err := w.Kafka.EnsureTopics(t.Context(), stream.Topic{Name: name, Partitions: 1, ReplicationFactor: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for _, group := range []string{"hardneg-other", "hardneg-replay-0123456789abcdef"} {
		l, _, err := w.Kafka.OpenLedger(t.Context(), group, group, "queries", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Commit(t.Context(), map[int32]stream.Mark{0: {Offset: 1}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Index.Create(t.Context(), "archive", 4); err != nil {
		t.Fatal(err)
	}
	live, _, err := w.Index.Active(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Index.Create(t.Context(), live+"-1700000000000", 4); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, folder := range []string{"cache", "kafka"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}

	o := catalog.ResetOptions{Conn: w.Conn(), DataDir: dir}
	plan := func(o catalog.ResetOptions) *catalog.ResetPlan {
		t.Helper()
		p, err := catalog.PlanReset(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	running := plan(o)
	if err := catalog.Reset(t.Context(), o, running); !errors.Is(err, catalog.ErrRunning) || len(running.Running) != 3 || !strings.Contains(err.Error(), "group hardneg-miner has members: 1") {
		t.Errorf("a reset of a view that runs: %v, %v", err, running.Running)
	}
	// In this plan the members are not listed: they joined after it was made.
	late := *running
	late.Running = nil
	if err := catalog.Reset(t.Context(), o, &late); !errors.Is(err, catalog.ErrRunning) {
		t.Errorf("a reset of a view that began to run: %v", err)
	}
	w.Compare("after the refused resets")
	stop()

	p := plan(o)
	want := &catalog.ResetPlan{
		Groups:  []string{"hardneg-indexer", "hardneg-intake", "hardneg-miner", "hardneg-replay-0123456789abcdef"},
		Aliases: []string{"documents", "queries"},
		Collections: []string{"documents-" + live, "documents-" + live + "-1700000000000",
			"queries-" + live, "queries-" + live + "-1700000000000"},
		Topics: []string{"hardneg.dead-letters", "hardneg.models", "hardneg.refresh", "triplets"}, Folders: []string{filepath.Join(dir, "cache")}, Running: []string{},
	}
	if !reflect.DeepEqual(p, want) {
		t.Fatalf("the plan is\n%+v, want\n%+v", p, want)
	}
	kept := o
	kept.KeepTriplets = true
	if p := plan(kept); slices.Contains(p.Topics, "triplets") || len(p.Topics) != 3 {
		t.Errorf("with KeepTriplets the plan has the topics %v", p.Topics)
	}

	// An interrupted reset has deleted a part.
	part := &catalog.ResetPlan{Groups: p.Groups[:1], Collections: p.Collections[:1]}
	if err := catalog.Reset(t.Context(), o, part); err != nil {
		t.Fatal(err)
	}
	rest := plan(o)
	if rest.Empty() || len(rest.Groups) != 3 || len(rest.Collections) != 3 {
		t.Errorf("after a part there are left %+v", rest)
	}
	if err := catalog.Reset(t.Context(), o, rest); err != nil {
		t.Fatal(err)
	}
	if err := catalog.Reset(t.Context(), o, want); err != nil {
		t.Errorf("what is gone already: %v", err)
	}
	if rest := plan(o); !rest.Empty() {
		t.Errorf("after a reset there are left %+v", rest)
	}
	topics, err := w.Kafka.Topics(t.Context())
	for _, name := range append(foreign, "documents", "queries") {
		if !slices.Contains(topics, name) {
			t.Errorf("topic %s is gone, there are %v: %v", name, topics, err)
		}
	}
	if groups, err := w.Kafka.Groups(t.Context()); !slices.Contains(groups, "hardneg-other") {
		t.Errorf("the group of another program is gone, there are %v: %v", groups, err)
	}
	if all, err := w.Index.Collections(t.Context()); len(all["archive"]) != 2 || len(all) != 1 {
		t.Errorf("collections %v are left: %v", all, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "kafka")); err != nil {
		t.Error(err)
	}

	if err := catalog.EnsureTopics(t.Context(), w.Kafka, w.Config, ""); err != nil { // Settle asks for the ends of the topics, so they must exist
		t.Fatal(err)
	}
	stop = w.Instance()
	defer func() { stop() }()
	w.Settle()
	w.Compare("made anew")
}
