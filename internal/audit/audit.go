// Package audit recomputes lists from scratch, by exact search, and compares them with the stored states and
// the published triplets. It also explains a list. It finds mistakes of the stages because it goes another way:
// it shares with them the rules (package mining) and the way to the servers (index, stream), and nothing else. So it
// must not import package stages: the linter forbids it. Only packages of hardneg import it.
package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"hardneg/internal/catalog"
	"hardneg/internal/records"
	"hardneg/stream"
)

// Options says what to audit. An audit uses the rules that the miners published, not the rules of Config.
type Options struct {
	catalog.Conn
	Sample int    // queries to check; 0: all
	Seed   uint64 // of the sample
	Repair bool   // send queries that differ through refresh, and look again
}

// Report is the outcome of an audit.
type Report struct {
	Generation  string         `json:"generation"`
	Fingerprint string         `json:"fingerprint"` // of the rules
	Known       int            `json:"known_queries"`
	Queries     int            `json:"queries"`         // known queries that were checked
	Unknown     int            `json:"unknown_queries"` // queries that only the triplets topic has; they were checked too
	Pairs       int            `json:"pairs"`
	Slots       int            `json:"slots"`
	Triplets    int            `json:"triplets"` // published
	Seed        *uint64        `json:"seed,omitempty"`
	Kinds       map[string]int `json:"kinds"` // differences by kind
	Differences []Difference   `json:"differences"`
	UnderWay    int            `json:"under_way"` // queries that differed but changed too often to be judged
	Behind      int64          `json:"behind"`    // records that the stages have not processed, although the audit waited
	Repaired    *Repair        `json:"repaired,omitempty"`
}

// Repair is the outcome of a repair.
type Repair struct {
	Queries  int          `json:"queries"`   // queries that were sent through refresh
	Strays   int          `json:"strays"`    // stray records that were replaced by a null
	Left     []Difference `json:"left"`      // differences that are still there
	UnderWay int          `json:"under_way"` // repaired queries that changed too often to be judged again
}

// auditor carries out one audit.
type auditor struct {
	*recomputer
	published *publishedView

	underWay int   // queries that the last call of again could not judge
	behind   int64 // records that were left at the end of the last call of settle
}

// counts says what a check has looked at.
type counts struct{ pairs, slots, triplets int }

// Run recomputes queries from scratch, by exact search, and reports where the states or the triplets topic
// differ from the outcome. It takes evidence and vectors from the index: it does not check them.
func Run(ctx context.Context, o Options) (*Report, error) {
	view, err := o.Open(ctx)
	if err != nil {
		return nil, err
	}
	if view.Publishing() {
		return nil, fmt.Errorf("generation %s is promoted, and its triplets are being published: audit when hardneg status says that it is done", view.Generation)
	}
	recomputer, err := newRecomputer(ctx, view)
	if err != nil {
		return nil, err
	}
	known, err := view.KnownQueries(ctx)
	if err != nil {
		return nil, err
	}
	sample := catalog.Sample(known, o.Sample, o.Seed)
	published, err := newPublishedView(ctx, o.Kafka, o.Config.Topics.Triplets, func(query string) bool {
		_, isSampled := slices.BinarySearch(sample, query)
		_, isKnown := slices.BinarySearch(known, query)
		return isSampled || !isKnown
	})
	if err != nil {
		return nil, err
	}
	if err := checkNotLost(ctx, view, published); err != nil {
		return nil, err
	}
	a := &auditor{recomputer: recomputer, published: published}
	queries := slices.AppendSeq(slices.Clone(sample), maps.Keys(published.queries)) // with those that only the topic knows
	slices.Sort(queries)
	queries = slices.Compact(queries)
	differing, counts, err := a.check(ctx, queries)
	if err != nil {
		return nil, err
	}
	report := &Report{
		Generation: view.Generation, Fingerprint: view.Rules.Fingerprint, Known: len(known), Queries: len(sample), Unknown: len(queries) - len(sample),
		Pairs: counts.pairs, Slots: counts.slots, Triplets: counts.triplets, Kinds: map[string]int{},
	}
	if o.Sample > 0 {
		report.Seed = &o.Seed
	}
	if differing, err = a.again(ctx, differing); err != nil {
		return nil, err
	}
	if err := view.StillLive(ctx, "audit"); err != nil {
		return nil, err
	}
	report.Differences, report.UnderWay, report.Behind = a.inOrder(differing), a.underWay, a.behind
	for _, d := range report.Differences {
		report.Kinds[d.Kind]++
	}
	if o.Repair {
		report.Repaired, err = a.repair(ctx, differing)
		report.Behind = a.behind
	}
	return report, err
}

// checkNotLost returns an error if the triplets topic has a view of which Qdrant knows no query, not even a forgotten one.
// A repair would retract all of it.
func checkNotLost(ctx context.Context, view *catalog.View, published *publishedView) error {
	if len(published.queries) == 0 {
		return nil
	}
	_, states, err := view.Collections.Counts(ctx)
	if err != nil || states > 0 {
		return err
	}
	return fmt.Errorf("qdrant at %s knows no query, but topic %s has triplets of %d queries: Qdrant has lost them, and nothing is repaired. "+
		"Stop every instance and run hardneg reset: the next start then makes the view anew from the topics",
		view.Config.Qdrant.Address, view.Config.Topics.Triplets, len(published.queries))
}

// check recomputes queries, and returns the differences by query.
func (a *auditor) check(ctx context.Context, queries []string) (differing map[string][]Difference, n counts, err error) {
	differing = map[string][]Difference{}
	for ids := range slices.Chunk(queries, together) {
		outcomes, err := a.recompute(ctx, ids)
		if err != nil {
			return nil, n, err
		}
		if err := a.published.read(ctx); err != nil {
			return nil, n, err
		}
		for _, id := range ids {
			if differences := a.compare(id, outcomes[id]); len(differences) > 0 {
				differing[id] = differences
			}
			n.triplets += len(a.published.queries[id])
			for _, pair := range outcomes[id].outcome.Pairs {
				n.pairs++
				n.slots += len(pair.Slots)
			}
		}
	}
	return differing, n, nil
}

// inOrder returns the differences of all queries in order, and then the stray records.
func (a *auditor) inOrder(differing map[string][]Difference) []Difference {
	list := []Difference{}
	for _, differences := range differing {
		list = append(list, differences...)
	}
	slices.SortStableFunc(list, Difference.compare)
	return append(list, a.strays()...)
}

// repair sends the differing queries through refresh, with the ranks that the audit has seen published, and
// waits for the outcome. It replaces each stray record by a null in the partition of that record, where no
// miner writes.
func (a *auditor) repair(ctx context.Context, differing map[string][]Difference) (*Repair, error) {
	repair := &Repair{Queries: len(differing), Strays: len(a.published.strays)}
	var outputs []stream.Output
	for _, query := range slices.Sorted(maps.Keys(differing)) {
		r := records.Refresh{
			Kind: records.KindRefresh, QueryID: query, Force: true, Published: map[string]int{},
			Source: records.Source{Topic: records.SourceAudit, Timestamp: time.Now().UnixMilli()},
		}
		for _, at := range a.published.slots(query) {
			r.Published[at.Positive] = max(r.Published[at.Positive], at.Rank)
		}
		outputs = append(outputs, stream.Output{Topic: a.Names.Topics.Refresh, Partition: stream.ByKey, Key: []byte(query), Value: r.Encode()})
	}
	for at := range a.published.strays {
		outputs = append(outputs, stream.Output{Topic: a.Names.Topics.Triplets, Partition: at.partition, Key: []byte(at.key)})
	}
	if err := a.Kafka.Produce(ctx, outputs); err != nil {
		return nil, err
	}
	if err := a.settle(ctx); err != nil {
		return nil, err
	}
	rest, _, err := a.check(ctx, slices.Sorted(maps.Keys(differing)))
	if err != nil {
		return nil, err
	}
	if rest, err = a.again(ctx, rest); err != nil {
		return nil, err
	}
	if err := a.published.read(ctx); err != nil {
		return nil, err
	}
	if err := a.StillLive(ctx, "audit"); err != nil {
		return nil, err
	}
	repair.Left, repair.UnderWay = a.inOrder(rest), a.underWay
	return repair, nil
}
