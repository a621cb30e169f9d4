package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// Stage is a consumer group that turns the records of one topic into outputs. Zero values are the defaults named.
type Stage struct {
	Name  string // in events and logs
	Group string
	Topic string
	// TransactionalPrefix: the transactional id of a partition is <prefix>-<topic>-<partition>. It must be the same
	// in every instance of the stage, and belong to this group alone.
	TransactionalPrefix string

	MaxRecords int // records in one batch and transaction: 500
	MaxBytes   int // of one fetch: 4 MiB

	SessionTimeout     time.Duration // 30 s: after this long without heartbeats an instance is taken for dead
	TransactionTimeout time.Duration // 1 min: what an instance that died leaves open is aborted after this
	DrainTimeout       time.Duration // a third of SessionTimeout, 10 s at most: to finish a batch when leaving

	// A batch that makes no progress for StallAfter is told by Stalled events, and after AbandonAfter its context is
	// cancelled and the partition starts again. A batch that was given up gets twice the time when it comes again, so
	// that one that is only slow ends some day.
	StallAfter   time.Duration // twice SessionTimeout, 1 min at least: a request alone may take half of that
	AbandonAfter time.Duration // five times StallAfter

	// PurgeEvery is how often what a partition's owner has committed is deleted from the topic, for everybody: for a topic
	// that this stage alone reads. 0: never.
	PurgeEvery time.Duration

	// OutOfRange says what to do where the committed offset is no longer (or not yet) in the log: earliest, latest,
	// or fail, which is the default. A partition without a committed offset begins at its earliest record.
	OutOfRange string

	// Until bounds what is read: it returns an offset of the partition behind one that is committed, once there is one, and
	// no record from there on is processed before it is asked again. It waits until then, or until ctx ends. nil: no bound.
	Until func(ctx context.Context, partition int32, committed int64) (int64, error)

	New     func(Assignment) Processor
	Observe func(Event) // may be called by several goroutines at a time; nil: nobody watches
}

// EventKind is what happened.
type EventKind string

// The kinds of events.
const (
	Joined    EventKind = "joined"    // the group has a new generation; Records is the number of partitions assigned
	Assigned  EventKind = "assigned"  // a partition is owned: Offset and End are where it begins and where the log ends
	Committed EventKind = "committed" // a batch is done: Offset is the next one to read
	Failed    EventKind = "failed"    // an error; the partition starts again after a pause, or the stage ends
	Skipped   EventKind = "skipped"   // OutOfRange took effect; Offset is where it goes on, Err says from where
	Fenced    EventKind = "fenced"    // a newer owner exists; the instance joins the group again
	Revoked   EventKind = "revoked"   // the partition is given back
	Stalled   EventKind = "stalled"   // a batch of Records from Offset on makes no progress; it is told again and again
)

// Event is what a Stage tells its observer.
type Event struct {
	Stage     string
	Topic     string
	Partition int32 // -1: the whole stage
	Kind      EventKind
	Token     int64
	Offset    int64
	End       int64 // the last stable offset when it was last fetched: End-Offset is the lag
	Records   int
	Outputs   int
	Took      time.Duration // from handing the batch to the Processor to the commit
	Err       error
}

// check fills in the defaults.
func (s Stage) check() (Stage, error) {
	if s.MaxRecords <= 0 {
		s.MaxRecords = 500
	}
	if s.MaxBytes <= 0 {
		s.MaxBytes = 4 << 20
	}
	if s.SessionTimeout <= 0 {
		s.SessionTimeout = 30 * time.Second
	}
	if s.TransactionTimeout <= 0 {
		s.TransactionTimeout = time.Minute
	}
	if s.DrainTimeout <= 0 {
		s.DrainTimeout = min(s.SessionTimeout/3, 10*time.Second)
	}
	if s.StallAfter <= 0 {
		s.StallAfter = max(2*s.SessionTimeout, 2*requestTimeout)
	}
	if s.AbandonAfter <= 0 {
		s.AbandonAfter = 5 * s.StallAfter
	}
	if s.OutOfRange == "" {
		s.OutOfRange = "fail"
	}
	if s.Observe == nil {
		s.Observe = func(Event) {}
	}
	switch {
	case s.Group == "" || s.Topic == "" || s.TransactionalPrefix == "" || s.New == nil:
		return s, fmt.Errorf("stage %s: Group, Topic, TransactionalPrefix and New are needed", s.Name)
	case s.OutOfRange != "earliest" && s.OutOfRange != "latest" && s.OutOfRange != "fail":
		return s, fmt.Errorf("stage %s: out of range %q: want earliest, latest or fail", s.Name, s.OutOfRange)
	case s.AbandonAfter < s.StallAfter:
		return s, fmt.Errorf("stage %s: a batch cannot be given up after %v when it is told of after %v", s.Name, s.AbandonAfter, s.StallAfter)
	case s.DrainTimeout > s.SessionTimeout/2:
		// kafka-go stops the heartbeats when a generation ends, so what is drained later is fenced anyway.
		return s, fmt.Errorf("stage %s: a drain time-out of %v needs a session time-out of at least twice that, not %v",
			s.Name, s.DrainTimeout, s.SessionTimeout)
	}
	return s, nil
}

// heartbeat is how often to tell the coordinator that this instance lives.
func (s *Stage) heartbeat() time.Duration {
	return min(max(s.SessionTimeout/10, 100*time.Millisecond), 3*time.Second)
}

// run is one call of Run.
type run struct {
	client *Client
	stage  Stage
	fail   context.CancelCauseFunc // ends the stage with an error
	tasks  sync.WaitGroup

	partitions int // of the topic, before the generation began

	mu         sync.Mutex
	seenTokens map[int32]int64 // highest token that a Processor met in a stored state, by partition
}

// Run joins the group and works on the partitions that it is assigned until ctx ends. Then it finishes the batch
// and transaction under way, within DrainTimeout, leaves the group, and returns nil. It returns an error where no
// repetition would help: a topic that is missing, rights that are missing, an offset out of range, a record that
// is too large. Whatever else goes wrong is told to Observe, and tried again.
func (c *Client) Run(ctx context.Context, stage Stage) error {
	stage, err := stage.check()
	if err != nil {
		return err
	}
	// Without its topic a group has an empty assignment, and nobody would notice.
	partitions, err := c.Partitions(ctx, stage.Topic)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("stage %s: %w", stage.Name, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &run{client: c, stage: stage, partitions: partitions, seenTokens: map[int32]int64{}}
	var failure error
	var once sync.Once
	r.fail = func(err error) {
		once.Do(func() { failure = err })
		cancel(err)
	}
	group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID:                stage.Group,
		Brokers:           c.brokers,
		Dialer:            c.dialer,
		Topics:            []string{stage.Topic},
		GroupBalancers:    []kafka.GroupBalancer{kafka.RangeGroupBalancer{}},
		HeartbeatInterval: stage.heartbeat(),
		SessionTimeout:    stage.SessionTimeout,
		RebalanceTimeout:  stage.SessionTimeout,
		JoinGroupBackoff:  time.Second,
	})
	if err != nil {
		return fmt.Errorf("stage %s: %w", stage.Name, err)
	}
	for ctx.Err() == nil {
		generation, err := group.Next(ctx)
		if err != nil {
			r.joinFailed(ctx, err)
			continue
		}
		r.start(ctx, generation)
	}
	_ = group.Close() // waits for the tasks of the generation, then leaves
	r.tasks.Wait()
	once.Do(func() {})
	if failure != nil {
		return fmt.Errorf("stage %s: %w", stage.Name, failure)
	}
	return nil
}

// joinFailed reports an error of group membership. kafka-go pauses and tries again.
func (r *run) joinFailed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	err = unreachable(r.client.brokers, fmt.Errorf("joining group %s: %w", r.stage.Group, err))
	r.observe(Event{Partition: -1, Kind: Failed, Err: err})
	if actionFor(err) == fatal {
		r.fail(err)
	}
}

// start begins a task for each partition of the generation. A task that ends, ends the generation.
func (r *run) start(ctx context.Context, g *kafka.Generation) {
	assigned := g.Assignments[r.stage.Topic]
	r.observe(Event{Partition: -1, Kind: Joined, Records: len(assigned)})
	r.tasks.Add(1)
	g.Start(func(generation context.Context) {
		defer r.tasks.Done()
		r.watchPartitions(ctx, generation)
	})
	m := membership{group: r.stage.Group, generation: g.ID, member: g.MemberID}
	for _, a := range assigned {
		t := &task{run: r, input: topicPartition{r.stage.Topic, int32(a.ID)}, member: m}
		r.tasks.Add(1)
		g.Start(func(generation context.Context) {
			defer r.tasks.Done()
			t.work(ctx, generation)
		})
	}
}

// watchPartitions ends the generation when the topic has got more partitions than before it began. kafka-go's own
// watcher first counts after the assignment is made, and overlooks for ever what is added in between.
func (r *run) watchPartitions(stage, generation context.Context) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-stage.Done():
			return
		case <-generation.Done():
			return
		case <-tick.C:
		}
		if n, err := r.client.Partitions(stage, r.stage.Topic); err == nil && n != r.partitions {
			r.partitions = n // the only one of its kind that runs: generations follow each other
			return
		}
	}
}

func (r *run) observe(e Event) {
	e.Stage, e.Topic = r.stage.Name, r.stage.Topic
	r.stage.Observe(e)
}

// sawToken remembers the token of a newer owner, so that the next one of this partition is greater.
func (r *run) sawToken(partition int32, err error) {
	var f *FencedError
	if errors.As(err, &f) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.seenTokens[partition] = max(r.seenTokens[partition], f.Token)
	}
}

// nextToken is greater than the one before and than any that was seen, and otherwise the time in Unix
// milliseconds: so it also grows where committed offsets were lost.
func (r *run) nextToken(partition int32, previous int64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(previous+1, r.seenTokens[partition]+1, time.Now().UnixMilli())
}
