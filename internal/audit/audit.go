// Package audit recomputes lists from scratch, by exact search, and compares them with what is stored and published. It also
// explains a list. Its worth is that it goes another way than the stages, so it must not import package stages: the
// linter forbids it. Only packages of hardneg import it.
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

// Options say what to audit. The rules are those that the miners published, not those of Config.
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
	Queries     int            `json:"queries"`         // checked, of the known ones
	Unknown     int            `json:"unknown_queries"` // also checked: only the triplets topic knows them
	Pairs       int            `json:"pairs"`
	Slots       int            `json:"slots"`
	Triplets    int            `json:"triplets"` // published
	Seed        *uint64        `json:"seed,omitempty"`
	Kinds       map[string]int `json:"kinds"` // differences by kind
	Differences []Difference   `json:"differences"`
	UnderWay    int            `json:"under_way"` // queries that differed, but changed too often to be judged
	Behind      int64          `json:"behind"`    // records that the stages had not processed, and did not while the audit waited
	Repaired    *Repair        `json:"repaired,omitempty"`
}

// Repair is the outcome of a repair.
type Repair struct {
	Queries  int          `json:"queries"`   // sent through refresh
	Strays   int          `json:"strays"`    // records replaced by a null
	Left     []Difference `json:"left"`      // differences that are still there
	UnderWay int          `json:"under_way"` // repaired queries that changed too often to be judged again
}

// auditor is one audit.
type auditor struct {
	*recomputer
	published *publishedView

	underWay int
	behind   int64
}

// Run recomputes queries from scratch, by exact search, and reports where the states or the triplets topic differ from that. It
// takes the evidence and the vectors as they are stored.
func Run(ctx context.Context, o Options) (*Report, error) {
	view, err := o.Open(ctx)
	if err != nil {
		return nil, err
	}
	if view.Publishing() {
		return nil, fmt.Errorf("generation %s is promoted, and its triplets are being published: audit when hardneg status says that it is done", view.Generation)
	}
	a := &auditor{}
	if a.recomputer, err = newRecomputer(ctx, view); err != nil {
		return nil, err
	}
	known, err := view.KnownQueries(ctx)
	if err != nil {
		return nil, err
	}
	wanted := catalog.Sample(known, o.Sample, o.Seed)
	a.published, err = newPublishedView(ctx, o.Kafka, o.Config.Topics.Triplets, func(query string) bool {
		_, wants := slices.BinarySearch(wanted, query)
		_, knows := slices.BinarySearch(known, query)
		return wants || !knows
	})
	if err != nil {
		return nil, err
	}
	checked := len(wanted)
	wanted = slices.AppendSeq(wanted, maps.Keys(a.published.queries))
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)
	report := &Report{
		Generation: view.Generation, Fingerprint: view.Rules.Fingerprint, Known: len(known), Queries: checked, Unknown: len(wanted) - checked,
		Kinds: map[string]int{},
	}
	if o.Sample > 0 {
		report.Seed = &o.Seed
	}
	differing, err := a.check(ctx, wanted, report)
	if err != nil {
		return nil, err
	}
	if differing, err = a.again(ctx, differing); err != nil {
		return nil, err
	}
	if err := view.StillLive(ctx, "audit"); err != nil {
		return nil, err
	}
	report.Differences, report.UnderWay, report.Behind = a.flat(differing), a.underWay, a.behind
	for _, d := range report.Differences {
		report.Kinds[d.Kind]++
	}
	if o.Repair {
		report.Repaired, err = a.repair(ctx, differing)
		report.Behind = a.behind
	}
	return report, err
}

// check compares queries, and returns the differences by query. It counts what it looked at in report, which may be nil.
func (a *auditor) check(ctx context.Context, queries []string, report *Report) (map[string][]Difference, error) {
	differing := map[string][]Difference{}
	for ids := range slices.Chunk(queries, together) {
		all, err := a.recompute(ctx, ids)
		if err != nil {
			return nil, err
		}
		if err := a.published.read(ctx); err != nil {
			return nil, err
		}
		for _, id := range ids {
			if found := a.compare(id, all[id]); len(found) > 0 {
				differing[id] = found
			}
			if report == nil {
				continue
			}
			report.Triplets += len(a.published.queries[id])
			for _, pair := range all[id].outcome.Pairs {
				report.Pairs++
				report.Slots += len(pair.Slots)
			}
		}
	}
	return differing, nil
}

// flat lists all differences in order.
func (a *auditor) flat(differing map[string][]Difference) []Difference {
	all := []Difference{}
	for _, found := range differing {
		all = append(all, found...)
	}
	slices.SortStableFunc(all, Difference.compare)
	return append(all, a.strays()...)
}

// repair sends the differing queries through refresh, with the ranks that the audit has seen published, and waits for the
// outcome. It replaces a stray record by a null in its own partition, where no miner writes.
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
	left, err := a.check(ctx, slices.Sorted(maps.Keys(differing)), nil)
	if err != nil {
		return nil, err
	}
	if left, err = a.again(ctx, left); err != nil {
		return nil, err
	}
	if err := a.published.read(ctx); err != nil {
		return nil, err
	}
	if err := a.StillLive(ctx, "audit"); err != nil {
		return nil, err
	}
	repair.Left, repair.UnderWay = a.flat(left), a.underWay
	return repair, nil
}
