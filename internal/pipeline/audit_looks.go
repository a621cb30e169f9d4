package pipeline

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"hardneg/stream"
)

const (
	// While the service works, a difference may be a change under way. A query differs only if it still does, in the same place,
	// after so many waits for what was in the topics at the time, without a record of it that waits for the miner.
	auditLooks    = 4
	mostLooks     = 5 * auditLooks // of which queries may be passed over for such a record
	auditPause    = 100 * time.Millisecond
	auditPatience = 20 * time.Second // without progress of a stage that nobody runs
	askEvery      = 10 * time.Second
	batchPatience = 2 * time.Minute // of one that runs: a batch may be large, and the machine busy
)

// again looks at differing queries until they do not differ, or have each time.
func (a *auditor) again(ctx context.Context, differing map[string][]Difference) (map[string][]Difference, error) {
	a.underWay = 0
	found := map[string][]Difference{}
	looks := map[string]int{}
	lasting := map[string]map[Difference]bool{} // where a query has differed at each of them
	for query, differences := range differing {
		looks[query], lasting[query] = 1, places(differences)
	}
	for look := 1; look < mostLooks && len(differing) > 0; look++ {
		if err := pause(ctx, auditPause<<min(look, auditLooks)); err != nil {
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
			break // nobody works on it
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
			if len(still) == 0 { // these are of another change
				looks[query], lasting[query] = 1, now
				continue
			}
			lasting[query] = still
			if looks[query]++; looks[query] >= auditLooks {
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

// place is a difference without what is different there.
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

// waiting adds the queries of which the refresh topic has records that the miner has not worked off.
func (a *auditor) waiting(ctx context.Context, queries map[string]bool) error {
	topic := a.Config.Topics.Refresh
	committed, err := a.Kafka.CommittedSoFar(ctx, Group(a.Config, StageMiner), topic)
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
			case errors.Is(err, stream.ErrOffsetOutOfRange) && fetched.Start > at: // worked off and purged meanwhile
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

// settle waits until the stages have worked off what is in their topics now: first the input, then what that brought
// to the refresh topic. It gives up, and notes how much is left, when they make no progress.
func (a *auditor) settle(ctx context.Context) error {
	a.behind = 0
	for _, stage := range []string{StageIndexer, StageIntake, StageMiner} {
		// Beyond the stable end: what an open transaction has written counts.
		ends, err := a.Kafka.Offsets(ctx, inputTopic(a.Config, stage))
		if err != nil {
			return err
		}
		progress, ask := time.Now(), auditPatience
		for last := int64(-1); ; {
			left, err := behind(ctx, a.Kafka, a.Config, stage, written(ends))
			if err != nil {
				return err
			}
			if left == 0 {
				break
			}
			if left != last {
				last, progress, ask = left, time.Now(), auditPatience
			}
			if idle := time.Since(progress); idle > ask {
				ask = idle + askEvery
				a.Log.Info().Str("stage", stage).Int64("records", left).Dur("for", idle).Msg("waiting for a stage that commits nothing")
				members, err := a.Kafka.Members(ctx, Group(a.Config, stage))
				if err != nil {
					return err
				}
				if members == 0 || idle > batchPatience {
					a.behind += left
					break
				}
			}
			if err := pause(ctx, auditPause); err != nil {
				return err
			}
		}
	}
	return nil
}
