// Package replay mines the queries of a window of the query log against the current index, into a topic or a
// file of its own. It decides and renders lists with the code of the stages (stages.QueryReader,
// stages.Advance, stages.Lists, stages.Triplets), and writes nothing into the live view. docs/replay.md is
// the user's page. Only packages of hardneg import it.
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

// Options says what to replay.
type Options struct {
	catalog.Conn
	Cache    *embed.Cache // of vectors; nil: none
	From, To window.Bound
	Output   Output
	OwnRules bool         // mine by the rules of Config, not by the published rules of the miners
	Exactly  bool         // search exactly, however large the collection is
	Rate     float64      // queries a second, at most; 0: no limit
	Memory   int64        // bytes of evidence held in memory at a time; 0: DefaultMemory
	Restart  bool         // forget an unfinished replay with the same arguments
	Progress func(Status) // called at each step; may be nil

	// Only tests set these. Run sets the defaults.
	clock     func() time.Time // nil: time.Now
	mined     func()           // called after each write; may be nil
	settleAt  int              // see gatherer; 0: settleAfter
	fetchSize int              // see gatherer
}

// Output is the target of a replay: a topic or a file.
type Output interface {
	// Resume returns the plan and the progress of an unfinished replay with the same arguments. It returns a
	// nil plan if there is none, or if anew is true. It is the first call, and comes once.
	Resume(ctx context.Context, anew bool) (*Plan, Progress, error)
	// Begin forgets an unfinished replay, and stores the plan.
	Begin(ctx context.Context, plan Plan) error
	// Write adds triplets and replaces the progress. A replay that resumes sees both or neither. The outputs
	// are records of the triplets topic; a record without a value is an empty slot. With progress.Done these
	// are the last triplets.
	Write(ctx context.Context, outputs []stream.Output, progress Progress) error
	// Forget drops plan and progress of a finished replay. It is called when the report has reached the user.
	// From then on the same arguments begin another replay.
	Forget(ctx context.Context) error
}

// Plan holds the decisions that a replay makes once, at its beginning. So a replay that goes on after a kill
// gives the same result as without the kill.
type Plan struct {
	Revision   int64         `json:"revision"`   // Unix milliseconds of its beginning: revision and mined_at of all its triplets
	Generation string        `json:"generation"` // of the index
	Rules      string        `json:"rules"`      // hash of everything that decides a list
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
	Unusable int64          `json:"unusable,omitempty"` // malformed records
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
	Resumed bool        `json:"resumed"`           // an earlier run began this replay
	Passes  int         `json:"passes"`            // over the window, in this run
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

	badListed     = 10 // bad records in a report, at most
	minesInFlight = 4  // chunks of queries that are mined at a time
)

// replayer carries out one replay.
type replayer struct {
	Options
	live      *index.Index // of the view; it searches exactly if the user asks for that
	gatherer  *gatherer
	documents *recall // live with a cache
	lists     *stages.Lists
	triplets  *stages.Triplets

	plan   Plan     // begin sets it
	at     Progress // begin sets it
	report Report
}

// Run mines the queries of a window of the query log against the current index, and writes the triplets to an
// output of its own. It writes nothing into the live view.
//
// A pass over the window gathers the evidence of the queries with the lowest point ids, as many as fit into
// the memory, and mines them in that order. The next pass goes on with the point ids behind them. So the
// progress of a replay is one point id, and the result does not depend on the memory, on kills, or on the
// number of passes. Until the output forgets a finished replay, Run reports it again.
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
	if o.settleAt == 0 {
		o.settleAt = settleAfter
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

// open opens the live view and its model. It returns a replayer without a plan, and the hash of the rules.
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
	documents := newRecall(live)
	metrics := telemetry.NewMetrics(prometheus.NewRegistry()) // nobody reads them
	r = &replayer{
		Options: o, live: live, documents: documents,
		gatherer: &gatherer{
			kafka: o.Kafka, topic: o.Config.Topics.Queries, memory: o.Memory, settleAt: o.settleAt, fetchSize: o.fetchSize, model: m,
			reader: stages.QueryReader{Weights: *view.Rules.Evidence, Carries: m.Info().Definitions()},
		},
		lists:    stages.NewLists(documents, view.Rules, miner, o.Log),
		triplets: stages.NewTriplets(documents, "", view.Generation, view.Rules, metrics), // the output sets its own topic
		report:   Report{Notes: []string{}, BadList: []BadRecord{}},
	}
	sum := sha256.Sum256(view.Rules.Encode())
	return r, hex.EncodeToString(sum[:8]), nil
}

// begin goes on with an unfinished replay, or plans a new one.
func (r *replayer) begin(ctx context.Context, rules string) error {
	unfinished, at, err := r.Output.Resume(ctx, r.Restart)
	if err != nil {
		return err
	}
	if unfinished != nil {
		if unfinished.Generation != r.live.Generation() || unfinished.Rules != rules {
			return fmt.Errorf("a replay with these arguments was begun at %s, and the model or the rules of mining have changed since: --restart begins it anew",
				time.UnixMilli(unfinished.Revision).Format(time.RFC3339))
		}
		r.plan, r.at, r.report.Resumed = *unfinished, at, true
		r.Log.Info().Time("begun", time.UnixMilli(unfinished.Revision)).Int("queries", at.Counts.Queries).Msg("going on with an unfinished replay")
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

// bad adds a record that cannot be used to the report, if that has few.
func (r *replayer) bad(b BadRecord) {
	if len(r.report.BadList) < badListed {
		r.report.BadList = append(r.report.BadList, b)
	}
}
