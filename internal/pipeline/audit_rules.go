package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"hardneg/internal/config"
	"hardneg/internal/records"
	"hardneg/mining"
	"hardneg/stream"
)

// rulesKey is the key in the models topic of the rules that the miners work by, so that an audit and a replay need no
// copy of their configuration.
const rulesKey = "rules"

// ruleset is everything that decides a list and how it is published, the model aside.
type ruleset struct {
	Fingerprint string        `json:"fingerprint"`
	MinWeight   int64         `json:"min_weight"` // millionths
	Mining      mining.Config `json:"mining"`

	// What an audit has no use for, for what is stored shows it. Zero where an earlier version published the rules.
	MaxText  int      `json:"max_text,omitempty"`
	Evidence *weights `json:"evidence,omitempty"`
}

// weights say how the query log is weighed.
type weights struct {
	PositiveWeight float64       `json:"positive_weight"`
	MinDwell       time.Duration `json:"min_dwell"` // nanoseconds
}

// newRuleset is the one that a configuration says.
func newRuleset(cfg *config.Config) ruleset {
	r := ruleset{
		MinWeight: records.Millionths(cfg.Queries.MinWeight), Mining: rules(cfg.Mining), MaxText: cfg.Triplets.MaxText,
		Evidence: &weights{cfg.Queries.PositiveWeight, cfg.Queries.MinDwell},
	}
	r.Fingerprint = fmt.Sprintf("%s-%d-%d", r.Mining.Fingerprint(), r.MinWeight, cfg.Triplets.MaxText)
	return r
}

func (r ruleset) encode() []byte {
	value, err := json.Marshal(r)
	if err != nil { // it holds numbers and texts
		panic(fmt.Sprintf("pipeline: rules without a JSON form: %v", err))
	}
	return value
}

// publishRules tells by which rules this instance mines, where the last to tell had others.
func (p *Pipeline) publishRules(ctx context.Context) error {
	value := newRuleset(p.cfg).encode()
	last, err := readRules(ctx, p.kafka, p.cfg)
	if err != nil || last != nil && bytes.Equal(last.encode(), value) {
		return err
	}
	return p.kafka.Produce(ctx, []stream.Output{{Topic: p.cfg.Topics.Models, Key: []byte(rulesKey), Value: value}})
}

// readRules returns the rules that were last published; nil if none ever were.
func readRules(ctx context.Context, kafka *stream.Client, cfg *config.Config) (*ruleset, error) {
	var found *ruleset
	err := kafka.ReadToEnd(ctx, cfg.Topics.Models, func(r stream.Record) error {
		if string(r.Key) != rulesKey || r.Value == nil {
			return nil
		}
		found = &ruleset{}
		if err := json.Unmarshal(r.Value, found); err != nil {
			return fmt.Errorf("%s/%d at offset %d: the rules of mining: %w", r.Topic, r.Partition, r.Offset, err)
		}
		return nil
	})
	return found, err
}
