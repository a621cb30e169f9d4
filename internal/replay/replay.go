// Package replay mines the queries of a window of the query log against the current index, into a topic or a file of its own.
// It shares with the stages what decides a list and renders it (stages.QueryReader, stages.Advance, stages.Lists,
// stages.Triplets), and writes nothing of the live view. docs/replay.md has the user's side. Only packages of hardneg
// import it.
package replay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/embed"
	"hardneg/internal/stages"
	"hardneg/internal/telemetry"
	"hardneg/internal/window"
	"hardneg/mining"
	"hardneg/stream"
)

// Options say what to replay.
type Options struct {
	catalog.Conn
	Cache    *embed.Cache // of vectors; nil: none
	From, To window.Bound
	Output   Output
	OwnRules bool         // mine by the rules of Config, not by those that the miners published
	Exactly  bool         // search exactly, however large the collection is
	Rate     float64      // queries a second at most; 0: as fast as it goes
	Memory   int64        // bytes of evidence held in memory at a time; 0: DefaultMemory
	Restart  bool         // forget an unfinished replay with the same arguments
	Progress func(Status) // called at each step; may be nil

	clock     func() time.Time // nil: time.Now
	mined     func()           // called after each write; nil but in tests
	settleAt  int              // records of a query that are held unapplied; 0: settleAfter
	fetchSize int              // bytes of a fetch; 0: by the number of partitions
}

// Output is where a replay writes: a topic or a file.
type Output interface {
	// Resume returns the plan and the progress of an unfinished replay with the same arguments; a nil plan if there is none, or if
	// anew asks to forget it. It is called first, and once.
	Resume(ctx context.Context, anew bool) (*Plan, Progress, error)
	// Begin forgets an unfinished replay, and stores the plan.
	Begin(ctx context.Context, plan Plan) error
	// Write adds records of the triplets topic and replaces the progress. Whoever resumes sees both or neither. A record is null if
	// its slot is empty. With Progress.Done all triplets are written.
	Write(ctx context.Context, outputs []stream.Output, progress Progress) error
	// Forget drops plan and progress of a finished replay, once its report has reached the user. From then on the same arguments
	// begin another replay.
	Forget(ctx context.Context) error
}

// Plan holds the decisions that a replay makes once, at its beginning. So a replay that goes on after a kill gives what it would
// have given without the kill.
type Plan struct {
	Revision   int64         `json:"revision"`   // Unix milliseconds of its begin: revision and mined_at of all its triplets
	Generation string        `json:"generation"` // of the index
	Rules      string        `json:"rules"`      // hash of all that decides a list
	Window     []window.Span `json:"window"`
}

// Progress says how far a replay is.
type Progress struct {
	After  string `json:"after,omitempty"` // queries up to this point id are written; empty: none
	Done   bool   `json:"done,omitempty"`
	Counts Counts `json:"counts"`
}

// Counts are the results of a replay so far.
type Counts struct {
	Queries  int            `json:"queries"` // with evidence in the window
	Pairs    int            `json:"pairs"`
	Triplets int            `json:"triplets"`
	Covered  map[string]int `json:"covered,omitempty"`  // pairs that have a negative of a policy
	Short    map[string]int `json:"short,omitempty"`    // pairs with empty slots, by reason
	Unusable int64          `json:"unusable,omitempty"` // records that are malformed
	Refused  int64          `json:"refused,omitempty"`  // records whose text cannot be embedded
}

// BadRecord is a record of the window that cannot be used.
type BadRecord struct {
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Error     string `json:"error"`
}

// Report is the outcome of a replay.
type Report struct {
	Plan
	Counts
	Records int64       `json:"records"` // of the window
	Bad     int64       `json:"bad_records"`
	BadList []BadRecord `json:"first_bad_records"` // the first few
	Notes   []string    `json:"notes"`             // for the user: for example, parts of the window that the log no longer has
	Resumed bool        `json:"resumed"`           // an earlier run had begun it
	Passes  int         `json:"passes"`            // over the window, of this run
	Seconds float64     `json:"seconds"`           // of this run
}

// Status says how far a replay is, for its user.
type Status struct {
	Reading bool    // true: it reads the window; false: it mines
	Share   float64 // of the window, or of all queries
	Queries int     // written so far
}

const (
	// DefaultMemory is the default of Options.Memory, in bytes.
	DefaultMemory = 256 << 20

	badListed     = 10 // in a report
	minesInFlight = 4  // chunks of queries that are mined at a time
)

// replayer is one replay.
type replayer struct {
	Options
	live     *index.Index // of the view, exact if the user asks for it
	gatherer *gatherer
	recall   *recall // over live: documents that searches have found
	lists    *stages.Lists
	triplets *stages.Triplets

	plan   Plan
	at     Progress
	report Report
}

// Run mines the queries of a window of the query log against the current index, and writes the triplets to an output of its own. It
// writes nothing of the live view.
//
// A pass over the window gathers the evidence of the queries with the lowest point ids, as many as fit into the memory, and mines
// them in that order. The next pass goes on behind them. So the state of a replay is one point id, and the result does
// not depend on the memory, on kills, or on the number of passes. A finished replay counts as unfinished, and is
// reported again, until the output forgets it.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.clock == nil {
		o.clock = time.Now
	}
	if o.Memory <= 0 {
		o.Memory = DefaultMemory
	}
	if o.Progress == nil {
		o.Progress = func(Status) {}
	}
	if o.mined == nil {
		o.mined = func() {}
	}
	start := time.Now()
	r, rules, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := r.begin(ctx, rules); err != nil {
		return nil, err
	}
	for !r.at.Done {
		if err := r.pass(ctx); err != nil {
			return nil, err
		}
	}
	r.report.Plan, r.report.Counts = r.plan, r.at.Counts
	r.report.Records = window.Length(r.plan.Window)
	r.report.Bad = r.at.Counts.Unusable + r.at.Counts.Refused
	r.report.Seconds = time.Since(start).Seconds()
	return &r.report, nil
}

// open opens the live view, its model and the rules. It returns the hash of the rules.
func open(ctx context.Context, o Options) (r *replayer, rules string, err error) {
	view, err := o.Open(ctx)
	if err != nil {
		return nil, "", err
	}
	live := view.Collections
	if o.Exactly {
		live = live.Exact()
	}
	if o.OwnRules {
		view.Rules = catalog.RulesOf(o.Config)
	}
	m, err := o.ModelOf(ctx, view.Generation, &embed.Resources{Cache: o.Cache, Connections: o.Config.Embedders})
	if err != nil {
		return nil, "", err
	}
	miner, err := mining.New(view.Rules.Mining)
	if err != nil {
		return nil, "", fmt.Errorf("the rules of mining: %w", err)
	}
	recall := newRecall(live)
	metrics := telemetry.NewMetrics(prometheus.NewRegistry()) // nobody reads them
	r = &replayer{
		Options: o, live: live, recall: recall,
		gatherer: &gatherer{
			kafka: o.Kafka, topic: o.Config.Topics.Queries, memory: o.Memory, settleAt: o.settleAt, fetchSize: o.fetchSize, model: m,
			reader: stages.QueryReader{Weights: *view.Rules.Evidence, Carries: m.Info().Definitions()},
		},
		lists:    stages.NewLists(recall, view.Rules, miner, o.Log),
		triplets: stages.NewTriplets(recall, "", view.Generation, view.Rules, metrics), // the output sets its own topic
		report:   Report{Notes: []string{}, BadList: []BadRecord{}},
	}
	sum := sha256.Sum256(view.Rules.Encode())
	return r, hex.EncodeToString(sum[:8]), nil
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
	spans, notes, err := window.Resolve(ctx, r.Kafka, r.Config.Topics.Queries, r.From, r.To, now)
	if err != nil {
		return err
	}
	if window.Length(spans) == 0 {
		notes = append(notes, fmt.Sprintf("the window from %s to %s is empty", r.From, r.To))
	}
	for _, note := range notes {
		r.Log.Warn().Msg(note)
	}
	r.report.Notes = append(r.report.Notes, notes...)
	r.plan = Plan{Revision: now.UnixMilli(), Generation: r.live.Generation(), Rules: rules, Window: spans}
	return r.Output.Begin(ctx, r.plan)
}

// write writes triplets together with the progress.
func (r *replayer) write(ctx context.Context, outputs []stream.Output) error {
	if err := r.Output.Write(ctx, outputs, r.at); err != nil {
		return err
	}
	r.Progress(Status{Share: share(r.at.After), Queries: r.at.Counts.Queries})
	r.mined()
	return nil
}

// bad adds a record that cannot be used to the report.
func (r *replayer) bad(b BadRecord) {
	if len(r.report.BadList) < badListed {
		r.report.BadList = append(r.report.BadList, b)
	}
}
