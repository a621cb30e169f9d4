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
	// While the service works, a difference may come from a change that is under way. So a query counts as
	// different only if it differs in the same place at this many looks. Before each look the stages must
	// process what is in their topics, and at the look no record of the query may wait for the miner.
	looks         = 4
	mostLooks     = 5 * looks // a look does not count while a record of the query waits
	pause         = 100 * time.Millisecond
	patience      = 20 * time.Second // time without progress of a stage, before the audit asks whether an instance runs it
	askEvery      = 10 * time.Second // time until it asks again
	batchPatience = 2 * time.Minute  // time without progress of a stage that runs: a batch may be large, and the machine busy
)

// again looks at differing queries several times, and returns the differences of those that differed each
// time. It sets underWay and behind.
func (a *auditor) again(ctx context.Context, differing map[string][]Difference) (map[string][]Difference, error) {
	a.underWay = 0
	confirmed := map[string][]Difference{}      // queries that differed at every look
	looked := map[string]int{}                  // looks at which a query differed in the same place
	lasting := map[string]map[Difference]bool{} // these places
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
		if err := addWaiting(ctx, a.View, waiting); err != nil {
			return nil, err
		}
		var err error
		if differing, _, err = a.check(ctx, slices.Sorted(maps.Keys(differing))); err != nil {
			return nil, err
		}
		if a.behind > 0 {
			break // no instance will change that
		}
		if err := addWaiting(ctx, a.View, waiting); err != nil {
			return nil, err
		}
		for query, differences := range differing {
			if waiting[query] {
				continue
			}
			now := places(differences)
			still := maps.Clone(now)
			maps.DeleteFunc(still, func(at Difference, _ bool) bool { return !lasting[query][at] })
			if len(still) == 0 { // these differences come from another change
				looked[query], lasting[query] = 1, now
				continue
			}
			lasting[query] = still
			if looked[query]++; looked[query] >= looks {
				confirmed[query] = slices.DeleteFunc(differences, func(d Difference) bool { return !still[d.place()] })
				delete(differing, query)
			}
		}
	}
	if a.behind > 0 {
		maps.Copy(confirmed, differing)
	} else {
		a.underWay = len(differing)
	}
	return confirmed, nil
}

// place returns where a difference is, without its contents.
func (a Difference) place() Difference {
	return Difference{Kind: a.Kind, Query: a.Query, Positive: a.Positive, Rank: a.Rank}
}

// places returns the places of differences.
func places(differences []Difference) map[Difference]bool {
	at := make(map[Difference]bool, len(differences))
	for _, d := range differences {
		at[d.place()] = true
	}
	return at
}

// addWaiting adds the queries that have records in the refresh topic which the miner has not processed yet.
func addWaiting(ctx context.Context, v *catalog.View, queries map[string]bool) error {
	topic := v.Names.Topics.Refresh
	committed, err := v.Kafka.CommittedSoFar(ctx, v.Names.Group(catalog.StageMiner), topic)
	if err != nil {
		return err
	}
	ends, err := v.Kafka.Offsets(ctx, topic)
	if err != nil {
		return err
	}
	from, to := map[int32]int64{}, map[int32]int64{}
	for _, end := range ends {
		from[end.Partition], to[end.Partition] = max(committed[end.Partition], end.Start), end.LastStable
	}
	// It passes over records that are purged meanwhile: the miner has processed them.
	return v.Kafka.ReadRange(ctx, topic, from, to, func(r stream.Record) error {
		queries[string(r.Key)] = true
		return nil
	})
}

// settle waits until the stages have processed what is in their topics now: first the inputs, then the
// refresh records that came of them. It gives up on a stage that makes no progress, and sets behind to the
// number of records that are left.
func (a *auditor) settle(ctx context.Context) error {
	a.behind = 0
	for _, stage := range catalog.Stages {
		offsets, err := a.Kafka.Offsets(ctx, a.Names.Input(stage))
		if err != nil {
			return err
		}
		progress, ask, last := time.Now(), patience, int64(-1)
		// The ends include records of open transactions.
		err = a.Names.Await(ctx, a.Kafka, stage, catalog.WrittenEnds(offsets), pause, func(behind int64) error {
			if behind != last {
				last, progress, ask = behind, time.Now(), patience
			}
			idle := time.Since(progress)
			if idle <= ask {
				return nil
			}
			ask = idle + askEvery
			a.Log.Info().Str("stage", stage).Int64("records", behind).Dur("for", idle).Msg("waiting for a stage that commits nothing")
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

// errNoProgress ends the wait for a stage that makes no progress.
var errNoProgress = errors.New("the stage makes no progress")
