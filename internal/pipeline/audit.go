package pipeline

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/config"
	"hardneg/internal/records"
	"hardneg/mining"
	"hardneg/stream"
)

// AuditOptions say what to audit.
type AuditOptions struct {
	Config *config.Config // names and addresses; the rules are those that the miners published
	Kafka  *stream.Client
	Index  *index.Client
	Log    zerolog.Logger
	Sample int    // queries to check; 0: all
	Seed   uint64 // of the sample
	Repair bool   // send queries that differ through refresh, and look again
}

// AuditReport is what an audit found.
type AuditReport struct {
	Generation  string         `json:"generation"`
	Fingerprint string         `json:"fingerprint"` // of the rules
	Known       int            `json:"known_queries"`
	Queries     int            `json:"queries"`         // checked of those
	Unknown     int            `json:"unknown_queries"` // checked beside them: the triplets topic alone knows them
	Pairs       int            `json:"pairs"`
	Slots       int            `json:"slots"`
	Triplets    int            `json:"triplets"` // published
	Seed        *uint64        `json:"seed,omitempty"`
	Kinds       map[string]int `json:"kinds"` // differences by kind
	Differences []Difference   `json:"differences"`
	UnderWay    int            `json:"under_way"` // of those that differed, queries that changed too often to be judged
	Behind      int64          `json:"behind"`    // records that the stages had not taken up, and did not while the audit waited
	Repaired    *AuditRepair   `json:"repaired,omitempty"`
}

// AuditRepair is what a repair left.
type AuditRepair struct {
	Queries  int          `json:"queries"`   // sent through refresh
	Strays   int          `json:"strays"`    // records replaced by a null
	Left     []Difference `json:"left"`      // differences that are still there
	UnderWay int          `json:"under_way"` // of those queries, the ones that changed too often to be judged again
}

// auditor is one audit.
type auditor struct {
	AuditOptions
	index  *index.Index
	rules  *ruleset
	mining *mining.Miner
	mine   func(mining.Input) mining.Outcome // by the rules
	view   *auditView

	underWay int
	behind   int64

	searchable int    // candidates of the widest search
	documents  uint64 // live ones, when the audit began
}

// Audit recomputes queries from scratch, by exact search, and reports where the states or the triplets topic differ
// from that. Their evidence, and the vectors, are taken as they are stored.
func Audit(ctx context.Context, o AuditOptions) (*AuditReport, error) {
	a := &auditor{AuditOptions: o, searchable: auditDocuments}
	if err := a.open(ctx); err != nil {
		return nil, err
	}
	known, err := a.known(ctx)
	if err != nil {
		return nil, err
	}
	wanted := a.choose(known)
	a.view, err = newAuditView(ctx, o.Kafka, o.Config.Topics.Triplets, func(query string) bool {
		_, wants := wanted[query]
		_, knows := slices.BinarySearch(known, query)
		return wants || !knows
	})
	if err != nil {
		return nil, err
	}
	checked := len(wanted)
	for query := range a.view.queries {
		wanted[query] = struct{}{}
	}
	report := &AuditReport{
		Generation: a.index.Generation(), Fingerprint: a.rules.Fingerprint, Known: len(known), Queries: checked, Unknown: len(wanted) - checked,
		Kinds: map[string]int{},
	}
	if o.Sample > 0 {
		report.Seed = &o.Seed
	}
	differing, err := a.check(ctx, slices.Sorted(maps.Keys(wanted)), report)
	if err != nil {
		return nil, err
	}
	if differing, err = a.again(ctx, differing); err != nil {
		return nil, err
	}
	if err := a.stillLive(ctx); err != nil {
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

// open is attach for who compares with the triplets topic.
func (a *auditor) open(ctx context.Context) error {
	if err := a.attach(ctx); err != nil {
		return err
	}
	generations, err := readGenerations(ctx, a.Kafka, a.Config.Topics.Models)
	if err != nil {
		return err
	}
	if g := generations[a.index.Generation()]; g != nil && g.Phase != phaseLive {
		return fmt.Errorf("generation %s is promoted, and its triplets are being published: audit when hardneg status says that it is done", g.ID)
	}
	return nil
}

// attach finds the live collections and the rules.
func (a *auditor) attach(ctx context.Context) (err error) {
	if a.index, err = a.Index.Live(ctx); err != nil {
		return err
	}
	if a.index == nil {
		return fmt.Errorf("qdrant at %s has no collections with the prefix %q: is the service still waiting for documents or fitting its model (its log says so), or is qdrant.prefix another?",
			a.Config.Qdrant.Address, a.Config.Qdrant.Prefix)
	}
	a.Config = forGeneration(a.Config, a.index.Generation())
	if a.documents, _, err = a.index.Counts(ctx); err != nil {
		return err
	}
	if a.rules, err = readRules(ctx, a.Kafka, a.Config); err != nil {
		return err
	}
	if a.rules == nil { // no miner has run yet
		r := newRuleset(a.Config)
		a.rules = &r
	}
	if a.mining, err = mining.New(a.rules.Mining); err != nil {
		return err
	}
	a.mine = a.mining.Mine
	return nil
}

// stillLive is an error where another generation was promoted meanwhile: what was found is of no use then.
func (a *auditor) stillLive(ctx context.Context) error {
	live, _, err := a.Index.Active(ctx)
	if err == nil && live != a.index.Generation() {
		err = fmt.Errorf("generation %s was promoted during the audit of %s: begin again", live, a.index.Generation())
	}
	return err
}

// known lists the queries that have a state, sorted. Forgotten ones count as unknown until the topic has triplets of
// them.
func (a *auditor) known(ctx context.Context) ([]string, error) {
	const page = 10_000
	var ids []string
	for next := ""; ; {
		found, after, err := a.index.Known(ctx, next, page, "")
		if err != nil {
			return nil, err
		}
		for _, k := range found {
			ids = append(ids, k.QueryID)
		}
		if next = after; next == "" {
			slices.Sort(ids)
			return ids, nil
		}
	}
}

// choose draws the sample.
func (a *auditor) choose(known []string) map[string]struct{} {
	n := len(known)
	if a.Sample > 0 {
		n = min(n, a.Sample)
	}
	chosen := make(map[string]struct{}, n)
	for _, i := range rand.New(rand.NewPCG(a.Seed, 0)).Perm(len(known))[:n] {
		chosen[known[i]] = struct{}{}
	}
	return chosen
}

// check compares queries, and returns the differences by query. What it looked at is added to a report, if there is one.
func (a *auditor) check(ctx context.Context, queries []string, report *AuditReport) (map[string][]Difference, error) {
	differing := map[string][]Difference{}
	for ids := range slices.Chunk(queries, auditTogether) {
		all, err := a.recompute(ctx, ids)
		if err != nil {
			return nil, err
		}
		if err := a.view.read(ctx); err != nil {
			return nil, err
		}
		for _, id := range ids {
			if found := a.compare(id, all[id]); len(found) > 0 {
				differing[id] = found
			}
			if report == nil {
				continue
			}
			report.Triplets += len(a.view.queries[id])
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

// repair sends the differing queries through refresh, with all that was found published of them, and waits for the
// outcome. Strays it replaces by a null where they are: no miner writes there.
func (a *auditor) repair(ctx context.Context, differing map[string][]Difference) (*AuditRepair, error) {
	repair := &AuditRepair{Queries: len(differing), Strays: len(a.view.strays)}
	var outputs []stream.Output
	for _, query := range slices.Sorted(maps.Keys(differing)) {
		r := records.Refresh{
			Kind: records.KindRefresh, QueryID: query, Force: true, Published: map[string]int{},
			Source: records.Source{Topic: records.SourceAudit, Timestamp: time.Now().UnixMilli()},
		}
		for _, at := range a.view.slots(query) {
			r.Published[at.positive] = max(r.Published[at.positive], at.rank)
		}
		outputs = append(outputs, stream.Output{Topic: a.Config.Topics.Refresh, Partition: stream.ByKey, Key: []byte(query), Value: r.Encode()})
	}
	for at := range a.view.strays {
		outputs = append(outputs, stream.Output{Topic: a.Config.Topics.Triplets, Partition: at.partition, Key: []byte(at.key)})
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
	if err := a.view.read(ctx); err != nil {
		return nil, err
	}
	if err := a.stillLive(ctx); err != nil {
		return nil, err
	}
	repair.Left, repair.UnderWay = a.flat(left), a.underWay
	return repair, nil
}
