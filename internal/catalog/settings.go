package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

	"hardneg/internal/config"
	"hardneg/stream"
)

// settings is the content of the models topic beside the models themselves.
type settings struct {
	generations map[string]*Generation // by id, those that are not erased
	rules       *Rules                 // the newest; nil: no miner has published any
	partitions  map[string]int         // of topics when the view began; nil: it has not begun
}

// readSettings reads them in one pass, since the topic also holds models and may be large. A topic that does not
// exist holds nothing.
func readSettings(ctx context.Context, kafka *stream.Client, topic string) (settings, error) {
	s := settings{generations: map[string]*Generation{}}
	err := kafka.ReadToEnd(ctx, topic, s.add)
	if errors.Is(err, stream.ErrUnknownTopic) {
		err = nil
	}
	return s, err
}

func (s *settings) add(r stream.Record) error {
	at := func(what string, err error) error {
		return fmt.Errorf("%s/%d at offset %d: %s: %w", r.Topic, r.Partition, r.Offset, what, err)
	}
	key := string(r.Key)
	id, isGeneration := strings.CutPrefix(key, generationKey)
	switch {
	case isGeneration:
		delete(s.generations, id)
		if r.Value == nil {
			return nil
		}
		g := &Generation{}
		if err := json.Unmarshal(r.Value, g); err != nil {
			return at("generation "+id, err)
		}
		if g.Schema != 1 {
			return fmt.Errorf("generation %s: schema %d, want 1: another version of hardneg wrote it", id, g.Schema)
		}
		s.generations[id] = g
	case key == rulesKey && r.Value != nil:
		rules := &Rules{}
		if err := json.Unmarshal(r.Value, rules); err != nil {
			return at("the rules of mining", err)
		}
		s.rules = rules
	case key == partitionsKey && s.partitions == nil: // instances that start together may each write it: the first counts
		return json.Unmarshal(r.Value, &s.partitions)
	}
	return nil
}

// partitionsOf returns how many partitions refresh and triplets must have for a generation, by topic. It is empty if the
// view has not begun.
func (s settings) partitionsOf(cfg *config.Config, live Live) map[string]int {
	names := NamesOf(cfg, live.Generation).Topics
	want := map[string]int{}
	maps.Copy(want, s.partitions)
	if live.Record != nil { // a rebuilt generation has a refresh topic of its own
		want[names.Refresh] = live.Record.Partitions
	}
	return want
}
