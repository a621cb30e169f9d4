package catalog

import (
	"context"
	"time"

	"hardneg/internal/wait"
	"hardneg/stream"
)

// PollEvery is how often a wait looks at Kafka.
const PollEvery = 200 * time.Millisecond

// End is where one partition of a topic starts, and the offset up to which somebody waits for a stage.
type End struct {
	Partition     int32
	Start, Offset int64
}

// StableEnds are the ends that a read_committed reader sees now.
func StableEnds(all []stream.Offsets) []End {
	return ends(all, func(o stream.Offsets) int64 { return o.LastStable })
}

// WrittenEnds are the ends of all that is written now, records of open transactions included.
func WrittenEnds(all []stream.Offsets) []End {
	return ends(all, func(o stream.Offsets) int64 { return o.HighWatermark })
}

func ends(all []stream.Offsets, offset func(stream.Offsets) int64) []End {
	out := make([]End, len(all))
	for i, o := range all {
		out[i] = End{o.Partition, o.Start, offset(o)}
	}
	return out
}

// EndsAt are ends at given offsets, by partition.
func EndsAt(offsets map[int32]int64) []End {
	out := make([]End, 0, len(offsets))
	for partition, offset := range offsets {
		out = append(out, End{Partition: partition, Offset: offset})
	}
	return out
}

// Behind counts the offsets between what a stage has committed and some ends of its input, over all partitions. A commit
// in an open transaction does not count: of many partitions at work one always has such a transaction, and a wait
// for none would never end.
func (n Names) Behind(ctx context.Context, kafka *stream.Client, stage string, ends []End) (left int64, err error) {
	committed, err := kafka.CommittedSoFar(ctx, n.Group(stage), n.Input(stage))
	for _, e := range ends {
		left += max(0, e.Offset-max(committed[e.Partition], e.Start))
	}
	return left, err
}

// Await waits until a stage has committed up to the ends, and looks every so often. Each time something is left it calls
// look, which may be nil, with the number of offsets; an error of look ends the wait.
func (n Names) Await(ctx context.Context, kafka *stream.Client, stage string, ends []End, every time.Duration, look func(left int64) error) error {
	for {
		left, err := n.Behind(ctx, kafka, stage, ends)
		if err != nil || left == 0 {
			return err
		}
		if look != nil {
			if err := look(left); err != nil {
				return err
			}
		}
		if err := wait.For(ctx, every); err != nil {
			return err
		}
	}
}
