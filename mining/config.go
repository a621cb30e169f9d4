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
	// PolicySemantic takes a document D that is nearer to the query Q than the positive P is, and nearer to Q
	// than to P: cos(Q,D) > cos(Q,P) and cos(Q,D) > cos(P,D). This is the rule of the paper that the package
	// comment names.
	PolicySemantic = "semantic"
	// PolicyPositiveAware takes a document that is less similar to the query than the positive is, by a
	// margin: see Tier.
	PolicyPositiveAware = "positive-aware"
)

// Sampling says how a tier chooses among the documents of its window that no rule excludes.
const (
	SamplingTop    = "top"    // the most similar to the query
	SamplingRandom = "random" // by a hash of query, positive and document: the same choice each time
)

const (
	defaultDepth          = 200
	defaultRelativeMargin = 0.05
)

// Config holds the rules of mining.
type Config struct {
	// Negatives is the number of slots of a list, at least 1.
	Negatives int
	// Tiers fill the list in order. There is at least one.
	Tiers []Tier
	// NearDuplicate guards against near-copies by vector: a document whose cosine to an evidence document is
	// at least this is no negative. It is above 0; above 1 switches the guard off.
	NearDuplicate float64
	// NearText guards against near-copies by text: a document whose MinHash.Jaccard with an evidence document
	// is at least this is no negative. It is above 0; above 1 switches the guard off.
	NearText float64
	// Depth is the Tier.Depth of tiers that leave it open. 0 means 200.
	Depth int
}

// Tier fills a part of the list by one policy. It looks at the documents whose cosine to the query lies in
// the tier's range, the nearest to the query first.
type Tier struct {
	// Policy is PolicySemantic or PolicyPositiveAware.
	Policy string
	// UpTo is how many slots of the whole list may be filled when the tier ends. 0 means all. A later tier
	// fills the slots from there on.
	UpTo int

	// The range of PolicyPositiveAware: cos(q,d) is at most the minimum of cos(q,p) −
	// RelativeMargin·|cos(q,p)|, of cos(q,p) − AbsoluteMargin and of MaxScore, as far as they are given, and
	// at least MinScore if it is given. Here q is the query, p the positive and d the document. Without any
	// margin, RelativeMargin is 0.05. Margins are from 0 to 2, scores from -1 to 1. PolicySemantic takes none
	// of the four.
	RelativeMargin, AbsoluteMargin *float64
	MaxScore, MinScore             *float64

	// The window: the tier looks at the first Depth documents in its range, and leaves out the first Skip of
	// these. Each document in range counts, also if a guard bars it or an earlier tier took it. Depth 0 means
	// Config.Depth.
	Skip, Depth int
	// Sampling is SamplingTop or SamplingRandom. Empty means SamplingTop.
	Sampling string
}

// DefaultConfig gives the usual rules: lists of four negatives. The first is by the paper's rule, if any
// document fits it. The others are the documents most similar to the query with at most 95 % of the
// positive's similarity.
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

// Problem is a wrong field of a Config.
type Problem struct {
	Key  string // as the configuration file of hardneg spells it, below `mining`: tiers[0].skip
	Text string // the value, and the values that are allowed
}

// Validate fills in the defaults of the fields that are left open (UpTo, Depth, Sampling, RelativeMargin and
// Config.Depth). An UpTo above Negatives becomes Negatives. The error is the first of Problems.
func (c *Config) Validate() error {
	whole, problems := c.filled()
	if len(problems) > 0 {
		return fmt.Errorf("mining.%s: %s", problems[0].Key, problems[0].Text)
	}
	*c = whole
	return nil
}

// Problems lists every wrong field, in the order of the fields.
func (c Config) Problems() []Problem {
	_, problems := c.filled()
	return problems
}

// filled returns the configuration with its defaults, and what is wrong with it.
func (c Config) filled() (whole Config, problems []Problem) {
	fail := func(key, format string, args ...any) {
		problems = append(problems, Problem{key, fmt.Sprintf(format, args...)})
	}
	if c.Negatives < 1 {
		fail("negatives", "is %d, must be at least 1", c.Negatives)
	}
	if !(c.NearDuplicate > 0) || math.IsInf(c.NearDuplicate, 0) {
		fail("near_duplicate", "is %v, must be above 0 (0.98 is usual; above 1 switches the guard off)", c.NearDuplicate)
	}
	if !(c.NearText > 0) || math.IsInf(c.NearText, 0) {
		fail("near_text", "is %v, must be above 0 (0.5 is usual; above 1 switches the guard off)", c.NearText)
	}
	if c.Depth < 0 {
		fail("depth", "is %d, must be at least 1", c.Depth)
	}
	if c.Depth == 0 {
		c.Depth = defaultDepth
	}
	if len(c.Tiers) == 0 {
		fail("tiers", "names no policy")
		return c, problems
	}
	c.Tiers = append([]Tier(nil), c.Tiers...) // the caller's tiers stay as they are
	most := 0
	for i := range c.Tiers {
		c.Tiers[i].fill(c, func(key, format string, args ...any) { fail(fmt.Sprintf("tiers[%d].%s", i, key), format, args...) })
		most = max(most, c.Tiers[i].UpTo)
	}
	if most < c.Negatives {
		fail("tiers", "fill at most %d of mining.negatives = %d slots; raise upto of the last tier", most, c.Negatives)
	}
	return c, problems
}

// fill fills in the defaults of a tier, and calls fail for each wrong field.
func (t *Tier) fill(c Config, fail func(key, format string, args ...any)) {
	switch {
	case t.UpTo < 0:
		fail("upto", "is %d, must be at least 1", t.UpTo)
	case t.UpTo == 0 || t.UpTo > c.Negatives:
		t.UpTo = c.Negatives
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
		switch {
		case s.value == nil:
		case t.Policy == PolicySemantic:
			fail(s.key, "belongs to %s; %s has none", PolicyPositiveAware, PolicySemantic)
		case !(*s.value >= s.low && *s.value <= s.high):
			fail(s.key, "is %v, must be from %v to %v", *s.value, s.low, s.high)
		}
	}
	switch t.Policy {
	case PolicySemantic:
	case PolicyPositiveAware:
		if t.MinScore != nil && t.MaxScore != nil && *t.MinScore > *t.MaxScore {
			fail("min_score", "is %g, above max_score, %g", *t.MinScore, *t.MaxScore)
		}
		if t.RelativeMargin == nil && t.AbsoluteMargin == nil {
			margin := defaultRelativeMargin
			t.RelativeMargin = &margin
		}
	default:
		fail("policy", "is %q, must be %s or %s", t.Policy, PolicySemantic, PolicyPositiveAware)
	}
	if t.Depth < 0 {
		fail("depth", "is %d, must be at least 1", t.Depth)
	}
	if t.Depth == 0 {
		t.Depth = c.Depth
	}
	switch {
	case t.Skip < 0:
		fail("skip", "is %d, must not be negative", t.Skip)
	case t.Skip >= t.Depth:
		fail("skip", "is %d of %d candidates (depth): none is left", t.Skip, t.Depth)
	}
	switch t.Sampling {
	case "":
		t.Sampling = SamplingTop
	case SamplingTop, SamplingRandom:
	default:
		fail("sampling", "is %q, must be %s or %s", t.Sampling, SamplingTop, SamplingRandom)
	}
}

// Fingerprint identifies the rules in 16 hexadecimal digits: configurations with the same meaning have the
// same fingerprint. It changes too when a new version of this package applies the rules in another way. For a
// configuration that Validate refuses it is a text with the error.
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
