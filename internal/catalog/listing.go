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
	ModelLive   = "live"
	ModelHeld   = "held"   // a generation beside the live one has it
	ModelUnused = "unused" // nothing depends on it
	ModelBroken = "broken" // it cannot be used; nothing depends on it
)

// ListedModel is a model of the topic, complete or not, or one that the topic should have.
type ListedModel struct {
	ID          string          `json:"id"`
	State       string          `json:"state"`
	Generations []string        `json:"generations,omitempty"` // that have it, the live one among them
	First       bool            `json:"first,omitempty"`       // a view that has not begun takes it
	Problem     string          `json:"problem,omitempty"`     // why it cannot be used
	Manifest    *model.Manifest `json:"manifest,omitempty"`    // of one that can
}

// List lists the models in the order of their publication, those that were never completed last, and what uses them.
func (t Models) List(ctx context.Context, client *index.Client) ([]ListedModel, error) {
	all, err := t.scan(ctx, "", discard)
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
	generations := map[string][]string{} // by model
	for _, generation := range held {
		id := ModelOf(generation)
		if raw, err := hex.DecodeString(id); err == nil && len(raw) == 8 { // else the collection is somebody else's
			generations[id] = append(generations[id], generation)
		}
	}
	listed := make([]ListedModel, 0, len(all))
	complete := false
	for _, p := range all {
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

// ErrModelUsed says that something depends on a model.
var ErrModelUsed = errors.New("the model is in use")

// Remove takes a model that was listed out of the topic, if no generation has it, not even one that is being made; else it
// is an ErrModelUsed. Its records go with the next compaction.
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
	rest := map[string]bool{} // keys beside the manifest's
	err = t.Kafka.ReadToEnd(ctx, t.Topic, func(r stream.Record) error {
		key := string(r.Key)
		if of, _, ok := strings.Cut(key, "/"); ok && of == m.ID && key != m.ID+manifestKey {
			rest[key] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	// The manifest first: without it the model is none, whatever becomes of the rest.
	if err := t.Kafka.Produce(ctx, []stream.Output{{Topic: t.Topic, Key: []byte(m.ID + manifestKey)}}); err != nil {
		return err
	}
	outputs := make([]stream.Output, 0, len(rest))
	for _, key := range slices.Sorted(maps.Keys(rest)) {
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
