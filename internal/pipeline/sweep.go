package pipeline

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"hardneg/index"
	"hardneg/internal/records"
	"hardneg/stream"
)

const (
	// maxBacklog is how many refresh records may wait for the miner when the sweep adds to them: it must not hold up what
	// changed. At a high rate what two turns bring may wait. Each partition has its share.
	maxBacklog = 1000

	// maxLeftOut bounds the queries that wait for their partition. Those beyond it come with the next round.
	maxLeftOut = 10_000
)

// Why the sweep sends a query, as in the metrics.
const (
	sweptFingerprint = "fingerprint" // its state was mined by other rules
	sweptAge         = "age"         // it was its turn
	sweptRetention   = "retention"   // it is forgotten
)

// sweepingMiner is the miner of partition 0, of which a view has one, with the sweep beside it, and before that what is
// left to do after a rebuild.
type sweepingMiner struct {
	miner
	stop func()
}

// Close ends the sweep with the assignment.
func (s sweepingMiner) Close() error {
	s.stop()
	return nil
}

func (p *Pipeline) sweeping(m miner) stream.Processor {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		var retiring sync.WaitGroup
		defer retiring.Wait()
		if p.succeed(ctx) {
			retiring.Go(func() { p.retire(ctx) })
		}
		if ctx.Err() == nil && p.cfg.Sweep.Rate > 0 {
			p.sweep(ctx)
		}
	}()
	return sweepingMiner{m, func() { cancel(); <-done }}
}

// sweptTo is how far the sweep is. It outlasts an assignment, and one sweep at a time uses it.
type sweptTo struct {
	changed bool      // going through the queries that other rules mined, not through all
	next    string    // the point to go on from; empty: the first
	began   time.Time // when it last passed the end; zero: not yet
}

// sweep sends every query through refresh, again and again, at sweep.rate; those that other rules mined before it goes
// through all. It writes refresh records and nothing else: what comes of them is the miner's to decide.
//
// Queries come in the order of their point ids, not by the age of their last confirmation: the bound is the same, and
// a confirmation costs no write. It begins at a random one, so that instances which never live for a whole
// sweep do not leave out the same queries each time.
func (p *Pipeline) sweep(ctx context.Context) {
	rate := p.cfg.Sweep.Rate
	every := max(time.Second, time.Duration(float64(time.Second)/rate))
	if p.swept == (sweptTo{}) {
		p.swept.changed = true
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for credit := 0.0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		credit += rate * every.Seconds()
		n := int(credit + 1e-6)
		credit -= float64(n)
		if err := p.sweepSome(ctx, n); err != nil && ctx.Err() == nil {
			p.log.Warn().Err(err).Msg("the sweep left out a turn")
		}
	}
}

// swept is a query that the sweep sends, with the reason.
type swept struct {
	record    records.Refresh
	why       string
	partition int32 // of refresh
}

// sweepSome is one turn: it looks at n queries and sends those whose partition of refresh is not behind. The others wait
// until it has caught up, and go first then: a partition that is stuck must not stop the sweep of all.
func (p *Pipeline) sweepSome(ctx context.Context, n int) error {
	behind, partitions, err := p.backlog(ctx, max(maxBacklog, 2*n))
	if err != nil {
		return err
	}
	if len(behind) == partitions {
		p.metrics.SweepSkipped.Add(float64(n))
		return nil
	}
	at, now := p.swept, p.now()
	var send, left []swept
	waiting := map[string]bool{} // in left
	leave := func(q swept) {
		if id := q.record.QueryID; !waiting[id] && len(left) < maxLeftOut {
			left, waiting[id] = append(left, q), true
		}
	}
	for _, q := range p.leftOut {
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
			unlike = p.fingerprint
		}
		known, next, err := p.queries.Known(ctx, at.next, n-len(send)-skipped, unlike)
		if err != nil {
			return err
		}
		for _, k := range known {
			if seen[k.QueryID] {
				continue
			}
			seen[k.QueryID] = true
			q := swept{partition: stream.PartitionFor([]byte(k.QueryID), partitions)}
			q.record, q.why = p.sweepOne(k, at.changed, now)
			if behind[q.partition] {
				leave(q)
				skipped++
			} else {
				send = append(send, q)
			}
		}
		if at.next = next; next == "" {
			all = p.turned(&at, now)
		}
	}
	outputs := make([]stream.Output, len(send))
	for i, q := range send {
		outputs[i] = p.refreshOutput(q.record, nil)
	}
	if err := p.kafka.Produce(ctx, outputs); err != nil {
		return err
	}
	for _, q := range send {
		p.metrics.SweptQueries.WithLabelValues(q.why).Inc()
	}
	p.metrics.SweepSkipped.Add(float64(skipped))
	p.swept, p.leftOut = at, left
	return nil
}

// sweepOne is the record for a query: it is to be mined, or forgotten where nobody has asked it for queries.retention.
func (p *Pipeline) sweepOne(k index.Known, changed bool, now time.Time) (records.Refresh, string) {
	r := records.Refresh{
		Kind: records.KindRefresh, QueryID: k.QueryID,
		Source: records.Source{Topic: records.SourceSweep, Timestamp: now.UnixMilli()},
	}
	seen := k.Newest.Timestamp
	switch {
	case p.cfg.Queries.Retention > 0 && seen < now.Add(-p.cfg.Queries.Retention).UnixMilli():
		return forgetUpTo(k.QueryID, seen), sweptRetention // what was seen here: a younger record that is on its way stays
	case changed:
		return r, sweptFingerprint
	}
	return r, sweptAge
}

// noPartition is that of a forget which is none of the query log's.
const noPartition = -1

// forgetUpTo makes a query forget what was logged up to a time, in Unix milliseconds.
func forgetUpTo(id string, seen int64) records.Refresh {
	return records.Refresh{
		Kind: records.KindForget, QueryID: id,
		Source: records.Source{Topic: records.SourceSweep, Partition: noPartition, Offset: seen, Timestamp: seen},
	}
}

// turned goes on after the last point, and tells whether this turn has gone through all queries.
func (p *Pipeline) turned(at *sweptTo, now time.Time) (all bool) {
	if at.changed {
		at.changed = false
		if at.began.IsZero() {
			at.next = uuid.NewString() // point ids are as random
		}
		return false
	}
	at.changed = true
	all = at.began.Equal(now)
	if !at.began.IsZero() && !all {
		p.metrics.SweepSeconds.Set(now.Sub(at.began).Seconds())
		p.metrics.SweepCompleted.Set(float64(now.UnixMilli()) / 1000)
	}
	at.began = now
	return all
}

// backlog returns the partitions of refresh where more records wait for the miner than their share of most, and the
// number of partitions. What a stuck transaction hides counts as waiting.
func (p *Pipeline) backlog(ctx context.Context, most int) (behind map[int32]bool, partitions int, err error) {
	ends, err := p.kafka.Offsets(ctx, p.cfg.Topics.Refresh)
	if err != nil {
		return nil, 0, err
	}
	committed, err := p.kafka.CommittedSoFar(ctx, Group(p.cfg, StageMiner), p.cfg.Topics.Refresh)
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
