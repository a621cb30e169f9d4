package pipeline

import (
	"context"
	"errors"
	"fmt"
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

// Bounds of a transaction.
const (
	lettersTogether = 500
	bytesTogether   = 8 << 20
)

// Replay sends the records of dead letters again to where they came from, as they were: key, value, headers and timestamp.
// Each goes out once, whatever is interrupted or runs at the same time: a note in the dead letters topic, in the same
// transaction, says that it has. Left are
//
//   - records of documents that are not the newest ones of their document any more, for they would undo what came later: of
//     the documents topic everything behind the oldest of them is read to find that out;
//   - records that are malformed, which would only come back;
//   - a second dead letter of the same record, as the stages of several generations may write, whose evidence would count twice;
//   - records of the refresh topic that say nothing by themselves.
//
// The record behind a dead letter of the miner is in its own topic, and counts as read. It goes back as a record of the query
// log with the weights that intake gave it.
func (d DeadLetters) Replay(ctx context.Context, o LetterReplay) error {
	group := lettersGroup(d.Config)
	var ledger *stream.Ledger
	var marks map[int32]stream.Mark
	var err error
	if !o.DryRun { // first, so that no other one is sending what is read here
		if ledger, marks, err = d.Kafka.OpenLedger(ctx, group, group, d.Config.Topics.DeadLetters, d.Config.Kafka.TransactionTimeout); err != nil {
			return err
		}
	}
	sent, err := d.notes(ctx)
	if err != nil {
		return err
	}
	current, err := d.newest(ctx, o, sent)
	if err != nil {
		return err
	}
	b := letterBatch{topic: d.Config.Topics.DeadLetters}
	commit := func() error {
		if ledger != nil && len(b.outputs) > 0 {
			marks[0] = stream.Mark{Offset: marks[0].Offset + 1}
			if err := ledger.Commit(ctx, marks, b.outputs); err != nil {
				if errors.Is(err, stream.ErrFenced) {
					err = fmt.Errorf("another replay of dead letters has taken over: %w", err)
				}
				return err
			}
		}
		for _, outcome := range b.outcomes {
			if err := o.Tell(outcome); err != nil {
				return err
			}
		}
		b.clear()
		return nil
	}
	err = d.each(ctx, func(l stream.Letter) error {
		if !o.Choose(l) {
			return nil
		}
		outcome := LetterOutcome{Letter: l}
		out, source, err := d.restore(l)
		switch earlier, twice := sent.sources[source]; {
		case sent.letters[l.At()]:
			outcome.Before, err = true, errors.New("it was sent again before")
		case err != nil:
		case twice:
			err = fmt.Errorf("its record is that of %s, which was sent again", earlier)
		case out.Topic == d.Config.Topics.Documents:
			err = current.check(l.Record)
		}
		if err != nil {
			outcome.Left = err.Error()
			b.outcomes = append(b.outcomes, outcome)
		} else {
			outcome.To = records.Source{Topic: out.Topic, Partition: out.Partition}
			n := note{l.At(), source}
			sent.add(n)
			b.add(outcome, out, n)
		}
		if b.full() {
			return commit()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return commit()
}

// lettersGroup is the consumer group, without members, that makes the replays of dead letters take turns.
func lettersGroup(cfg *config.Config) string { return cfg.Name + "-" + lettersSuffix }

const lettersSuffix = "dead-letters"

// letterBatch is what goes out in one transaction.
type letterBatch struct {
	topic    string // of the notes
	outputs  []stream.Output
	outcomes []LetterOutcome
	bytes    int
}

func (b *letterBatch) add(outcome LetterOutcome, out stream.Output, n note) {
	b.outcomes = append(b.outcomes, outcome)
	b.outputs = append(b.outputs, out, n.output(b.topic, outcome.Letter.Partition))
	b.bytes += len(out.Key) + len(out.Value)
}

func (b *letterBatch) full() bool {
	return len(b.outcomes) >= lettersTogether || b.bytes >= bytesTogether
}

func (b *letterBatch) clear() { b.outputs, b.outcomes, b.bytes = b.outputs[:0], b.outcomes[:0], 0 }

// restore is the record to send, and the record of the inputs behind it.
func (d DeadLetters) restore(l stream.Letter) (out stream.Output, source records.Source, err error) {
	r := l.Record
	out = stream.Output{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers, Time: r.Time}
	source = placeIn(r)
	switch {
	case r.Topic == d.Config.Topics.Documents:
		_, _, err = records.ParseDocument(r.Key, r.Value)
	case r.Topic == d.Config.Topics.Queries:
		_, _, err = records.ParseQuery(r.Key, r.Value)
	case l.Stage == StageMiner:
		return d.evidence(r)
	default:
		return out, source, fmt.Errorf("topic %s is none that this configuration reads", r.Topic)
	}
	if err != nil {
		err = fmt.Errorf("it would come back: %w", err)
	}
	return out, source, err
}

// evidence makes a record of the query log of one that intake made of such a record.
func (d DeadLetters) evidence(r stream.Record) (out stream.Output, source records.Source, err error) {
	refresh, err := records.ParseRefresh(r.Key, r.Value)
	switch {
	case err != nil:
		return out, source, fmt.Errorf("it would come back: %w", err)
	case refresh.Kind != records.KindEvidence:
		return out, source, fmt.Errorf("a record of kind %s says nothing by itself: hardneg audit --repair mends its query", refresh.Kind)
	case refresh.Source.Topic != d.Config.Topics.Queries:
		return out, source, fmt.Errorf("topic %s is none that this configuration reads", refresh.Source.Topic)
	}
	query := records.Query{Query: refresh.Text, QueryID: refresh.QueryID, Embeddings: refresh.Embeddings}
	for _, e := range refresh.Evidence {
		for left := e.Weight; left > 0; { // of one record, a document's may be more than one click's can be
			weight := float64(min(left, records.MaxWeight*1_000_000)) / 1e6
			left -= records.Millionths(weight)
			query.Clicks = append(query.Clicks, records.Click{DocID: e.Document, DwellMS: d.Config.Queries.MinDwell.Milliseconds(), Weight: &weight})
		}
	}
	if n := len(query.Clicks); n > records.MaxNamed {
		return out, source, fmt.Errorf("its weights are so large that it takes %d clicks to say them, and %d are allowed in one record", n, records.MaxNamed)
	}
	source = refresh.Source
	out = stream.Output{
		Topic: source.Topic, Partition: source.Partition, Key: r.Key, Value: query.Encode(), Headers: r.Headers,
		Time: time.UnixMilli(source.Timestamp),
	}
	source.Timestamp = 0
	return out, source, nil
}

// newest tells which records of the documents topic are the newest ones of their document.
type newest struct {
	kept map[records.Source]bool // of those that are asked for, the ones that the topic still has
	last map[string]int64        // by partition and id: the highest offset
}

// newest reads what came after the oldest record of a document whose dead letter is chosen.
func (d DeadLetters) newest(ctx context.Context, o LetterReplay, sent sentAgain) (newest, error) {
	topic := d.Config.Topics.Documents
	found := newest{map[records.Source]bool{}, map[string]int64{}}
	from := map[int32]int64{}
	err := d.each(ctx, func(l stream.Letter) error {
		if r := l.Record; r.Topic == topic && !sent.letters[l.At()] && o.Choose(l) {
			found.kept[placeIn(r)] = false
			if first, ok := from[r.Partition]; !ok || r.Offset < first {
				from[r.Partition] = r.Offset
			}
		}
		return nil
	})
	if err != nil || len(from) == 0 {
		return found, err
	}
	read := 0
	err = d.Kafka.ReadFrom(ctx, topic, from, func(r stream.Record) error {
		if _, ok := found.kept[placeIn(r)]; ok {
			found.kept[placeIn(r)] = true
		}
		if id, ok := documentIn(r); ok {
			found.last[id] = r.Offset
		}
		if read++; o.Checked != nil {
			o.Checked(read)
		}
		return nil
	})
	return found, err
}

// check is an error where a record is not the newest one of its document.
func (n newest) check(r stream.Record) error {
	id, _ := documentIn(r)
	switch last := n.last[id]; {
	case last > r.Offset:
		return fmt.Errorf("out of date: its document came again at %s/%d/%d", r.Topic, r.Partition, last)
	case !n.kept[placeIn(r)]:
		return fmt.Errorf("%s/%d no longer has it, and may have had a newer one of its document: hardneg dlq show --raw gives its value", r.Topic, r.Partition)
	}
	return nil
}

// documentIn names the document of a record, and the partition that it is in, in which a document's records keep their order.
func documentIn(r stream.Record) (string, bool) {
	id := string(r.Key)
	if id == "" {
		d, _, _ := records.ParseDocument(r.Key, r.Value)
		id = d.ID
	}
	return fmt.Sprintf("%d/%s", r.Partition, id), id != ""
}

func placeIn(r stream.Record) records.Source {
	return records.Source{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}
}
