package mining_test

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"hardneg/mining"
)

// TestExplain checks that the explanation of a list leads to this list, and that each verdict is right.
func TestExplain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg, c := drawConfig(t), drawCorpus(t)
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		m := newMiner(t, cfg)
		if rapid.Bool().Draw(t, "some") { // of a search that brought too few there is none
			in := c.input(false, rapid.IntRange(0, 5).Draw(t, "candidates"))
			if out, log := m.Explain(in); out.More != m.Mine(in).More || out.More && log != nil {
				t.Fatalf("more: %v, %d lists", out.More, len(log))
			}
		}
		out, log := m.Explain(c.input(true, -1))
		if want := m.Mine(c.input(true, -1)); !equalPairs(out.Pairs, want.Pairs) {
			t.Fatalf("explained\n%+v\nmined\n%+v", out.Pairs, want.Pairs)
		}
		for _, pair := range out.Pairs {
			at := slices.IndexFunc(log, func(l mining.PairLog) bool { return l.Positive == pair.Positive })
			if at < 0 {
				if pair.Reason != mining.ReasonPositiveMissing {
					t.Fatalf("%s has no account", pair.Positive)
				}
				continue
			}
			if len(log[at].Tiers) != len(cfg.Tiers) {
				t.Fatalf("%d tiers of %d", len(log[at].Tiers), len(cfg.Tiers))
			}
			c.checkLog(t, cfg, pair, log[at])
		}
	})
}

// TestVerdicts has one document for each verdict.
func TestVerdicts(t *testing.T) {
	text := "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
	at := func(id, hash string, x, y, z float64) mining.Document {
		norm := math.Sqrt(x*x + y*y + z*z)
		return mining.Document{ID: id, Hash: hash, Vector: []float32{float32(x / norm), float32(y / norm), float32(z / norm)}}
	}
	positive := at("positive", "p", 1, 1, 0)
	positive.MinHash = mining.NewMinHash(text)
	nearText := at("near text", "t", 1, 0, 0.4)
	nearText.MinHash = mining.NewMinHash(text + " seventeen")
	other := at("other evidence", "e", 1, -0.3, 0)
	c := corpus{query: []float32{1, 0, 0}, evidence: map[string]bool{"positive": true, "other evidence": false}, live: map[string]mining.Document{}}
	for _, d := range []mining.Document{
		positive, other, nearText, at("skipped", "s", 1, 0, 0.01), at("nearer", "n", 1, 0.5, 0), at("copy", "e", 1, 0, 0.5),
		at("chosen", "c", 1, 0, 0.6), at("same content", "b", 1, 0, -1.06), at("second", "b", 1, 0, 1.05), at("duplicate", "d", 1, 1, 0.05), at("third", "3", 1, 0, 1.2), at("fourth", "4", 1, 0, 1.3),
	} {
		c.live[d.ID] = d
	}
	maximum := 0.99
	m := newMiner(t, mining.Config{Negatives: 4, NearDuplicate: 0.98, NearText: 0.5, Tiers: []mining.Tier{
		{Policy: mining.PolicySemantic, UpTo: 1, Skip: 1},
		{Policy: mining.PolicyPositiveAware, UpTo: 3, MaxScore: &maximum, RelativeMargin: new(float64), Sampling: mining.SamplingRandom},
		{Policy: mining.PolicyPositiveAware, UpTo: 4},
	}})
	_, log := m.Explain(c.input(true, -1))
	seen := map[string]string{}
	for _, tier := range log[0].Tiers {
		for _, d := range tier.Decisions {
			seen[d.Document] += d.Verdict.String() + " "
		}
	}
	for id, want := range map[string]string{
		"skipped": "skipped ", "nearer": "nearer_to_positive ", "other evidence": "is_evidence ", "near text": "near_text ", "copy": "copy_of_evidence ",
		"chosen": "chosen ", "duplicate": "near_duplicate ", "same content": "same_content ",
		"second": "not_sampled ", "third": "chosen taken_before ",
	} {
		if seen[id] != want {
			t.Errorf("%s: %q, want %q", id, seen[id], want)
		}
	}
}

// checkLog checks the explanation of one list.
func (c corpus) checkLog(t *rapid.T, cfg mining.Config, pair mining.Pair, log mining.PairLog) {
	positive := c.live[pair.Positive]
	var slots []mining.Decision
	for i, tier := range log.Tiers {
		rules := cfg.Tiers[i]
		before := len(slots)
		if tier.End == mining.EndNot {
			if before < rules.UpTo || len(tier.Decisions) > 0 {
				t.Fatalf("a tier did not begin with %d slots of %d filled: %+v", before, rules.UpTo, tier)
			}
			continue
		}
		var inRange []string
		for _, d := range c.ranking() {
			cosine := float64(dot(c.query, d.Vector))
			if cosine <= tier.High && (cosine > tier.Low || cosine == tier.Low && rules.Policy != "semantic") {
				inRange = append(inRange, d.ID)
			}
		}
		if len(tier.Decisions) > len(inRange) {
			t.Fatalf("%d decisions of %d documents in range", len(tier.Decisions), len(inRange))
		}
		for k, d := range tier.Decisions {
			x := c.live[d.Document]
			if d.Document != inRange[k] || d.QueryDocument != dot(c.query, x.Vector) || d.PositiveDocument != dot(positive.Vector, x.Vector) {
				t.Fatalf("decision %d is of %+v, want of %s", k, d, inRange[k])
			}
			inList := func(of []mining.Decision) bool {
				return slices.ContainsFunc(of, func(s mining.Decision) bool { return s.Document == d.Document })
			}
			sameContent := func(of []mining.Decision) bool {
				return slices.ContainsFunc(of, func(s mining.Decision) bool {
					return (s.Verdict == mining.Chosen || s.Verdict == mining.NotSampled) && x.Hash != "" && c.live[s.Document].Hash == x.Hash
				})
			}
			_, evidence := c.evidence[d.Document]
			var ok bool
			switch d.Verdict {
			case mining.Chosen:
				ok = !c.barred(cfg, x) && k >= rules.Skip && d.Rank > before
				slots = append(slots, d)
			case mining.NotSampled:
				ok = !c.barred(cfg, x) && k >= rules.Skip && rules.Sampling == "random"
			case mining.Skipped:
				ok = k < rules.Skip
			case mining.TakenBefore:
				ok = inList(slots[:before])
			case mining.SameContent:
				ok = sameContent(slots) || sameContent(tier.Decisions[:k])
			case mining.NearerToPositive:
				ok = rules.Policy == "semantic" && d.QueryDocument <= d.PositiveDocument
			case mining.IsEvidence:
				ok = evidence && d.Of == d.Document
			case mining.CopyOfEvidence:
				ok = x.Hash != "" && c.live[d.Of].Hash == x.Hash && !evidence
			case mining.NearDuplicate:
				ok = d.Similarity >= cfg.NearDuplicate && d.Similarity == float64(dot(c.live[d.Of].Vector, x.Vector))
			case mining.NearText:
				ok = d.Similarity >= cfg.NearText && d.Similarity == c.live[d.Of].MinHash.Jaccard(x.MinHash)
			}
			if _, named := c.evidence[d.Of]; !ok || d.Of != "" && !named {
				t.Fatalf("tier %d, decision %d: %+v does not hold", i, k, d)
			}
		}
		var ok bool
		switch tier.End {
		case mining.EndFull:
			ok = len(slots) == rules.UpTo
		case mining.EndDepth:
			ok = len(tier.Decisions) == rules.Depth
		case mining.EndExhausted:
			ok = len(tier.Decisions) == len(inRange)
		}
		if !ok {
			t.Fatalf("tier %d: %d decisions of %d, %d slots of %d, ended %s", i, len(tier.Decisions), len(inRange), len(slots), rules.UpTo, tier.End)
		}
	}
	slices.SortFunc(slots, func(a, b mining.Decision) int { return a.Rank - b.Rank })
	if len(slots) != len(pair.Slots) {
		t.Fatalf("%d were chosen, the list has %d", len(slots), len(pair.Slots))
	}
	for i, s := range pair.Slots {
		if slots[i].Document != s.Document || slots[i].Rank != i+1 {
			t.Fatalf("slot %d is %+v, the account says %+v", i+1, s, slots[i])
		}
	}
}
