package stages

import (
	"fmt"
	"maps"
	"math"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"hardneg/internal/catalog"
	"hardneg/internal/records"
	"hardneg/stream"
)

// simOp is one operation of a history.
type simOp struct {
	kind  string // document, query, sweep, fault, rules, settle
	steps int    // of the tasks, before the next operation

	key, value []byte // of the record
	time       int64  // timestamp of the record
	doc        simDocument
	query      simQuery
	force      bool // sweep: the miner publishes everything

	stage     string
	partition int
	call      bool // the fault hits a call of the task, not the task itself
	fault     simFault
}

// simDocument is the meaning of a record of the documents topic.
type simDocument struct {
	id          string // empty: the record names no document
	live        bool
	deadLetter  bool // the record must become a dead letter
	refused     bool // the reason: the model refuses it
	title, text string
	vector      []float32
	carried     bool
}

// simQuery is the meaning of a record of the query log.
type simQuery struct {
	id, text     string
	vector       []float32
	positives    []string
	clicks       []records.Click
	forget       bool
	bad, refused bool // it must become a dead letter of the intake, or of the miner
}

// simHistory is a setup and the operations that happen in it.
type simHistory struct {
	setup simSetup
	ops   []*simOp
}

// simResult is the outcome of a history.
type simResult struct {
	problems []string
	triplets int // at the end
	steps    int
}

// run runs a history. At each settle and at the end it compares the view with the oracle's.
func (h simHistory) run(mutation simMutation, trace func(string, ...any)) (result simResult) {
	w := newSimWorld(h.setup, mutation)
	w.trace = trace
	defer func() {
		if r := recover(); r != nil {
			w.problem("panic: %v\n%s", r, debug.Stack())
		}
		result.problems, result.steps = w.problems, w.steps
		w.close()
	}()
	w.start()
	for i := 0; i < len(h.ops) && len(w.problems) == 0; i++ {
		if trace != nil {
			trace("%s", h.ops[i])
		}
		w.apply(h.ops[i])
		for range h.ops[i].steps {
			if !w.step() {
				break
			}
		}
	}
	if len(w.problems) == 0 {
		result.triplets = w.check()
	}
	return result
}

// apply carries out an operation.
func (w *simWorld) apply(op *simOp) {
	switch op.kind {
	case "document", "query":
		stage := catalog.StageIndexer
		if op.kind == "query" {
			stage = catalog.StageIntake
		}
		p := simPartition(op.key, w.setup.Partitions[stage])
		offset := w.broker.append(stage, p, stream.Record{Time: time.UnixMilli(op.time), Key: op.key, Value: op.value})
		w.placed = append(w.placed, simPlaced{op, p, offset})
		w.clock = max(w.clock, op.time)
	case "fault":
		t := w.broker.owner(op.stage, int32(op.partition%w.setup.Partitions[op.stage])).task
		if op.call {
			t.call = op.fault
		} else {
			t.fate = op.fault
		}
	case "rules":
		w.changeRules()
	case "sweep":
		w.sweep(op)
	case "settle":
		w.check()
	}
}

// changeRules restarts every instance with the next rules, and then sends every known query through refresh.
func (w *simWorld) changeRules() {
	if w.rules+1 == len(w.setup.Rules) {
		return
	}
	w.rules++
	w.start()
	for _, id := range w.index.queries {
		w.refresh(records.Refresh{Kind: records.KindRefresh, QueryID: id})
	}
}

// sweep sends one query through refresh, as the sweep and repairs do, or makes it forgotten, as the sweep
// does with old queries.
func (w *simWorld) sweep(op *simOp) {
	id := op.query.id
	state, known := w.index.states[id]
	if !op.query.forget || !known {
		w.refresh(records.Refresh{Kind: records.KindRefresh, QueryID: id, Force: op.force})
		return
	}
	seen := state.Newest.Timestamp
	w.refresh(records.Refresh{
		Kind: records.KindForget, QueryID: id,
		Source: records.Source{Topic: records.SourceSweep, Partition: -1, Offset: seen, Timestamp: seen},
	})
	forget := &simOp{kind: "query", time: seen, query: op.query}
	w.placed = append(w.placed, simPlaced{forget, -1, seen})
}

func (w *simWorld) refresh(r records.Refresh) {
	key := []byte(r.QueryID)
	w.broker.append(catalog.StageMiner, simPartition(key, w.setup.Partitions[catalog.StageMiner]),
		stream.Record{Time: time.UnixMilli(w.clock), Key: key, Value: r.Encode()})
}

// check waits until all work is done, and compares everything that was published with the oracle. It returns
// the number of triplets.
func (w *simWorld) check() int {
	if !w.settle() {
		return 0
	}
	want, got := w.want(), w.broker.view
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if a, b := simEssence(want[key]), simEssence(got[key]); a != b {
			w.problem("%s is %s, want %s", key, b, a)
		} else if d := simDistance(want[key].Similarity, got[key].Similarity); d > 1.1e-5 {
			w.problem("%s has similarities %v, want %v", key, got[key].Similarity, want[key].Similarity)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[key]; !ok {
			w.problem("%s is %s, want nothing", key, simEssence(got[key]))
		}
	}
	w.checkDeadLetters()
	return len(want)
}

// checkDeadLetters checks that there is one dead letter for each record that cannot be used. There is one
// exception: a document that the model refuses may have none if a newer record of it came in the same batch,
// because the indexer never embeds it.
func (w *simWorld) checkDeadLetters() {
	got := map[string]int{}
	for _, place := range w.broker.deadLetters() {
		got[place]++
	}
	newer := map[string]bool{}
	for _, p := range slices.Backward(w.placed) {
		topic := w.broker.topics.Documents
		if p.kind == "query" {
			topic = w.broker.topics.Queries
		}
		place := fmt.Sprintf("%s/%d/%d", topic, p.partition, p.offset)
		n := got[place]
		delete(got, place)
		switch {
		case p.doc.deadLetter || p.query.bad || p.query.refused:
			if n != 1 && !(n == 0 && p.doc.refused && newer[p.doc.id]) {
				w.problem("%s has %d dead letters, want one", place, n)
			}
		case n > 0:
			w.problem("%s has %d dead letters, want none", place, n)
		}
		if p.kind == "document" {
			newer[p.doc.id] = true
		}
	}
	if len(got) > 0 {
		w.problem("dead letters of %v", got)
	}
}

// simEssence returns all of a triplet that the oracle knows, except for the cosines.
func simEssence(t records.Triplet) string {
	if t.Rank == 0 {
		return "missing"
	}
	version := func(v string) string { return v[:min(8, len(v))] }
	return fmt.Sprintf("%q: %s %q/%q (%s), not %s %q/%q (%s), by %s", t.Query.Text,
		t.Positive.ID, t.Positive.Title, t.Positive.Text, version(t.Positive.Version),
		t.Negative.ID, t.Negative.Title, t.Negative.Text, version(t.Negative.Version), t.Policy)
}

func simDistance(a, b records.Similarity) float64 {
	return max(math.Abs(float64(a.QueryPositive-b.QueryPositive)), math.Abs(float64(a.QueryNegative-b.QueryNegative)),
		math.Abs(float64(a.PositiveNegative-b.PositiveNegative)))
}

func (op *simOp) String() string {
	var s string
	at := op.time - simEpoch
	switch {
	case op.kind == "document" && op.doc.live:
		s = fmt.Sprintf("document %s: title %q, text %q, vector %v, carried: %v", op.doc.id, op.doc.title, op.doc.text, op.doc.vector, op.doc.carried)
	case op.kind == "document":
		s = fmt.Sprintf("document %s: deleted, by %q", op.doc.id, op.value)
	case op.kind == "query" && op.query.forget:
		s = fmt.Sprintf("query %s: forget, key %q, at %d", op.query.id, op.key, at)
	case op.kind == "query":
		s = fmt.Sprintf("query %s: key %q, at %d: %s", op.query.id, op.key, at, op.value)
	case op.kind == "sweep":
		s = fmt.Sprintf("sweep: %s, forget: %v, force: %v", op.query.id, op.query.forget, op.force)
	case op.kind == "fault":
		s = fmt.Sprintf("fault: %s in %s/%d after %d", op.fault.kind, op.stage, op.partition, op.fault.in)
	default:
		s = op.kind
	}
	return fmt.Sprintf("== %s; %d steps", s, op.steps)
}

// shrink looks for a smaller history that still fails, until the deadline: fewer operations, less
// interleaving. Under the same schedule a smaller history takes another course, so shrink tries a few
// schedules for each.
func (h simHistory) shrink(mutation simMutation, deadline time.Time) simHistory {
	attempt := func(c simHistory) (simHistory, bool) {
		for try := range uint64(15) {
			if time.Now().After(deadline) {
				return c, false
			}
			if try > 0 {
				c.setup.Seed += 7919
			}
			if len(c.run(mutation, nil).problems) > 0 {
				return c, true
			}
		}
		return c, false
	}
	for smaller := true; smaller && time.Now().Before(deadline); {
		smaller = false
		for n := max(1, len(h.ops)/2); n > 0; n /= 2 {
			for at := len(h.ops) - n; at >= 0; at -= n {
				if at+n > len(h.ops) {
					continue
				}
				if c, fails := attempt(simHistory{h.setup, slices.Concat(h.ops[:at], h.ops[at+n:])}); fails {
					h, smaller = c, true
				}
			}
		}
		if c, calmer := h.calm(attempt); calmer {
			h, smaller = c, true
		}
	}
	return h
}

// calm looks for a history that still fails with less interleaving.
func (h simHistory) calm(attempt func(simHistory) (simHistory, bool)) (calmer simHistory, done bool) {
	try := func(worth bool, change func(*simHistory)) {
		if !worth {
			return
		}
		c := h
		change(&c)
		if c, fails := attempt(c); fails {
			h, done = c, true
		}
	}
	try(h.setup.Split > 0, func(c *simHistory) { c.setup.Split = 0 })
	try(h.setup.Gaps, func(c *simHistory) { c.setup.Gaps = false })
	try(h.setup.Skew > 0, func(c *simHistory) { c.setup.Skew = 0 })
	try(h.setup.Wide, func(c *simHistory) { c.setup.Wide = false })
	try(h.setup.Scale > 1, func(c *simHistory) { c.setup.Scale = 1 })
	try(h.setup.Strategy != "sticky" || h.setup.Stick < 0.9, func(c *simHistory) { c.setup.Strategy, c.setup.Stick = "sticky", 0.9 })
	for _, stage := range simStages {
		try(h.setup.Partitions[stage] > 1, func(c *simHistory) {
			c.setup.Partitions = maps.Clone(c.setup.Partitions)
			c.setup.Partitions[stage] = 1
		})
	}
	for i := range h.ops {
		try(h.ops[i].steps > 0, func(c *simHistory) {
			op := *c.ops[i]
			op.steps = 0
			c.ops = slices.Clone(c.ops)
			c.ops[i] = &op
		})
	}
	return h, done
}

// show returns the operations of a history, and a trace of its course.
func (h simHistory) show(mutation simMutation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "setup: %+v\n", h.setup)
	for i, rules := range h.setup.Rules {
		fmt.Fprintf(&b, "rules %d: %+v\n", i, rules)
		for _, t := range rules.Tiers {
			for name, v := range map[string]*float64{"relative": t.RelativeMargin, "absolute": t.AbsoluteMargin, "max": t.MaxScore, "min": t.MinScore} {
				if v != nil {
					fmt.Fprintf(&b, "    %s %v\n", name, *v)
				}
			}
		}
	}
	result := h.run(mutation, func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) })
	fmt.Fprintf(&b, "%s\n", strings.Join(result.problems, "\n"))
	return b.String()
}
