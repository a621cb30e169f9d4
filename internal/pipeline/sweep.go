package pipeline

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/records"
	"hardneg/internal/stages"
	"hardneg/stream"
)

const (
	// maxBacklog is how many refresh records may wait for the miner when the sweep adds to them: the sweep must not delay changes. At
	// a high rate the records of two turns may wait. Each partition has its share.
	maxBacklog = 1000

	// maxLeftOut bounds the queries that wait for their partition. Queries beyond it come with the next round.
	maxLeftOut = 10_000
)

// Reasons why the sweep sends a query, as in the metrics.
const (
	sweptFingerprint = "fingerprint" // its state was mined by other rules
	sweptAge         = "age"         // it was its turn
	sweptRetention   = "retention"   // it is forgotten
)

// sweepingMiner is the miner of partition 0. The sweep runs beside it, and before the sweep the rest of a rebuild's work.
type sweepingMiner struct {
	stages.Miner
	stop func()
}

// Close ends the sweep with the assignment.
func (s sweepingMiner) Close() error {
	s.stop()
	return nil
}

// sweepBeside starts the sweep beside a miner. If a rebuild made the generation, it first publishes all of it; then it erases the
// previous generation when its time has come.
func sweepBeside(m stages.Miner, s *sweep, next *successor) stream.Processor {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		var retiring sync.WaitGroup
		defer retiring.Wait()
		if next != nil && next.succeed(ctx) {
			retiring.Go(func() { next.retire(ctx) })
		}
		if ctx.Err() == nil && s.rate > 0 {
			s.run(ctx)
		}
	}()
	return sweepingMiner{m, func() { cancel(); <-done }}
}

// sweep sends every query through refresh, again and again, at sweep.rate. Queries that were mined by other rules go first. The
// sweep writes refresh records and nothing else; the miner decides what to do with them. A sweep outlasts an assignment,
// and one goroutine at a time runs it.
type sweep struct {
	env         *stages.Env
	kafka       *stream.Client
	collections *index.Index
	rate        float64       // queries a second
	retention   time.Duration // of queries; 0: for ever
	position    sweepPosition
	leftOut     []sweptQuery // they wait until their partitions have caught up
}

func newSweep(g *generation, o Options) *sweep {
	return &sweep{env: g.env, kafka: o.Kafka, collections: g.collections, rate: o.Config.Sweep.Rate, retention: o.Config.Queries.Retention}
}

// sweepPosition says how far the sweep is.
type sweepPosition struct {
	changed bool      // it goes through the queries that other rules mined, not through all queries
	next    string    // the point to go on from; empty: the first
	began   time.Time // when it last passed the end; zero: it has not yet
}

// run sweeps until the context ends.
//
// Queries come in the order of their point ids, not by the age of their last confirmation: the bound is the same, and a
// confirmation costs no write. The sweep begins at a random point. So instances that never live for a whole sweep do not
// leave out the same queries each time.
func (s *sweep) run(ctx context.Context) {
	every := max(time.Second, time.Duration(float64(time.Second)/s.rate))
	if s.position == (sweepPosition{}) {
		s.position.changed = true
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for credit := 0.0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		credit += s.rate * every.Seconds()
		n := int(credit + 1e-6)
		credit -= float64(n)
		if err := s.turn(ctx, n); err != nil && ctx.Err() == nil {
			s.env.Log.Warn().Err(err).Msg("the sweep left out a turn")
		}
	}
}

// sweptQuery is a query that the sweep sends, and the reason.
type sweptQuery struct {
	record    records.Refresh
	why       string
	partition int32 // of refresh
}

// turn looks at n queries and sends those whose partition of refresh is not behind. The others wait until their partition has caught
// up, and then go first: a partition that is stuck must not stop the sweep of the others.
func (s *sweep) turn(ctx context.Context, n int) error {
	behind, partitions, err := backlog(ctx, s.kafka, s.env.Names, max(maxBacklog, 2*n))
	if err != nil {
		return err
	}
	if len(behind) == partitions {
		s.env.Metrics.SweepSkipped.Add(float64(n))
		return nil
	}
	at, now := s.position, s.env.Now()
	var send, left []sweptQuery
	waiting := map[string]bool{} // in left
	leave := func(q sweptQuery) {
		if id := q.record.QueryID; !waiting[id] && len(left) < maxLeftOut {
			left, waiting[id] = append(left, q), true
		}
	}
	for _, q := range s.leftOut {
		if !behind[q.partition] && len(send) < n {
			send = append(send, q)
		} else {
			leave(q)
		}
	}
	seen, skipped := map[string]bool{}, 0
	for all := false; len(send)+skipped < n && !all; {
		unlike := ""
		if at.changed {
			unlike = s.env.Rules.Fingerprint
		}
		known, next, err := s.collections.Known(ctx, at.next, n-len(send)-skipped, unlike)
		if err != nil {
			return err
		}
		for _, k := range known {
			if seen[k.QueryID] {
				continue
			}
			seen[k.QueryID] = true
			q := sweptQuery{partition: stream.PartitionFor([]byte(k.QueryID), partitions)}
			q.record, q.why = s.record(k, at.changed, now)
			if behind[q.partition] {
				leave(q)
				skipped++
			} else {
				send = append(send, q)
			}
		}
		if at.next = next; next == "" {
			all = s.passedEnd(&at, now)
		}
	}
	outputs := make([]stream.Output, len(send))
	for i, q := range send {
		outputs[i] = s.env.Refresh(q.record, nil)
	}
	if err := s.kafka.Produce(ctx, outputs); err != nil {
		return err
	}
	for _, q := range send {
		s.env.Metrics.SweptQueries.WithLabelValues(q.why).Inc()
	}
	s.env.Metrics.SweepSkipped.Add(float64(skipped))
	s.position, s.leftOut = at, left
	return nil
}

// record returns the record for a query: mine it, or forget it if nobody has asked it for queries.retention.
func (s *sweep) record(k index.Known, changed bool, now time.Time) (records.Refresh, string) {
	if forget, aged := stages.Aged(k, s.retention, now); aged {
		return forget, sweptRetention
	}
	r := records.Refresh{
		Kind: records.KindRefresh, QueryID: k.QueryID,
		Source: records.Source{Topic: records.SourceSweep, Timestamp: now.UnixMilli()},
	}
	if changed {
		return r, sweptFingerprint
	}
	return r, sweptAge
}

// passedEnd goes on after the last point, and reports whether this turn has gone through all queries.
func (s *sweep) passedEnd(at *sweepPosition, now time.Time) (all bool) {
	if at.changed {
		at.changed = false
		if at.began.IsZero() {
			at.next = uuid.NewString() // point ids are random, too
		}
		return false
	}
	at.changed = true
	all = at.began.Equal(now)
	if !at.began.IsZero() && !all {
		s.env.Metrics.SweepSeconds.Set(now.Sub(at.began).Seconds())
		s.env.Metrics.SweepCompleted.Set(float64(now.UnixMilli()) / 1000)
	}
	at.began = now
	return all
}

// backlog returns the partitions of refresh where more records wait for the miner than their share of most, and the number of
// partitions. Records that a stuck transaction hides count as waiting.
func backlog(ctx context.Context, kafka *stream.Client, names catalog.Names, most int) (behind map[int32]bool, partitions int, err error) {
	ends, err := kafka.Offsets(ctx, names.Topics.Refresh)
	if err != nil {
		return nil, 0, err
	}
	committed, err := kafka.CommittedSoFar(ctx, names.Group(catalog.StageMiner), names.Topics.Refresh)
	if err != nil {
		return nil, 0, err
	}
	behind = map[int32]bool{}
	for _, end := range ends {
		if waiting := end.HighWatermark - max(committed[end.Partition], end.Start); waiting > int64(max(1, most/len(ends))) {
			behind[end.Partition] = true
		}
	}
	return behind, len(ends), nil
}
