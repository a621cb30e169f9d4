package audit

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"hardneg/internal/catalog"
	"hardneg/internal/wait"
	"hardneg/stream"
)

const (
	// While the service works, a difference may be a change under way. So a query differs only if it still differs, in the same
	// place, after this many waits for what was in the topics at the time, and without a record of it that waits for the miner.
	looks         = 4
	mostLooks     = 5 * looks // more of them, because a look does not count while such a record waits
	pause         = 100 * time.Millisecond
	patience      = 20 * time.Second // without progress of a stage, before the audit asks whether anybody runs it
	askEvery      = 10 * time.Second
	batchPatience = 2 * time.Minute // without progress of a stage that runs: a batch may be large, and the machine busy
)

// again looks at differing queries several times, and returns those that differed each time.
func (a *auditor) again(ctx context.Context, differing map[string][]Difference) (map[string][]Difference, error) {
	a.underWay = 0
	found := map[string][]Difference{}
	looked := map[string]int{}
	lasting := map[string]map[Difference]bool{} // places where a query differed at every look
	for query, differences := range differing {
		looked[query], lasting[query] = 1, places(differences)
	}
	for look := 1; look < mostLooks && len(differing) > 0; look++ {
		if err := wait.For(ctx, pause<<min(look, looks)); err != nil {
			return nil, err
		}
		if err := a.settle(ctx); err != nil {
			return nil, err
		}
		a.Log.Debug().Int("queries", len(differing)).Int64("behind", a.behind).Msg("looking again at what differs")
		waiting := map[string]bool{}
		if err := a.waiting(ctx, waiting); err != nil {
			return nil, err
		}
		var err error
		if differing, err = a.check(ctx, slices.Sorted(maps.Keys(differing)), nil); err != nil {
			return nil, err
		}
		if a.behind > 0 {
			break // no instance works on it
		}
		if err := a.waiting(ctx, waiting); err != nil {
			return nil, err
		}
		for query, differences := range differing {
			if waiting[query] {
				continue
			}
			now := places(differences)
			still := maps.Clone(now)
			maps.DeleteFunc(still, func(at Difference, _ bool) bool { return !lasting[query][at] })
			if len(still) == 0 { // the differences belong to another change
				looked[query], lasting[query] = 1, now
				continue
			}
			lasting[query] = still
			if looked[query]++; looked[query] >= looks {
				found[query] = slices.DeleteFunc(differences, func(d Difference) bool { return !still[d.place()] })
				delete(differing, query)
			}
		}
	}
	if a.behind > 0 {
		maps.Copy(found, differing)
	} else {
		a.underWay = len(differing)
	}
	return found, nil
}

// place names where a difference is, without its contents.
func (d Difference) place() Difference {
	return Difference{Kind: d.Kind, Query: d.Query, Positive: d.Positive, Rank: d.Rank}
}

func places(differences []Difference) map[Difference]bool {
	at := make(map[Difference]bool, len(differences))
	for _, d := range differences {
		at[d.place()] = true
	}
	return at
}

// waiting adds the queries that have records in the refresh topic which the miner has not processed.
func (a *auditor) waiting(ctx context.Context, queries map[string]bool) error {
	topic := a.Names.Topics.Refresh
	committed, err := a.Kafka.CommittedSoFar(ctx, a.Names.Group(catalog.StageMiner), topic)
	if err != nil {
		return err
	}
	ends, err := a.Kafka.Offsets(ctx, topic)
	if err != nil {
		return err
	}
	for _, end := range ends {
		for at := max(committed[end.Partition], end.Start); at < end.LastStable; {
			fetched, err := a.Kafka.Fetch(ctx, topic, end.Partition, at, stream.FetchOptions{})
			switch {
			case errors.Is(err, stream.ErrOffsetOutOfRange) && fetched.Start > at: // processed and purged meanwhile
				at = fetched.Start
				continue
			case err != nil:
				return err
			}
			for _, r := range fetched.Records {
				queries[string(r.Key)] = true
			}
			at = fetched.Next
		}
	}
	return nil
}

// settle waits until the stages have processed what is in their topics now: first the inputs, then the records that these brought
// to the refresh topic. If they make no progress it gives up, and notes how many records are left.
func (a *auditor) settle(ctx context.Context) error {
	a.behind = 0
	for _, stage := range catalog.Stages {
		offsets, err := a.Kafka.Offsets(ctx, a.Names.Input(stage))
		if err != nil {
			return err
		}
		progress, ask, last := time.Now(), patience, int64(-1)
		// Beyond the stable end: records of open transactions count.
		err = a.Names.Await(ctx, a.Kafka, stage, catalog.WrittenEnds(offsets), pause, func(left int64) error {
			if left != last {
				last, progress, ask = left, time.Now(), patience
			}
			idle := time.Since(progress)
			if idle <= ask {
				return nil
			}
			ask = idle + askEvery
			a.Log.Info().Str("stage", stage).Int64("records", left).Dur("for", idle).Msg("waiting for a stage that commits nothing")
			members, err := a.Kafka.Members(ctx, a.Names.Group(stage))
			if err == nil && (members == 0 || idle > batchPatience) {
				err = errNoProgress
			}
			return err
		})
		if errors.Is(err, errNoProgress) {
			a.behind += last
		} else if err != nil {
			return err
		}
	}
	return nil
}

// errNoProgress ends a wait for a stage.
var errNoProgress = errors.New("the stage makes no progress")
