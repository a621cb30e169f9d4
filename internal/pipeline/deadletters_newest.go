package pipeline

import (
	"context"
	"fmt"
	"time"

	"hardneg/internal/records"
	"hardneg/stream"
)

// newest tells which records of the documents topic are the newest ones of their document. Within a partition that goes by
// offset. Another partition may have a document, too, where the topic has grown or records have no key: there it goes by
// timestamp.
type newest struct {
	last map[string]map[int32]lastSeen // of the documents that are asked for, by id and partition
	kept map[records.Source]bool       // of the records that are asked for, the ones that the topic still has
	from map[int32]int64               // the oldest of those, by partition
	time time.Time                     // likewise
	read map[int32]int64               // where reading goes on; nil: it has not begun
}

// lastSeen is what is known of a document in a partition.
type lastSeen struct {
	offset int64     // of its last record
	time   time.Time // the youngest timestamp
}

func newNewest() *newest {
	return &newest{last: map[string]map[int32]lastSeen{}, kept: map[records.Source]bool{}, from: map[int32]int64{}}
}

// want asks for a record. All come before the first advance.
func (n *newest) want(r stream.Record) {
	id := records.DocumentID(r.Key, r.Value)
	if id == "" {
		return // it is malformed
	}
	n.last[id], n.kept[placeIn(r)] = map[int32]lastSeen{}, false
	if first, ok := n.from[r.Partition]; !ok || r.Offset < first {
		n.from[r.Partition] = r.Offset
	}
	if n.time.IsZero() || r.Time.Before(n.time) {
		n.time = r.Time
	}
}

// advance reads what was written by now.
func (n *newest) advance(ctx context.Context, kafka *stream.Client, topic string, most time.Duration, each func()) error {
	ends, err := kafka.AwaitStable(ctx, topic, most)
	if err != nil {
		return err
	}
	if n.read == nil {
		if err := n.begin(ctx, kafka, topic, ends); err != nil {
			return err
		}
	}
	to := make(map[int32]int64, len(ends))
	for _, e := range ends {
		to[e.Partition] = e.HighWatermark
	}
	err = kafka.ReadRange(ctx, topic, n.read, to, func(r stream.Record) error {
		each()
		if _, ok := n.kept[placeIn(r)]; ok {
			n.kept[placeIn(r)] = true
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

// begin finds where to begin in each partition.
func (n *newest) begin(ctx context.Context, kafka *stream.Client, topic string, ends []stream.Offsets) error {
	young, err := kafka.OffsetsAt(ctx, topic, n.time)
	if err != nil {
		return err
	}
	n.read = map[int32]int64{}
	for _, e := range ends {
		at := e.HighWatermark
		if int(e.Partition) < len(young) && young[e.Partition] >= 0 {
			at = min(at, young[e.Partition])
		}
		if first, ok := n.from[e.Partition]; ok {
			at = min(at, first)
		}
		n.read[e.Partition] = at
	}
	return nil
}

// check is an error where a record is not the newest one of its document.
func (n *newest) check(r stream.Record) error {
	for partition, last := range n.last[records.DocumentID(r.Key, r.Value)] {
		switch {
		case partition == r.Partition && last.offset > r.Offset:
			return fmt.Errorf("out of date: its document came again at %s/%d/%d", r.Topic, partition, last.offset)
		case partition != r.Partition && !last.time.Before(r.Time):
			return fmt.Errorf("out of date: its document came again in %s/%d", r.Topic, partition)
		}
	}
	if !n.kept[placeIn(r)] {
		return fmt.Errorf("%s/%d no longer has it, and may have had a newer one of its document: hardneg dlq show --raw gives its value", r.Topic, r.Partition)
	}
	return nil
}
