package catalog

import (
	"context"
	"errors"

	"hardneg/index"
	"hardneg/stream"
)

// Status says where a view stands, according to Kafka and Qdrant.
type Status struct {
	Generation string            `json:"generation"` // the live generation; empty: there is none yet
	Model      string            `json:"model"`
	Publishing bool              `json:"publishing"` // the generation was promoted, and its triplets are being published
	Documents  uint64            `json:"documents"`
	Queries    uint64            `json:"queries"`
	Stages     []StageStatus     `json:"stages"`
	Others     []OtherGeneration `json:"others"` // generations beside the live one
}

// StageStatus describes the consumer group of a stage.
type StageStatus struct {
	Stage      string `json:"stage"`
	Group      string `json:"group"`
	Topic      string `json:"topic"`
	Partitions int    `json:"partitions"`
	Members    int    `json:"members"`
	Lag        int64  `json:"lag"` // offsets from the committed to the last stable one, over all partitions
}

// OtherGeneration is a generation beside the live one: rebuild is building it, or it was live before.
type OtherGeneration struct {
	Generation string        `json:"generation"`
	Phase      string        `json:"phase"` // starting, seeding, building, replaced
	Stages     []StageStatus `json:"stages,omitempty"`
}

// PhaseReplaced is the phase of the generation that was live before, until it is erased.
const PhaseReplaced = "replaced"

// Status asks Kafka and Qdrant where the view stands. It changes nothing, and works without a running
// service.
func (c Conn) Status(ctx context.Context) (*Status, error) {
	live, _, err := c.Index.Active(ctx)
	if err != nil {
		return nil, err
	}
	known, err := ReadGenerations(ctx, c.Kafka, c.Config.Topics.Models)
	if err != nil {
		return nil, err
	}
	s := &Status{Generation: live, Model: ModelOf(live), Others: []OtherGeneration{}}
	if s.Stages, err = c.stages(ctx, live); err != nil {
		return nil, err
	}
	if live != "" {
		x, err := c.Index.Existing(ctx, live)
		if err != nil {
			return nil, err
		}
		if s.Documents, s.Queries, err = x.Counts(ctx); err != nil {
			return nil, err
		}
	}
	if g := known[live]; g != nil {
		s.Publishing = g.Phase != PhaseLive
		if _, err := c.Index.Existing(ctx, g.Previous); err == nil {
			s.Others = append(s.Others, OtherGeneration{Generation: g.Previous, Phase: PhaseReplaced})
		} else if !errors.Is(err, index.ErrNoGeneration) {
			return nil, err
		}
	}
	if building := Unfinished(known, live); building != nil {
		stages, err := c.stages(ctx, building.ID)
		if err != nil {
			return nil, err
		}
		s.Others = append(s.Others, OtherGeneration{building.ID, building.Phase, stages})
	}
	return s, nil
}

// stages returns the status of each stage of a generation. A stage whose topic does not exist yet has no
// partitions and no lag.
func (c Conn) stages(ctx context.Context, generation string) ([]StageStatus, error) {
	names := NamesOf(c.Config, generation)
	var statuses []StageStatus
	for _, stage := range Stages {
		s := StageStatus{Stage: stage, Group: names.Group(stage), Topic: names.Input(stage)}
		offsets, err := c.Kafka.Offsets(ctx, s.Topic)
		if err == nil {
			s.Partitions = len(offsets)
			s.Lag, err = names.Behind(ctx, c.Kafka, stage, StableEnds(offsets))
		}
		if err != nil && !errors.Is(err, stream.ErrUnknownTopic) {
			return nil, err
		}
		if s.Members, err = c.Kafka.Members(ctx, s.Group); err != nil {
			return nil, err
		}
		statuses = append(statuses, s)
	}
	return statuses, nil
}
