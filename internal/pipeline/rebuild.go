package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"hardneg/internal/config"
	"hardneg/internal/model"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// RebuildOptions say how to make a new generation.
type RebuildOptions struct {
	Options                          // Metrics and Health are not needed
	FromTopics bool                  // read documents and query log from the topics, not from the live collections
	Model      string                // id of a published model; empty: fit the configured ensemble
	Keep       time.Duration         // how long the previous generation stays once the new one is live
	Default    bool                  // the default embedders may take the place of others, though the configuration names none
	Hold       bool                  // end when the new generation could be promoted; the next rebuild goes on from there
	Progress   func(RebuildProgress) // is called by one goroutine at a time; nil: nobody watches
}

// RebuildProgress is how far a rebuild is.
type RebuildProgress struct {
	Step        string
	Done, Total int64 // Total 0: not known
}

// RebuildReport is what a rebuild did.
type RebuildReport struct {
	Generation string             `json:"generation"`
	Previous   string             `json:"previous"`
	Model      string             `json:"model"`
	Dimensions int                `json:"dimensions"`
	Documents  uint64             `json:"documents"`
	Queries    uint64             `json:"queries"`
	Promoted   bool               `json:"promoted"`
	Seconds    map[string]float64 `json:"seconds"` // by step, of this run
}

// Steps of a rebuild.
const (
	StepFit       = "fit"
	StepDocuments = "documents"
	StepQueries   = "queries"
	StepMine      = "mine"
	StepVerify    = "verify"
	StepPublish   = "publish"
)

// shadow is what a generation that is being built knows of the live one.
type shadow struct{ live *config.Config }

// follow keeps a stage of a generation that is being built behind that of the live one: so no record is passed over when
// the live one ends, whose dead letters it is not to send a second time.
func (p *Pipeline) follow(stage string) func(ctx context.Context, partition int32, committed int64) (int64, error) {
	return func(ctx context.Context, partition int32, committed int64) (int64, error) {
		for {
			live, err := p.kafka.CommittedSoFar(ctx, Group(p.shadow.live, stage), inputTopic(p.shadow.live, stage))
			if err != nil || live[partition] > committed {
				return live[partition], err
			}
			if err := pause(ctx, pollPause); err != nil { // for the live stage, which may be down
				return 0, err
			}
		}
	}
}

// rebuild is one run of Rebuild.
type rebuild struct {
	RebuildOptions
	live   *Pipeline // of the live generation, of which nothing runs here
	next   *Pipeline // of the new one
	record *generation
	report *RebuildReport
}

// Rebuild makes a new generation beside the live one, and promotes it. Where it is interrupted, at any point, the next
// call goes on. Only the service that runs can finish a promotion: it publishes the new triplets, and Rebuild waits for
// that.
func Rebuild(ctx context.Context, o RebuildOptions) (*RebuildReport, error) {
	o.Metrics, o.Health = telemetry.NewMetrics(prometheus.NewRegistry()), telemetry.NewHealth()
	show, one := o.Progress, sync.Mutex{}
	o.Progress = func(p RebuildProgress) {
		if show != nil {
			one.Lock()
			defer one.Unlock()
			show(p)
		}
	}
	r := &rebuild{RebuildOptions: o, report: &RebuildReport{Seconds: map[string]float64{}}}
	under, err := r.find(ctx)
	if err != nil {
		return nil, err
	}
	if under != nil && under.ID == r.live.live { // promoted by a run that was interrupted
		m, err := r.live.models().Read(ctx, under.Model)
		if err != nil {
			return nil, err
		}
		if m != nil && !r.asks(under, m) {
			return nil, fmt.Errorf("generation %s, of other embedders or another source, is live and being published: wait until hardneg status says that it is done, and begin then", under.ID)
		}
		r.record = under
		r.report.Generation, r.report.Previous, r.report.Model, r.report.Promoted = under.ID, under.Previous, under.Model, true
		return r.report, r.step(StepPublish, func() error { return r.awaitPublished(ctx) })
	}
	if err := r.begin(ctx, under); err != nil {
		return nil, err
	}
	if r.record.Phase == phaseSeeding {
		err = r.seed(ctx)
	}
	if err == nil {
		err = r.build(ctx)
	}
	if errors.Is(err, errPromoted) { // by another process that worked at it too
		r.report.Promoted, err = true, nil
	}
	if err != nil {
		return nil, err
	}
	if r.report.Documents, r.report.Queries, err = r.next.queries.Counts(ctx); err != nil || o.Hold {
		return r.report, err
	}
	return r.report, r.step(StepPublish, func() error { return r.awaitPublished(ctx) })
}

// step measures a step.
func (r *rebuild) step(name string, f func() error) error {
	start := time.Now()
	r.Log.Info().Str("step", name).Msg("rebuild")
	err := f()
	r.report.Seconds[name] += time.Since(start).Seconds()
	if err != nil {
		return fmt.Errorf("rebuild, %s: %w", name, err)
	}
	return nil
}

// find opens the live generation, and returns a rebuild that is under way, if there is one.
func (r *rebuild) find(ctx context.Context) (under *generation, err error) {
	if r.live, err = newPipeline(r.Options); err != nil {
		return nil, err
	}
	if err := r.live.adopt(ctx); err != nil {
		return nil, err
	}
	if r.live.live == "" {
		return nil, fmt.Errorf("there is no live generation to build another one beside: the first one is made by hardneg run")
	}
	if r.live.queries, err = r.Index.Existing(ctx, r.live.live); err != nil {
		return nil, err
	}
	if r.live.record != nil && r.live.record.Phase != phaseLive {
		return r.live.record, nil
	}
	known, err := readGenerations(ctx, r.Kafka, r.Config.Topics.Models)
	return unfinished(known, r.live.live), err
}

// begin goes on with a rebuild, or starts one: a model, a record of it, topics and collections.
func (r *rebuild) begin(ctx context.Context, under *generation) error {
	if under != nil {
		return r.resume(ctx, under)
	}
	if err := r.meant(ctx); err != nil {
		return err
	}
	if !r.FromTopics {
		if err := r.suffices(ctx); err != nil {
			return err
		}
	}
	m, err := r.model(ctx)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	r.record = &generation{
		ID: m.ID() + "-" + strconv.FormatInt(now.UnixMilli(), 10), Model: m.ID(), Phase: phaseStarting, Previous: r.live.live,
		FromTopics: r.FromTopics, Keep: r.Keep, StartedAt: now,
	}
	if err := r.write(ctx); err != nil { // before anything is made that nobody would know of
		return err
	}
	if err := r.alone(ctx); err != nil {
		return err
	}
	if err := r.open(ctx, m); err != nil {
		return err
	}
	return r.start(ctx)
}

// alone withdraws a generation where another rebuild began at the same time: of two, one at least sees the other.
func (r *rebuild) alone(ctx context.Context) error {
	known, err := readGenerations(ctx, r.Kafka, r.Config.Topics.Models)
	if err != nil {
		return err
	}
	delete(known, r.record.ID)
	other := unfinished(known, r.live.live)
	if other == nil {
		return nil
	}
	err = r.Kafka.Produce(ctx, []stream.Output{{Topic: r.Config.Topics.Models, Key: []byte(generationKey + r.record.ID)}})
	return errors.Join(fmt.Errorf("another rebuild began at the same time, of generation %s", other.ID), err)
}

// asks tells whether a generation is the one that this rebuild is to make.
func (r *rebuild) asks(g *generation, m *model.Model) bool {
	return g.FromTopics == r.FromTopics && (r.Model == g.Model || r.Model == "" && describes(r.Config, m.Info()))
}

func (r *rebuild) resume(ctx context.Context, under *generation) error {
	r.record = under
	if under.Previous != r.live.live {
		return fmt.Errorf("generation %s was being built beside %s, but %s is live now: remove it with --abort, and begin again", under.ID, under.Previous, r.live.live)
	}
	m, err := r.live.models().Read(ctx, under.Model)
	if err != nil {
		return err
	}
	if m == nil {
		return fmt.Errorf("generation %s is being built by model %s, which topic %s does not have any more: remove it with --abort, and begin again",
			under.ID, under.Model, r.Config.Topics.Models)
	}
	if !r.asks(under, m) {
		return fmt.Errorf("generation %s is being built already, by model %s (embedders %s, %d dimensions, from the topics: %t), and this is another rebuild (embedders %s, at most %d dimensions, "+
			"from the topics: %t): finish it by the command that began it, or remove it with --abort", under.ID, under.Model, strings.Join(embedderNames(m.Info().Definitions()), ", "), m.Dimensions(),
			under.FromTopics, strings.Join(embedderNames(r.Config.Embedders), ", "), r.Config.Reduce.MaxDimensions, r.FromTopics)
	}
	r.Log.Info().Str("generation", under.ID).Str("phase", under.Phase).Strs("embedders", embedderNames(m.Info().Definitions())).
		Msg("going on with a rebuild that was interrupted or held")
	if err := r.open(ctx, m); err != nil || under.Phase != phaseStarting {
		return err
	}
	return r.start(ctx)
}

// model is the one asked for, or a new one.
func (r *rebuild) model(ctx context.Context) (m *model.Model, err error) {
	if r.Model != "" {
		m, err = r.live.models().Read(ctx, r.Model)
		if err == nil && m == nil {
			err = fmt.Errorf("topic %s has no complete model %s; hardneg models list shows those that it has", r.Config.Topics.Models, r.Model)
		}
		return m, err
	}
	err = r.step(StepFit, func() error {
		if m, err = FitModel(ctx, r.Config, r.live.resources(), r.sample, r.Log); err != nil {
			return err
		}
		return r.live.models().Publish(ctx, m)
	})
	return m, err
}

// open makes what is missing of the new generation's topics and collections.
func (r *rebuild) open(ctx context.Context, m *model.Model) (err error) {
	if r.next, err = newPipeline(r.Options); err != nil {
		return err
	}
	p := r.next
	p.cfg, p.generation, p.live, p.record = forGeneration(r.Config, r.record.ID), r.record.ID, r.record.Previous, r.record
	p.model, p.carries, p.shadow = m, m.Info().Definitions(), &shadow{r.live.cfg}
	if err := EnsureTopics(ctx, r.Kafka, p.cfg); err != nil {
		return err
	}
	if p.queries, err = r.Index.Create(ctx, r.record.ID, m.Dimensions()); err != nil {
		return err
	}
	p.index = p.queries
	r.report.Generation, r.report.Previous, r.report.Model, r.report.Dimensions = r.record.ID, r.record.Previous, m.ID(), m.Dimensions()
	return nil
}

func (r *rebuild) write(ctx context.Context) error {
	return r.record.write(ctx, r.Kafka, r.Config.Topics.Models)
}

// build runs the stages of the new generation until they are where the live ones are, and then promotes it.
func (r *rebuild) build(ctx context.Context) error {
	stages, running := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(running)
	defer stop()
	stages.Go(func() error { return r.next.watchLive(running) })
	for _, stage := range []string{StageIndexer, StageIntake} {
		stages.Go(func() error { return r.next.run(running, stage) })
	}
	stages.Go(func() error {
		if r.record.FromTopics { // or a backlog would mine each query over and over
			if err := r.awaitIndexed(running); err != nil {
				return quiet(running, err)
			}
		}
		return r.next.run(running, StageMiner)
	})
	ready := make(chan error, 1)
	go func() {
		defer stop()
		ready <- r.ready(running)
	}()
	err := stages.Wait() // the transactions under way are finished
	notReady := <-ready  // which ends with the stages, and must have ended before the report goes on
	if err == nil {
		err = notReady
	}
	if err == nil && !r.Hold {
		err = ctx.Err()
	}
	if err == nil || errors.Is(err, errSuperseded) {
		_, err = r.current(ctx)
	}
	if err != nil || r.Hold {
		return err
	}
	r.report.Promoted = true
	return r.Index.Promote(ctx, r.next.queries)
}

// errPromoted says that the generation that is being built is live.
var errPromoted = errors.New("the generation is promoted")

// current reads what is known of the generation by now: another process may work at it too, and this one may have been
// frozen for long.
func (r *rebuild) current(ctx context.Context) (*generation, error) {
	known, err := readGenerations(ctx, r.Kafka, r.Config.Topics.Models)
	if err != nil {
		return nil, err
	}
	live, _, err := r.Index.Active(ctx)
	switch now := known[r.record.ID]; {
	case err != nil:
		return nil, err
	case live == r.record.ID:
		return nil, errPromoted
	case live != r.record.Previous:
		return nil, fmt.Errorf("generation %s was built beside %s, but %s is live now: remove it with --abort, and begin again", r.record.ID, r.record.Previous, live)
	case now == nil:
		return nil, fmt.Errorf("generation %s was removed meanwhile", r.record.ID)
	default:
		return now, nil
	}
}

// ready waits until the new generation could take over, and makes sure that it is complete.
func (r *rebuild) ready(ctx context.Context) error {
	var reached map[string]map[int32]int64
	err := r.step(StepMine, func() (err error) {
		if reached, err = r.catchUp(ctx); err == nil {
			err = r.forget(ctx)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := r.step(StepVerify, func() error { return r.verify(ctx, reached) }); err != nil {
		return err
	}
	return r.step(StepMine, func() error { // again, for verifying may take long
		_, err := r.catchUp(ctx)
		return err
	})
}

const (
	closeEnough = 5 * time.Second
	lookAfter   = 10 * time.Second
	mostBehind  = time.Minute
	stuckAfter  = 30 * time.Second
)

// catchUp waits until the new generation has come to where the live one was no more than a few seconds before; under a load
// at which it comes no closer, a minute. It returns the offsets, by stage and partition, that both have come to.
func (r *rebuild) catchUp(ctx context.Context) (map[string]map[int32]int64, error) {
	for before := time.Duration(0); ; {
		start := time.Now()
		reached := map[string]map[int32]int64{}
		for _, stage := range []string{StageIndexer, StageIntake} {
			committed, ends, err := r.reached(ctx, stage)
			if err != nil {
				return nil, err
			}
			reached[stage] = committed
			if err := r.await(ctx, r.next.cfg, stage, ends); err != nil {
				return nil, err
			}
		}
		offsets, err := r.Kafka.Offsets(ctx, r.next.cfg.Topics.Refresh)
		if err != nil {
			return nil, err
		}
		if err := r.await(ctx, r.next.cfg, StageMiner, written(offsets)); err != nil {
			return nil, err
		}
		took := time.Since(start)
		if took < closeEnough || took < mostBehind && 4*took > 3*before && before > 0 {
			return reached, nil
		}
		before = took
	}
}

// reached is what a stage of the live generation has committed.
func (r *rebuild) reached(ctx context.Context, stage string) (committed map[int32]int64, ends []end, err error) {
	committed, err = r.Kafka.CommittedSoFar(ctx, Group(r.live.cfg, stage), inputTopic(r.live.cfg, stage))
	for partition, offset := range committed {
		ends = append(ends, end{partition: partition, offset: offset})
	}
	return committed, ends, err
}

// await waits for a stage, and tells how far it is; and where it makes no progress, that it waits.
func (r *rebuild) await(ctx context.Context, cfg *config.Config, stage string, ends []end) error {
	progress, told := time.Now(), time.Time{}
	for first, last := int64(-1), int64(-1); ; {
		left, err := behind(ctx, r.Kafka, cfg, stage, ends)
		if err != nil || left == 0 {
			return err
		}
		if first < 0 {
			first = left
		}
		if left != last {
			last, progress = left, time.Now()
		}
		r.Progress(RebuildProgress{Step: StepMine, Done: first - left, Total: first})
		if now := time.Now(); now.Sub(progress) > stuckAfter && now.Sub(told) > stuckAfter {
			told = now
			r.Log.Warn().Str("stage", stage).Str("group", Group(cfg, stage)).Int64("records", left).
				Msg(r.stuck(ctx))
		}
		if err := pause(ctx, pollPause); err != nil {
			return err
		}
	}
}

// awaitIndexed waits until the documents are indexed that the live generation has.
func (r *rebuild) awaitIndexed(ctx context.Context) error {
	_, ends, err := r.reached(ctx, StageIndexer)
	if err != nil {
		return err
	}
	return r.await(ctx, r.next.cfg, StageIndexer, ends)
}

// awaitPublished waits until the service has published the new generation.
func (r *rebuild) awaitPublished(ctx context.Context) error {
	r.Log.Info().Str("generation", r.record.ID).Msg("promoted: the service publishes its triplets now")
	cfg := forGeneration(r.Config, r.record.ID)
	told, wait, looked := time.Now(), 5*pollPause, time.Now()
	for {
		offsets, err := r.Kafka.Offsets(ctx, cfg.Topics.Refresh)
		if err != nil {
			return err
		}
		left, err := behind(ctx, r.Kafka, cfg, StageMiner, written(offsets))
		if err != nil {
			return err
		}
		r.Progress(RebuildProgress{Step: StepPublish, Done: -left})
		wait = min(2*wait, stuckAfter)
		if left > 0 {
			wait = 5 * pollPause
		}
		// The topic of models may be large. Where records keep coming there is always something left.
		if left == 0 || time.Since(looked) > lookAfter {
			looked = time.Now()
			known, err := readGenerations(ctx, r.Kafka, r.Config.Topics.Models)
			if err != nil {
				return err
			}
			if g := known[r.record.ID]; g == nil || g.Phase == phaseLive {
				return nil
			}
		}
		if now := time.Now(); now.Sub(told) > stuckAfter {
			told = now
			r.Log.Info().Msg("waiting for the service to publish the new generation; it does so whenever it runs, so waiting can be ended")
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// AbortRebuild removes a generation that is being built, and returns its id; empty: there is none.
func AbortRebuild(ctx context.Context, o Options) (string, error) {
	r := &rebuild{RebuildOptions: RebuildOptions{Options: o}}
	r.Metrics, r.Health = telemetry.NewMetrics(prometheus.NewRegistry()), telemetry.NewHealth()
	under, err := r.find(ctx)
	if err != nil || under == nil {
		return "", err
	}
	if under.ID == r.live.live {
		return "", fmt.Errorf("generation %s is promoted already, and live: rebuild again to replace it", under.ID)
	}
	err = erase(ctx, r.Options, under.ID)
	if errors.Is(err, stream.ErrGroupInUse) {
		err = fmt.Errorf("a rebuild is running, end it first: %w", err)
	}
	return under.ID, err
}
