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
	tellEvery  = 30 * time.Second
	quietAfter = time.Second // without a new document the log has ended, and no load is under way
)

// Arrivals are the first documents of the topic. A view that begins fits its model on them, while more may be on their way.
type Arrivals struct {
	catalog.Conn
	Waiting func(error)                           // called again and again while documents are awaited, with the reason if they cannot be read
	First   func(context.Context) (string, error) // returns the id of a model that somebody has published meanwhile, or ""
}

// ErrPublished ends the wait for documents: somebody has published a model.
var ErrPublished = errors.New("a model was published")

// Sample is a Source. It reads documents until there are fit.sample of them; or at least fit.minimum, and no more are coming; or
// until fit.wait has passed since the first one. It returns more than useless documents.
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
		case n >= a.Config.Fit.Sample,
			n >= a.Config.Fit.Minimum && atEnd && time.Since(last) >= quietAfter,
			n > 0 && time.Since(first) >= a.Config.Fit.Wait:
			return inOrder(documents, a.Config.Fit.Sample), nil
		}
		if atEnd {
			if now := time.Now(); now.Sub(logged) > tellEvery {
				logged = now
				note := a.Log.Info().Int("documents", n).Int("minimum", a.Config.Fit.Minimum)
				if n > 0 {
					note = note.Str("fit_in", max(0, a.Config.Fit.Wait-now.Sub(first)).Round(time.Second).String())
				}
				note.Msg("waiting for documents to fit a model on; after fit.wait those that are there have to do")
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

// inOrder lists the sample by document id, so that the same documents give the same model.
func inOrder(documents map[string]embed.Item, most int) []embed.Item {
	ids := slices.Sorted(maps.Keys(documents))
	sample := make([]embed.Item, 0, min(len(ids), most))
	for _, id := range ids[:min(len(ids), most)] {
		sample = append(sample, documents[id])
	}
	return sample
}
