package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"hardneg/stream/wire"

	"github.com/segmentio/kafka-go/protocol"
)

// task is the work on one partition in one generation of the group.
type task struct {
	run          *run
	input        topicPartition
	member       membership
	token        int64
	wait         backoff
	abandonAfter time.Duration // gives up the next batch; doubles with each batch that was given up
}

func (t *task) observe(e Event) {
	e.Partition, e.Token = t.input.partition, t.token
	t.run.observe(e)
}

// work owns the partition until the generation or the stage ends. After an error it takes ownership anew.
func (t *task) work(stage, generation context.Context) {
	// stop ends with the generation or the stage: after that, no new batch begins. ctx lives longer by the
	// drain time-out, so that the batch under way can be finished.
	stop, cancelStop := context.WithCancel(stage)
	defer cancelStop()
	defer context.AfterFunc(generation, cancelStop)()
	ctx, cancel := context.WithCancel(context.WithoutCancel(stage))
	defer cancel()
	defer context.AfterFunc(stop, func() { time.AfterFunc(t.run.stage.DrainTimeout, cancel) })()

	t.abandonAfter = t.run.stage.AbandonAfter
	t.wait = backoff{least: 100 * time.Millisecond, most: 10 * time.Second}
	for {
		var err error
		if generation.Err() == nil {
			err = t.own(ctx, stop)
		}
		if stop.Err() != nil || generation.Err() != nil {
			t.observe(Event{Kind: Revoked, Err: err})
			return
		}
		t.run.sawToken(t.input.partition, err)
		switch actionFor(err) {
		case fatal:
			t.observe(Event{Kind: Failed, Err: err})
			t.run.fail(fmt.Errorf("%s/%d: %w", t.input.topic, t.input.partition, err))
			return
		case fenced:
			t.observe(Event{Kind: Fenced, Err: err})
			_ = t.wait.pause(stop)
			return
		}
		t.observe(Event{Kind: Failed, Err: err})
		if t.wait.pause(stop) != nil {
			continue
		}
		// Only a member of the group may fence. An expelled member that sends InitProducerId fences the
		// rightful owner.
		if err := t.stillMember(stop); err != nil && stop.Err() == nil {
			t.observe(Event{Kind: Fenced, Err: err})
			_ = t.wait.pause(stop)
			return
		}
	}
}

// stillMember returns nil if this generation of the group is still the current one. It asks the coordinator,
// and waits while the coordinator does not answer: without it no transaction could be committed either.
func (t *task) stillMember(ctx context.Context) error {
	c, m := t.run.client, t.member
	b := wire.AppendString(nil, m.group)
	b = binary.BigEndian.AppendUint32(b, uint32(m.generation))
	b = wire.AppendString(b, m.member)
	return retryWhile(ctx, retriableOrLost, func() error {
		// Not kafka-go's Heartbeat: it would go to any broker in place of the coordinator.
		res, err := call[*wire.Cursor](ctx, c, &wire.GroupFrame{
			Frame: wire.Frame{Key: protocol.Heartbeat, Version: 2, Client: c.clientID, Body: b}, GroupID: m.group,
		})
		if err != nil {
			return err
		}
		res.Int32() // throttle time, ms
		return errors.Join(check(res.Int16(), "heartbeat of %s in generation %d of group %s", m.member, m.generation, m.group), res.Err)
	})
}

// own takes a token, makes a Processor, and runs it on batch after batch. It returns nil when stop ends.
func (t *task) own(ctx, stop context.Context) (err error) {
	s := &t.run.stage
	c := t.run.client
	id := transactionalID(s.TransactionalPrefix, t.input.topic, t.input.partition)
	p, err := c.newProducer(stop, id, s.TransactionTimeout)
	if err != nil {
		return err
	}
	offset, err := t.begin(ctx, stop, p)
	if err != nil {
		return err
	}
	reader := t.read(stop, offset)
	defer reader.close()
	processor := s.New(Assignment{Topic: t.input.topic, Partition: t.input.partition, Token: t.token})
	if closer, ok := processor.(io.Closer); ok {
		defer func() { err = errors.Join(err, closer.Close()) }()
	}
	var committed atomic.Int64
	committed.Store(offset)
	if s.PurgeEvery > 0 {
		purging, cancel := context.WithCancel(stop)
		var purge sync.WaitGroup
		defer purge.Wait()
		defer cancel()
		purge.Go(func() { t.purge(purging, &committed) })
	}
	for {
		b, err := reader.next(stop)
		if err != nil || stop.Err() != nil {
			return err
		}
		for more := true; more; {
			part := b
			if s.Until != nil && len(b.records)+len(b.refused) > 0 {
				until, err := s.Until(stop, t.input.partition, committed.Load())
				if stop.Err() != nil {
					return nil
				}
				if err != nil {
					return err
				}
				part, b = b.cut(until)
			}
			more = part.next < b.next
			if err := t.process(ctx, p, processor, part); err != nil {
				return err
			}
			committed.Store(part.next)
			t.wait.next = 0
		}
	}
}

// begin reads the committed offset and commits it again with a new token. InitProducerId came before, so the
// last transaction of the previous owner has ended and the offset is final.
func (t *task) begin(ctx, stop context.Context, p *producer) (int64, error) {
	c, s := t.run.client, &t.run.stage
	found, err := c.committed(stop, s.Group, t.input.topic, []int32{t.input.partition})
	if err != nil {
		return 0, err
	}
	bounds, err := c.Offsets(stop, t.input.topic)
	if err != nil {
		return 0, err
	}
	if int(t.input.partition) >= len(bounds) {
		return 0, fmt.Errorf("%s has %d partitions, and partition %d is assigned", t.input.topic, len(bounds), t.input.partition)
	}
	b := bounds[t.input.partition]
	at, ok := found[t.input.partition]
	if !ok {
		at.offset = b.Start
	}
	previous, err := parseToken(at.metadata)
	if err != nil {
		return 0, fmt.Errorf("group %s, %s/%d: %w", s.Group, t.input.topic, t.input.partition, err)
	}
	offset, err := t.inRange(at.offset, b)
	if err != nil {
		return 0, err
	}
	t.token = t.run.nextToken(t.input.partition, previous)
	if err := stop.Err(); err != nil {
		return 0, err
	}
	if err := p.commit(ctx, t.member, t.input, offset, formatToken(t.token), nil); err != nil {
		p.abort(ctx)
		return 0, err
	}
	t.observe(Event{Kind: Assigned, Offset: offset, End: b.LastStable})
	return offset, nil
}

// inRange applies Stage.OutOfRange.
func (t *task) inRange(offset int64, b Offsets) (int64, error) {
	if offset >= b.Start && offset <= b.HighWatermark {
		return offset, nil
	}
	err := fmt.Errorf("%w: group %s stands at %d of %s/%d, whose log has offsets %d up to, not including, %d",
		ErrOffsetOutOfRange, t.run.stage.Group, offset, t.input.topic, t.input.partition, b.Start, b.HighWatermark)
	if offset > b.HighWatermark {
		err = fmt.Errorf("%w: was the topic deleted and made anew?", err)
	}
	to := b.Start
	switch t.run.stage.OutOfRange {
	case "fail":
		return 0, err
	case "latest":
		to = b.LastStable
	}
	t.observe(Event{Kind: Skipped, Offset: to, End: b.LastStable, Err: err})
	return to, nil
}

// errForeignGroup says that another program commits offsets for this group.
var errForeignGroup = errors.New("the group is used by another program")

func formatToken(token int64) string { return strconv.FormatInt(token, 10) }

// parseToken reads the token beside a committed offset. An offset that was set by a tool has no token: 0.
func parseToken(metadata string) (int64, error) {
	if metadata == "" {
		return 0, nil
	}
	token, err := strconv.ParseInt(metadata, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: the note beside the committed offset is %q, where a fencing token belongs", errForeignGroup, metadata)
	}
	return token, nil
}

// process runs transact for one batch under a watchdog, and reports the result as an event.
func (t *task) process(ctx context.Context, p *producer, processor Processor, b readBatch) error {
	began := time.Now()
	ctx, dog := watched(ctx, t.run.stage.StallAfter, t.abandonAfter, func(e Event) {
		e.Records, e.Offset, e.End = len(b.records), b.next, b.end
		if len(b.records) > 0 {
			e.Offset = b.records[0].Offset
		}
		t.observe(e)
	})
	outputs, err := t.transact(ctx, dog, p, processor, b)
	if dog.end() {
		t.abandonAfter *= 2
		if err != nil {
			err = fmt.Errorf("given up after %v: %w", time.Since(began).Round(time.Millisecond), err)
		}
	}
	if err != nil {
		return err
	}
	t.abandonAfter = t.run.stage.AbandonAfter
	t.observe(Event{
		Kind: Committed, Offset: b.next, End: b.end, Records: len(b.records), Outputs: outputs, Took: time.Since(began),
	})
	return nil
}

// transact calls the Processor and commits its outputs together with the offset behind the batch. It returns
// the number of outputs.
func (t *task) transact(ctx context.Context, dog *watchdog, p *producer, processor Processor, b readBatch) (int, error) {
	var outputs []Output
	if len(b.records) > 0 {
		dog.begin("the Processor")
		var err error
		if outputs, err = processor.Process(ctx, b.records); err != nil {
			return 0, fmt.Errorf("processing %s/%d from offset %d: %w", t.input.topic, t.input.partition, b.records[0].Offset, err)
		}
	}
	if refused := t.run.stage.Refused; refused != nil {
		for _, r := range b.refused {
			outputs = append(outputs, refused(r.Record, r.Reason)...)
		}
	}
	dog.begin("the commit")
	if err := p.commit(ctx, t.member, t.input, b.next, formatToken(t.token), outputs); err != nil {
		p.abort(ctx)
		if n := len(b.records); n > 0 {
			err = fmt.Errorf("what comes of offsets %d to %d: %w", b.records[0].Offset, b.records[n-1].Offset, err)
		}
		return 0, err
	}
	return len(outputs), nil
}

// readBatch is the input of one transaction. It has no records if the log holds only transaction markers,
// aborted and refused records before next: then the transaction only moves the committed offset, so that no lag
// is left.
type readBatch struct {
	records   []Record
	refused   []Refused
	next, end int64
}

// cut splits a batch at an offset. If all its records lie below until, part and rest are both the whole
// batch.
func (b readBatch) cut(until int64) (part, rest readBatch) {
	n := slices.IndexFunc(b.records, func(r Record) bool { return r.Offset >= until })
	before, after := cutRefused(b.refused, until)
	if n < 0 && len(after) == 0 {
		return b, b
	}
	if n < 0 {
		n = len(b.records)
	}
	return readBatch{records: b.records[:n:n], refused: before, next: until, end: b.end},
		readBatch{records: b.records[n:], refused: after, next: b.next, end: b.end}
}

// cutRefused splits refused records at an offset.
func cutRefused(all []Refused, at int64) (before, after []Refused) {
	n := slices.IndexFunc(all, func(r Refused) bool { return r.Record.Offset >= at })
	if n < 0 {
		return all, nil
	}
	return all[:n:n], all[n:]
}

// reader fetches the next records while the Processor works, at most one fetch ahead.
type reader struct {
	batches chan readBatch
	failed  chan error
	cancel  context.CancelFunc
	done    chan struct{}
}

func (t *task) read(ctx context.Context, offset int64) *reader {
	ctx, cancel := context.WithCancel(ctx)
	r := &reader{batches: make(chan readBatch), failed: make(chan error, 1), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		if err := t.fetchAhead(ctx, offset, r.batches); err != nil {
			r.failed <- err
		}
	}()
	return r
}

func (t *task) fetchAhead(ctx context.Context, offset int64, batches chan<- readBatch) error {
	s := &t.run.stage
	committed := offset
	for ctx.Err() == nil {
		got, err := t.run.client.Fetch(ctx, t.input.topic, t.input.partition, offset, FetchOptions{MaxBytes: s.MaxBytes})
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrOffsetOutOfRange) && s.OutOfRange != "fail" {
			return errors.New("the log no longer holds the next offset") // begin will choose an offset by OutOfRange
		}
		if err != nil {
			return err
		}
		offset = got.Next
		// A stretch of markers alone is committed only at the end of the log: there it would show as lag for
		// ever.
		if len(got.Records) == 0 && len(got.Refused) == 0 && (got.Next == committed || got.Next < got.LastStable) {
			continue
		}
		for _, b := range split(got, s.MaxRecords) {
			select {
			case batches <- b:
				committed = b.next
			case <-ctx.Done():
				return nil
			}
		}
	}
	return nil
}

// split cuts the fetched records into batches of at most n. The last batch ends at f.Next, so that the
// markers behind the last record are committed, too.
func split(f Fetched, n int) []readBatch {
	var all []readBatch
	for rest := f.Records; len(rest) > n; rest = f.Records {
		b := readBatch{records: rest[:n:n], next: rest[n-1].Offset + 1, end: f.LastStable}
		b.refused, f.Refused = cutRefused(f.Refused, b.next)
		all = append(all, b)
		f.Records = rest[n:]
	}
	return append(all, readBatch{records: f.Records, refused: f.Refused, next: f.Next, end: f.LastStable})
}

// next waits for a batch or for an error. When stop ends it returns an empty batch and no error.
func (r *reader) next(stop context.Context) (readBatch, error) {
	select {
	case b := <-r.batches:
		return b, nil
	case err := <-r.failed:
		return readBatch{}, err
	case <-stop.Done():
		return readBatch{}, nil
	}
}

func (r *reader) close() {
	r.cancel()
	<-r.done
}
