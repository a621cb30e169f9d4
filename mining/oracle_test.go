package mining_test

import (
	"math"
	"sort"

	"hardneg/mining"
)

// The oracle computes the lists from all live documents, in the plainest way, as the documentation describes them.

type corpus struct {
	query    []float32
	live     map[string]mining.Document
	evidence map[string]bool // id → has a list
}

func (c corpus) input(exhausted bool, limit int) mining.Input {
	in := mining.Input{QueryID: "q", Query: c.query, Exhausted: exhausted}
	for id, positive := range c.evidence {
		e := mining.Evidence{ID: id, Positive: positive}
		if d, ok := c.live[id]; ok {
			e.Document = &d
		}
		in.Evidence = append(in.Evidence, e)
	}
	for _, d := range c.ranking() {
		if limit == 0 {
			break
		}
		in.Candidates = append(in.Candidates, d)
		limit--
	}
	return in
}

func dot(a, b []float32) float32 {
	sum := 0.0
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return float32(sum)
}

func millionths(x float32) float64 { return math.Round(float64(x) * 1e6) }

func (c corpus) ranking() []mining.Document {
	var all []mining.Document
	for _, d := range c.live {
		all = append(all, d)
	}
	sort.Slice(all, func(i, j int) bool {
		a, b := millionths(dot(c.query, all[i].Vector)), millionths(dot(c.query, all[j].Vector))
		if a != b {
			return a > b
		}
		return all[i].ID < all[j].ID
	})
	return all
}

func (c corpus) barred(cfg mining.Config, d mining.Document) bool {
	for id := range c.evidence {
		if id == d.ID {
			return true
		}
		e, ok := c.live[id]
		if !ok {
			continue
		}
		equal := 0
		if d.MinHash != nil && e.MinHash != nil {
			for i := range d.MinHash {
				if d.MinHash[i] == e.MinHash[i] {
					equal++
				}
			}
		}
		if e.Hash != "" && e.Hash == d.Hash || float64(dot(e.Vector, d.Vector)) >= cfg.NearDuplicate || float64(equal)/128 >= cfg.NearText {
			return true
		}
	}
	return false
}

// pairs mines each pair. chance gives the order of random sampling, which the documentation leaves open.
func (c corpus) pairs(cfg mining.Config, chance func(positive, document string) uint64) []mining.Pair {
	var ids []string
	for id, positive := range c.evidence {
		if positive {
			ids = append(ids, id)
		}
	}
	sort.Strings(ids)
	var out []mining.Pair
	for _, id := range ids {
		p, ok := c.live[id]
		if !ok {
			out = append(out, mining.Pair{Positive: id, Reason: mining.ReasonPositiveMissing})
			continue
		}
		out = append(out, c.pair(cfg, p, func(d string) uint64 { return chance(id, d) }))
	}
	return out
}

func (c corpus) pair(cfg mining.Config, p mining.Document, chance func(document string) uint64) mining.Pair {
	pair := mining.Pair{Positive: p.ID, Hash: p.Hash, Similarity: dot(c.query, p.Vector)}
	sp := float64(pair.Similarity)
	reason := mining.ReasonExhausted
	for _, t := range cfg.Tiers {
		upto := t.UpTo
		if upto == 0 || upto > cfg.Negatives {
			upto = cfg.Negatives
		}
		depth := t.Depth
		if depth == 0 {
			depth = cfg.Depth
		}
		if len(pair.Slots) >= upto {
			continue
		}
		var inRange []mining.Document
		for _, d := range c.ranking() {
			s := float64(dot(c.query, d.Vector))
			if t.Policy == "semantic" {
				if s > sp {
					inRange = append(inRange, d)
				}
				continue
			}
			ceiling := math.Inf(1)
			if t.RelativeMargin != nil {
				ceiling = math.Min(ceiling, sp-*t.RelativeMargin*math.Abs(sp))
			}
			if t.AbsoluteMargin != nil {
				ceiling = math.Min(ceiling, sp-*t.AbsoluteMargin)
			}
			if t.RelativeMargin == nil && t.AbsoluteMargin == nil {
				ceiling = math.Min(ceiling, sp-0.05*math.Abs(sp))
			}
			if t.MaxScore != nil {
				ceiling = math.Min(ceiling, *t.MaxScore)
			}
			if s <= ceiling && (t.MinScore == nil || s >= *t.MinScore) {
				inRange = append(inRange, d)
			}
		}
		reason = mining.ReasonExhausted
		if len(inRange) >= depth {
			inRange, reason = inRange[:depth], mining.ReasonDepth
		}
		inRange = inRange[min(t.Skip, len(inRange)):]
		seen := map[string]bool{} // content
		for _, s := range pair.Slots {
			seen[s.Hash] = true
		}
		var left []mining.Document
		for _, d := range inRange {
			if t.Policy == "semantic" && !(dot(c.query, d.Vector) > dot(p.Vector, d.Vector)) {
				continue
			}
			if c.barred(cfg, d) || d.Hash != "" && seen[d.Hash] {
				continue
			}
			already := false
			for _, s := range pair.Slots {
				already = already || s.Document == d.ID
			}
			if !already {
				seen[d.Hash] = true
				left = append(left, d)
			}
		}
		want := upto - len(pair.Slots)
		if t.Sampling == "random" && len(left) > want {
			byChance := append([]mining.Document(nil), left...)
			sort.Slice(byChance, func(i, j int) bool { return chance(byChance[i].ID) < chance(byChance[j].ID) })
			keep := map[string]bool{}
			for _, d := range byChance[:want] {
				keep[d.ID] = true
			}
			var kept []mining.Document
			for _, d := range left {
				if keep[d.ID] {
					kept = append(kept, d)
				}
			}
			left = kept
		}
		for _, d := range left[:min(want, len(left))] {
			pair.Slots = append(pair.Slots, mining.Slot{
				Document: d.ID, Hash: d.Hash, Policy: t.Policy,
				QueryNegative: dot(c.query, d.Vector), PositiveNegative: dot(p.Vector, d.Vector),
			})
		}
	}
	if len(pair.Slots) < cfg.Negatives {
		pair.Reason = reason
	}
	return pair
}
