package catalog

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

// rulesKey is the key of the record in the models topic that holds the rules of the miners. So an audit and a
// replay need no copy of the miners' configuration.
const rulesKey = "rules"

// Rules holds everything that decides a list and how it is published, except for the model.
type Rules struct {
	Fingerprint string        `json:"fingerprint"`
	MinWeight   int64         `json:"min_weight"` // millionths
	Mining      mining.Config `json:"mining"`

	// An earlier version of hardneg published rules without these two: see completedBy.
	MaxText  int      `json:"max_text,omitempty"` // bytes of a text in a triplet
	Evidence *Weights `json:"evidence,omitempty"`
}

// Weights says how much a record of the query log counts as evidence.
type Weights struct {
	PositiveWeight float64       `json:"positive_weight"`
	MinDwell       time.Duration `json:"min_dwell"` // nanoseconds
}

// RulesOf returns the rules of a configuration.
func RulesOf(cfg *config.Config) Rules {
	r := Rules{
		MinWeight: records.Millionths(cfg.Queries.MinWeight), Mining: cfg.Mining.Rules(), MaxText: cfg.Triplets.MaxText,
		Evidence: &Weights{cfg.Queries.PositiveWeight, cfg.Queries.MinDwell},
	}
	r.Fingerprint = fmt.Sprintf("%s-%d-%d", r.Mining.Fingerprint(), r.MinWeight, cfg.Triplets.MaxText)
	return r
}

// completedBy returns the rules with what an earlier version of hardneg did not publish taken from other
// rules.
func (r Rules) completedBy(other Rules) Rules {
	if r.MaxText == 0 {
		r.MaxText = other.MaxText
	}
	if r.Evidence == nil {
		r.Evidence = other.Evidence
	}
	return r
}

// Encode returns the JSON form in which rules are published and hashed.
func (r Rules) Encode() []byte {
	value, err := json.Marshal(r)
	if err != nil { // impossible: rules hold numbers and texts
		panic(fmt.Sprintf("catalog: rules without a JSON form: %v", err))
	}
	return value
}

// Publish writes the rules into the models topic, if the newest ones there are different.
func (r Rules) Publish(ctx context.Context, kafka *stream.Client, topic string) error {
	value := r.Encode()
	s, err := readSettings(ctx, kafka, topic)
	if err != nil || s.rules != nil && bytes.Equal(s.rules.Encode(), value) {
		return err
	}
	return kafka.Produce(ctx, []stream.Output{{Topic: topic, Key: []byte(rulesKey), Value: value}})
}
