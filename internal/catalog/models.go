package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"hardneg/internal/embed"
	"hardneg/internal/model"
	"hardneg/stream"
)

// Keys of the models topic: "<model id>/<chunk number>" in order, then "<model id>/manifest". A model is complete
// when its manifest is there and its chunks match the checksum; the first complete one wins.
const manifestKey = "/manifest"

func chunkNumber(n int) string { return fmt.Sprintf("%06d", n) }

// Models is the topic that models are published to.
type Models struct {
	Kafka *stream.Client
	Topic string
	Log   zerolog.Logger

	Resources *embed.Resources // of the models that are read
}

// publication is what the topic holds of a model.
type publication struct {
	of       Models
	id       string
	manifest []byte            // nil: there is none
	offset   int64             // of the manifest, by which models are in order
	chunks   map[string][]byte // by number, until the model is complete
	complete bool
	info     model.Manifest // once it is complete
	broken   error          // why it is not
}

var errNoManifest = errors.New("there is no manifest: it is being published, or its publisher was stopped")

// take notes a record. A model counts as complete from the manifest on that its chunks match: what is written after
// that under the same keys is the same again, by another instance, maybe in part.
func (p *publication) take(part string, r stream.Record, complete func(*model.Model)) {
	switch {
	case part == manifestKey[1:] && r.Value == nil:
		*p = publication{of: p.of, id: p.id, chunks: map[string][]byte{}, broken: errNoManifest}
	case part == manifestKey[1:] && !p.complete:
		p.manifest, p.offset = r.Value, r.Offset
		p.decode(complete)
	case part == manifestKey[1:]:
	case r.Value == nil:
		delete(p.chunks, part)
		if p.complete {
			p.complete, p.broken = false, fmt.Errorf("chunk %s was deleted", part)
		}
	case !p.complete:
		p.chunks[part] = r.Value
	}
}

// decode checks a model that has a manifest.
func (p *publication) decode(complete func(*model.Model)) {
	parts := make([][]byte, 0, len(p.chunks))
	for _, number := range slices.Sorted(maps.Keys(p.chunks)) {
		parts = append(parts, p.chunks[number])
	}
	m, err := model.Decode(p.of.Resources, p.manifest, parts)
	if err == nil && m.ID() != p.id {
		err = fmt.Errorf("the manifest is that of model %s", m.ID())
	}
	if p.broken = err; err != nil {
		return
	}
	p.complete, p.info = true, m.Info()
	clear(p.chunks)
	complete(m)
}

func discard(*model.Model) {}

// scan reads the models of the topic, or one of them, in the order of their manifests, those without one last. It
// calls complete for each that proves complete, which has the model alone.
func (t Models) scan(ctx context.Context, id string, complete func(*model.Model)) ([]*publication, error) {
	byID := map[string]*publication{}
	var all []*publication
	err := t.Kafka.ReadToEnd(ctx, t.Topic, func(r stream.Record) error {
		of, part, ok := strings.Cut(string(r.Key), "/")
		if !ok || id != "" && of != id {
			return nil
		}
		p := byID[of]
		if p == nil {
			p = &publication{of: t, id: of, chunks: map[string][]byte{}, broken: errNoManifest}
			byID[of] = p
			all = append(all, p)
		}
		p.take(part, r, complete)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		// Of a model that was published twice, compaction keeps the later chunks, which may lie behind the manifest.
		if !p.complete && p.manifest != nil && len(p.chunks) > 0 {
			p.decode(complete)
		}
	}
	all = slices.DeleteFunc(all, func(p *publication) bool { return p.manifest == nil && len(p.chunks) == 0 }) // deleted
	slices.SortStableFunc(all, func(a, b *publication) int {
		if none, other := a.manifest == nil, b.manifest == nil; none != other {
			if none {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.offset, b.offset)
	})
	return all, nil
}

// Read returns the model of that id, or for an empty id the first complete one; nil if there is none. What is not
// complete is passed over.
func (t Models) Read(ctx context.Context, id string) (*model.Model, error) {
	if id == "" {
		first, err := t.First(ctx)
		if err != nil || first == "" {
			return nil, err
		}
		id = first
	}
	var found *model.Model
	all, err := t.scan(ctx, id, func(m *model.Model) { found = m })
	if err != nil || t.first(all) == "" {
		return nil, err
	}
	return found, nil
}

// First is the id of the first complete model of the topic; empty if there is none. A view that has not begun takes it.
func (t Models) First(ctx context.Context) (string, error) {
	all, err := t.scan(ctx, "", discard)
	if errors.Is(err, stream.ErrUnknownTopic) {
		return "", nil
	}
	return t.first(all), err
}

func (t Models) first(all []*publication) string {
	for _, p := range all {
		if p.complete {
			return p.id
		}
		if p.manifest != nil {
			t.Log.Warn().Err(p.broken).Str("model", p.id).Int64("offset", p.offset).Msg("passing over a model that is not complete")
		}
	}
	return ""
}

// Publish writes a model: its chunks, and then its manifest. It does not write a model again that the topic has, because
// compaction would then make it the younger one. written is false in that case.
func (t Models) Publish(ctx context.Context, m *model.Model) (written bool, err error) {
	if there, err := t.scan(ctx, m.ID(), discard); err != nil || len(there) > 0 && there[0].complete {
		return false, err
	}
	manifest, chunks, err := m.Encode()
	if err != nil {
		return false, err
	}
	outputs := make([]stream.Output, 0, len(chunks))
	for i, c := range chunks {
		outputs = append(outputs, stream.Output{Topic: t.Topic, Key: []byte(m.ID() + "/" + chunkNumber(i)), Value: c})
	}
	if err := t.Kafka.Produce(ctx, outputs); err != nil {
		return false, err
	}
	err = t.Kafka.Produce(ctx, []stream.Output{{Topic: t.Topic, Key: []byte(m.ID() + manifestKey), Value: manifest}})
	return err == nil, err
}
