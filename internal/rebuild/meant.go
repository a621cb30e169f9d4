package rebuild

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
)

// meant logs which embedders replace which. It refuses to replace others by the default ones if the configuration names none: the user
// has probably forgotten --config.
func (s *site) meant(ctx context.Context) error {
	m, err := s.models().Read(ctx, catalog.ModelOf(s.live.Generation))
	if err != nil || m == nil {
		return err
	}
	live, next := m.Info().Definitions(), s.Config.Embedders
	s.Log.Info().Strs("live", embedderNames(live)).Strs("embedders", embedderNames(next)).Str("model", s.Model).Msg("making another generation")
	unnamed := reflect.DeepEqual(next, config.Default().Embedders)
	if s.Model == "" && unnamed && !s.Default && strings.Join(embedderNames(live), ",") != strings.Join(embedderNames(next), ",") {
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

// stuck says why a stage may make no progress.
func (s *site) stuck(ctx context.Context) string {
	for _, stage := range catalog.Stages {
		if n, err := s.Kafka.Members(ctx, s.live.Names.Group(stage)); err == nil && n == 0 {
			return "no progress: no instance of the service runs its " + stage + ", and the new generation goes no further than the live one"
		}
	}
	return "no batch was committed for a while; the machine may be busy, or a stage waits for something that its log names"
}
