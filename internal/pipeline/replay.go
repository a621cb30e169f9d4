package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/telemetry"
	"hardneg/mining"
	"hardneg/stream"
)

// ReplayOptions say what to replay.
type ReplayOptions struct {
	Config    *config.Config // names and addresses; the rules are those that the miners published
	Kafka     *stream.Client
	Index     *index.Client
	Cache     *embed.Cache // of vectors; nil: none
	Log       zerolog.Logger
	From, To  Bound
	Output    ReplayOutput
	OwnRules  bool               // mine by the configuration's rules, not by the published ones
	Exactly   bool               // search exactly, however large the collection is
	Rate      float64            // queries a second at most; 0: as fast as it goes
	Memory    int64              // bytes of evidence that are held at a time
	Restart   bool               // forget an unfinished replay with the same arguments
	Progress  func(ReplayStatus) // is told of each step; nil: nobody watches
	clock     func() time.Time   // nil: time.Now
	mined     func()             // after each write; of tests
	settleAt  int                // records of a query that are held unapplied; 0: settleAfter
	fetchSize int                // bytes of a fetch; 0: by the number of partitions
}

// ReplayOutput takes what a replay mines: a topic or a file.
type ReplayOutput interface {
	// Resume returns what an unfinished replay with the same arguments has left; a nil plan where there is none, and where
	// anew says that it is to be forgotten. It is called first, and once.
	Resume(ctx context.Context, anew bool) (*ReplayPlan, ReplayProgress, error)
	// Begin forgets what was left, and keeps the plan.
	Begin(ctx context.Context, plan ReplayPlan) error
	// Write adds triplets (records of the triplets topic, null where a slot is empty) and replaces the progress, both or
	// neither for whoever resumes. With Progress.Done all triplets are out.
	Write(ctx context.Context, outputs []stream.Output, progress ReplayProgress) error
	// Forget drops plan and progress of a replay that is done, once its report has reached its user: the same arguments
	// are another replay from then on.
	Forget(ctx context.Context) error
}

// ReplayPlan is what a replay decides once, so that going on after a kill gives what it would have given without.
type ReplayPlan struct {
	Revision   int64  `json:"revision"`   // Unix milliseconds of its begin: revision and mined_at of all its triplets
	Generation string `json:"generation"` // of the index
	Rules      string `json:"rules"`      // hash of all that decides a list
	Window     []Span `json:"window"`
}

// ReplayProgress is how far a replay is.
type ReplayProgress struct {
	After  string       `json:"after,omitempty"` // queries up to this point id are out; empty: none
	Done   bool         `json:"done,omitempty"`
	Counts ReplayCounts `json:"counts"`
}

// ReplayCounts is what a replay has brought.
type ReplayCounts struct {
	Queries  int            `json:"queries"` // with evidence in the window
	Pairs    int            `json:"pairs"`
	Triplets int            `json:"triplets"`
	Covered  map[string]int `json:"covered,omitempty"`  // pairs that have a negative of a policy
	Short    map[string]int `json:"short,omitempty"`    // pairs with empty slots, by reason
	Unusable int64          `json:"unusable,omitempty"` // records that are none of a query log
	Refused  int64          `json:"refused,omitempty"`  // records whose text cannot be embedded
}

// BadRecord is a record of the window that cannot be used.
type BadRecord struct {
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Error     string `json:"error"`
}

// ReplayReport is the outcome.
type ReplayReport struct {
	ReplayPlan
	ReplayCounts
	Records int64       `json:"records"` // of the window
	Bad     int64       `json:"bad_records"`
	BadList []BadRecord `json:"first_bad_records"` // the first few
	Notes   []string    `json:"notes"`             // what the log no longer has of the window, and the like
	Resumed bool        `json:"resumed"`           // an earlier run had begun it
	Passes  int         `json:"passes"`            // over the window, of this run
	Seconds float64     `json:"seconds"`           // of this run
}

// ReplayStatus is how far a replay is, for its user.
type ReplayStatus struct {
	Reading bool    // the window is read, else queries are mined
	Share   float64 // of the reading, or of all queries
	Queries int     // that are out
}

const (
	// ReplayMemory is the default of ReplayOptions.Memory.
	ReplayMemory = 256 << 20

	badListed      = 10 // in a report
	minesInFlight  = 4  // chunks of queries that are mined at a time
	replayTogether = mineTogether
)

// replayer is one replay.
type replayer struct {
	ReplayOptions
	miner  miner
	live   *index.Index
	found  *recall // of it, what searches found
	plan   ReplayPlan
	at     ReplayProgress
	report ReplayReport
}

// Replay mines the queries of a window of the query log against the current index, and writes the triplets to an output
// of its own. Nothing of the live view is written.
//
// A pass over the window gathers the evidence of the queries whose point ids come first, as many as fit into the memory,
// and mines them in that order; the next pass goes on behind them. So the state of a replay is one point id, and the
// result does not depend on the memory, on kills, or on how many passes there were. A replay that is done counts as
// unfinished, and is reported again, until the output is told to forget it.
func Replay(ctx context.Context, o ReplayOptions) (*ReplayReport, error) {
	if o.clock == nil {
		o.clock = time.Now
	}
	if o.Memory <= 0 {
		o.Memory = ReplayMemory
	}
	if o.Progress == nil {
		o.Progress = func(ReplayStatus) {}
	}
	if o.mined == nil {
		o.mined = func() {}
	}
	r := &replayer{ReplayOptions: o}
	r.report.Notes, r.report.BadList = []string{}, []BadRecord{}
	start := time.Now()
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	for !r.at.Done {
		if err := r.pass(ctx); err != nil {
			return nil, err
		}
	}
	r.report.ReplayPlan, r.report.ReplayCounts = r.plan, r.at.Counts
	r.report.Records = length(r.plan.Window)
	r.report.Bad = r.at.Counts.Unusable + r.at.Counts.Refused
	r.report.Seconds = time.Since(start).Seconds()
	return &r.report, nil
}

// open finds the live collections, their model and the rules, and takes up what an earlier run left.
func (r *replayer) open(ctx context.Context) (err error) {
	if r.live, err = r.Index.Live(ctx); err != nil {
		return err
	}
	if r.live == nil {
		return fmt.Errorf("qdrant at %s has no collections with the prefix %q: is the service still waiting for documents or fitting its model (its log says so), or is qdrant.prefix another?",
			r.Config.Qdrant.Address, r.Config.Qdrant.Prefix)
	}
	if r.Exactly {
		r.live = r.live.Exact()
	}
	rules := newRuleset(r.Config)
	if !r.OwnRules {
		published, err := readRules(ctx, r.Kafka, r.Config)
		if err != nil {
			return err
		}
		if published != nil { // else no miner has run yet
			rules = published.or(rules)
		}
	}
	if err := r.prepare(ctx, rules); err != nil {
		return err
	}
	sum := sha256.Sum256(rules.encode())
	return r.begin(ctx, hex.EncodeToString(sum[:8]))
}

// or fills in what an earlier version did not publish.
func (r ruleset) or(other ruleset) ruleset {
	if r.MaxText == 0 {
		r.MaxText = other.MaxText
	}
	if r.Evidence == nil {
		r.Evidence = other.Evidence
	}
	return r
}

// prepare makes a miner of the rules. It is never given a state that it would store.
func (r *replayer) prepare(ctx context.Context, rules ruleset) error {
	generation := r.live.Generation()
	cfg := *r.Config
	cfg.Mining.Negatives, cfg.Triplets.MaxText = rules.Mining.Negatives, rules.MaxText
	cfg.Topics.Triplets = "" // whatever the output is, it is not the live one
	cfg.Queries.PositiveWeight, cfg.Queries.MinDwell = rules.Evidence.PositiveWeight, rules.Evidence.MinDwell
	m, err := Models{Kafka: r.Kafka, Topic: cfg.Topics.Models, Resources: &embed.Resources{Cache: r.Cache, Connections: cfg.Embedders}, Log: r.Log}.Read(ctx, modelOf(generation))
	if err != nil {
		return err
	}
	if m == nil {
		return fmt.Errorf("the live collections are of model %s, which topic %s does not have: was the topic deleted, or is qdrant.prefix that of another installation?",
			modelOf(generation), cfg.Topics.Models)
	}
	policies, err := mining.New(rules.Mining)
	if err != nil {
		return fmt.Errorf("the rules of mining: %w", err)
	}
	r.found = newRecall(r.live)
	r.miner = miner{Pipeline: &Pipeline{
		cfg: &cfg, wide: wideLimit, index: r.found, model: m, carries: m.Info().Definitions(), generation: generation, mining: policies, minWeight: rules.MinWeight,
		now: r.clock, log: r.Log, metrics: telemetry.NewMetrics(prometheus.NewRegistry()),
	}}
	return nil
}

// begin goes on with an unfinished replay, or plans a new one.
func (r *replayer) begin(ctx context.Context, rules string) error {
	left, at, err := r.Output.Resume(ctx, r.Restart)
	if err != nil {
		return err
	}
	if left != nil {
		if left.Generation != r.live.Generation() || left.Rules != rules {
			return fmt.Errorf("a replay with these arguments was begun at %s, and the model or the rules of mining have changed since: --restart begins it anew",
				time.UnixMilli(left.Revision).Format(time.RFC3339))
		}
		r.plan, r.at, r.report.Resumed = *left, at, true
		r.Log.Info().Time("begun", time.UnixMilli(left.Revision)).Int("queries", at.Counts.Queries).Msg("going on with an unfinished replay")
		return nil
	}
	now := r.clock()
	window, notes, err := resolve(ctx, r.Kafka, r.Config.Topics.Queries, r.From, r.To, now)
	if err != nil {
		return err
	}
	if length(window) == 0 {
		notes = append(notes, fmt.Sprintf("the window from %s to %s is empty", r.From, r.To))
	}
	for _, note := range notes {
		r.Log.Warn().Msg(note)
	}
	r.report.Notes = append(r.report.Notes, notes...)
	r.plan = ReplayPlan{Revision: now.UnixMilli(), Generation: r.live.Generation(), Rules: rules, Window: window}
	return r.Output.Begin(ctx, r.plan)
}

// write hands on what was mined, with the place behind it.
func (r *replayer) write(ctx context.Context, outputs []stream.Output) error {
	if err := r.Output.Write(ctx, outputs, r.at); err != nil {
		return err
	}
	r.Progress(ReplayStatus{Share: share(r.at.After), Queries: r.at.Counts.Queries})
	r.mined()
	return nil
}

// bad notes a record that cannot be used.
func (r *replayer) bad(b BadRecord) {
	if len(r.report.BadList) < badListed {
		r.report.BadList = append(r.report.BadList, b)
	}
}
