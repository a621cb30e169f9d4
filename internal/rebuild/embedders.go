package rebuild

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
)

// checkEmbedders logs which embedders replace which. It returns an error if the configuration names no
// embedders, so that the default ones would replace others: the user has probably forgotten --config.
func (b *rebuilder) checkEmbedders(ctx context.Context) error {
	m, err := b.models().Read(ctx, catalog.ModelOf(b.live.Generation))
	if err != nil || m == nil {
		return err
	}
	live, next := m.Info().Definitions(), b.Config.Embedders
	b.Log.Info().Strs("live", embedderNames(live)).Strs("embedders", embedderNames(next)).Str("model", b.Model).Msg("making another generation")
	unnamed := reflect.DeepEqual(next, config.Default().Embedders)
	if b.Model == "" && unnamed && !b.Default && strings.Join(embedderNames(live), ",") != strings.Join(embedderNames(next), ",") {
		return fmt.Errorf("the configuration names no embedders, so the default ones (%s) would take the place of %s: name them with --config or --set, or say --default-embedders",
			strings.Join(embedderNames(next), ", "), strings.Join(embedderNames(live), ", "))
	}
	return nil
}

// embedderNames returns the names of embedders.
func embedderNames(definitions []config.Embedder) []string {
	names := make([]string, len(definitions))
	for i, d := range definitions {
		names[i] = d.Name
	}
	return names
}

// stuckReason returns a text for the log that says why a stage may make no progress.
func (b *rebuilder) stuckReason(ctx context.Context) string {
	for _, stage := range catalog.Stages {
		if n, err := b.Kafka.Members(ctx, b.live.Names.Group(stage)); err == nil && n == 0 {
			return "no progress: no instance of the service runs its " + stage + ", and the new generation goes no further than the live one"
		}
	}
	return "no batch was committed for a while; the machine may be busy, or a stage waits for something that its log names"
}
