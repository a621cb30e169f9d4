package pipeline_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/segmentio/kafka-go"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/pipeline"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// TestUntilReachable checks that errors which pass by themselves do not end a service that begins, and that
// others do. One that passes is an unstable offset: an instance that crashed has left its transaction open.
func TestUntilReachable(t *testing.T) {
	t.Parallel()
	o := pipeline.Options{
		Conn: catalog.Conn{Config: &config.Config{}, Log: zerolog.Nop()}, Metrics: telemetry.NewMetrics(prometheus.NewRegistry()), Health: telemetry.NewHealth(),
	}
	passing := []error{
		fmt.Errorf("fetch: %w", stream.ErrUnreachable), fmt.Errorf("query: %w", index.ErrUnavailable),
		fmt.Errorf("committed offsets: %w", kafka.UnstableOffsetCommit), fmt.Errorf("group: %w", kafka.NotCoordinatorForGroup),
	}
	tries := 0
	err := pipeline.UntilReachable(t.Context(), o, func() error {
		if tries++; tries <= len(passing) {
			return passing[tries-1]
		}
		return nil
	})
	if err != nil || tries != len(passing)+1 {
		t.Errorf("%v after %d tries", err, tries)
	}
	for _, lasting := range []error{errors.New("another model"), fmt.Errorf("topic: %w", kafka.TopicAuthorizationFailed)} {
		if err := pipeline.UntilReachable(t.Context(), o, func() error { return lasting }); !errors.Is(err, lasting) {
			t.Errorf("%v, want %v", err, lasting)
		}
	}
}
