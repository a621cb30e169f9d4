package pipeline_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"hardneg/internal/audit"
	"hardneg/internal/catalog"
	"hardneg/internal/pipeline"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/telemetry"
	"hardneg/internal/testenv"
)

// TestQdrantIsLost starts an instance on a Kafka whose Qdrant has lost everything. It must not begin with new, empty
// collections. The command in its message must bring the whole view back.
func TestQdrantIsLost(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 29, 12)
	stop := w.Instance()
	w.Settle()
	w.Compare("after the load")
	stop()

	w.Index = testenv.Qdrant(t, zerolog.Nop(), nil)
	err := pipeline.Run(t.Context(), w.Options(telemetry.NewMetrics(prometheus.NewRegistry())))
	if !errors.Is(err, pipeline.ErrIndexLost) || !strings.Contains(err.Error(), "run hardneg reset") {
		t.Fatalf("the instance ended with %v, want ErrIndexLost and the command that mends it", err)
	}
	if held, err := w.Index.Held(t.Context()); err != nil || len(held) > 0 {
		t.Errorf("collections of %v were made, %v", held, err)
	}

	o := catalog.ResetOptions{Conn: w.Conn()}
	plan, err := catalog.PlanReset(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := catalog.Reset(t.Context(), o, plan); err != nil {
		t.Fatal(err)
	}
	stop = w.Instance()
	defer func() { stop() }()
	w.Settle()
	w.Compare("after the reset")
}

// TestAuditOfALostIndex: where Qdrant knows no query, a repair must not retract the view.
func TestAuditOfALostIndex(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 30, 6)
	stop := w.Instance()
	w.Settle()
	stop()
	live := w.Live()
	dimensions := pipelinetest.Dimensions
	w.Index = testenv.Qdrant(t, zerolog.Nop(), nil)
	if _, err := w.Index.Open(t.Context(), live.Generation(), dimensions); err != nil {
		t.Fatal(err)
	}
	before := w.Got()
	report, err := audit.Run(t.Context(), audit.Options{Conn: w.Conn(), Repair: true})
	if err == nil || !strings.Contains(err.Error(), "knows no query, but topic triplets has triplets of 6 queries") {
		t.Errorf("%+v, %v", report, err)
	}
	if after := w.Got(); len(after) != len(before) || len(after) == 0 {
		t.Errorf("%d triplets, %d before", len(after), len(before))
	}
}
