package mining

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
)

// The policies of a tier.
const (
	PolicySemantic      = "semantic"       // the paper's rule: nearer to the query than the positive, and nearer to it than to the positive
	PolicyPositiveAware = "positive-aware" // at most as similar to the query as a share of the positive's similarity
)

// The ways to choose among the survivors of a tier's window.
const (
	SamplingTop    = "top"    // the most similar to the query
	SamplingRandom = "random" // seeded by query, positive and document
)

const (
	defaultDepth          = 200
	defaultRelativeMargin = 0.05
)

// Config is the rules of mining.
type Config struct {
	Negatives     int     // slots of a list
	Tiers         []Tier  // fill the list in order
	NearDuplicate float64 // cosine to an evidence document from which a document counts as its copy; above 1: off
	NearText      float64 // likewise the Jaccard similarity of 5-word shingles; above 1: off
	Depth         int     // for tiers that name none
}

// Tier fills the list up to a number of slots by one policy.
type Tier struct {
	Policy string
	UpTo   int // slots of the whole list that may be filled when the tier ends; 0: all

	// Of positive-aware: cos(q,d) <= the minimum of cos(q,p) − RelativeMargin·|cos(q,p)|, cos(q,p) − AbsoluteMargin and
	// MaxScore (those given), and >= MinScore. With neither margin given the relative one is 0.05.
	RelativeMargin, AbsoluteMargin *float64
	MaxScore, MinScore             *float64

	// The window: of the documents whose cosine lies in the tier's range, the first Depth in order, without the first
	// Skip. Every document in range counts, also one that a guard bars or an earlier tier took.
	Skip, Depth int    // Depth 0: Config.Depth
	Sampling    string // empty: top
}

// DefaultConfig is one document by the paper's rule where there is one, and the most similar ones below 95 % of
// the positive's similarity for the rest of four.
func DefaultConfig() Config {
	margin := defaultRelativeMargin
	return Config{
		Negatives: 4,
		Tiers: []Tier{
			{Policy: PolicySemantic, UpTo: 1},
			{Policy: PolicyPositiveAware, UpTo: 4, RelativeMargin: &margin},
		},
		NearDuplicate: 0.98,
		NearText:      0.5,
		Depth:         defaultDepth,
	}
}

// Validate fills in what is left open (UpTo, Depth, Sampling, the relative margin, Config.Depth) and says what is
// wrong with the rest. An UpTo above Negatives means Negatives.
func (c *Config) Validate() error {
	if c.Negatives < 1 {
		return fmt.Errorf("mining.negatives: is %d, must be at least 1", c.Negatives)
	}
	if !(c.NearDuplicate > 0) || math.IsInf(c.NearDuplicate, 0) {
		return fmt.Errorf("mining.near_duplicate: is %v, must be above 0 (0.98 is usual; above 1 switches the guard off)", c.NearDuplicate)
	}
	if !(c.NearText > 0) || math.IsInf(c.NearText, 0) {
		return fmt.Errorf("mining.near_text: is %v, must be above 0 (0.5 is usual; above 1 switches the guard off)", c.NearText)
	}
	if c.Depth < 0 {
		return fmt.Errorf("mining.depth: is %d, must be at least 1", c.Depth)
	}
	if c.Depth == 0 {
		c.Depth = defaultDepth
	}
	if len(c.Tiers) == 0 {
		return fmt.Errorf("mining.tiers: is empty, needs at least one tier")
	}
	c.Tiers = append([]Tier(nil), c.Tiers...) // the caller's tiers stay as they are
	most := 0
	for i := range c.Tiers {
		if err := c.Tiers[i].validate(c); err != nil {
			return fmt.Errorf("mining.tiers[%d]%w", i, err)
		}
		most = max(most, c.Tiers[i].UpTo)
	}
	if most < c.Negatives {
		return fmt.Errorf("mining.tiers: fill at most %d of mining.negatives = %d slots; raise upto of the last tier", most, c.Negatives)
	}
	return nil
}

func (t *Tier) validate(c *Config) error {
	switch {
	case t.UpTo < 0:
		return fmt.Errorf(".upto: is %d, must be at least 1", t.UpTo)
	case t.UpTo == 0 || t.UpTo > c.Negatives:
		t.UpTo = c.Negatives
	}
	switch t.Sampling {
	case "":
		t.Sampling = SamplingTop
	case SamplingTop, SamplingRandom:
	default:
		return fmt.Errorf(".sampling: is %q, must be %s or %s", t.Sampling, SamplingTop, SamplingRandom)
	}
	if t.Depth < 0 {
		return fmt.Errorf(".depth: is %d, must be at least 1", t.Depth)
	}
	if t.Depth == 0 {
		t.Depth = c.Depth
	}
	if t.Skip < 0 {
		return fmt.Errorf(".skip: is %d, must not be negative", t.Skip)
	}
	if t.Skip >= t.Depth {
		return fmt.Errorf(".skip: is %d, must be below depth (%d), which counts the skipped ones too", t.Skip, t.Depth)
	}
	scores := []struct {
		key       string
		value     *float64
		low, high float64
	}{
		{"relative_margin", t.RelativeMargin, 0, 2},
		{"absolute_margin", t.AbsoluteMargin, 0, 2},
		{"max_score", t.MaxScore, -1, 1},
		{"min_score", t.MinScore, -1, 1},
	}
	for _, s := range scores {
		if s.value != nil && !(*s.value >= s.low && *s.value <= s.high) {
			return fmt.Errorf(".%s: is %v, must be from %v to %v", s.key, *s.value, s.low, s.high)
		}
	}
	switch t.Policy {
	case PolicySemantic:
		for _, s := range scores {
			if s.value != nil {
				return fmt.Errorf(".%s: belongs to policy %s, not to %s", s.key, PolicyPositiveAware, PolicySemantic)
			}
		}
	case PolicyPositiveAware:
		if t.MinScore != nil && t.MaxScore != nil && *t.MinScore > *t.MaxScore {
			return fmt.Errorf(".min_score: is %v, above max_score (%v)", *t.MinScore, *t.MaxScore)
		}
		if t.RelativeMargin == nil && t.AbsoluteMargin == nil {
			margin := defaultRelativeMargin
			t.RelativeMargin = &margin
		}
	default:
		return fmt.Errorf(".policy: is %q, must be %s or %s", t.Policy, PolicySemantic, PolicyPositiveAware)
	}
	return nil
}

// Fingerprint identifies the rules: configurations that mean the same have the same one. It covers this package's
// way of applying them too, and changes when that does.
func (c Config) Fingerprint() string {
	if err := c.Validate(); err != nil {
		return "invalid: " + err.Error()
	}
	text, err := json.Marshal(struct {
		Version int
		Config  Config
	}{2, c})
	if err != nil {
		panic(err) // Validate refused what JSON has no number for
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
