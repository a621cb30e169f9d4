package catalog

import (
	"context"
	"time"

	"hardneg/internal/wait"
	"hardneg/stream"
)

// PollEvery is the pause between two looks at Kafka while something waits for a stage.
const PollEvery = 200 * time.Millisecond

// End says how far a stage should come in one partition of its input. Start is the first offset that the
// partition still has.
type End struct {
	Partition     int32
	Start, Offset int64
}

// StableEnds returns the ends up to which a read_committed reader can read now.
func StableEnds(partitions []stream.Offsets) []End {
	return ends(partitions, func(o stream.Offsets) int64 { return o.LastStable })
}

// WrittenEnds returns the ends of everything that is written now, including records of open transactions.
func WrittenEnds(partitions []stream.Offsets) []End {
	return ends(partitions, func(o stream.Offsets) int64 { return o.HighWatermark })
}

func ends(partitions []stream.Offsets, offset func(stream.Offsets) int64) []End {
	out := make([]End, len(partitions))
	for i, p := range partitions {
		out[i] = End{p.Partition, p.Start, offset(p)}
	}
	return out
}

// EndsAt returns an end at each of the offsets, which are by partition. The order is random. Start is 0.
func EndsAt(offsets map[int32]int64) []End {
	out := make([]End, 0, len(offsets))
	for partition, offset := range offsets {
		out = append(out, End{Partition: partition, Offset: offset})
	}
	return out
}

// Behind returns how many offsets a stage still has to commit up to the ends, over all partitions. A commit
// in an open transaction does not count. (While many partitions are at work, one of them always has an open
// transaction. So a wait until there is none would never end.)
func (n Names) Behind(ctx context.Context, kafka *stream.Client, stage string, ends []End) (behind int64, err error) {
	committed, err := kafka.CommittedSoFar(ctx, n.Group(stage), n.Input(stage))
	for _, e := range ends {
		behind += max(0, e.Offset-max(committed[e.Partition], e.Start))
	}
	return behind, err
}

// Await waits until a stage has committed up to the ends. It looks again after each pause. Whenever the stage
// is behind it calls report, which may be nil, with the number of offsets; an error of report ends the wait.
func (n Names) Await(ctx context.Context, kafka *stream.Client, stage string, ends []End, pause time.Duration, report func(behind int64) error) error {
	for {
		behind, err := n.Behind(ctx, kafka, stage, ends)
		if err != nil || behind == 0 {
			return err
		}
		if report != nil {
			if err := report(behind); err != nil {
				return err
			}
		}
		if err := wait.For(ctx, pause); err != nil {
			return err
		}
	}
}
