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
	// maxBacklog is the number of refresh records that may wait for the miner when the sweep adds more: the
	// sweep must not delay changes. At a high rate the records of two turns may wait. Each partition has an
	// equal share.
	maxBacklog = 1000

	// maxLeftOut bounds the queries that wait for their partition. Further ones come with the next round.
	maxLeftOut = 10_000
)

// Reasons why the sweep sends a query, as in the metrics.
const (
	sweptFingerprint = "fingerprint" // its state was mined by other rules
	sweptAge         = "age"         // its turn has come
	sweptRetention   = "retention"   // nobody has asked it for too long, so it is forgotten
)

// sweepingMiner is the miner of partition 0. Beside it a goroutine finishes the work of a rebuild, and then
// sweeps.
type sweepingMiner struct {
	stages.Miner
	stop func() // ends the goroutine and waits for its end
}

// Close ends the sweep with the assignment.
func (s sweepingMiner) Close() error {
	s.stop()
	return nil
}

// sweepBeside returns a miner, and starts the sweep beside it. If next is not nil a rebuild made the
// generation: then all of it is published before the sweep begins, and the previous generation is erased
// later.
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

// sweep sends every query through refresh, again and again, at sweep.rate. Queries that were mined by other
// rules go first. The sweep only writes refresh records; the miner decides what to do with them. A sweep
// lives longer than an assignment of partition 0, and one goroutine at a time runs it.
type sweep struct {
	out         stages.Outputs
	fingerprint string // of the rules in force
	kafka       *stream.Client
	collections *index.Index
	rate        float64       // queries a second
	retention   time.Duration // of queries; 0: they are kept for ever
	position    sweepPosition
	leftOut     []sweptQuery // queries that wait until their partitions have caught up
}

func newSweep(o Options, out stages.Outputs, fingerprint string, collections *index.Index) *sweep {
	return &sweep{
		out: out, fingerprint: fingerprint, kafka: o.Kafka, collections: collections,
		rate: o.Config.Sweep.Rate, retention: o.Config.Queries.Retention,
	}
}

// sweepPosition is the place of the sweep in its round.
type sweepPosition struct {
	changed bool      // the sweep goes through the queries that other rules mined, not through all queries
	next    string    // the point id to go on from; empty: the first point
	began   time.Time // when the sweep last passed the end; zero: it has not yet
}

// run sweeps until the context ends.
//
// Queries come in the order of their point ids, not by the age of their last confirmation. The bound on the
// age is the same, and a confirmation needs no write. The sweep begins at a random point. So instances that
// never live for a whole sweep do not leave out the same queries each time.
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
			s.out.Log.Warn().Err(err).Msg("the sweep left out a turn")
		}
	}
}

// sweptQuery is a query that the sweep sends.
type sweptQuery struct {
	record    records.Refresh
	why       string // the reason, for the metrics
	partition int32  // of refresh
}

// turn looks at n queries and sends those whose partition of refresh is not behind. The others wait until
// their partition has caught up, and then go first. So a partition that is stuck does not stop the sweep of
// the others.
func (s *sweep) turn(ctx context.Context, n int) error {
	behind, partitions, err := backlog(ctx, s.kafka, s.out.Names, max(maxBacklog, 2*n))
	if err != nil {
		return err
	}
	if len(behind) == partitions {
		s.out.Metrics.SweepSkipped.Add(float64(n))
		return nil
	}
	at, now := s.position, time.Now()
	var send, leftOut []sweptQuery
	waiting := map[string]bool{} // ids of the queries in leftOut
	leaveOut := func(q sweptQuery) {
		if id := q.record.QueryID; !waiting[id] && len(leftOut) < maxLeftOut {
			leftOut, waiting[id] = append(leftOut, q), true
		}
	}
	for _, q := range s.leftOut {
		if !behind[q.partition] && len(send) < n {
			send = append(send, q)
		} else {
			leaveOut(q)
		}
	}
	seen, skipped := map[string]bool{}, 0
	for complete := false; len(send)+skipped < n && !complete; {
		unlike := ""
		if at.changed {
			unlike = s.fingerprint
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
				leaveOut(q)
				skipped++
			} else {
				send = append(send, q)
			}
		}
		if at.next = next; next == "" {
			complete = s.passedEnd(&at, now)
		}
	}
	outputs := make([]stream.Output, len(send))
	for i, q := range send {
		outputs[i] = s.out.Refresh(q.record, nil)
	}
	if err := s.kafka.Produce(ctx, outputs); err != nil {
		return err
	}
	for _, q := range send {
		s.out.Metrics.SweptQueries.WithLabelValues(q.why).Inc()
	}
	s.out.Metrics.SweepSkipped.Add(float64(skipped))
	s.position, s.leftOut = at, leftOut
	return nil
}

// record returns the record that mines a query, or forgets it if nobody has asked it for queries.retention,
// and the reason.
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

// passedEnd moves the position on after the last point. It reports whether the turn of the time now has gone
// through all queries.
func (s *sweep) passedEnd(at *sweepPosition, now time.Time) (complete bool) {
	if at.changed {
		at.changed = false
		if at.began.IsZero() {
			at.next = uuid.NewString() // a random place, because point ids are hashes in the form of UUIDs
		}
		return false
	}
	at.changed = true
	complete = at.began.Equal(now)
	if !at.began.IsZero() && !complete {
		s.out.Metrics.SweepSeconds.Set(now.Sub(at.began).Seconds())
		s.out.Metrics.SweepCompleted.Set(float64(now.UnixMilli()) / 1000)
	}
	at.began = now
	return complete
}

// backlog returns the partitions of refresh that are behind, and the number of all partitions. A partition is
// behind if more records wait for the miner there than its share of most. Records that an open transaction
// hides count as waiting.
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
