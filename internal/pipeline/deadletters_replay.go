package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"hardneg/internal/config"
	"hardneg/internal/records"
	"hardneg/stream"
)

// LetterOutcome is what became of the record of a dead letter.
type LetterOutcome struct {
	Letter stream.Letter
	To     records.Source // topic and partition that it was sent to
	Left   string         // why it was not; empty: it was
	Before bool           // why: it was sent before
}

// LetterReplay says which dead letters to send again.
type LetterReplay struct {
	Choose func(stream.Letter) bool
	DryRun bool // send nothing
	// Tell is called for each that was chosen, with what became of it: once it is sent, and with DryRun before.
	Tell func(LetterOutcome) error
	// Checked, where it is set, is told how many records of the documents topic were read to find out what is out of date.
	Checked func(n int)
}

// Replay sends the records of dead letters again to where they came from, as they were: key, value, headers and timestamp.
// Each goes out once, whatever is interrupted or runs at the same time: a note in the dead letters topic, in the same
// transaction, says that it has. Left are
//
//   - records of documents that are not the newest ones of their document any more, for they would undo what came later: the
//     documents topic is read for that, from the oldest of them on;
//   - records that are malformed, which would only come back, and those that their topic does not take;
//   - a second dead letter of the same record, as the stages of several generations may write, whose evidence would count twice;
//   - records of the refresh topic that say nothing by themselves.
//
// Where the record of a dead letter of the miner is one of the refresh topic, it counts as read there: it goes back as a record
// of the query log with the weights that intake gave it.
//
// It is a stream.ErrOpenTransaction where somebody's transaction hides what has to be known for longer than one should last.
func (d DeadLetters) Replay(ctx context.Context, o LetterReplay) error {
	r := &letterReplay{DeadLetters: d, LetterReplay: o, targets: map[string]target{}, documents: newNewest()}
	if !o.DryRun { // first, so that no other one is sending what is read here
		group := lettersGroup(d.Config)
		var err error
		if r.ledger, r.marks, err = d.Kafka.OpenLedger(ctx, group, group, d.Config.Topics.DeadLetters, d.Config.Kafka.TransactionTimeout); err != nil {
			return err
		}
	}
	// Notes behind a transaction of one of the stages are notes, too.
	ends, err := d.Kafka.AwaitStable(ctx, d.Config.Topics.DeadLetters, d.patience())
	if err != nil {
		return err
	}
	to := make(map[int32]int64, len(ends))
	for _, e := range ends {
		to[e.Partition] = e.HighWatermark
	}
	if r.sent, err = d.notes(ctx, to); err != nil {
		return err
	}
	if err := d.each(ctx, to, r.want); err != nil {
		return err
	}
	if err := r.advance(ctx); err != nil {
		return err
	}
	err = d.each(ctx, to, func(l stream.Letter) error {
		if !o.Choose(l) {
			return nil
		}
		r.add(ctx, l)
		if r.full() {
			return r.flush(ctx)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.flush(ctx)
}

// patience is how long a transaction may be open: those of the stages, and of most others, end before.
func (d DeadLetters) patience() time.Duration {
	return d.Config.Kafka.TransactionTimeout + 30*time.Second
}

// lettersGroup is the consumer group, without members, that makes the replays of dead letters take turns.
func lettersGroup(cfg *config.Config) string { return cfg.Name + "-" + lettersSuffix }

const lettersSuffix = "dead-letters"

// Bounds of a transaction.
const (
	lettersTogether = 500
	bytesTogether   = 8 << 20
)

// letterReplay is one replay.
type letterReplay struct {
	DeadLetters
	LetterReplay
	ledger    *stream.Ledger // nil: a dry run
	marks     map[int32]stream.Mark
	sent      sentAgain
	targets   map[string]target
	documents *newest
	checked   int

	batch []pendingLetter // in order, with those that are left
	bytes int
}

// pendingLetter is a letter that was chosen, and what to send of it.
type pendingLetter struct {
	LetterOutcome
	out  stream.Output
	note note
}

// target is a topic that records are sent to.
type target struct {
	partitions int // 0: it does not exist
	err        error
}

// want notes the documents that have to be known.
func (r *letterReplay) want(l stream.Letter) error {
	if l.Record.Topic == r.Config.Topics.Documents && !r.sent.letters[l.At()] && r.Choose(l) {
		r.documents.want(l.Record)
	}
	return nil
}

// advance reads what the documents topic has by now.
func (r *letterReplay) advance(ctx context.Context) error {
	if len(r.documents.last) == 0 {
		return nil
	}
	return r.documents.advance(ctx, r.Kafka, r.Config.Topics.Documents, r.patience(), func() {
		if r.checked++; r.Checked != nil {
			r.Checked(r.checked)
		}
	})
}

// add decides what is to become of a letter.
func (r *letterReplay) add(ctx context.Context, l stream.Letter) {
	p := pendingLetter{LetterOutcome: LetterOutcome{Letter: l}}
	out, err := r.restore(l)
	source := SourceOf(l)
	switch earlier, twice := r.sent.sources[source]; {
	case r.sent.letters[l.At()]:
		p.Before, err = true, errors.New("it was sent again before")
	case err != nil:
	case twice:
		err = fmt.Errorf("its record is that of %s, which was sent again", earlier)
	default:
		if err = r.takes(ctx, out); err == nil && out.Topic == r.Config.Topics.Documents {
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

func (r *letterReplay) full() bool {
	return len(r.batch) >= lettersTogether || r.bytes >= bytesTogether
}

// takes is an error where a topic cannot take a record.
func (r *letterReplay) takes(ctx context.Context, out stream.Output) error {
	t, known := r.targets[out.Topic]
	if !known {
		t.partitions, t.err = r.Kafka.Partitions(ctx, out.Topic)
		r.targets[out.Topic] = t
	}
	// Kafka-go has nanoseconds in 64 bits, and takes 0 for none.
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

// flush sends what is pending, and tells of it.
func (r *letterReplay) flush(ctx context.Context) error {
	if err := r.recheck(ctx); err != nil {
		return err
	}
	if err := r.commit(ctx, r.batch); stream.RefusesRecord(err) { // of one, or some
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
		if err := r.Tell(p.LetterOutcome); err != nil {
			return err
		}
	}
	clear(r.batch)
	r.batch, r.bytes = r.batch[:0], 0
	return nil
}

// recheck leaves the documents that came again while others were sent.
func (r *letterReplay) recheck(ctx context.Context) error {
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
		if err := r.documents.check(p.Letter.Record); err != nil {
			p.Left = err.Error()
		}
	}
	return nil
}

// commit sends some, in one transaction with their notes.
func (r *letterReplay) commit(ctx context.Context, some []pendingLetter) error {
	var outputs []stream.Output
	for _, p := range some {
		if p.Left == "" {
			outputs = append(outputs, p.out, p.note.output(r.Config.Topics.DeadLetters, p.Letter.Partition))
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

// restore is the record to send.
func (d DeadLetters) restore(l stream.Letter) (out stream.Output, err error) {
	r := l.Record
	out = stream.Output{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers, Time: r.Time}
	switch {
	case r.Topic == d.Config.Topics.Documents:
		_, _, err = records.ParseDocument(r.Key, r.Value)
	case r.Topic == d.Config.Topics.Queries:
		_, _, err = records.ParseQuery(r.Key, r.Value)
	case l.Stage == StageMiner:
		return d.evidence(r)
	default:
		return out, fmt.Errorf("topic %s is none that this configuration reads", r.Topic)
	}
	if err != nil {
		err = fmt.Errorf("it would come back: %w", err)
	}
	return out, err
}

// longDwell is longer than any queries.min_dwell, and the most that a click may say: intake has counted the click once.
const longDwell = 1 << 53

// evidence makes a record of the query log of one that intake made of such a record.
func (d DeadLetters) evidence(r stream.Record) (out stream.Output, err error) {
	refresh, err := records.ParseRefresh(r.Key, r.Value)
	switch {
	case err != nil:
		return out, fmt.Errorf("it would come back: %w", err)
	case refresh.Kind != records.KindEvidence:
		return out, fmt.Errorf("a record of kind %s says nothing by itself: hardneg audit --repair mends its query", refresh.Kind)
	case refresh.Source.Topic != d.Config.Topics.Queries:
		return out, fmt.Errorf("topic %s is none that this configuration reads", refresh.Source.Topic)
	}
	query := records.Query{Query: refresh.Text, QueryID: refresh.QueryID, Embeddings: refresh.Embeddings}
	for _, e := range refresh.Evidence {
		for left := e.Weight; left > 0 && len(query.Clicks) <= records.MaxNamed; { // a document's may be more than one click's can be
			weight := float64(min(left, records.MaxWeight*1_000_000)) / 1e6
			left -= records.Millionths(weight)
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

func placeIn(r stream.Record) records.Source {
	return records.Source{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}
}
