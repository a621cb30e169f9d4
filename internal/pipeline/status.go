package pipeline

import (
	"context"
	"errors"

	"hardneg/index"
	"hardneg/internal/config"
	"hardneg/stream"
)

// Status is where a view stands, as Kafka and Qdrant tell it.
type Status struct {
	Generation string            `json:"generation"` // empty: none is live yet
	Model      string            `json:"model"`
	Publishing bool              `json:"publishing"` // it was promoted, and its triplets are being published
	Documents  uint64            `json:"documents"`
	Queries    uint64            `json:"queries"`
	Stages     []StageStatus     `json:"stages"`
	Others     []OtherGeneration `json:"others"` // generations beside it
}

// StageStatus is a consumer group and what it has to read.
type StageStatus struct {
	Stage      string `json:"stage"`
	Group      string `json:"group"`
	Topic      string `json:"topic"`
	Partitions int    `json:"partitions"`
	Members    int    `json:"members"`
	Lag        int64  `json:"lag"` // offsets from the committed to the last stable one
}

// OtherGeneration is one that is being built, or was live before.
type OtherGeneration struct {
	Generation string        `json:"generation"`
	Phase      string        `json:"phase"` // starting, seeding, building, replaced
	Stages     []StageStatus `json:"stages,omitempty"`
}

// PhaseReplaced is that of the generation before the live one, until it is erased.
const PhaseReplaced = "replaced"

// ReadStatus asks Kafka and Qdrant. It changes nothing, and needs no service that runs.
func ReadStatus(ctx context.Context, cfg *config.Config, kafka *stream.Client, client *index.Client) (*Status, error) {
	live, _, err := client.Active(ctx)
	if err != nil {
		return nil, err
	}
	known, err := readGenerations(ctx, kafka, cfg.Topics.Models)
	if err != nil {
		return nil, err
	}
	s := &Status{Generation: live, Model: modelOf(live), Others: []OtherGeneration{}}
	if s.Stages, err = stagesOf(ctx, forGeneration(cfg, live), kafka); err != nil {
		return nil, err
	}
	if live != "" {
		x, err := client.Existing(ctx, live)
		if err != nil {
			return nil, err
		}
		if s.Documents, s.Queries, err = x.Counts(ctx); err != nil {
			return nil, err
		}
	}
	if g := known[live]; g != nil {
		s.Publishing = g.Phase != phaseLive
		if _, err := client.Existing(ctx, g.Previous); err == nil {
			s.Others = append(s.Others, OtherGeneration{Generation: g.Previous, Phase: PhaseReplaced})
		} else if !errors.Is(err, index.ErrNoGeneration) {
			return nil, err
		}
	}
	if under := unfinished(known, live); under != nil {
		stages, err := stagesOf(ctx, forGeneration(cfg, under.ID), kafka)
		if err != nil {
			return nil, err
		}
		s.Others = append(s.Others, OtherGeneration{under.ID, under.Phase, stages})
	}
	return s, nil
}

// stagesOf looks at the stages of a generation. A topic that is not there yet has nothing to read.
func stagesOf(ctx context.Context, cfg *config.Config, kafka *stream.Client) ([]StageStatus, error) {
	var all []StageStatus
	for _, stage := range []string{StageIndexer, StageIntake, StageMiner} {
		s := StageStatus{Stage: stage, Group: Group(cfg, stage), Topic: inputTopic(cfg, stage)}
		offsets, err := kafka.Offsets(ctx, s.Topic)
		if err == nil {
			s.Partitions = len(offsets)
			s.Lag, err = behind(ctx, kafka, cfg, stage, stable(offsets))
		}
		if err != nil && !errors.Is(err, stream.ErrUnknownTopic) {
			return nil, err
		}
		if s.Members, err = kafka.Members(ctx, s.Group); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}
