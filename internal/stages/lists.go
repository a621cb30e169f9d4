package stages

import (
	"context"
	"maps"
	"math"
	"slices"

	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/mining"
)

const (
	firstLimit   = 48     // candidates of a first search; each further search asks for four times as many
	hitsTogether = 16_384 // candidates, with their vectors, that are held in memory at a time
	gapRounds    = 3      // tries of a ranking while documents change
	wideLimit    = 256    // a search for more candidates than this reads no vectors at first
)

// Lists decides which documents are the negatives of a query. It reads the index and writes nothing.
type Lists struct {
	index     ListsIndex
	mining    *mining.Miner
	minWeight int64 // in millionths: evidence of at least this weight makes a positive
	log       zerolog.Logger
	wide      int // wideLimit; tests set it lower
}

// NewLists returns a Lists that decides by rules from an index. miner works by the same rules.
func NewLists(x ListsIndex, rules catalog.Rules, miner *mining.Miner, log zerolog.Logger) *Lists {
	return &Lists{index: x, mining: miner, minWeight: rules.MinWeight, log: log, wide: wideLimit}
}

// Decision is a query whose lists Decide decides.
type Decision struct {
	State index.State // text, vector and evidence are given; Decide fills in the lists, what the query watches, and its entry ranges
	Limit int         // candidates that sufficed the last time; 0: not known. Decide sets it
	Gap   bool        // after Decide: documents changed faster than they could be read, and the lists leave them out
}

// Decide reads the documents of the evidence and the candidates, decides the lists of the queries, and fills
// them in.
func (l *Lists) Decide(ctx context.Context, decisions []*Decision) error {
	var ids []string
	for _, d := range decisions {
		for _, p := range d.State.Positives {
			ids = append(ids, p.Document)
		}
	}
	slices.Sort(ids)
	documents, err := l.index.Documents(ctx, slices.Compact(ids), index.WithVector|index.WithMinHash)
	if err != nil {
		return err
	}
	inputs := make([]mining.Input, len(decisions))
	for i, d := range decisions {
		d.Gap = false
		inputs[i] = l.input(d.State, documents)
		inputs[i].Limit = d.Limit
	}
	batch := mining.Batch{
		Mine: l.mining.Mine, First: firstLimit, Held: hitsTogether, Trusted: true,
		Search: func(ctx context.Context, inputs []mining.Input, open []int, limit int) error {
			if limit > l.wide {
				return l.wideCandidates(ctx, decisions, inputs, open, limit)
			}
			hits, err := l.index.Search(ctx, queriesOf(inputs, open), limit)
			if err != nil {
				return err
			}
			for k, i := range open {
				inputs[i].Candidates, inputs[i].Exhausted = hits[k].Documents, hits[k].Exhausted
			}
			return nil
		},
	}
	return batch.Run(ctx, inputs, func(i int, outcome mining.Outcome) {
		decisions[i].Limit = inputs[i].Limit
		fill(&decisions[i].State, outcome)
	})
}

// queriesOf returns the vectors of the queries at some indexes of inputs.
func queriesOf(inputs []mining.Input, at []int) [][]float32 {
	queries := make([][]float32, len(at))
	for k, i := range at {
		queries[k] = inputs[i].Query
	}
	return queries
}

// wideCandidates finds the candidates of the inputs at the indexes in open. It ranks points without their
// documents, and then reads only the documents that the rules may look at. A document may change in between.
// It would leave a gap in its window, where the next document of the ranking belongs, and if two readings in
// a row had a gap the miner would confirm it. So wideCandidates ranks again, a few times. If there is still a
// gap, the query is mined without the document, and Decision.Gap says so: the query must come again.
func (l *Lists) wideCandidates(ctx context.Context, decisions []*Decision, inputs []mining.Input, open []int, limit int) error {
	for round := 1; len(open) > 0; round++ {
		rankings, err := l.index.Rank(ctx, queriesOf(inputs, open), limit)
		if err != nil {
			return err
		}
		needed := make([]map[string]bool, len(open)) // points, by index in open
		var points []string
		for k, i := range open {
			needed[k] = map[string]bool{}
			for _, e := range inputs[i].Evidence {
				if e.Positive && e.Document != nil {
					for _, w := range l.mining.Windows(mining.Cosine(inputs[i].Query, e.Document.Vector)) {
						addNeeded(needed[k], rankings[k].Hits, w)
					}
				}
			}
			points = slices.AppendSeq(points, maps.Keys(needed[k]))
		}
		slices.Sort(points)
		documents, err := l.index.DocumentsAt(ctx, slices.Compact(points), index.WithVector|index.WithMinHash)
		if err != nil {
			return err
		}
		var again []int
		for k, i := range open {
			in, hits := &inputs[i], rankings[k].Hits
			in.Candidates, in.Exhausted, in.Floor = nil, rankings[k].Exhausted, nil
			for _, r := range hits {
				if !needed[k][r.Point] {
					continue
				}
				if d, ok := documents[r.Point]; ok && !d.Deleted && SameCosine(mining.Cosine(in.Query, d.Vector), r.Score) {
					in.Candidates = append(in.Candidates, d.Document)
				}
			}
			gap := len(in.Candidates) < len(needed[k])
			if gap && round < gapRounds {
				again = append(again, i)
				continue
			}
			if gap {
				l.log.Warn().Str("query", in.QueryID).Int("readings", round).Int("documents", len(needed[k])-len(in.Candidates)).
					Msg("documents near to the query change faster than they are read: it is mined without them, and comes again")
			}
			decisions[i].Gap = decisions[i].Gap || gap
			if len(hits) > 0 {
				in.Floor = &hits[len(hits)-1].Score
			}
		}
		open = again
	}
	return nil
}

// SameCosine reports whether two cosines may be of the same vectors. They may differ a little, because
// servers add up in different orders.
func SameCosine(a, b float32) bool { return math.Abs(float64(a)-float64(b)) <= mining.Slack }

// addNeeded adds the points of a ranking that a window looks at, and the points that rounding in the server
// may have put behind them.
func addNeeded(needed map[string]bool, ranking []index.Ranked, w mining.Window) {
	inside := 0
	var last float64
	for _, r := range ranking {
		score := float64(r.Score)
		if score > w.High+2*mining.Slack {
			continue
		}
		if score < w.Low-2*mining.Slack || inside >= w.Most && score < last-2*mining.Slack {
			return
		}
		needed[r.Point] = true
		if inside < w.Most && score <= w.High-2*mining.Slack && score >= w.Low+2*mining.Slack {
			inside++
			last = score
		}
	}
}

// input returns the part of a state that the rules see. A query without a vector has no positives.
func (l *Lists) input(state index.State, documents map[string]index.Document) mining.Input {
	in := mining.Input{QueryID: state.QueryID, Query: state.Vector}
	for _, p := range state.Positives {
		e := mining.Evidence{ID: p.Document, Positive: p.Weight >= l.minWeight && state.Vector != nil}
		if d, ok := documents[p.Document]; ok && !d.Deleted {
			e.Document = &d.Document
		}
		in.Evidence = append(in.Evidence, e)
	}
	return in
}

// fill puts an outcome into a state. It also raises the ranks in Published: whoever stores a rank may publish
// it, and later a forced publication must be able to retract it.
func fill(state *index.State, outcome mining.Outcome) {
	pairs := map[string]mining.Pair{}
	for _, p := range outcome.Pairs {
		pairs[p.Positive] = p
	}
	state.Published = maps.Clone(state.Published)
	if state.Published == nil {
		state.Published = map[string]int{}
	}
	for i := range state.Positives {
		p := &state.Positives[i]
		pair, ok := pairs[p.Document]
		if ok && p.Paired && mining.SamePair(p.Pair(), pair) {
			continue // keep the published cosines: new ones could drift away from them, slack by slack, and nobody would notice
		}
		p.Paired, p.Hash, p.Similarity, p.Slots, p.Reason = ok, pair.Hash, pair.Similarity, pair.Slots, pair.Reason
		if len(pair.Slots) > state.Published[p.Document] {
			state.Published[p.Document] = len(pair.Slots)
		}
	}
	state.Watch, state.Entry = outcome.Watch, outcome.Entry
}
