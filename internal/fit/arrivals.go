package fit

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"hardneg/internal/catalog"
	"hardneg/internal/embed"
	"hardneg/internal/records"
	"hardneg/internal/wait"
	"hardneg/stream"
)

const (
	logEvery   = 30 * time.Second
	quietAfter = time.Second // after this time without a new document, no load is under way
)

// Arrivals gives the first documents of the topic, on which a view that begins fits its model. More documents
// may be on their way.
type Arrivals struct {
	catalog.Conn
	Waiting func(error)                           // called again and again during the wait, with the error if documents cannot be read
	First   func(context.Context) (string, error) // returns the id of a model that another instance has published meanwhile, or ""
}

// ErrPublished means that another instance has published a model, so the wait for documents has ended.
var ErrPublished = errors.New("a model was published")

// Sample is a Source. It reads documents until there are fit.sample of them, or until there are fit.minimum
// and no more are coming, or until fit.wait has passed since the first one. It returns more than useless
// documents.
func (a Arrivals) Sample(ctx context.Context, useless int) ([]embed.Item, error) {
	topic := a.Config.Topics.Documents
	offsets, err := a.Kafka.Offsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	next := map[int32]int64{}
	for _, o := range offsets {
		next[o.Partition] = o.Start
	}
	documents := map[string]embed.Item{}
	var first, last, logged, looked time.Time
	for {
		atEnd := true
		for partition := range next {
			f, err := a.Kafka.Fetch(ctx, topic, partition, next[partition], stream.FetchOptions{MaxWait: catalog.PollEvery / 4})
			a.Waiting(err)
			if err != nil {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				a.Log.Warn().Err(err).Msg("cannot read the documents to fit a model on; trying again")
				if err := wait.For(ctx, 5*catalog.PollEvery); err != nil {
					return nil, err
				}
				atEnd = false
				continue
			}
			for _, r := range f.Records {
				doc, deleted, err := records.ParseDocument(r.Key, r.Value)
				if err != nil || deleted {
					delete(documents, doc.ID) // the indexer reports a malformed record
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
		case n >= a.Config.Fit.Sample,
			n >= a.Config.Fit.Minimum && atEnd && time.Since(last) >= quietAfter,
			n > 0 && time.Since(first) >= a.Config.Fit.Wait:
			return inOrder(documents, a.Config.Fit.Sample), nil
		}
		if atEnd {
			if now := time.Now(); now.Sub(logged) > logEvery {
				logged = now
				note := a.Log.Info().Int("documents", n).Int("minimum", a.Config.Fit.Minimum)
				if n > 0 {
					note = note.Str("fit_in", max(0, a.Config.Fit.Wait-now.Sub(first)).Round(time.Second).String())
				}
				note.Msg("waiting for documents to fit a model on: for fit.minimum of them, or until fit.wait has passed since the first")
			}
			if now := time.Now(); now.Sub(looked) > 10*catalog.PollEvery {
				looked = now
				if id, err := a.First(ctx); err != nil {
					return nil, err
				} else if id != "" {
					return nil, ErrPublished
				}
			}
			if err := wait.For(ctx, catalog.PollEvery); err != nil {
				return nil, err
			}
		}
	}
}

// inOrder returns the documents with the lowest ids, in the order of their ids. So the same documents give
// the same model.
func inOrder(documents map[string]embed.Item, most int) []embed.Item {
	ids := slices.Sorted(maps.Keys(documents))
	sample := make([]embed.Item, 0, min(len(ids), most))
	for _, id := range ids[:min(len(ids), most)] {
		sample = append(sample, documents[id])
	}
	return sample
}
