package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// Stage is a consumer group that turns the records of one topic into outputs. Group, Topic,
// TransactionalPrefix and New are required. For every other field the zero value means the default that its
// comment names.
type Stage struct {
	Name  string // for events, logs and errors
	Group string
	Topic string
	// TransactionalPrefix makes the transactional id of a partition: <prefix>-<topic>-<partition>. It must be
	// the same in every instance of the stage, and no other group may use it: the id is how a new owner
	// fences the old one.
	TransactionalPrefix string

	MaxRecords int // records in one batch, which is one transaction; default 500
	MaxBytes   int // bytes of one fetch; default 4 MiB

	SessionTimeout     time.Duration // without heartbeats for this long an instance counts as dead; default 30 s
	TransactionTimeout time.Duration // the broker aborts an open transaction after this; default 1 min
	DrainTimeout       time.Duration // time to finish a batch when leaving; default SessionTimeout/3, at most 10 s

	// If a batch makes no progress for StallAfter, Stalled events report it. After AbandonAfter its context
	// is cancelled and the partition starts again. Each retry gets twice as long, so a batch that is merely
	// slow finishes in the end. See Waiting for what counts as progress.
	StallAfter   time.Duration // default 2*SessionTimeout, at least 1 min: a single request may take 30 s
	AbandonAfter time.Duration // default 5*StallAfter

	// PurgeEvery is the interval at which the owner of a partition deletes from the topic what it has
	// committed. The records are gone for every reader, so use it only for a topic that no other group reads.
	// 0: never.
	PurgeEvery time.Duration

	// OutOfRange says what to do if the committed offset is not in the log: "earliest", "latest", or "fail"
	// (the default), which ends Run with ErrOffsetOutOfRange. A partition without a committed offset begins
	// at its earliest record.
	OutOfRange string

	// Until bounds what is processed. It gets the offset up to which the partition is committed, and returns
	// a higher offset. Records from the returned offset on are not processed until Until has been called
	// again. It blocks until it has such an offset, or until ctx ends. An error restarts the partition. nil:
	// no bound.
	Until func(ctx context.Context, partition int32, committed int64) (int64, error)

	// Refused returns the outputs for a record that cannot be read, such as a dead letter: see NewDeadLetter and
	// Fetched.Refused. They are committed with the batch around the record. nil: none; the client logs such
	// records in any case.
	Refused func(Record, error) []Output

	New     func(Assignment) Processor // makes the Processor of an assignment
	Observe func(Event)                // gets every event, from several goroutines at the same time; nil: no observer
}

// EventKind names what happened to a stage or to one of its partitions.
type EventKind string

// The kinds of events.
const (
	Joined    EventKind = "joined"    // the group has a new generation; Records is the number of partitions assigned
	Assigned  EventKind = "assigned"  // this instance owns a partition; it begins at Offset, the log ends at End
	Committed EventKind = "committed" // a batch is committed; Offset is the next one to read
	Failed    EventKind = "failed"    // an error; the partition starts again after a pause, or the stage ends
	Skipped   EventKind = "skipped"   // OutOfRange took effect; reading goes on at Offset, Err names the old offset
	Fenced    EventKind = "fenced"    // a newer owner exists; the instance leaves the group and joins again
	Revoked   EventKind = "revoked"   // the partition is given back
	Stalled   EventKind = "stalled"   // a batch of Records from Offset on makes no progress; repeats while that lasts
)

// Event is one report of a Stage to its Observe function. Which fields are set depends on Kind.
type Event struct {
	Stage     string
	Topic     string
	Partition int32 // -1: the whole stage
	Kind      EventKind
	Token     int64 // of the assignment
	Offset    int64
	End       int64         // last stable offset at the latest fetch: End-Offset is the lag
	Records   int           // in the batch
	Outputs   int           // that the batch became
	Took      time.Duration // from the call of Process to the commit; for Stalled, how long without progress
	Err       error
}

// check fills in the defaults and refuses settings that contradict each other.
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
		// kafka-go stops the heartbeats when a generation ends, so a batch that drains for longer is fenced
		// anyway.
		return s, fmt.Errorf("stage %s: a drain time-out of %v needs a session time-out of at least twice that, not %v",
			s.Name, s.DrainTimeout, s.SessionTimeout)
	}
	return s, nil
}

// heartbeat is the interval between heartbeats to the group's coordinator.
func (s *Stage) heartbeat() time.Duration {
	return min(max(s.SessionTimeout/10, 100*time.Millisecond), 3*time.Second)
}

// run is the state of one call of Run.
type run struct {
	client *Client
	stage  Stage
	fail   context.CancelCauseFunc // ends the stage with an error
	tasks  sync.WaitGroup

	partitions int // number of the topic's partitions before the generation began

	mu         sync.Mutex
	seenTokens map[int32]int64 // by partition, the highest token that a Processor reported in a FencedError
}

// Run joins the group and works on the partitions that the group assigns to it, until ctx ends. Then it
// finishes the batches under way within DrainTimeout, leaves the group, and returns nil.
//
// It returns an error only if a retry cannot help: ErrUnknownTopic, ErrOffsetOutOfRange, ErrTooLarge, missing
// rights, a setting that the broker refuses, a contradiction in stage, or a group that another program uses.
// After any other error it calls Observe and tries again.
func (c *Client) Run(ctx context.Context, stage Stage) error {
	stage, err := stage.check()
	if err != nil {
		return err
	}
	// A group whose topic does not exist gets an empty assignment, and nobody would notice.
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

// joinFailed reports an error from joining the group. kafka-go pauses and joins again.
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

// start begins a task for each partition of the generation. When one task ends, kafka-go ends the generation.
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

// watchPartitions ends the generation if partitions were added to the topic since before the generation
// began. kafka-go has such a watcher, but it counts for the first time after the assignment, and never
// notices partitions that were added in between.
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
			r.partitions = n // no lock: generations follow each other, so only one watchPartitions runs at a time
			return
		}
	}
}

func (r *run) observe(e Event) {
	e.Stage, e.Topic = r.stage.Name, r.stage.Topic
	r.stage.Observe(e)
}

// sawToken remembers the token of a newer owner, so that this instance's next token for the partition is
// greater.
func (r *run) sawToken(partition int32, err error) {
	var f *FencedError
	if errors.As(err, &f) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.seenTokens[partition] = max(r.seenTokens[partition], f.Token)
	}
}

// nextToken returns a token greater than the previous one and greater than any token in seenTokens. It is at
// least the time in Unix milliseconds, so tokens also grow if the committed offsets, and the tokens beside
// them, were lost.
func (r *run) nextToken(partition int32, previous int64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(previous+1, r.seenTokens[partition]+1, time.Now().UnixMilli())
}
