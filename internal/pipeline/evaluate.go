package pipeline

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/config"
	"hardneg/mining"
	"hardneg/stream"
)

// EvaluateOptions say what to evaluate.
type EvaluateOptions struct {
	Config   *config.Config // names and addresses; the rules are those that the miners published
	Kafka    *stream.Client
	Index    *index.Client
	Log      zerolog.Logger
	Sample   int // queries to look at; 0: all
	Seed     uint64
	Progress func(done, total int) // nil: nobody asks
}

// Evaluation says how good the view is as training data, and its vectors for ranking: of a sample of the queries.
type Evaluation struct {
	Generation  string  `json:"generation"`
	Fingerprint string  `json:"fingerprint"` // of the rules
	Known       int     `json:"known_queries"`
	Queries     int     `json:"queries"` // looked at: those of the sample that have a list
	Seed        *uint64 `json:"seed,omitempty"`

	Lists     ListQuality     `json:"lists"`
	Negatives NegativeQuality `json:"negatives"`
	Ranking   RankingQuality  `json:"ranking"`
}

// ListQuality is of the pairs of a query and a positive.
type ListQuality struct {
	Pairs   int            `json:"pairs"`
	Full    int            `json:"full"`    // with as many negatives as are asked for
	Empty   int            `json:"empty"`   // with none
	Covered map[string]int `json:"covered"` // with a negative that this policy chose
	Short   map[string]int `json:"short"`   // with empty slots, by reason

	Similarity []float64  `json:"query_positive"`    // quantiles of the cosine of query and positive: far below the rest there is nothing hard to find
	Missing    []PairName `json:"missing,omitempty"` // a few pairs whose positive is not indexed: deleted, refused, or of another id
}

// PairName names a pair.
type PairName struct {
	Query    string `json:"query_id"`
	Positive string `json:"positive"`
}

// NegativeQuality is of the negatives of the lists.
type NegativeQuality struct {
	Slots     int                      `json:"slots"`
	Documents int                      `json:"documents"` // that fill them
	MostUsed  []DocumentUse            `json:"most_used"` // a document that serves often may be a hub of the vectors rather than hard
	Policies  map[string]PolicyQuality `json:"policies"`  // by the policy that chose them
}

// PolicyQuality is of the negatives that a policy chose. Quantiles are at QuantilesAt.
type PolicyQuality struct {
	Slots         int       `json:"slots"`
	AbovePositive int       `json:"above_positive"`    // nearer to the query than the positive
	Verbatim      int       `json:"verbatim"`          // whose title or text contains the query, as tables of contents do; letter case aside
	Margin        []float64 `json:"margin"`            // quantiles of the cosine of query and positive less that of query and negative
	ToPositive    []float64 `json:"positive_negative"` // quantiles of the cosine of positive and negative: the nearest may be right answers
}

// QuantilesAt are the shares at which an Evaluation has quantiles.
var QuantilesAt = []float64{0.05, 0.25, 0.5, 0.75, 0.95}

// DocumentUse is how many slots a document fills.
type DocumentUse struct {
	Document string `json:"doc_id"`
	Slots    int    `json:"slots"`
}

// RankingQuality is of the rankings of the queries by exact search, where the positives that are indexed are what is relevant.
type RankingQuality struct {
	Queries int     `json:"queries"` // with an indexed positive
	NDCG    float64 `json:"ndcg_10"`
	MRR     float64 `json:"mrr_10"`
	Recall  float64 `json:"recall_100"`
	Pairs   int     `json:"pairs"` // of indexed positives
	First   int     `json:"first"` // of them, those whose positive is nearer to the query than every document that the log does not name
}

const (
	evaluateCut   = 10
	evaluateDepth = 100
	mostUsed      = 10
	mostMissing   = 10
)

// Evaluate looks at the stored lists, and ranks their queries.
func Evaluate(ctx context.Context, o EvaluateOptions) (*Evaluation, error) {
	a := &auditor{AuditOptions: AuditOptions{Config: o.Config, Kafka: o.Kafka, Index: o.Index, Log: o.Log, Sample: o.Sample, Seed: o.Seed}}
	if err := a.attach(ctx); err != nil {
		return nil, err
	}
	known, err := a.known(ctx)
	if err != nil {
		return nil, err
	}
	wanted := slices.Sorted(maps.Keys(a.choose(known)))
	v := &evaluator{auditor: a, exact: a.index.Exact(), uses: map[string]int{}, policies: map[string]*policySums{}}
	v.Evaluation = Evaluation{
		Generation: a.index.Generation(), Fingerprint: a.rules.Fingerprint, Known: len(known),
		Lists: ListQuality{Covered: map[string]int{}, Short: map[string]int{}},
	}
	if o.Sample > 0 {
		v.Seed = &o.Seed
	}
	done := 0
	for ids := range slices.Chunk(wanted, auditTogether) {
		if err := v.some(ctx, ids); err != nil {
			return nil, err
		}
		if done += len(ids); o.Progress != nil {
			o.Progress(done, len(wanted))
		}
	}
	v.finish()
	return &v.Evaluation, a.stillLive(ctx)
}

// evaluator is one evaluation. Its shares are sums until the end.
type evaluator struct {
	Evaluation
	*auditor
	exact *index.Index
	uses  map[string]int // slots by document

	similarities []float64
	policies     map[string]*policySums
}

// policySums are those of a PolicyQuality.
type policySums struct {
	PolicyQuality
	margins, toPositive []float64
}

// some looks at a few queries.
func (v *evaluator) some(ctx context.Context, ids []string) error {
	states, err := v.index.States(ctx, ids)
	if err != nil {
		return err
	}
	var listed []index.State
	read := map[string]bool{}
	for _, id := range ids {
		state := states[id]
		if state.Vector == nil || !slices.ContainsFunc(state.Positives, func(p index.Positive) bool { return p.Paired }) {
			continue
		}
		listed = append(listed, state)
		for _, p := range state.Positives {
			for _, slot := range p.Slots {
				read[slot.Document] = true
			}
		}
	}
	if len(listed) == 0 {
		return nil
	}
	documents, err := v.index.Documents(ctx, slices.Sorted(maps.Keys(read)), index.WithText)
	if err != nil {
		return err
	}
	queries := make([][]float32, len(listed))
	for i, state := range listed {
		queries[i] = state.Vector
	}
	rankings, err := v.exact.Rank(ctx, queries, evaluateDepth)
	if err != nil {
		return err
	}
	for i, state := range listed {
		v.Queries++
		v.lists(state, documents)
		v.ranking(state, rankings[i].Hits)
	}
	return nil
}

// lists adds the lists of a query.
func (v *evaluator) lists(state index.State, documents map[string]index.Document) {
	text := plain(state.Text)
	for _, p := range state.Positives {
		if !p.Paired {
			continue
		}
		v.Lists.Pairs++
		switch len(p.Slots) {
		case v.rules.Mining.Negatives:
			v.Lists.Full++
		case 0:
			v.Lists.Empty++
		}
		if p.Reason != "" {
			v.Lists.Short[string(p.Reason)]++
		}
		if p.Reason != mining.ReasonPositiveMissing {
			v.similarities = append(v.similarities, float64(p.Similarity))
		} else if len(v.Lists.Missing) < mostMissing {
			v.Lists.Missing = append(v.Lists.Missing, PairName{state.QueryID, p.Document})
		}
		policies := map[string]bool{}
		for _, slot := range p.Slots {
			policies[slot.Policy] = true
			v.uses[slot.Document]++
			v.Negatives.Slots++
			sums := v.policies[slot.Policy]
			if sums == nil {
				sums = &policySums{}
				v.policies[slot.Policy] = sums
			}
			sums.Slots++
			sums.margins = append(sums.margins, float64(p.Similarity)-float64(slot.QueryNegative))
			sums.toPositive = append(sums.toPositive, float64(slot.PositiveNegative))
			if slot.QueryNegative > p.Similarity {
				sums.AbovePositive++
			}
			if d := documents[slot.Document]; strings.Contains(plain(d.Title), text) || strings.Contains(plain(d.Text), text) {
				sums.Verbatim++
			}
		}
		for policy := range policies {
			v.Lists.Covered[policy]++
		}
	}
}

// plain is a text in lower case, with single spaces.
func plain(text string) string { return strings.Join(strings.Fields(strings.ToLower(text)), " ") }

// ranking adds how well a query's positives rank.
func (v *evaluator) ranking(state index.State, hits []index.Ranked) {
	named, relevant := map[string]bool{}, map[string]float64{}
	for _, p := range state.Positives {
		point := index.DocumentPointID(p.Document)
		if named[point] = true; p.Paired && p.Reason != mining.ReasonPositiveMissing {
			relevant[point] = 1
		}
	}
	if len(relevant) == 0 {
		return
	}
	ranked := make([]string, len(hits))
	ahead := true // no document that the log does not name has come yet
	for i, hit := range hits {
		ranked[i] = hit.Point
		ahead = ahead && named[hit.Point]
		if ahead && relevant[hit.Point] > 0 {
			v.Ranking.First++
		}
	}
	v.Ranking.Queries++
	v.Ranking.Pairs += len(relevant)
	v.Ranking.NDCG += mining.NDCG(ranked, relevant, evaluateCut)
	v.Ranking.MRR += mining.ReciprocalRank(ranked, relevant, evaluateCut)
	v.Ranking.Recall += mining.Recall(ranked, relevant, evaluateDepth)
}

// finish turns sums into means.
func (v *evaluator) finish() {
	n := float64(max(1, v.Ranking.Queries))
	v.Ranking.NDCG, v.Ranking.MRR, v.Ranking.Recall = v.Ranking.NDCG/n, v.Ranking.MRR/n, v.Ranking.Recall/n
	v.Negatives.Documents = len(v.uses)
	v.Negatives.MostUsed = []DocumentUse{}
	for id, n := range v.uses {
		v.Negatives.MostUsed = append(v.Negatives.MostUsed, DocumentUse{id, n})
	}
	slices.SortFunc(v.Negatives.MostUsed, func(a, b DocumentUse) int {
		return cmp.Or(cmp.Compare(b.Slots, a.Slots), strings.Compare(a.Document, b.Document))
	})
	v.Negatives.MostUsed = v.Negatives.MostUsed[:min(mostUsed, len(v.Negatives.MostUsed))]
	v.Lists.Similarity = quantiles(v.similarities)
	v.Negatives.Policies = map[string]PolicyQuality{}
	for policy, sums := range v.policies {
		sums.Margin, sums.ToPositive = quantiles(sums.margins), quantiles(sums.toPositive)
		v.Negatives.Policies[policy] = sums.PolicyQuality
	}
}

// quantiles are those at QuantilesAt; none of nothing. It sorts the values.
func quantiles(values []float64) []float64 {
	out := []float64{}
	slices.Sort(values)
	for _, share := range QuantilesAt {
		if len(values) > 0 {
			out = append(out, values[int(share*float64(len(values)-1)+0.5)])
		}
	}
	return out
}
