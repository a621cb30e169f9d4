package pipeline

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"hardneg/internal/config"
)

// meant tells which embedders take the place of which. It refuses to exchange others for the default ones where the
// configuration names none: that is what a forgotten --config looks like.
func (r *rebuild) meant(ctx context.Context) error {
	m, err := r.live.models().Read(ctx, modelOf(r.live.live))
	if err != nil || m == nil {
		return err
	}
	live, next := m.Info().Definitions(), r.Config.Embedders
	r.Log.Info().Strs("live", embedderNames(live)).Strs("embedders", embedderNames(next)).Str("model", r.Model).Msg("making another generation")
	unnamed := reflect.DeepEqual(next, config.Default().Embedders)
	if r.Model == "" && unnamed && !r.Default && strings.Join(embedderNames(live), ",") != strings.Join(embedderNames(next), ",") {
		return fmt.Errorf("the configuration names no embedders, so the default ones (%s) would take the place of %s: name them with --config or --set, or say --default-embedders",
			strings.Join(embedderNames(next), ", "), strings.Join(embedderNames(live), ", "))
	}
	return nil
}

func embedderNames(definitions []config.Embedder) []string {
	names := make([]string, len(definitions))
	for i, d := range definitions {
		names[i] = d.Name
	}
	return names
}

// stuck says why there may be no progress.
func (r *rebuild) stuck(ctx context.Context) string {
	for _, stage := range []string{StageIndexer, StageIntake, StageMiner} {
		if n, err := r.Kafka.Members(ctx, Group(r.live.cfg, stage)); err == nil && n == 0 {
			return "no progress: no instance of the service runs its " + stage + ", and the new generation goes no further than the live one"
		}
	}
	return "no batch was committed for a while; the machine may be busy, or a stage waits for something that its log names"
}
