package pipeline

import (
	"context"
	"maps"
	"math"
	"slices"

	"hardneg/index"
	"hardneg/mining"
)

const (
	firstLimit   = 48     // candidates of a first search; each further one asks for four times as many
	hitsTogether = 16_384 // candidates, with their vectors, that are held at a time
	wideLimit    = 256    // candidates from which on a search leaves out the vectors
)

// decide reads the documents of the evidence and the candidates, and fills the lists.
func (s miner) decide(ctx context.Context, tasks []*task, next []index.State) error {
	var ids []string
	for _, state := range next {
		for _, p := range state.Positives {
			ids = append(ids, p.Document)
		}
	}
	slices.Sort(ids)
	documents, err := s.index.Documents(ctx, slices.Compact(ids), index.WithVector|index.WithMinHash)
	if err != nil {
		return err
	}
	inputs := make([]mining.Input, len(tasks))
	var todo []int
	for i := range tasks {
		tasks[i].gap = false
		inputs[i] = s.input(next[i], documents)
		if slices.ContainsFunc(inputs[i].Evidence, func(e mining.Evidence) bool { return e.Positive && e.Document != nil }) {
			todo = append(todo, i)
			continue
		}
		inputs[i].Exhausted = true
		s.fill(&next[i], s.mining.Mine(inputs[i]))
	}
	for len(todo) > 0 {
		// One search for those of the lowest limit: those that need more wait and join the next one.
		limit := tasks[todo[0]].limit
		for _, i := range todo {
			limit = min(limit, tasks[i].limit)
		}
		now, later := partition(todo, func(i int) bool { return tasks[i].limit == limit })
		todo = later
		err := s.candidates(ctx, tasks, inputs, now, limit, func(i int) {
			outcome := s.mining.Mine(inputs[i])
			inputs[i].Candidates = nil
			if outcome.More {
				tasks[i].limit *= 4
				todo = append(todo, i)
				return
			}
			s.fill(&next[i], outcome)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// candidates reads the candidates of some of the inputs, down to a limit, and hands each to use at once: a positive
// that ranks far down makes for long lists, of which few may be held at a time.
func (s miner) candidates(ctx context.Context, tasks []*task, inputs []mining.Input, some []int, limit int, use func(i int)) error {
	for part := range slices.Chunk(some, max(1, hitsTogether/limit)) {
		if limit > s.wide {
			if err := s.wideCandidates(ctx, tasks, inputs, part, limit); err != nil {
				return err
			}
		} else {
			hits, err := s.index.Search(ctx, queriesOf(inputs, part), limit)
			if err != nil {
				return err
			}
			for k, i := range part {
				inputs[i].Candidates, inputs[i].Exhausted = hits[k].Documents, hits[k].Exhausted
			}
		}
		for _, i := range part {
			use(i)
		}
	}
	return nil
}

func queriesOf(inputs []mining.Input, some []int) [][]float32 {
	queries := make([][]float32, len(some))
	for k, i := range some {
		queries[k] = inputs[i].Query
	}
	return queries
}

// wideCandidates ranks bare points, and then reads only the documents that the rules may look at. One that has
// changed in between would leave a gap in its window, where the next of the ranking belongs, and if that happened in two
// readings on end the gap would be confirmed: then the ranking is read again, a few times. Where there is a gap each time
// the query must come again.
func (s miner) wideCandidates(ctx context.Context, tasks []*task, inputs []mining.Input, some []int, limit int) error {
	for round := 1; len(some) > 0; round++ {
		rankings, err := s.index.Rank(ctx, queriesOf(inputs, some), limit)
		if err != nil {
			return err
		}
		needed := make([]map[string]bool, len(some))
		var points []string
		for k, i := range some {
			needed[k] = map[string]bool{}
			for _, e := range inputs[i].Evidence {
				if e.Positive && e.Document != nil {
					for _, w := range s.mining.Windows(mining.Cosine(inputs[i].Query, e.Document.Vector)) {
						need(needed[k], rankings[k].Hits, w)
					}
				}
			}
			points = slices.AppendSeq(points, maps.Keys(needed[k]))
		}
		slices.Sort(points)
		documents, err := s.index.DocumentsAt(ctx, slices.Compact(points), index.WithVector|index.WithMinHash)
		if err != nil {
			return err
		}
		var again []int
		for k, i := range some {
			in, hits := &inputs[i], rankings[k].Hits
			in.Candidates, in.Exhausted, in.Floor = nil, rankings[k].Exhausted, nil
			for _, r := range hits {
				if !needed[k][r.Point] {
					continue
				}
				if d, ok := documents[r.Point]; ok && !d.Deleted && near(mining.Cosine(in.Query, d.Vector), r.Score) {
					in.Candidates = append(in.Candidates, d.Document)
				}
			}
			gap := len(in.Candidates) < len(needed[k])
			if gap && round < confirmRounds {
				again = append(again, i)
				continue
			}
			if gap {
				s.log.Warn().Str("query", in.QueryID).Int("readings", round).Int("documents", len(needed[k])-len(in.Candidates)).
					Msg("documents near to the query change faster than they are read: it is mined without them, and comes again")
			}
			tasks[i].gap = tasks[i].gap || gap
			if len(hits) > 0 {
				in.Floor = &hits[len(hits)-1].Score
			}
		}
		some = again
	}
	return nil
}

// near tells whether two cosines may be those of the same vectors.
func near(a, b float32) bool { return math.Abs(float64(a)-float64(b)) <= mining.Slack }

// need adds the points of a window: as many as it looks at, and those that the server's sums may have put behind
// them.
func need(needed map[string]bool, ranking []index.Ranked, w mining.Window) {
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

func partition(all []int, in func(int) bool) (yes, no []int) {
	for _, i := range all {
		if in(i) {
			yes = append(yes, i)
		} else {
			no = append(no, i)
		}
	}
	return yes, no
}

// input is what the rules see of a state. A query without a text has no pairs.
func (s miner) input(state index.State, documents map[string]index.Document) mining.Input {
	in := mining.Input{QueryID: state.QueryID, Query: state.Vector}
	for _, p := range state.Positives {
		e := mining.Evidence{ID: p.Document, Positive: p.Weight >= s.minWeight && state.Vector != nil}
		if d, ok := documents[p.Document]; ok && !d.Deleted {
			e.Document = &d.Document
		}
		in.Evidence = append(in.Evidence, e)
	}
	return in
}
