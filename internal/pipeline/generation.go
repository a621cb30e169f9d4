package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"hardneg/internal/config"
	"hardneg/stream"
)

// A generation is a fitted model with all that was made by it: a pair of collections, a refresh topic, three consumer
// groups. The first one of a view has the id of its model, and the names of the configuration. One that `rebuild` made
// has "<model id>-<Unix ms of its start>", and that in every name. The aliases in Qdrant say which one is live, and
// nothing else does.

// generationKey is the start of the key, in the models topic, of what is known of a generation that rebuild made.
const generationKey = "generation:"

// Phases of a generation. Whether it is promoted is not among them: the aliases say.
const (
	phaseStarting = "starting" // nothing is in its collections
	phaseSeeding  = "seeding"  // its collections are filled from those of the live one
	phaseBuilding = "building" // its stages run, up to where those of the live one are
	phaseLive     = "live"     // it is live, and all of its triplets are published
)

// generation is what is known of a generation that rebuild made.
type generation struct {
	Schema     int             `json:"schema"` // 1
	ID         string          `json:"id"`
	Model      string          `json:"model"`
	Phase      string          `json:"phase"`
	Previous   string          `json:"previous"`                 // the one that was live, and is replaced
	FromTopics bool            `json:"from_topics,omitempty"`    // not seeded: its stages read the topics from their start
	Documents  map[int32]int64 `json:"documents_from,omitempty"` // where its indexer begins: the seeds hold all that is before
	Queries    map[int32]int64 `json:"queries_from,omitempty"`   // the same of its intake
	Partitions int             `json:"refresh_partitions"`
	Keep       time.Duration   `json:"keep"`       // how long the previous one stays after this one is live
	StartedAt  time.Time       `json:"started_at"` // when filling began
	LiveAt     time.Time       `json:"live_at,omitzero"`
}

// modelOf is the id of the model of a generation.
func modelOf(generation string) string {
	id, _, _ := strings.Cut(generation, "-")
	return id
}

// forGeneration is the configuration with the names that belong to a generation.
func forGeneration(cfg *config.Config, generation string) *config.Config {
	if modelOf(generation) == generation {
		return cfg
	}
	named := *cfg
	named.Name += "-" + generation
	named.Topics.Refresh += "-" + generation
	return &named
}

// transactionalPrefix is that of a stage's transactional ids.
func transactionalPrefix(cfg *config.Config, stage string) string { return cfg.Name + "-" + stage }

// readGenerations reads the records of all that rebuild made and that are not dropped, by id.
func readGenerations(ctx context.Context, kafka *stream.Client, topic string) (map[string]*generation, error) {
	found := map[string]*generation{}
	err := kafka.ReadToEnd(ctx, topic, func(r stream.Record) error {
		id, ok := strings.CutPrefix(string(r.Key), generationKey)
		if !ok {
			return nil
		}
		delete(found, id)
		if r.Value == nil {
			return nil
		}
		g := &generation{}
		if err := json.Unmarshal(r.Value, g); err != nil {
			return fmt.Errorf("%s/%d at offset %d: generation %s: %w", r.Topic, r.Partition, r.Offset, id, err)
		}
		if g.Schema != 1 {
			return fmt.Errorf("generation %s: schema %d, want 1: another version of hardneg wrote it", id, g.Schema)
		}
		found[id] = g
		return nil
	})
	if errors.Is(err, stream.ErrUnknownTopic) {
		return found, nil
	}
	return found, err
}

// unfinished is the generation that is being built; nil: none is.
func unfinished(known map[string]*generation, live string) (under *generation) {
	for id, g := range known {
		if g.Phase == phaseLive || id == live {
			continue // live, or the one before the live one
		}
		if under == nil || g.StartedAt.Before(under.StartedAt) {
			under = g
		}
	}
	return under
}

func (g *generation) write(ctx context.Context, kafka *stream.Client, topic string) error {
	g.Schema = 1
	value, err := json.Marshal(g)
	if err != nil {
		return err
	}
	return kafka.Produce(ctx, []stream.Output{{Topic: topic, Key: []byte(generationKey + g.ID), Value: value}})
}

// fence ends what the stages of a generation still do: nothing of theirs commits after it.
func fence(ctx context.Context, kafka *stream.Client, cfg *config.Config) error {
	for _, stage := range []string{StageIndexer, StageIntake, StageMiner} {
		if err := kafka.Fence(ctx, transactionalPrefix(cfg, stage), inputTopic(cfg, stage)); err != nil {
			return err
		}
	}
	return nil
}

// erase removes all that belongs to a generation which is not live. Where it is interrupted, it can be called again; as
// long as something is left of a generation, so are its documents or its record.
func erase(ctx context.Context, o Options, id string) error {
	if live, _, err := o.Index.Active(ctx); err != nil {
		return err
	} else if live == id {
		return fmt.Errorf("generation %s is live and cannot be erased", id)
	}
	cfg := forGeneration(o.Config, id)
	for _, stage := range []string{StageIndexer, StageIntake, StageMiner} {
		if err := o.Kafka.DeleteGroup(ctx, Group(cfg, stage)); err != nil {
			return err
		}
	}
	if err := o.Kafka.DeleteTopics(ctx, cfg.Topics.Refresh); err != nil {
		return err
	}
	if err := o.Index.Drop(ctx, id); err != nil {
		return err
	}
	return o.Kafka.Produce(ctx, []stream.Output{{Topic: cfg.Topics.Models, Key: []byte(generationKey + id)}})
}
