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

// Keys of the models topic: "<model id>/<chunk number>" in order, then "<model id>/manifest". A model is
// complete when its manifest is there and its chunks match the checksum; the first complete one wins.
const manifestKey = "/manifest"

// Models reads and writes the models in the models topic.
type Models struct {
	Kafka *stream.Client
	Topic string
	Log   zerolog.Logger

	Resources *embed.Resources // for the models that are read; nil if nobody embeds with them
}

// publication collects the records that the topic holds of one model.
type publication struct {
	topic    Models
	id       string
	manifest []byte            // nil: the topic has no manifest of the model
	offset   int64             // of the manifest; models are listed in this order
	chunks   map[string][]byte // by number; empty once the model is complete
	complete bool
	info     model.Manifest // set if complete
	broken   error          // why the model is not complete
}

func newPublication(topic Models, id string) *publication {
	return &publication{topic: topic, id: id, chunks: map[string][]byte{}, broken: errNoManifest}
}

var errNoManifest = errors.New("there is no manifest: it is being published, or its publisher was stopped")

// apply takes one record into account, after the earlier ones. A model is complete from the first manifest on
// that matches its chunks. Later records with the same keys do not change that: another instance has
// published the same model again, maybe not to the end. apply calls complete with the model when it becomes
// complete.
func (p *publication) apply(part string, r stream.Record, complete func(*model.Model)) {
	switch {
	case part == manifestKey[1:] && r.Value == nil:
		*p = *newPublication(p.topic, p.id)
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

// decode checks a model that has a manifest, and calls complete with it if its chunks match.
func (p *publication) decode(complete func(*model.Model)) {
	parts := make([][]byte, 0, len(p.chunks))
	for _, number := range slices.Sorted(maps.Keys(p.chunks)) {
		parts = append(parts, p.chunks[number])
	}
	m, err := model.Decode(p.topic.Resources, p.manifest, parts)
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

// scan returns the models of the topic, or only the one with an id, in the order of their manifests; models
// without a manifest come last. It calls complete with each complete model. Only that callback gets the
// models: a publication does not keep them, because they are large.
func (t Models) scan(ctx context.Context, id string, complete func(*model.Model)) ([]*publication, error) {
	byID := map[string]*publication{}
	var publications []*publication
	err := t.Kafka.ReadToEnd(ctx, t.Topic, func(r stream.Record) error {
		of, part, ok := strings.Cut(string(r.Key), "/")
		if !ok || id != "" && of != id {
			return nil
		}
		p := byID[of]
		if p == nil {
			p = newPublication(t, of)
			byID[of] = p
			publications = append(publications, p)
		}
		p.apply(part, r, complete)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, p := range publications {
		// If a model was published twice, compaction keeps the later chunks, which may lie behind the
		// manifest.
		if !p.complete && p.manifest != nil && len(p.chunks) > 0 {
			p.decode(complete)
		}
	}
	publications = slices.DeleteFunc(publications, func(p *publication) bool { return p.manifest == nil && len(p.chunks) == 0 }) // deleted
	slices.SortStableFunc(publications, func(a, b *publication) int {
		if none, other := a.manifest == nil, b.manifest == nil; none != other {
			if none {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.offset, b.offset)
	})
	return publications, nil
}

// Read returns the model with an id, or with an empty id the first complete model; nil if there is none. It
// passes over models that are not complete, and logs them.
func (t Models) Read(ctx context.Context, id string) (*model.Model, error) {
	if id == "" {
		first, err := t.First(ctx)
		if err != nil || first == "" {
			return nil, err
		}
		id = first
	}
	var read *model.Model
	publications, err := t.scan(ctx, id, func(m *model.Model) { read = m })
	if err != nil || t.first(publications) == "" {
		return nil, err
	}
	return read, nil
}

// First returns the id of the first complete model of the topic; empty if there is none. A view that has not
// begun takes that model.
func (t Models) First(ctx context.Context) (string, error) {
	publications, err := t.scan(ctx, "", discard)
	if errors.Is(err, stream.ErrUnknownTopic) {
		return "", nil
	}
	return t.first(publications), err
}

// first returns the id of the first complete model; empty if there is none. It logs those that it passes
// over.
func (t Models) first(publications []*publication) string {
	for _, p := range publications {
		if p.complete {
			return p.id
		}
		if p.manifest != nil {
			t.Log.Warn().Err(p.broken).Str("model", p.id).Int64("offset", p.offset).Msg("passing over a model that is not complete")
		}
	}
	return ""
}

// Publish writes a model: first its chunks, then its manifest. It does not write a model that the topic has
// already, and returns false for written. Otherwise compaction would delete the older records, and the model
// would no longer be the first.
func (t Models) Publish(ctx context.Context, m *model.Model) (written bool, err error) {
	if published, err := t.scan(ctx, m.ID(), discard); err != nil || len(published) > 0 && published[0].complete {
		return false, err
	}
	manifest, chunks, err := m.Encode()
	if err != nil {
		return false, err
	}
	outputs := make([]stream.Output, 0, len(chunks))
	for i, c := range chunks {
		outputs = append(outputs, stream.Output{Topic: t.Topic, Key: fmt.Appendf(nil, "%s/%06d", m.ID(), i), Value: c})
	}
	if err := t.Kafka.Produce(ctx, outputs); err != nil {
		return false, err
	}
	err = t.Kafka.Produce(ctx, []stream.Output{{Topic: t.Topic, Key: []byte(m.ID() + manifestKey), Value: manifest}})
	return err == nil, err
}
