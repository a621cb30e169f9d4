package e2e

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// The oracle is a naive batch miner for one or both policies, in the default order. It scores every document
// for every query. It shares no code with the program.

// rules are the settings that tests change.
type rules struct {
	negatives, semanticUpTo int
	relativeMargin          float64 // below 0: no tier with policy positive-aware
}

// The default settings that determine a list.
var defaultRules = rules{negatives: 4, semanticUpTo: 1, relativeMargin: 0.05}

const (
	nearDuplicate = 0.98
	nearText      = 0.5
	depth         = 200
)

// tied is the difference below which two cosines may be in either order.
const tied = 1e-5

// point is a live document as the index holds it.
type point struct {
	id, hash string
	text
	minhash []uint16
	vector  []float64
}

// slot is a chosen negative.
type slot struct{ id, policy string }

// question is a query to mine: its vector, the documents that the log names (true for positives), and the
// rules.
type question struct {
	vector   []float64
	evidence map[string]bool
	rules
}

// below reports whether a cosine to the query is at most the positive's cosine minus the margin.
func (r rules) below(score, own, slack float64) bool {
	return r.relativeMargin >= 0 && score <= own-r.relativeMargin*math.Abs(own)+slack
}

// corpus contains all live documents by id.
type corpus map[string]*point

// cosine of unit vectors.
func cosine(a, b []float64) float64 {
	var sum float64
	for i := range a {
		sum += a[i] * b[i]
	}
	return float64(float32(sum))
}

// jaccard returns the share of equal positions of two signatures.
func jaccard(a, b []uint16) float64 {
	if len(a) == 0 || len(a) != len(b) {
		return 0
	}
	equal := 0
	for i := range a {
		if a[i] == b[i] {
			equal++
		}
	}
	return float64(equal) / float64(len(a))
}

// scored is a document with its cosine to a query.
type scored struct {
	*point
	score float64
}

func micro(score float64) float64 { return math.Round(score * 1e6) }

// rank scores all documents. It sorts by score rounded to six decimals, highest first, then by id.
func (c corpus) rank(q question) []scored {
	ranking := make([]scored, 0, len(c))
	for _, d := range c {
		ranking = append(ranking, scored{d, cosine(q.vector, d.vector)})
	}
	slices.SortFunc(ranking, func(a, b scored) int {
		if order := cmp.Compare(micro(b.score), micro(a.score)); order != 0 {
			return order
		}
		return strings.Compare(a.id, b.id)
	})
	return ranking
}

// barred reports whether the log names a document, or it is a copy or a near-copy of a named one. A positive
// slack widens the range of cosines that count as a copy, a negative one narrows it.
func (c corpus) barred(q question, d *point, slack float64) bool {
	for id := range q.evidence {
		if id == d.id {
			return true
		}
		e := c[id]
		if e != nil && (e.hash == d.hash || cosine(e.vector, d.vector) >= nearDuplicate-slack || jaccard(e.minhash, d.minhash) >= nearText) {
			return true
		}
	}
	return false
}

// mine returns the list of each positive that is indexed.
func (c corpus) mine(q question) map[string][]slot {
	ranking := c.rank(q)
	lists := map[string][]slot{}
	for id, isPositive := range q.evidence {
		if p := c[id]; isPositive && p != nil {
			lists[id] = c.list(q, p, ranking)
		}
	}
	return lists
}

func (c corpus) list(q question, p *point, ranking []scored) []slot {
	own := cosine(q.vector, p.vector)
	var list []slot
	hashes := map[string]bool{}
	take := func(d scored, policy string) {
		list = append(list, slot{d.id, policy})
		hashes[d.hash] = true
	}
	counted := 0
	for _, d := range ranking {
		if !(d.score > own) {
			continue
		}
		if counted++; counted > depth || len(list) == q.semanticUpTo {
			break
		}
		if d.score > cosine(p.vector, d.vector) && !hashes[d.hash] && !c.barred(q, d.point, 0) {
			take(d, "semantic")
		}
	}
	counted = 0
	taken := slices.Clone(list)
	for _, d := range ranking {
		if !q.below(d.score, own, 0) {
			continue
		}
		if counted++; counted > depth || len(list) == q.negatives {
			break
		}
		if !slices.ContainsFunc(taken, func(s slot) bool { return s.id == d.id }) && !hashes[d.hash] && !c.barred(q, d.point, 0) {
			take(d, "positive-aware")
		}
	}
	return list
}

// justify returns an error if a list cannot result from the rules, even if cosines that differ by less than
// `tied` may be in either order. It is called when the program's list differs from mine's.
func (c corpus) justify(q question, positive string, list []slot) error {
	p := c[positive]
	if p == nil || !q.evidence[positive] {
		if len(list) > 0 {
			return fmt.Errorf("there are %d negatives, but %q is no indexed positive of the query", len(list), positive)
		}
		return nil
	}
	own, ranking := cosine(q.vector, p.vector), c.rank(q)
	semantic := 0
	for semantic < len(list) && list[semantic].policy == "semantic" {
		semantic++
	}
	if semantic > q.semanticUpTo || len(list) > q.negatives {
		return fmt.Errorf("the list is too long: %v", list)
	}
	above := func(d scored, slack float64) bool {
		return d.score > own-slack && d.score > cosine(p.vector, d.vector)-slack
	}
	below := func(d scored, slack float64) bool {
		return q.below(d.score, own, slack)
	}
	inAbove := func(d scored, slack float64) bool { return d.score > own-slack }
	if err := c.justifyTier(q, ranking, nil, list[:semantic], q.semanticUpTo, "semantic", inAbove, above); err != nil {
		return err
	}
	return c.justifyTier(q, ranking, list[:semantic], list[semantic:], q.negatives-semantic, "positive-aware", below, below)
}

// justifyTier checks that each chosen document is allowed, and that no document was passed over that clearly
// is allowed. inRange and allowed take a slack: a positive one asks "possibly", a negative one "certainly".
func (c corpus) justifyTier(q question, ranking []scored, before, list []slot, upto int, policy string, inRange, allowed func(scored, float64) bool) error {
	hashes, ids := map[string]bool{}, map[string]bool{}
	for _, s := range before {
		if c[s.id] == nil {
			return fmt.Errorf("%q is not in the index", s.id)
		}
		hashes[c[s.id].hash], ids[s.id] = true, true
	}
	floor := math.Inf(1)
	for _, s := range list {
		d := c[s.id]
		if d == nil {
			return fmt.Errorf("%q is not in the index", s.id)
		}
		x := scored{d, cosine(q.vector, d.vector)}
		switch {
		case s.policy != policy:
			return fmt.Errorf("%q is of policy %s among those of %s", s.id, s.policy, policy)
		case ids[s.id] || hashes[d.hash]:
			return fmt.Errorf("%q comes twice, by id or by content", s.id)
		case c.barred(q, d, -tied):
			return fmt.Errorf("%q is evidence of the query or a copy of it", s.id)
		case !allowed(x, tied):
			return fmt.Errorf("%q breaks the conditions of %s", s.id, policy)
		case x.score > floor+tied:
			return fmt.Errorf("%q is out of order", s.id)
		}
		floor = min(floor, x.score)
		ids[s.id], hashes[d.hash] = true, true
	}
	return c.nonePassedOver(q, ranking, ids, hashes, len(list) == upto, floor, policy, inRange, allowed)
}

func (c corpus) nonePassedOver(q question, ranking []scored, ids, hashes map[string]bool, full bool, floor float64, policy string, inRange, allowed func(scored, float64) bool) error {
	window := 0
	for _, d := range ranking {
		if !inRange(d, tied) {
			continue
		}
		if window++; window > depth {
			break
		}
		if ids[d.id] || full && d.score <= floor+tied {
			continue
		}
		if !hashes[d.hash] && allowed(d, -tied) && !c.barred(q, d.point, tied) {
			return fmt.Errorf("%q (cosine %.6f) was passed over by %s", d.id, d.score, policy)
		}
	}
	return nil
}
