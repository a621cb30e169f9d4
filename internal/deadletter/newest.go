package deadletter

import (
	"context"
	"fmt"
	"time"

	"hardneg/internal/records"
	"hardneg/stream"
)

// newest finds out which records of the documents topic are the newest ones of their document. Within a partition the offset
// decides. If the topic has grown, or records have no key, several partitions may have records of one document; between
// them the timestamp decides.
type newest struct {
	last map[string]map[int32]lastSeen // by document and partition, for the wanted documents
	kept map[records.Source]bool       // the wanted records; true: the topic still has them
	from map[int32]int64               // offset of the oldest wanted record, by partition
	time time.Time                     // of the oldest wanted record
	read map[int32]int64               // offsets where reading goes on; nil: it has not begun
}

// lastSeen is the newest record of a document in one partition.
type lastSeen struct {
	offset int64
	time   time.Time // the youngest timestamp
}

func newNewest() *newest {
	return &newest{last: map[string]map[int32]lastSeen{}, kept: map[records.Source]bool{}, from: map[int32]int64{}}
}

// want asks about a record. All calls come before the first advance.
func (n *newest) want(r stream.Record) {
	id := records.DocumentID(r.Key, r.Value)
	if id == "" {
		return // the record is malformed
	}
	n.last[id], n.kept[locationOf(r)] = map[int32]lastSeen{}, false
	if first, ok := n.from[r.Partition]; !ok || r.Offset < first {
		n.from[r.Partition] = r.Offset
	}
	if n.time.IsZero() || r.Time.Before(n.time) {
		n.time = r.Time
	}
}

// advance reads on to what is written now.
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

// begin finds the offsets where reading begins.
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
