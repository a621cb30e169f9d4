package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/stream"
)

// Outcomes of a probe.
const (
	ProbeOK     = "ok"
	ProbeNote   = "note"   // the service would run, but the detail is worth knowing
	ProbeFailed = "failed" // the service would not run, or not for long
)

// Probe is the result of a look at one thing that the service depends on.
type Probe struct {
	What    string        `json:"what"`
	Outcome string        `json:"outcome"`
	Took    time.Duration `json:"took_ns"`
	Detail  string        `json:"detail"`
	Err     error         `json:"-"` // of a failed probe
}

// probePatience is how long one probe may take.
var probePatience = 20 * time.Second

var errSilent = errors.New("no answer")

// checker makes the probes of one call of Check.
type checker struct {
	config *config.Config
	log    zerolog.Logger
	tell   func(Probe) error
}

// Check probes everything that the service depends on: the brokers, the topics, their settings and whether
// they can be read, transactions and groups, Qdrant and the live collections, and the servers of embedders.
// It calls tell after each probe. If one fails, the probes that need the same thing are left out.
//
// Check writes no record. Only the broker's list of transactional ids and groups gets one of its own.
func Check(ctx context.Context, c *config.Config, log zerolog.Logger, tell func(Probe) error) error {
	k := checker{c, log, tell}
	for _, some := range []func(context.Context) error{k.kafka, k.qdrant, k.embedders} {
		if err := some(ctx); err != nil {
			return err
		}
	}
	return nil
}

// probe runs f as one probe, and passes the result to tell. The text of f becomes the detail of a probe
// that does not fail. The error is the error of tell, or of a context that has ended.
func (k *checker) probe(ctx context.Context, what string, f func(context.Context) (outcome, text string, err error)) (ok bool, err error) {
	limited, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	start := time.Now()
	outcome, text, err := f(limited)
	p := Probe{What: what, Outcome: outcome, Took: time.Since(start), Detail: text, Err: err}
	if err != nil {
		if limited.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w within %v: %w", errSilent, probePatience, err)
		}
		p.Outcome, p.Detail, p.Err = ProbeFailed, err.Error(), err
	}
	return p.Err == nil, errors.Join(k.tell(p), ctx.Err())
}

func (k *checker) kafka(ctx context.Context) error {
	c := k.config
	var kafka *stream.Client
	if ok, err := k.probe(ctx, "kafka", func(ctx context.Context) (_, _ string, err error) {
		kafka, err = ConnectKafka(ctx, c, k.log)
		return ProbeOK, "answers at " + strings.Join(c.Kafka.Brokers, ", "), err
	}); !ok || err != nil {
		return err
	}
	defer kafka.Close()
	var missing []string
	var problems []stream.TopicProblem
	if ok, err := k.probe(ctx, "topics", func(ctx context.Context) (_, text string, err error) {
		if missing, problems, err = catalog.CheckTopics(ctx, kafka, c); err != nil {
			return "", "", err
		}
		if len(missing) > 0 {
			return ProbeNote, "not there yet, and made by hardneg run: " + strings.Join(missing, ", "), nil
		}
		return ProbeOK, "all there", nil
	}); !ok || err != nil {
		return err
	}
	for _, t := range catalog.Topics(c, "") {
		if slices.Contains(missing, t.Name) {
			continue
		}
		if _, err := k.probe(ctx, "topic "+t.Name, func(ctx context.Context) (string, string, error) { return k.topic(ctx, kafka, t.Name, problems) }); err != nil {
			return err
		}
	}
	if slices.Contains(missing, c.Topics.Queries) {
		return nil
	}
	_, err := k.probe(ctx, "transactions", func(ctx context.Context) (_, _ string, err error) {
		id := c.Name + "-check"
		_, _, err = kafka.OpenLedger(ctx, id, id, c.Topics.Queries, c.Kafka.TransactionTimeout)
		return ProbeOK, fmt.Sprintf("the coordinators of transactional id and group %s answer", id), err
	})
	return err
}

// topic asks for the ends of a topic, and reads a record of its first partition that is not empty: a broker
// can give the ends of a topic although its user may not read it.
func (k *checker) topic(ctx context.Context, kafka *stream.Client, name string, problems []stream.TopicProblem) (outcome, text string, err error) {
	ends, err := kafka.Offsets(ctx, name)
	if err != nil {
		return "", "", err
	}
	offsets, read := int64(0), false
	for _, e := range ends {
		offsets += e.LastStable - e.Start
		if e.LastStable > e.Start && !read {
			read = true
			if _, err := kafka.Fetch(ctx, name, e.Partition, e.LastStable-1, stream.FetchOptions{MaxBytes: 1}); err != nil && !errors.Is(err, stream.ErrOffsetOutOfRange) {
				return "", "", err
			}
		}
	}
	outcome, text = ProbeOK, fmt.Sprintf("%d partitions, %d offsets", len(ends), offsets)
	for _, f := range problems {
		switch {
		case f.Topic != name:
		case f.Raise[1] > 0:
			outcome, text = ProbeNote, fmt.Sprintf("takes records of %d bytes, is to take %d: hardneg run raises that at its start; until then a larger record stops a stage", f.Raise[0], f.Raise[1])
		case f.Severe:
			return "", "", errors.New(f.Text)
		default:
			outcome, text = ProbeNote, f.Text
		}
	}
	return outcome, text, nil
}

func (k *checker) qdrant(ctx context.Context) error {
	var client *index.Client
	if ok, err := k.probe(ctx, "qdrant", func(ctx context.Context) (_, _ string, err error) {
		client, err = ConnectQdrant(ctx, k.config, k.log)
		return ProbeOK, "answers at " + k.config.Qdrant.Address, err
	}); !ok || err != nil {
		return err
	}
	defer client.Close()
	_, err := k.probe(ctx, "collections", func(ctx context.Context) (_, _ string, err error) {
		live, err := client.Live(ctx)
		if err != nil {
			return "", "", err
		}
		if live == nil {
			return ProbeNote, fmt.Sprintf("none is live with the prefix %q: the service makes them once it has a model", k.config.Qdrant.Prefix), nil
		}
		documents, queries, err := live.Counts(ctx)
		return ProbeOK, fmt.Sprintf("generation %s, %d dimensions: %d documents, %d queries", live.Generation(), live.Dimensions(), documents, queries), err
	})
	return err
}

// embedders asks each server once for a vector of a document and of a query.
func (k *checker) embedders(ctx context.Context) error {
	for _, definition := range k.config.Embedders {
		_, err := k.probe(ctx, "embedder "+definition.Name, func(ctx context.Context) (_, _ string, err error) {
			all, err := embed.New([]config.Embedder{definition}, nil)
			if err != nil {
				return "", "", err
			}
			served, ok := all[0].(embed.Served)
			if !ok {
				return ProbeOK, definition.Type + ", which asks nobody", nil
			}
			if err := served.Probe(ctx); err != nil {
				if ctx.Err() != nil {
					err = fmt.Errorf("%s: %w", definition.URL, err)
				}
				return "", "", err
			}
			if got := served.Dimensions(); definition.Dimensions != 0 && got != definition.Dimensions {
				return "", "", fmt.Errorf("%s: vectors have %d numbers, dimensions says %d: is the model another one?", definition.URL, got, definition.Dimensions)
			}
			return ProbeOK, fmt.Sprintf("model %s at %s gives vectors of %d numbers", definition.Model, definition.URL, served.Dimensions()), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
