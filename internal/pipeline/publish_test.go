package pipeline_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"hardneg/internal/pipelinetest"
)

// TestPublishedShrinks checks that a state forgets a rank which was retracted in a committed transaction with
// the next change of its query, and not before.
func TestPublishedShrinks(t *testing.T) {
	w := pipelinetest.Loaded(t, 11, 1)
	w.Config.Kafka.SessionTimeout = 30 * time.Second // so that one owner keeps its token throughout
	stop := w.Instance()
	defer func() { stop() }()
	w.Settle()
	published := func(when string, want ...string) {
		t.Helper()
		w.Settle()
		w.Compare(when)
		live := w.Live()
		states, err := live.States(t.Context(), []string{"q0"})
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Sorted(maps.Keys(states["q0"].Published)); !slices.Equal(got, want) {
			t.Errorf("%s: the state knows of ranks of %v, want %v", when, got, want)
		}
	}
	first := slices.Sorted(maps.Keys(w.Logged["q0"].Positives))
	published("at first", first...)
	delete(w.Logged, "q0")
	w.Produce("queries", "q0", nil)
	published("forgotten", first...)
	time.Sleep(2 * time.Millisecond) // so that later records have a later timestamp
	w.Judge("q0", "d20")
	published("asked again", "d20")
	w.Judge("q0", "d20", "d21")
	published("another positive", "d20", "d21")
	stop()
	stop = w.Instance() // a new owner with another token must publish everything
	w.Judge("q0", "d20", "d21", "d22")
	published("under a new owner", "d20", "d21", "d22")
}
