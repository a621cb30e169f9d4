package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"hardneg/stream"
)

// A generation is a fitted model and everything made with it: a pair of collections, a refresh topic, three
// consumer groups. The first generation of a view has the id of its model, and the names of the
// configuration. A generation that `rebuild` made has the id "<model id>-<Unix ms of its start>", which is
// part of every name of its own. Only the aliases in Qdrant say which generation is live.

// generationKey begins the key, in the models topic, of the record about a generation that rebuild made.
const generationKey = "generation:"

// Phases of a generation. No phase says that a generation was promoted: only the aliases in Qdrant say that.
const (
	PhaseStarting = "starting" // its collections are empty
	PhaseSeeding  = "seeding"  // rebuild copies documents and evidence from the live collections
	PhaseBuilding = "building" // its stages run, and follow the stages of the live generation
	PhaseLive     = "live"     // it is live, and all of its triplets are published
)

// Generation is the record in the models topic about a generation that rebuild made.
type Generation struct {
	Schema     int             `json:"schema"` // 1
	ID         string          `json:"id"`
	Model      string          `json:"model"`
	Phase      string          `json:"phase"`
	Previous   string          `json:"previous"`                 // id of the generation that it replaces
	FromTopics bool            `json:"from_topics,omitempty"`    // its stages read the topics from the start, instead of seeds
	Documents  map[int32]int64 `json:"documents_from,omitempty"` // offsets at which its indexer begins: the seeds hold everything before
	Queries    map[int32]int64 `json:"queries_from,omitempty"`   // the same for its intake
	Partitions int             `json:"refresh_partitions"`
	Keep       time.Duration   `json:"keep"`       // how long the previous one stays after this one is live
	StartedAt  time.Time       `json:"started_at"` // when filling began
	LiveAt     time.Time       `json:"live_at,omitzero"`
}

// ReadGenerations returns the records about generations in the models topic, by id. It leaves out erased
// generations. A topic that does not exist has no records.
func ReadGenerations(ctx context.Context, kafka *stream.Client, topic string) (map[string]*Generation, error) {
	s, err := readSettings(ctx, kafka, topic)
	return s.generations, err
}

// Unfinished returns the generation that a rebuild is building; nil if there is none. Of several it returns
// the oldest. live is the id of the live generation.
func Unfinished(known map[string]*Generation, live string) (building *Generation) {
	for id, g := range known {
		if g.Phase == PhaseLive || id == live {
			continue // it is live now, or was before
		}
		if building == nil || g.StartedAt.Before(building.StartedAt) {
			building = g
		}
	}
	return building
}

// Write puts the record into the models topic.
func (g *Generation) Write(ctx context.Context, kafka *stream.Client, topic string) error {
	g.Schema = 1
	value, err := json.Marshal(g)
	if err != nil {
		return err
	}
	return kafka.Produce(ctx, []stream.Output{{Topic: topic, Key: []byte(generationKey + g.ID), Value: value}})
}

// Withdraw takes the record of a generation out of the models topic.
func Withdraw(ctx context.Context, kafka *stream.Client, topic, generation string) error {
	return kafka.Produce(ctx, []stream.Output{{Topic: topic, Key: []byte(generationKey + generation)}})
}

// Fence ends the work of a generation's stages, wherever they run: none of their transactions commits
// afterwards.
func Fence(ctx context.Context, kafka *stream.Client, names Names) error {
	for _, stage := range Stages {
		if err := kafka.Fence(ctx, names.TransactionalPrefix(stage), names.Input(stage)); err != nil {
			return err
		}
	}
	return nil
}

// Erase removes everything that belongs to a generation, which must not be live. After an interruption it can
// be called again: it deletes the documents and the record last, so as long as anything is left, one of them
// is left to find it by.
func (c Conn) Erase(ctx context.Context, generation string) error {
	if live, _, err := c.Index.Active(ctx); err != nil {
		return err
	} else if live == generation {
		return fmt.Errorf("generation %s is live and cannot be erased", generation)
	}
	names := NamesOf(c.Config, generation)
	for _, stage := range Stages {
		if err := c.Kafka.DeleteGroup(ctx, names.Group(stage)); err != nil {
			return err
		}
	}
	if err := c.Kafka.DeleteTopics(ctx, names.Topics.Refresh); err != nil {
		return err
	}
	if err := c.Index.Drop(ctx, generation); err != nil {
		return err
	}
	return Withdraw(ctx, c.Kafka, names.Topics.Models, generation)
}
