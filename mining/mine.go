package mining

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// Miner applies one configuration. It is safe for concurrent use.
type Miner struct{ config Config }

// New validates the configuration.
func New(c Config) (*Miner, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Miner{c}, nil
}

// Config is the validated configuration.
func (m *Miner) Config() Config { return m.config }

const (
	lowest  = -2 // below every cosine, rounding included
	highest = 2  // above every cosine
)

// Mine decides the lists of one query.
//
// Why Watch and Entry are enough. Let a document X be removed, inserted, or changed, which is a removal and an
// insertion. Claim: if X's id is not in Watch, and the cosine of its new version to the query lies in no Entry
// interval, every pair stays as it is. Evidence documents are all in Watch, so X is none, and then whether a
// guard bars another document does not depend on X. Take a pair and its tiers in order, and suppose that the tiers
// before chose the same slots with and without X (their slots are all that a later tier sees of them: how many
// there are, their ids and their content hashes). A tier walks the documents whose cosine lies in its range, in
// order, and counts them:
//
//   - The list was full before: it does nothing, with or without X.
//   - It ended full, by similarity, at slot L. A removed X was neither one of the slots nor one of the skipped ranks
//     (both are in Watch). Any other X was passed over, barred, failing the policy, or the copy of a slot before it, and
//     an X passed over changes only the count. Its removal lowers the ranks behind it, which Skip does not feel, since X
//     came after the skipped ones, nor Depth, since L only comes nearer. A copy Y of a slot S stays barred unless S goes,
//     and S is in Watch. An inserted X comes after L, where the walk no longer looks: Entry covers L upwards, also
//     where X would only push L out of the window or shift the skipped ranks.
//   - It was stopped by depth: all counted ranks are in Watch, and Entry covers the last of them upwards.
//   - It walked its whole range: Entry covers the range. A removed X was no slot and no skipped rank, and one that
//     was passed over stood in nobody's way, for the window did not end.
//   - It samples at random: the choice depends on every document of the window (the first of several copies is the one
//     that takes part), so all counted ranks are in Watch, and Entry covers the window, which ends at the last counted
//     rank or with the range.
//
// So the tier chooses the same slots, and ends in the same way at the same rank, which is what the next change
// needs: Watch and Entry of the new state need not be stored to stay true. The reason of a short list depends on
// the last tier's way of ending alone. Cosines equal after rounding are ordered by id, so an inserted X can come
// before L with a cosine up to 1e-6 lower; that is within the Slack of the look-up.
func (m *Miner) Mine(in Input) Outcome { return mine(newWalk(m.config, in)) }

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
	evidence []Evidence  // by id
	ranked   []candidate // in order, those that are known to have none missing before them
	horizon  float64     // documents with cosines up to here may be missing from ranked
	watch    []string
	entry    []Interval
	pairing  int // number of the current pair, from 1
	window   []*candidate
	log      *[]PairLog // nil: nobody asks
}

type candidate struct {
	*Document
	cosine  float32 // to the query
	rank    int32   // the cosine, rounded
	judged  bool    // by the guards:
	guard   Verdict // Chosen where they let it pass
	takenBy int     // number of the last pair that took it
}

func newWalk(c Config, in Input) *walk {
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
	// The search engine's sums differ from these: what it left out may score a little above the last candidate,
	// and come before those within that distance.
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

// pair fills the list of one positive; false if documents beyond the horizon could be in it.
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

// ending is how a tier ended.
type ending uint8

const (
	filled ending = iota
	depthReached
	rangeExhausted
	beyondHorizon
)

// tier appends to the pair's slots what the tier chooses, and notes what the choice depends on.
func (w *walk) tier(t *Tier, p *Document, pair *Pair) ending {
	low, high, empty := t.bounds(pair.Similarity)
	if empty {
		return rangeExhausted
	}
	random := t.Sampling == SamplingRandom
	w.window = w.window[:0]    // every document counted
	var survivors []*candidate // of those: what random sampling chooses from
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
		case slices.ContainsFunc(survivors, func(s *candidate) bool { return s.Hash == c.Hash }):
			verdict = SameContent
		default:
			survivors = append(survivors, c)
			verdict = NotSampled // unless it is, below
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

// Window is a range of cosines to the query in which the rules look at the first Most documents.
type Window struct {
	Low, High float64
	Most      int
}

// Windows lists what the rules may look at for a pair of that similarity, a window for each tier. Of a long ranking no
// other documents need to be read: see Input.Floor.
func (m *Miner) Windows(similarity float32) []Window {
	var windows []Window
	for i := range m.config.Tiers {
		t := &m.config.Tiers[i]
		if low, high, empty := t.bounds(similarity); !empty {
			windows = append(windows, Window{low, high, t.Depth})
		}
	}
	return windows
}

// bounds is the tier's range for a pair: the cosines of query and document that it looks at. Semantic leaves out its
// lower bound.
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

// judge says what the tier, its policy and the guards make of a document that was counted last.
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

// bars says whether a document is evidence for the query, or a copy of a document that is, and of which; Chosen: neither.
func (w *walk) bars(d *Document) (Verdict, *Evidence) {
	at, ok := slices.BinarySearchFunc(w.evidence, d.ID, func(e Evidence, id string) int { return strings.Compare(e.ID, id) })
	if ok {
		return IsEvidence, &w.evidence[at]
	}
	for i := range w.evidence {
		e := &w.evidence[i]
		switch {
		case e.Document == nil:
		case e.Document.Hash == d.Hash:
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
	return slices.ContainsFunc(slots, func(s Slot) bool { return s.Hash == hash })
}

// sample chooses n of the candidates by the smallest hash of query, positive and document, and gives them in order
// of similarity, in which they come.
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

// hashString continues a 64-bit FNV-1a hash with a string and an end mark that no UTF-8 contains.
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
