package pipeline

import (
	"context"
	"encoding/json"
	"fmt"

	"hardneg/internal/config"
	"hardneg/internal/records"
	"hardneg/mining"
	"hardneg/stream"
)

// rulesKey is the key in the models topic of the rules that the miners work by, so that an audit needs no copy of
// their configuration.
const rulesKey = "rules"

// ruleset is everything that decides a list and how it is published, the model aside.
type ruleset struct {
	Fingerprint string        `json:"fingerprint"`
	MinWeight   int64         `json:"min_weight"` // millionths
	Mining      mining.Config `json:"mining"`
}

// newRuleset is the one that a configuration says.
func newRuleset(cfg *config.Config) ruleset {
	r := ruleset{MinWeight: records.Millionths(cfg.Queries.MinWeight), Mining: rules(cfg.Mining)}
	r.Fingerprint = fmt.Sprintf("%s-%d-%d", r.Mining.Fingerprint(), r.MinWeight, cfg.Triplets.MaxText)
	return r
}

// publishRules tells by which rules this instance mines, where the last to tell had others.
func (p *Pipeline) publishRules(ctx context.Context) error {
	mine := newRuleset(p.cfg)
	last, err := readRules(ctx, p.kafka, p.cfg)
	if err != nil || last != nil && last.Fingerprint == mine.Fingerprint {
		return err
	}
	value, err := json.Marshal(mine)
	if err != nil {
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
