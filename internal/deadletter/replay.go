package deadletter

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"hardneg/internal/catalog"
	"hardneg/internal/records"
	"hardneg/stream"
)

// Outcome says what happened to the record of a dead letter.
type Outcome struct {
	DeadLetter stream.DeadLetter
	To         records.Source // topic and partition that the record was sent to
	Left       string         // why the record was not sent; empty: it was sent
	Before     bool           // it was not sent, because it was sent before
}

// ReplayOptions says which dead letters to send again.
type ReplayOptions struct {
	Choose func(stream.DeadLetter) bool // returns true for the dead letters to send again
	DryRun bool                         // send nothing
	// Tell is called with the outcome of each chosen dead letter, after its record was sent. With DryRun the
	// outcome is the one that sending would have.
	Tell func(Outcome) error
	// Checked, which may be nil, is called with the number of records of the documents topic that were read
	// so far. Replay reads them to find out which dead letters are out of date.
	Checked func(n int)
}

// Replay sends the records of dead letters again to the topic and partition that they came from, unchanged:
// key, value, headers and timestamp. The same transaction writes a note into the dead letters topic. So each
// record is sent once, even if a replay is interrupted or several replays run at the same time. Replay leaves
// out:
//
//   - a record of the documents topic that is not the newest one of its document, because it would undo
//     what came later. To find out, Replay reads the documents topic, from the oldest chosen record on;
//   - a malformed record, which would only become a dead letter again, and a record that its topic does
//     not take;
//   - a second dead letter of the same record, because the record's evidence would count twice. The stages
//     of several generations may each write a dead letter;
//   - a record of the refresh topic that is no evidence.
//
// A dead letter of the miner may hold an evidence record of the refresh topic. Replay turns that back into a
// record of the query log, with the weights that the intake gave it.
//
// Replay returns stream.ErrOpenTransaction if a transaction of another producer stays open for too long,
// because it hides records that Replay must know.
func (q Queue) Replay(ctx context.Context, o ReplayOptions) error {
	r := &replay{Queue: q, ReplayOptions: o, targets: map[string]target{}, documents: newNewest()}
	if !o.DryRun { // first of all, to fence other replays: none may send a record after this one has read the notes
		group := catalog.DeadLettersGroup(q.Config)
		var err error
		if r.ledger, r.marks, err = q.Kafka.OpenLedger(ctx, group, group, q.Config.Topics.DeadLetters, q.Config.Kafka.TransactionTimeout); err != nil {
			return err
		}
	}
	// A stage may have an open transaction. The notes behind it count too.
	ends, err := q.Kafka.AwaitStable(ctx, q.Config.Topics.DeadLetters, q.patience())
	if err != nil {
		return err
	}
	to := written(ends)
	if r.sent, err = q.notes(ctx, to); err != nil {
		return err
	}
	if err := q.each(ctx, to, r.want); err != nil {
		return err
	}
	if err := r.advance(ctx); err != nil {
		return err
	}
	err = q.each(ctx, to, func(l stream.DeadLetter) error {
		if !o.Choose(l) {
			return nil
		}
		r.add(ctx, l)
		if len(r.batch) >= recordsTogether || r.bytes >= bytesTogether {
			return r.flush(ctx)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.flush(ctx)
}

// patience returns the time for which a replay waits for an open transaction. The transactions of the stages,
// and most others, end before.
func (q Queue) patience() time.Duration {
	return q.Config.Kafka.TransactionTimeout + 30*time.Second
}

// Bounds of a transaction: records, and bytes.
const (
	recordsTogether = 500
	bytesTogether   = 8 << 20
)

// replay carries out one call of Replay.
type replay struct {
	Queue
	ReplayOptions
	ledger    *stream.Ledger // nil: a dry run
	marks     map[int32]stream.Mark
	sent      sentAgain // by the notes, and by this replay
	targets   map[string]target
	documents *newest
	checked   int // records of the documents topic that were read

	batch []pending // in order, with the dead letters that are left out
	bytes int       // of the batch
}

// pending is a chosen dead letter, and the records to send for it.
type pending struct {
	Outcome
	out  stream.Output
	note note
}

// target is a topic to which records are sent.
type target struct {
	partitions int
	err        error // why the number is not known
}

// want asks for the record of a chosen dead letter, if it is of the documents topic.
func (r *replay) want(l stream.DeadLetter) error {
	if l.Record.Topic == r.Config.Topics.Documents && !r.sent.deadLetters[l.At()] && r.Choose(l) {
		r.documents.want(l.Record)
	}
	return nil
}

// advance reads on to the present end of the documents topic, if its records matter.
func (r *replay) advance(ctx context.Context) error {
	if len(r.documents.last) == 0 {
		return nil
	}
	return r.documents.advance(ctx, r.Kafka, r.Config.Topics.Documents, r.patience(), func() {
		if r.checked++; r.Checked != nil {
			r.Checked(r.checked)
		}
	})
}

// add decides what to do with a dead letter, and adds it to the batch.
func (r *replay) add(ctx context.Context, l stream.DeadLetter) {
	p := pending{Outcome: Outcome{DeadLetter: l}}
	out, err := r.restore(l)
	source := SourceOf(l)
	switch earlier, twice := r.sent.sources[source]; {
	case r.sent.deadLetters[l.At()]:
		p.Before, err = true, errors.New("it was sent again before")
	case err != nil:
	case twice:
		err = fmt.Errorf("its record is that of %s, which was sent again", earlier)
	default:
		if err = r.checkTarget(ctx, out); err == nil && out.Topic == r.Config.Topics.Documents {
			err = r.documents.check(l.Record)
		}
	}
	if err != nil {
		p.Left = err.Error()
	} else {
		p.To = records.Source{Topic: out.Topic, Partition: out.Partition}
		p.out, p.note = out, note{l.At(), source}
		r.sent.add(p.note)
	}
	r.batch = append(r.batch, p)
	r.bytes += len(l.Reason) + len(l.Record.Key) + len(l.Record.Value)
	for _, h := range l.Record.Headers {
		r.bytes += len(h.Key) + len(h.Value)
	}
}

// checkTarget returns an error if a topic cannot take a record.
func (r *replay) checkTarget(ctx context.Context, out stream.Output) error {
	t, known := r.targets[out.Topic]
	if !known {
		t.partitions, t.err = r.Kafka.Partitions(ctx, out.Topic)
		r.targets[out.Topic] = t
	}
	// kafka-go keeps times as nanoseconds in 64 bits, and takes the time 0 for no time.
	const latest = math.MaxInt64 / int64(time.Millisecond)
	switch ms := out.Time.UnixMilli(); {
	case t.err != nil:
		return t.err
	case int(out.Partition) >= t.partitions:
		return fmt.Errorf("topic %s has no partition %d", out.Topic, out.Partition)
	case ms <= 0 || ms > latest:
		return fmt.Errorf("its timestamp, %d ms, could not be kept", ms)
	}
	return nil
}

// flush sends the batch, and calls Tell for each of its dead letters.
func (r *replay) flush(ctx context.Context) error {
	if err := r.recheck(ctx); err != nil {
		return err
	}
	if err := r.commit(ctx, r.batch); stream.RefusesRecord(err) { // the broker refuses one record or several: find out which
		for i := range r.batch {
			if err := r.commit(ctx, r.batch[i:i+1]); stream.RefusesRecord(err) {
				r.batch[i].Left = err.Error()
			} else if err != nil {
				return err
			}
		}
	} else if err != nil {
		return err
	}
	for _, p := range r.batch {
		if err := r.Tell(p.Outcome); err != nil {
			return err
		}
	}
	clear(r.batch)
	r.batch, r.bytes = r.batch[:0], 0
	return nil
}

// recheck leaves out documents that have come again while other records were sent.
func (r *replay) recheck(ctx context.Context) error {
	advanced := false
	for i := range r.batch {
		p := &r.batch[i]
		if p.Left != "" || p.out.Topic != r.Config.Topics.Documents {
			continue
		}
		if !advanced {
			if err := r.advance(ctx); err != nil {
				return err
			}
			advanced = true
		}
		if err := r.documents.check(p.DeadLetter.Record); err != nil {
			p.Left = err.Error()
		}
	}
	return nil
}

// commit sends the records of a batch and their notes in one transaction.
func (r *replay) commit(ctx context.Context, batch []pending) error {
	var outputs []stream.Output
	for _, p := range batch {
		if p.Left == "" {
			outputs = append(outputs, p.out, p.note.output(r.Config.Topics.DeadLetters, p.DeadLetter.Partition))
		}
	}
	if len(outputs) == 0 || r.ledger == nil {
		return nil
	}
	next := map[int32]stream.Mark{0: {Offset: r.marks[0].Offset + 1}}
	err := r.ledger.Commit(ctx, next, outputs)
	switch {
	case errors.Is(err, stream.ErrFenced):
		return fmt.Errorf("another replay of dead letters has taken over: %w", err)
	case err == nil:
		r.marks = next
	}
	return err
}

// restore returns the record to send for a dead letter. The error says why there is none.
func (q Queue) restore(l stream.DeadLetter) (out stream.Output, err error) {
	r := l.Record
	out = stream.Output{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers, Time: r.Time}
	switch {
	case r.Topic == q.Config.Topics.Documents:
		_, _, err = records.ParseDocument(r.Key, r.Value)
	case r.Topic == q.Config.Topics.Queries:
		_, _, err = records.ParseQuery(r.Key, r.Value)
	case l.Stage == catalog.StageMiner:
		return q.evidence(r)
	default:
		return out, fmt.Errorf("topic %s is none that this configuration reads", r.Topic)
	}
	if err != nil {
		err = fmt.Errorf("it would come back: %w", err)
	}
	return out, err
}

// longDwell is the longest dwell time that a click may have, and longer than any queries.min_dwell. The
// intake has counted the click once, so it must count it again.
const longDwell = 1 << 53

// evidence returns the record of the query log that gives the evidence in a record of the refresh topic.
func (q Queue) evidence(r stream.Record) (out stream.Output, err error) {
	refresh, err := records.ParseRefresh(r.Key, r.Value)
	switch {
	case err != nil:
		return out, fmt.Errorf("it would come back: %w", err)
	case refresh.Kind != records.KindEvidence:
		return out, fmt.Errorf("a record of kind %s says nothing by itself: hardneg audit --repair mends its query", refresh.Kind)
	case refresh.Source.Topic != q.Config.Topics.Queries:
		return out, fmt.Errorf("topic %s is none that this configuration reads", refresh.Source.Topic)
	}
	query := records.Query{Query: refresh.Text, QueryID: refresh.QueryID, Embeddings: refresh.Embeddings}
	for _, e := range refresh.Evidence {
		for rest := e.Weight; rest > 0 && len(query.Clicks) <= records.MaxNamed; { // a document's weight may be too large for one click
			weight := float64(min(rest, records.MaxWeight*1_000_000)) / 1e6
			rest -= records.Millionths(weight)
			query.Clicks = append(query.Clicks, records.Click{DocID: e.Document, DwellMS: longDwell, Weight: &weight})
		}
	}
	if len(query.Clicks) > records.MaxNamed {
		return out, fmt.Errorf("its weights are so large that it takes more than the %d clicks of one record to say them", records.MaxNamed)
	}
	return stream.Output{
		Topic: refresh.Source.Topic, Partition: refresh.Source.Partition, Key: r.Key, Value: query.Encode(), Headers: r.Headers,
		Time: time.UnixMilli(refresh.Source.Timestamp),
	}, nil
}

// locationOf returns the name of a record, without its timestamp.
func locationOf(r stream.Record) records.Source {
	return records.Source{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}
}
