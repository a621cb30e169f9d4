package catalog

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"hardneg/index"
	"hardneg/internal/model"
	"hardneg/stream"
)

// States of a model.
const (
	ModelLive   = "live"   // the live generation has it
	ModelHeld   = "held"   // a generation beside the live one has it
	ModelUnused = "unused" // nothing depends on it
	ModelBroken = "broken" // it cannot be used; nothing depends on it
)

// ListedModel is a model of the models topic, complete or not, or a model that a collection needs and the
// topic lacks.
type ListedModel struct {
	ID          string          `json:"id"`
	State       string          `json:"state"`
	Generations []string        `json:"generations,omitempty"` // the generations that have it, the live one included
	First       bool            `json:"first,omitempty"`       // a view that has not begun takes this model
	Problem     string          `json:"problem,omitempty"`     // why it cannot be used; empty: it can
	Manifest    *model.Manifest `json:"manifest,omitempty"`    // nil if the model cannot be used
}

// List returns the models in the order of their publication, and which generations use them. Models without a
// manifest come after those, and models that the topic lacks come last.
func (t Models) List(ctx context.Context, client *index.Client) ([]ListedModel, error) {
	publications, err := t.scan(ctx, "", discard)
	if err != nil && !errors.Is(err, stream.ErrUnknownTopic) {
		return nil, err
	}
	live, _, err := client.Active(ctx)
	if err != nil {
		return nil, err
	}
	held, err := client.Held(ctx)
	if err != nil {
		return nil, err
	}
	generations := map[string][]string{} // by id of their model
	for _, generation := range held {
		id := ModelOf(generation)
		if raw, err := hex.DecodeString(id); err == nil && len(raw) == 8 { // other names belong to collections of other programs
			generations[id] = append(generations[id], generation)
		}
	}
	listed := make([]ListedModel, 0, len(publications))
	complete := false
	for _, p := range publications {
		m := ListedModel{ID: p.id, Generations: generations[p.id]}
		if p.complete {
			m.Manifest, m.First = &p.info, !complete
			complete = true
		} else {
			m.Problem = fmt.Sprintf("%v (%d chunks are there)", p.broken, len(p.chunks))
		}
		delete(generations, p.id)
		listed = append(listed, m)
	}
	for _, id := range slices.Sorted(maps.Keys(generations)) {
		listed = append(listed, ListedModel{ID: id, Generations: generations[id], Problem: "topic " + t.Topic + " does not have it"})
	}
	for i := range listed {
		listed[i].State = listed[i].state(live)
	}
	return listed, nil
}

// ErrModelUsed means that a model cannot be removed, because a generation has it.
var ErrModelUsed = errors.New("the model is in use")

// Remove deletes a listed model from the topic. Kafka frees its records at the next compaction. If a
// generation has the model, even one that a rebuild is only beginning to make, Remove deletes nothing and
// returns ErrModelUsed.
func (t Models) Remove(ctx context.Context, m ListedModel) error {
	generations := slices.Clone(m.Generations)
	known, err := ReadGenerations(ctx, t.Kafka, t.Topic)
	if err != nil {
		return err
	}
	for generation := range known {
		if ModelOf(generation) == m.ID && !slices.Contains(generations, generation) {
			generations = append(generations, generation)
		}
	}
	if len(generations) > 0 {
		return fmt.Errorf("%w: generation %s has it", ErrModelUsed, strings.Join(generations, ", "))
	}
	chunkKeys := map[string]bool{}
	err = t.Kafka.ReadToEnd(ctx, t.Topic, func(r stream.Record) error {
		key := string(r.Key)
		if id, _, ok := strings.Cut(key, "/"); ok && id == m.ID && key != m.ID+manifestKey {
			chunkKeys[key] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	// The manifest goes first: without it the model cannot be used, even if deleting the chunks fails.
	if err := t.Kafka.Produce(ctx, []stream.Output{{Topic: t.Topic, Key: []byte(m.ID + manifestKey)}}); err != nil {
		return err
	}
	outputs := make([]stream.Output, 0, len(chunkKeys))
	for _, key := range slices.Sorted(maps.Keys(chunkKeys)) {
		outputs = append(outputs, stream.Output{Topic: t.Topic, Key: []byte(key)})
	}
	return t.Kafka.Produce(ctx, outputs)
}

func (m ListedModel) state(live string) string {
	switch {
	case live != "" && slices.Contains(m.Generations, live):
		return ModelLive
	case len(m.Generations) > 0:
		return ModelHeld
	case m.Problem != "":
		return ModelBroken
	}
	return ModelUnused
}
