package deadletter

import (
	"context"
	"fmt"
	"time"

	"hardneg/internal/records"
	"hardneg/stream"
)

// newest finds out which records of the documents topic are the newest ones of their document. Within a
// partition the offset decides. Several partitions may have records of one document, if partitions were added
// to the topic or records have no key. Between partitions the timestamp decides.
type newest struct {
	last map[string]map[int32]lastSeen // by document and partition, for the documents that are asked for
	kept map[records.Source]bool       // records that are asked for; true: the topic still has the record
	from map[int32]int64               // by partition: the lowest offset that is asked for
	time time.Time                     // the earliest timestamp that is asked for
	read map[int32]int64               // by partition: the offset to read next; nil: reading has not begun
}

// lastSeen is the newest record of a document in one partition.
type lastSeen struct {
	offset int64
	time   time.Time // the latest timestamp so far
}

// newNewest returns a newest that is not asked for any record.
func newNewest() *newest {
	return &newest{last: map[string]map[int32]lastSeen{}, kept: map[records.Source]bool{}, from: map[int32]int64{}}
}

// want asks for a record. All calls must come before the first call of advance.
func (n *newest) want(r stream.Record) {
	id := records.DocumentID(r.Key, r.Value)
	if id == "" {
		return // the record is malformed, and replay refuses it
	}
	n.last[id], n.kept[locationOf(r)] = map[int32]lastSeen{}, false
	if lowest, ok := n.from[r.Partition]; !ok || r.Offset < lowest {
		n.from[r.Partition] = r.Offset
	}
	if n.time.IsZero() || r.Time.Before(n.time) {
		n.time = r.Time
	}
}

// advance reads on to the present end of the topic. It waits at most so long for transactions that are open.
// It calls each with every record.
func (n *newest) advance(ctx context.Context, kafka *stream.Client, topic string, patience time.Duration, each func()) error {
	ends, err := kafka.AwaitStable(ctx, topic, patience)
	if err != nil {
		return err
	}
	if n.read == nil {
		if err := n.begin(ctx, kafka, topic, ends); err != nil {
			return err
		}
	}
	to := written(ends)
	err = kafka.ReadRange(ctx, topic, n.read, to, func(r stream.Record) error {
		each()
		if _, ok := n.kept[locationOf(r)]; ok {
			n.kept[locationOf(r)] = true
		}
		if seen, ok := n.last[records.DocumentID(r.Key, r.Value)]; ok {
			at := lastSeen{r.Offset, r.Time}
			if before, ok := seen[r.Partition]; ok && before.time.After(at.time) {
				at.time = before.time
			}
			seen[r.Partition] = at
		}
		return nil
	})
	n.read = to
	return err
}

// begin sets the offsets where reading begins: before every record that is asked for, and before every record
// that may be newer than one.
func (n *newest) begin(ctx context.Context, kafka *stream.Client, topic string, ends []stream.Offsets) error {
	first, err := kafka.OffsetsAt(ctx, topic, n.time)
	if err != nil {
		return err
	}
	n.read = map[int32]int64{}
	for _, e := range ends {
		at := e.HighWatermark
		if int(e.Partition) < len(first) && first[e.Partition] >= 0 {
			at = min(at, first[e.Partition])
		}
		if lowest, ok := n.from[e.Partition]; ok {
			at = min(at, lowest)
		}
		n.read[e.Partition] = at
	}
	return nil
}

// check returns an error if a record is not the newest one of its document.
func (n *newest) check(r stream.Record) error {
	for partition, last := range n.last[records.DocumentID(r.Key, r.Value)] {
		switch {
		case partition == r.Partition && last.offset > r.Offset:
			return fmt.Errorf("out of date: its document came again at %s/%d/%d", r.Topic, partition, last.offset)
		case partition != r.Partition && !last.time.Before(r.Time):
			return fmt.Errorf("out of date: its document came again in %s/%d", r.Topic, partition)
		}
	}
	if !n.kept[locationOf(r)] {
		return fmt.Errorf("%s/%d no longer has it, and may have had a newer one of its document: hardneg dlq show --raw gives its value", r.Topic, r.Partition)
	}
	return nil
}
