package mining

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// Miner applies the rules of one configuration. Make it by New. It is safe for concurrent use.
type Miner struct{ config Config }

// New makes a miner with these rules. The error is that of Config.Validate. The miner keeps its own copy.
func New(c Config) (*Miner, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Miner{c}, nil
}

// Config gives the rules, with the defaults filled in.
func (m *Miner) Config() Config { return m.config }

const (
	lowest  = -2 // below every cosine, rounding included
	highest = 2  // above every cosine
)

// Mine decides the lists of one query. The input must be one that Input.Validate accepts, but vectors may
// have any length. Mine panics if two vectors differ in their number of dimensions.
//
// The time is about one Cosine for each candidate, and for each candidate that no policy excludes one more
// for each evidence.
func (m *Miner) Mine(in Input) Outcome { return mine(newWalk(m.config, in)) }

// mine decides all pairs of the walk.
//
// Why Watch and Entry are enough. Let a document X be removed or inserted. (A change is a removal and an
// insertion.) Claim: if Watch lacks the id of X, and no Entry interval holds the cosine of its new version to
// the query, then every pair stays as it is.
//
// All evidence is in Watch, so X is no evidence. So no guard's verdict on another document depends on X. Take
// a pair and its tiers in order, and suppose that the tiers before chose the same slots with and without X. A
// later tier sees only their number, their ids and their content hashes. A tier walks the documents whose
// cosine lies in its range, in order, and counts them. There are five cases:
//
//   - The list was full before: the tier does nothing, with or without X.
//   - Top sampling filled the list, with slot L as its last. The slots and the skipped ranks are in Watch, so
//     a removed X was none of them. The walk passed over X: a guard barred it, the policy refused it, or it
//     was a copy of an earlier slot. So X changed only the count. Without X the later ranks get smaller. This
//     does not matter to Skip, since X came after the skipped ranks, nor to Depth, since L only gets nearer.
//     A copy Y of a slot S stays barred unless S goes, and S is in Watch. An inserted X comes after L, where
//     the walk no longer looks: Entry covers everything from L upwards, also where X would only push L out of
//     the window or shift the skipped ranks.
//   - The tier reached its depth: all counted documents are in Watch, and Entry covers the range from the
//     last of them upwards.
//   - The tier walked its whole range: Entry covers the range. A removed X was neither a slot nor a skipped
//     rank. The window did not end, so X took no other document's place in it.
//   - The tier samples at random: the choice depends on every document of the window, since only the first of
//     several copies takes part. So all counted documents are in Watch. Entry covers the window, down to the
//     last counted document or to the end of the range.
//
// So the tier chooses the same slots, and ends in the same way at the same rank. The same argument then holds
// for the next change, so the old Watch and Entry stay true and need not be stored again. The reason of a
// short list depends only on how the last tier ended. Cosines that are equal after rounding are ordered by
// id, so an inserted X can come before L with a cosine up to 1e-6 lower. The Slack of the look-up covers
// this.
func mine(w *walk) Outcome {
	var out Outcome
	for i := range w.evidence {
		e := &w.evidence[i]
		w.watch = append(w.watch, e.ID)
		if !e.Positive {
			continue
		}
		pair := Pair{Positive: e.ID, Reason: ReasonPositiveMissing}
		if e.Document != nil {
			var complete bool
			if pair, complete = w.pair(e.Document); !complete {
				return Outcome{More: true}
			}
		}
		out.Pairs = append(out.Pairs, pair)
	}
	slices.Sort(w.watch)
	out.Watch = slices.Compact(w.watch)
	out.Entry = merge(w.entry)
	return out
}

// walk is the work on one query.
type walk struct {
	Config
	query    string
	vector   []float32   // of the query
	evidence []Evidence  // sorted by id
	ranked   []candidate // the nearest first; no document is missing before the last of them
	horizon  float64     // documents with cosines up to here may be missing from ranked
	watch    []string
	entry    []Interval
	pairing  int          // number of the current pair, from 1
	window   []*candidate // the documents that the current tier has counted
	log      *[]PairLog   // nil: nobody asks for an explanation
}

type candidate struct {
	*Document
	cosine  float32 // to the query
	rank    int32   // the cosine, rounded
	judged  bool    // guard is set
	guard   Verdict // of the guards; Chosen: no guard bars the document
	takenBy int     // number of the last pair that took it
}

func newWalk(c Config, in Input) *walk {
	if len(c.Tiers) == 0 {
		panic("mining: this Miner has no rules: make it by New")
	}
	w := &walk{Config: c, query: in.QueryID, vector: in.Query, horizon: lowest}
	w.evidence = slices.Clone(in.Evidence)
	slices.SortFunc(w.evidence, func(a, b Evidence) int { return strings.Compare(a.ID, b.ID) })
	w.ranked = make([]candidate, len(in.Candidates))
	for i := range in.Candidates {
		d := &in.Candidates[i]
		cosine := Cosine(in.Query, d.Vector)
		w.ranked[i] = candidate{Document: d, cosine: cosine, rank: rounded(cosine)}
	}
	slices.SortFunc(w.ranked, func(a, b candidate) int {
		if c := cmp.Compare(b.rank, a.rank); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	if in.Exhausted {
		return w
	}
	// The search engine's sums differ from these. A document that it left out may score a little above the
	// last candidate, and so come before other candidates that are as near to the last one.
	var last int32
	switch {
	case in.Floor != nil:
		last = rounded(*in.Floor)
	case len(w.ranked) > 0:
		last = w.ranked[len(w.ranked)-1].rank
	default:
		w.horizon = highest
		return w
	}
	end := last + slackRank
	w.horizon = float64(end+1) / rankScale
	n, _ := slices.BinarySearchFunc(w.ranked, end, func(c candidate, end int32) int { return cmp.Compare(end, c.rank) })
	w.ranked = w.ranked[:n]
	return w
}

// pair fills the list of one positive. It gives false if documents beyond the horizon could be in the list.
func (w *walk) pair(p *Document) (Pair, bool) {
	w.pairing++
	pair := Pair{Positive: p.ID, Hash: p.Hash, Similarity: Cosine(w.vector, p.Vector)}
	w.logPair(p)
	var end ending
	for i := range w.Tiers {
		t := &w.Tiers[i]
		w.logTier(t, pair)
		if len(pair.Slots) >= t.UpTo {
			continue
		}
		if end = w.tier(t, p, &pair); end == beyondHorizon {
			return Pair{}, false
		}
		w.logEnd(end)
	}
	if len(pair.Slots) < w.Negatives {
		pair.Reason = ReasonExhausted
		if end == depthReached {
			pair.Reason = ReasonDepth
		}
	}
	return pair, true
}

// ending says how a tier ended.
type ending uint8

const (
	filled ending = iota
	depthReached
	rangeExhausted
	beyondHorizon
)

// tier adds the documents that the tier chooses to the pair's slots, and notes in watch and entry what the
// choice depends on.
func (w *walk) tier(t *Tier, p *Document, pair *Pair) ending {
	low, high, empty := t.bounds(pair.Similarity)
	if empty {
		return rangeExhausted
	}
	random := t.Sampling == SamplingRandom
	w.window = w.window[:0]
	var survivors []*candidate // the documents of the window that random sampling chooses from
	end, bottom := rangeExhausted, low
	for i := range w.ranked {
		c := &w.ranked[i]
		if !t.inRange(c.cosine, low, high) {
			continue
		}
		w.window = append(w.window, c)
		verdict := w.judge(c, t, p, pair)
		switch {
		case verdict != Chosen:
		case !random:
			w.take(c, t, p, pair)
		case slices.ContainsFunc(survivors, func(s *candidate) bool { return sameContent(s.Hash, c.Hash) }):
			verdict = SameContent
		default:
			survivors = append(survivors, c)
			verdict = NotSampled // logTaken sets Chosen if the sample has it
		}
		if w.log != nil {
			w.logDecision(c, verdict, p, pair)
		}
		if len(pair.Slots) == t.UpTo {
			end, bottom = filled, float64(c.cosine)
			break
		}
		if len(w.window) == t.Depth {
			end, bottom = depthReached, float64(c.cosine)
			break
		}
	}
	if end == rangeExhausted && low < w.horizon {
		return beyondHorizon
	}
	for _, c := range sample(survivors, t.UpTo-len(pair.Slots), w.query, p.ID) {
		w.take(c, t, p, pair)
	}
	counted := w.window[:min(t.Skip, len(w.window))]
	if random || end == depthReached {
		counted = w.window
	}
	for _, c := range counted {
		w.watch = append(w.watch, c.ID)
	}
	w.entry = append(w.entry, Interval{float32(bottom), float32(high)})
	return end
}

func (w *walk) take(c *candidate, t *Tier, p *Document, pair *Pair) {
	c.takenBy = w.pairing
	w.logTaken(c, len(pair.Slots)+1)
	w.watch = append(w.watch, c.ID)
	pair.Slots = append(pair.Slots, Slot{
		Document: c.ID, Hash: c.Hash, Policy: t.Policy,
		QueryNegative: c.cosine, PositiveNegative: Cosine(p.Vector, c.Vector),
	})
}

// bounds gives the cosines of query and document that the tier looks at, for a positive with this similarity
// to the query. The semantic policy excludes its lower bound: see inRange.
func (t *Tier) bounds(similarity float32) (low, high float64, empty bool) {
	s := float64(similarity)
	if t.Policy == PolicySemantic {
		return s, highest, false
	}
	low, high = lowest, highest
	if t.RelativeMargin != nil {
		high = min(high, s-*t.RelativeMargin*math.Abs(s))
	}
	if t.AbsoluteMargin != nil {
		high = min(high, s-*t.AbsoluteMargin)
	}
	if t.MaxScore != nil {
		high = min(high, *t.MaxScore)
	}
	if t.MinScore != nil {
		low = *t.MinScore
	}
	return low, high, low > high
}

func (t *Tier) inRange(cosine float32, low, high float64) bool {
	c := float64(cosine)
	if t.Policy == PolicySemantic {
		return c > low
	}
	return low <= c && c <= high
}

// judge decides about the document that was counted last.
func (w *walk) judge(c *candidate, t *Tier, p *Document, pair *Pair) Verdict {
	switch {
	case len(w.window) <= t.Skip:
		return Skipped
	case c.takenBy == w.pairing:
		return TakenBefore
	case hasHash(pair.Slots, c.Hash):
		return SameContent
	case t.Policy == PolicySemantic && !(c.cosine > Cosine(p.Vector, c.Vector)):
		return NearerToPositive
	}
	if !c.judged {
		c.judged = true
		c.guard, _ = w.bars(c.Document)
	}
	return c.guard
}

// bars applies the guards: a document is barred if it is evidence, or a copy or near-copy of evidence. It
// gives that evidence too. Chosen means that no guard bars the document.
func (w *walk) bars(d *Document) (Verdict, *Evidence) {
	at, ok := slices.BinarySearchFunc(w.evidence, d.ID, func(e Evidence, id string) int { return strings.Compare(e.ID, id) })
	if ok {
		return IsEvidence, &w.evidence[at]
	}
	for i := range w.evidence {
		e := &w.evidence[i]
		switch {
		case e.Document == nil:
		case sameContent(e.Document.Hash, d.Hash):
			return CopyOfEvidence, e
		case float64(Cosine(e.Document.Vector, d.Vector)) >= w.NearDuplicate:
			return NearDuplicate, e
		case e.Document.MinHash.Jaccard(d.MinHash) >= w.NearText:
			return NearText, e
		}
	}
	return Chosen, nil
}

func hasHash(slots []Slot, hash string) bool {
	return slices.ContainsFunc(slots, func(s Slot) bool { return sameContent(s.Hash, hash) })
}

// sample chooses the n candidates with the smallest hashes of query, positive and document. The candidates
// come in order of similarity, and so do the chosen ones. The hash makes the choice the same each time.
func sample(from []*candidate, n int, query, positive string) []*candidate {
	if len(from) <= n {
		return from
	}
	seed := hashString(hashString(fnvOffset, query), positive)
	type draw struct {
		hash uint64
		at   int
	}
	draws := make([]draw, len(from))
	for i, c := range from {
		draws[i] = draw{mix(hashString(seed, c.ID)), i}
	}
	slices.SortFunc(draws, func(a, b draw) int {
		if c := cmp.Compare(a.hash, b.hash); c != 0 {
			return c
		}
		return strings.Compare(from[a.at].ID, from[b.at].ID)
	})
	draws = draws[:n]
	slices.SortFunc(draws, func(a, b draw) int { return cmp.Compare(a.at, b.at) })
	chosen := make([]*candidate, n)
	for i, d := range draws {
		chosen[i] = from[d.at]
	}
	return chosen
}

// hashString continues a 64-bit FNV-1a hash with a string, and with an end mark, a byte that UTF-8 never
// contains.
func hashString(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return (h ^ 0xff) * fnvPrime
}

// merge sorts intervals and joins those that touch.
func merge(intervals []Interval) []Interval {
	slices.SortFunc(intervals, func(a, b Interval) int { return cmp.Compare(a.Low, b.Low) })
	merged := intervals[:0]
	for _, v := range intervals {
		if n := len(merged); n > 0 && v.Low <= merged[n-1].High {
			merged[n-1].High = max(merged[n-1].High, v.High)
			continue
		}
		merged = append(merged, v)
	}
	return merged
}
