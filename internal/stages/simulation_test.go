package stages

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// The simulation runs the real stages against an index and a broker in memory. One goroutine runs at a time.
// Each task is a coroutine that gives up control before every effect on the outside. Such a place is called a
// point. There another task may run, the task may die, or a new owner may take its partition. Then the old
// owner goes on as a zombie: the broker refuses its transactions, but its writes to the index take effect,
// unless a guard refuses them. The same history under the same schedule runs the same way again, step by
// step.

// simStages lists the stages, in the order of everything that is kept per stage.
var simStages = [...]string{catalog.StageIndexer, catalog.StageIntake, catalog.StageMiner}

var (
	errSimDead        = errors.New("the process is dead")
	errSimUnavailable = errors.New("unavailable, says the simulation")
)

var (
	simMetrics  = telemetry.NewMetrics(prometheus.NewRegistry())
	simDefaults = *config.Default()
)

// simSetup is the part of a history that does not change while it runs.
type simSetup struct {
	Seed       uint64 // of the schedule
	Dimensions int
	Partitions map[string]int
	Rules      []config.Mining // a history begins with the first ones; an operation changes to the next ones
	Queries    config.Queries
	MaxBatch   int     // records
	Whole      bool    // batches are as large as possible, not of random sizes
	Scale      int     // searches return only 1/Scale of the documents that are asked for
	Wide       bool    // the first search reads no vectors already
	Split      float64 // how often another task may run between two points of one operation
	Gaps       bool    // offsets have gaps, as after transaction markers
	Skew       int64   // milliseconds by which the clocks of instances differ
	Strategy   string  // of the scheduler: uniform, sticky or priorities
	Stick      float64 // with strategy sticky: how often the same task goes on
}

// simWorld is a history that runs.
type simWorld struct {
	setup    simSetup
	rng      *rand.Rand // of the schedule
	mutation simMutation
	broker   *simBroker
	index    *simIndex
	rules    int // index of the rules in setup.Rules that are in force
	clock    int64
	tasks    []*simTask
	last     *simTask
	steps    int
	instance int64
	trace    func(format string, args ...any) // nil: no trace is written
	placed   []simPlaced
	problems []string
}

func newSimWorld(setup simSetup, mutation simMutation) *simWorld {
	w := &simWorld{
		setup: setup, mutation: mutation, clock: simEpoch,
		rng:    rand.New(rand.NewPCG(setup.Seed, 2)),
		index:  newSimIndex(),
		broker: newSimBroker(setup),
	}
	return w
}

const simEpoch = 1_700_000_000_000 // Unix milliseconds at which histories begin

// simTask is the work of one instance on one partition, from the moment when it becomes the owner until it
// dies or is fenced.
type simTask struct {
	w         *simWorld
	name      string
	stage     string
	partition int32
	skew      int64
	config    *config.Config
	token     int64
	offset    int64
	next      func() (struct{}, bool)
	stop      func()
	yield     func(struct{}) bool
	at        string // the point where it has stopped
	idle      bool   // it waits at the end of its log
	dead      bool
	ended     bool
	priority  float64
	store     *simStore
	call      simFault // hits one of the next external calls
	fate      simFault // hits the task itself
}

// simFault is a fault that strikes when its countdown reaches zero.
type simFault struct {
	kind string // fail: the call fails before its effect; lose: its answer is lost; crash; takeover
	in   int
}

func (f *simFault) strikes() bool {
	if f.in == 0 {
		return false
	}
	f.in--
	return f.in == 0
}

// own gives a partition a new owner. The old one becomes a zombie, unless it is dead.
func (w *simWorld) own(stage string, partition int32) *simTask {
	w.instance++
	t := &simTask{
		w: w, stage: stage, partition: partition, priority: w.rng.Float64(),
		name: fmt.Sprintf("%s/%d#%d", stage, partition, w.instance), config: w.configuration(),
	}
	if w.setup.Skew > 0 {
		t.skew = w.rng.Int64N(2*w.setup.Skew) - w.setup.Skew
	}
	t.store = &simStore{t: t, w: w}
	w.broker.owner(stage, partition).task = t
	t.next, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = yield
		t.work()
	})
	w.tasks = append(w.tasks, t)
	return t
}

// configuration returns the configuration of instances that start now.
func (w *simWorld) configuration() *config.Config {
	cfg := simDefaults
	cfg.Sweep.Rate = 0 // the simulation sweeps by operations
	cfg.Embedders = []config.Embedder{{Name: simEmbedder, Type: "carried", Weight: 1, Dimensions: w.setup.Dimensions}}
	cfg.Mining, cfg.Queries = w.setup.Rules[w.rules], w.setup.Queries
	return &cfg
}

// point gives up control before an effect. An error means that the process has died: the effect must not
// happen.
func (t *simTask) point(what, id string) error {
	if t.dead {
		return errSimDead
	}
	t.at = what
	if t.w.trace != nil {
		t.at += " " + id
	}
	if !t.yield(struct{}{}) {
		t.dead = true
		return errSimDead
	}
	return nil
}

// begin begins a call of an external server. It may fail before its effect (err), or its answer may get lost
// (lost).
func (t *simTask) begin(what, id string) (lost error, err error) {
	fault := ""
	if t.call.strikes() {
		fault = t.call.kind
	}
	if err := t.point(what, id); err != nil {
		return nil, err
	}
	switch fault {
	case "fail":
		t.say("%s fails", what)
		return nil, errSimUnavailable
	case "lose":
		t.say("the answer to %s will be lost", what)
		return errSimUnavailable, nil
	}
	return nil, nil
}

// between now and then gives up control between two points of one operation.
func (t *simTask) between(what, id string) error {
	if t.w.setup.Split == 0 || t.w.rng.Float64() >= t.w.setup.Split {
		return nil
	}
	return t.point(what, id)
}

func (t *simTask) say(format string, args ...any) {
	if t.w.trace != nil {
		t.w.trace("%s: "+format, append([]any{t.name}, args...)...)
	}
}

// work does what stream.task does. It takes a token, makes a Processor, hands it batch after batch, and
// commits each with its outputs. After an error it begins again with a new token.
func (t *simTask) work() {
	owner := t.w.broker.owner(t.stage, t.partition)
	for owner.task == t {
		if t.point("InitProducerId", "") != nil || owner.task != t {
			return
		}
		t.token = max(owner.token+1, owner.seen+1, t.now().UnixMilli())
		owner.token, t.offset = t.token, owner.offset
		t.say("owns the partition from offset %d with token %d", t.offset, t.token-simEpoch)
		err := t.process()
		var fenced *stream.FencedError
		if errors.As(err, &fenced) {
			owner.seen = max(owner.seen, fenced.Token)
		}
		t.say("%v", err)
		if t.dead {
			return
		}
		if !errors.Is(err, errSimUnavailable) && !errors.Is(err, stream.ErrFenced) && !strings.Contains(err.Error(), "trying again later") {
			t.w.problem("%s: %v", t.name, err)
		}
	}
}

// process runs a Processor until something fails.
func (t *simTask) process() error {
	processor, err := t.processor()
	if err != nil {
		return err
	}
	for {
		batch, err := t.fetch()
		if err != nil {
			return err
		}
		outputs, err := processor.Process(context.Background(), batch)
		if err != nil {
			return err
		}
		lost, err := t.begin("commit", "")
		if err != nil {
			return err
		}
		next := batch[len(batch)-1].Offset + 1
		if err := t.w.commit(t, outputs, next); err != nil {
			return err
		}
		t.store.forget()
		t.offset = next
		if lost != nil {
			return lost
		}
	}
}

// fetch waits for records, and returns a batch.
func (t *simTask) fetch() ([]stream.Record, error) {
	for {
		batch := t.w.broker.fetch(t.stage, t.partition, t.offset)
		if len(batch) > 0 {
			t.idle = false
			if batch = batch[:min(len(batch), t.w.setup.MaxBatch)]; !t.w.setup.Whole {
				batch = batch[:1+t.w.rng.IntN(len(batch))]
			}
			t.say("reads offsets %d to %d", batch[0].Offset, batch[len(batch)-1].Offset)
			return slices.Clone(batch), t.point("fetch", "")
		}
		t.idle = true
		if err := t.point("wait", ""); err != nil {
			return nil, err
		}
	}
}

func (t *simTask) now() time.Time { return time.UnixMilli(t.w.clock + t.skew) }

// processor returns the real stage, with the simulation in place of the index, Kafka and the model.
func (t *simTask) processor() (stream.Processor, error) {
	rules := catalog.RulesOf(t.config)
	out := Outputs{Names: catalog.NamesOf(t.config, ""), Publication: Live{}, Log: zerolog.Nop(), Metrics: simMetrics}
	e, err := NewEnv(out, "generation", rules, t.store, t.store)
	if err != nil {
		return nil, err
	}
	e.Now = t.now
	if t.w.setup.Wide {
		e.WideLimit = firstLimit - 1
	}
	t.store.forget()
	switch t.stage {
	case catalog.StageIndexer:
		return NewIndexer(e, t.store, t.partition), nil
	case catalog.StageIntake:
		return Intake{Outputs: e.Outputs, Reader: QueryReader{Weights: *rules.Evidence, Carries: t.config.Embedders}}, nil
	default:
		return NewMiner(e, t.store, t.token), nil
	}
}

// step lets one task go on to its next point. It returns false if all tasks wait for records.
func (w *simWorld) step() bool {
	t := w.pick()
	if t == nil {
		return false
	}
	w.steps++
	if w.setup.Strategy == "priorities" && w.rng.IntN(20) == 0 {
		t.priority = w.rng.Float64()
	}
	if t.fate.strikes() {
		w.strike(t)
		return true
	}
	w.last = t
	if w.trace != nil && t.at != "" && !t.idle {
		w.trace("%s: %s", t.name, t.at)
	}
	if _, alive := t.next(); !alive {
		t.ended = true
		w.tasks = slices.DeleteFunc(w.tasks, func(x *simTask) bool { return x == t })
	}
	return true
}

// strike kills a task, or makes it a zombie. If it was the owner, its partition gets a new one.
func (w *simWorld) strike(t *simTask) {
	current := w.broker.owner(t.stage, t.partition).task == t
	if t.fate.kind == "crash" {
		t.say("dies before: %s", t.at)
		w.kill(t)
	} else {
		t.say("is taken for dead before: %s", t.at)
	}
	if current {
		w.own(t.stage, t.partition)
	}
}

func (w *simWorld) kill(t *simTask) {
	t.stop()
	t.dead, t.ended = true, true
	w.tasks = slices.DeleteFunc(w.tasks, func(x *simTask) bool { return x == t })
}

// pick chooses the task that goes on.
func (w *simWorld) pick() *simTask {
	var runnable [32]*simTask
	n := 0
	for _, t := range w.tasks {
		if n < len(runnable) && (!t.idle || w.broker.pending(t.stage, t.partition, t.offset)) {
			runnable[n] = t
			n++
		}
	}
	if n == 0 {
		return nil
	}
	switch w.setup.Strategy {
	case "sticky":
		if slices.Contains(runnable[:n], w.last) && w.rng.Float64() < w.setup.Stick {
			return w.last
		}
	case "priorities":
		return slices.MaxFunc(runnable[:n], func(a, b *simTask) int {
			if a.priority < b.priority {
				return -1
			}
			return 1
		})
	}
	return runnable[w.rng.IntN(n)]
}

// start gives every partition an owner.
func (w *simWorld) start() {
	for _, stage := range simStages {
		for p := range w.setup.Partitions[stage] {
			w.own(stage, int32(p))
		}
	}
}

// settle runs until every rightful owner has committed everything in its log. Zombies may stay where they
// are.
func (w *simWorld) settle() bool {
	for range 200_000 {
		if w.quiet() {
			return true
		}
		if !w.step() {
			return w.quiet()
		}
	}
	w.problem("still busy after 200,000 steps")
	return false
}

func (w *simWorld) quiet() bool {
	for _, stage := range simStages {
		for p := range w.setup.Partitions[stage] {
			o := w.broker.owner(stage, int32(p))
			if w.broker.pending(stage, int32(p), o.offset) || !o.task.idle {
				return false
			}
		}
	}
	return true
}

// close ends all tasks, so that no coroutine is left behind.
func (w *simWorld) close() {
	for len(w.tasks) > 0 {
		w.kill(w.tasks[0])
	}
}

func (w *simWorld) problem(format string, args ...any) {
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// simPartition returns the partition of a key. Like the default partitioner it puts all records of a key into
// one partition.
func simPartition(key []byte, n int) int32 {
	h := fnv.New32a()
	_, _ = h.Write(key)
	return int32(h.Sum32() % uint32(n))
}
