package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/model"
	"hardneg/internal/records"
	"hardneg/stream"
)

// Keys of the models topic: "<model id>/<chunk number>" in order, then "<model id>/manifest". A model is complete
// when its manifest is there and its chunks match the checksum; the first complete one wins.
const (
	manifestKey   = "/manifest"
	partitionsKey = "partitions"
)

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

// Publish writes a model, the manifest once its chunks are there. One that the topic has already is not written again,
// for compaction would then make it the younger one.
func (t Models) Publish(ctx context.Context, m *model.Model) error {
	_, err := t.publish(ctx, m)
	return err
}

func (t Models) publish(ctx context.Context, m *model.Model) (written bool, err error) {
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

// Source gives documents to fit a model on: more of them than a number that was of no use.
type Source func(ctx context.Context, useless int) ([]embed.Item, error)

// FitModel fits the configured ensemble and reducer on documents of a source, and publishes nothing. It asks for more
// documents for as long as too few of them can be embedded.
func FitModel(ctx context.Context, cfg *config.Config, resources *embed.Resources, documents Source, log zerolog.Logger) (*model.Model, error) {
	for useless := 0; ; {
		sample, err := documents(ctx, useless)
		if err != nil {
			return nil, err
		}
		log.Info().Int("documents", len(sample)).Msg("fitting a model")
		start := time.Now()
		m, err := model.Fit(ctx, resources, cfg.Embedders, cfg.Reduce, cfg.Fit.Minimum, sample)
		if errors.Is(err, model.ErrSample) {
			log.Warn().Err(err).Msg("waiting for documents that can be embedded")
			useless = len(sample)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("fitting a model on %d documents: %w", len(sample), err)
		}
		log.Info().Dur("took", time.Since(start)).Str("model", m.ID()).Int("dimensions", m.Dimensions()).Msg("fitted")
		return m, nil
	}
}

// arrivals are the first documents of the topic, as a view that begins takes them: more may be on their way.
type arrivals struct {
	cfg   *config.Config
	kafka *stream.Client
	log   zerolog.Logger
	await func(error)                           // is told, again and again, that documents are awaited, or why they cannot be read
	first func(context.Context) (string, error) // tells whether a model was published meanwhile
}

// errPublished ends the wait for documents: there is a model.
var errPublished = errors.New("a model was published")

// sample is a Source. It reads documents until there are fit.sample of them, or at least fit.minimum and no more are
// coming, or fit.wait has passed since the first; and more than a number that was of no use.
func (a arrivals) sample(ctx context.Context, useless int) ([]embed.Item, error) {
	topic := a.cfg.Topics.Documents
	offsets, err := a.kafka.Offsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	next := map[int32]int64{}
	for _, o := range offsets {
		next[o.Partition] = o.Start
	}
	documents := map[string]embed.Item{}
	var first, last, told, looked time.Time
	for {
		atEnd := true
		for partition := range next {
			f, err := a.kafka.Fetch(ctx, topic, partition, next[partition], stream.FetchOptions{MaxWait: pollPause / 4})
			a.await(err)
			if err != nil {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				a.log.Warn().Err(err).Msg("cannot read the documents to fit a model on; trying again")
				if err := pause(ctx, 5*pollPause); err != nil {
					return nil, err
				}
				atEnd = false
				continue
			}
			for _, r := range f.Records {
				doc, deleted, err := records.ParseDocument(r.Key, r.Value)
				if err != nil || deleted {
					delete(documents, doc.ID) // the indexer says what is wrong with it
					continue
				}
				documents[doc.ID] = embed.Item{Text: records.EmbeddedText(doc.Title, doc.Text), Carried: doc.Embeddings}
				last = time.Now()
				if first.IsZero() {
					first = last
				}
			}
			next[partition] = f.Next
			atEnd = atEnd && f.Next >= f.LastStable
		}
		n := len(documents)
		switch {
		case n <= useless:
		case n >= a.cfg.Fit.Sample,
			n >= a.cfg.Fit.Minimum && atEnd && time.Since(last) >= quietAfter,
			n > 0 && time.Since(first) >= a.cfg.Fit.Wait:
			return inOrder(documents, a.cfg.Fit.Sample), nil
		}
		if atEnd {
			if now := time.Now(); now.Sub(told) > tellEvery {
				told = now
				note := a.log.Info().Int("documents", n).Int("minimum", a.cfg.Fit.Minimum)
				if n > 0 {
					note = note.Str("fit_in", max(0, a.cfg.Fit.Wait-now.Sub(first)).Round(time.Second).String())
				}
				note.Msg("waiting for documents to fit a model on; after fit.wait those that are there have to do")
			}
			if now := time.Now(); now.Sub(looked) > 10*pollPause {
				looked = now
				if id, err := a.first(ctx); err != nil {
					return nil, err
				} else if id != "" {
					return nil, errPublished
				}
			}
			if err := pause(ctx, pollPause); err != nil {
				return nil, err
			}
		}
	}
}

// inOrder lists the sample by document id, so that the same documents give the same model.
func inOrder(documents map[string]embed.Item, most int) []embed.Item {
	ids := slices.Sorted(maps.Keys(documents))
	sample := make([]embed.Item, 0, min(len(ids), most))
	for _, id := range ids[:min(len(ids), most)] {
		sample = append(sample, documents[id])
	}
	return sample
}
