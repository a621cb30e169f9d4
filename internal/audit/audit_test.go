package audit

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/records"
	"hardneg/mining"
	"hardneg/stream"
)

func audit(w *pipelinetest.World, change func(*Options)) *Report {
	w.T.Helper()
	o := Options{Conn: w.Conn()}
	if change != nil {
		change(&o)
	}
	report, err := Run(w.T.Context(), o)
	if err != nil {
		w.T.Fatal(err)
	}
	return report
}

// clean fails the test if an audit finds a difference, or looks at nothing.
func clean(w *pipelinetest.World, when string) {
	w.T.Helper()
	r := audit(w, nil)
	if len(r.Differences) > 0 || r.Slots == 0 || r.Triplets != r.Slots || r.Behind != 0 {
		w.T.Errorf("%s: the audit finds %d slots, %d triplets, %d records behind, and differences\n%s", when, r.Slots, r.Triplets, r.Behind, lines(r.Differences))
	}
}

func lines(differences []Difference) string {
	var b strings.Builder
	for _, d := range differences {
		fmt.Fprintf(&b, "%+v\n", d)
	}
	return b.String()
}

// corruptions are ways in which a state can be wrong. kind is the kind of difference by which the audit must
// find it.
var corruptions = []struct {
	kind    string
	corrupt func(s *index.State, p *index.Positive)
}{
	{KindStored, func(_ *index.State, p *index.Positive) { p.Slots = p.Slots[:len(p.Slots)-1] }},
	{KindStored, func(_ *index.State, p *index.Positive) { p.Slots[0], p.Slots[1] = p.Slots[1], p.Slots[0] }},
	{KindStored, func(_ *index.State, p *index.Positive) { p.Slots[1].Hash = strings.Repeat("0", 32) }},
	{KindStored, func(_ *index.State, p *index.Positive) { p.Slots[1].QueryNegative += 1e-3 }},
	{KindStored, func(_ *index.State, p *index.Positive) { p.Slots[0].Policy = "random" }},
	{KindPositive, func(_ *index.State, p *index.Positive) { p.Similarity -= 1e-3 }},
	{KindPositive, func(_ *index.State, p *index.Positive) { p.Paired = false }},
	{KindWatch, func(s *index.State, p *index.Positive) {
		s.Watch = slices.DeleteFunc(s.Watch, func(id string) bool { return id == p.Slots[0].Document })
	}},
	{KindEntry, func(s *index.State, _ *index.Positive) { s.Entry = s.Entry[1:] }},
	{KindEntry, func(s *index.State, _ *index.Positive) { s.Entry[0].Low += 1e-3 }},
	{KindRank, func(s *index.State, p *index.Positive) { s.Published[p.Document] = 0 }},
}

func TestAuditFindsAndRepairs(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 1, len(corruptions)+4)
	stop := w.Instance()
	defer func() { stop() }()
	w.Settle()
	w.Compare("after the load")
	clean(w, "after the load")

	// These states are wrong, but they have the token of the present owner. Nothing but an audit would notice
	// that.
	live := w.Live()
	want := map[string]string{}
	states, err := live.States(t.Context(), slices.Sorted(maps.Keys(w.Logged)))
	if err != nil {
		t.Fatal(err)
	}
	free := slices.Sorted(maps.Keys(states))
	full := func() (index.State, *index.Positive) {
		for i, id := range free {
			s := states[id]
			at := slices.IndexFunc(s.Positives, func(p index.Positive) bool { return len(p.Slots) >= 2 })
			if at >= 0 && len(s.Entry) > 0 {
				free = slices.Delete(free, i, i+1)
				return s, &s.Positives[at]
			}
		}
		t.Fatal("too few queries have lists of two slots: nothing to corrupt")
		return index.State{}, nil
	}
	for _, c := range corruptions {
		s, p := full()
		c.corrupt(&s, p)
		want[s.QueryID] = c.kind
		if err := live.WriteStates(t.Context(), []index.State{s}, s.Token); err != nil {
			t.Fatal(err)
		}
	}
	report := audit(w, nil)
	got := map[string]string{}
	for _, d := range report.Differences {
		if got[d.Query] == "" || d.Kind == want[d.Query] {
			got[d.Query] = d.Kind
		}
	}
	if !maps.Equal(got, want) || report.Repaired != nil {
		t.Errorf("found %v, want %v\n%s", got, want, lines(report.Differences))
	}

	// These triplets are wrong.
	nulled, nulledAt := full()
	other, otherAt := full()
	key := func(s index.State, p *index.Positive, rank int) stream.Output {
		return stream.Output{Topic: "triplets", Partition: stream.ByKey, Hash: []byte(s.QueryID), Key: records.TripletKey(s.QueryID, p.Document, rank)}
	}
	triplet := func(out stream.Output, s index.State, p *index.Positive, rank int) stream.Output {
		out.Value = records.Triplet{
			Query:    records.TripletQuery{ID: s.QueryID, Text: s.Text},
			Positive: records.TripletDocument{ID: p.Document, Text: "p", Version: records.ContentHash("", "p")},
			Negative: records.TripletDocument{ID: "d1", Text: "n", Version: records.ContentHash("", "n")}, Rank: rank,
		}.Encode(100)
		return out
	}
	unknown := index.State{QueryID: "nobody", Text: "?"}
	stray := triplet(key(other, otherAt, 1), other, otherAt, 1)
	stray.Partition = (stream.PartitionFor([]byte(other.QueryID), w.Config.Topics.Partitions) + 1) % int32(w.Config.Topics.Partitions)
	garbage := key(other, otherAt, 2)
	garbage.Value = []byte(`{"schema":7}`)
	foreign := stream.Output{Topic: "triplets", Partition: 0, Key: []byte("x"), Value: []byte("{}")}
	err = w.Kafka.Produce(t.Context(), []stream.Output{
		key(nulled, nulledAt, 1), triplet(key(other, otherAt, 1), other, otherAt, 1), triplet(key(nulled, nulledAt, 9), nulled, nulledAt, 9),
		garbage, triplet(key(unknown, otherAt, 3), unknown, otherAt, 3), stray, foreign,
	})
	if err != nil {
		t.Fatal(err)
	}
	report = audit(w, func(o *Options) { o.Repair = true })
	for _, d := range []Difference{
		{Kind: KindMissing, Query: nulled.QueryID, Positive: nulledAt.Document, Rank: 1},
		{Kind: KindExtra, Query: nulled.QueryID, Positive: nulledAt.Document, Rank: 9},
		{Kind: KindPublished, Query: other.QueryID, Positive: otherAt.Document, Rank: 1},
		{Kind: KindPublished, Query: other.QueryID, Positive: otherAt.Document, Rank: 2},
		{Kind: KindUnknown, Query: "nobody", Positive: otherAt.Document, Rank: 3},
		{Kind: KindStray, Query: other.QueryID, Positive: otherAt.Document, Rank: 1},
		{Kind: KindStray, Query: `key "x"`},
	} {
		if !slices.ContainsFunc(report.Differences, func(x Difference) bool {
			return x.Kind == d.Kind && x.Query == d.Query && x.Positive == d.Positive && x.Rank == d.Rank
		}) {
			t.Errorf("not found: %+v in\n%s", d, lines(report.Differences))
		}
	}
	if r := report.Repaired; r == nil || len(r.Left) > 0 || r.Queries != len(want)+3 || r.Strays != 2 {
		t.Errorf("repaired: %+v", r)
	}
	clean(w, "after the repair")
	if _, ok := w.Got()[`["nobody","`+otherAt.Document+`",3]`]; ok {
		t.Error("the triplet of an unknown query is still there")
	}
	if got := strays(w); len(got) > 0 {
		t.Errorf("strays are still there: %v", got)
	}
	w.Compare("after the repair")
}

func strays(w *pipelinetest.World) map[stray]published {
	w.T.Helper()
	v, err := newPublishedView(w.T.Context(), w.Kafka, "triplets", func(string) bool { return true })
	if err != nil {
		w.T.Fatal(err)
	}
	return v.strays
}

// TestAuditSample checks that an audit of a sample looks at so many queries, and that the same seed gives the
// same sample.
func TestAuditSample(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 2, 12)
	stop := w.Instance()
	defer func() { stop() }()
	w.Settle()
	live := w.Live()
	states, err := live.States(t.Context(), slices.Sorted(maps.Keys(w.Logged)))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		s.Watch = append(s.Watch, "zzz")
		if err := live.WriteStates(t.Context(), []index.State{s}, s.Token); err != nil {
			t.Fatal(err)
		}
	}
	sample := func(seed uint64) []string {
		r := audit(w, func(o *Options) { o.Sample, o.Seed = 5, seed })
		if r.Queries != 5 || r.Known != 12 || *r.Seed != seed || r.Kinds[KindWatch] != 5 || len(r.Differences) != 5 {
			t.Errorf("%+v", r)
		}
		var ids []string
		for _, d := range r.Differences {
			if d.Stored != "zzz" || d.Recomputed != "" {
				t.Errorf("%+v", d)
			}
			ids = append(ids, d.Query)
		}
		return ids
	}
	if a, b, c := sample(1), sample(1), sample(2); !slices.Equal(a, b) || slices.Equal(a, c) {
		t.Errorf("seed 1 gives %v and %v, seed 2 %v", a, b, c)
	}
}

// TestAuditWhileLive audits a service under a stream of changes. Changes that are under way must not count as
// differences.
func TestAuditWhileLive(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 3, pipelinetest.Queries)
	stop := w.Instance()
	defer func() { stop() }()
	w.Settle()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 800 {
			w.Step()
		}
	}()
	audits := 0
	for running := true; running; audits++ {
		select {
		case <-done:
			running = false
		default:
		}
		r := audit(w, nil)
		if len(r.Differences) > 0 {
			t.Errorf("audit %d: %s", audits, lines(r.Differences))
		}
	}
	t.Logf("%d audits", audits)
	w.Settle()
	clean(w, "at the end")
	w.Compare("at the end")
}

// TestAuditTakesTheMinersRules audits with another configuration than the miners'. The audit must use the
// miners' rules.
func TestAuditTakesTheMinersRules(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 4, 6)
	stop := w.Instance()
	defer func() { stop() }()
	w.Settle()
	other := *w.Config
	other.Mining.Negatives = 1
	r := audit(w, func(o *Options) { o.Config = &other })
	if len(r.Differences) > 0 || r.Fingerprint != catalog.RulesOf(w.Config).Fingerprint {
		t.Errorf("%s: %s", r.Fingerprint, lines(r.Differences))
	}
}

// TestAuditScan checks that a scan of all documents gives the same lists as searches, even where windows end
// by depth.
func TestAuditScan(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 9, 12)
	w.Config.Mining.Depth = 3
	w.Config.Mining.Tiers[1].Skip = 1
	stop := w.Instance()
	defer func() { stop() }()
	w.Settle()
	var outcomes [2]map[string]recomputed
	view, err := w.Conn().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, searchable := range []int{heldDocuments, 0} {
		a, err := newRecomputer(t.Context(), view)
		if err != nil {
			t.Fatal(err)
		}
		a.searchable = searchable
		if outcomes[i], err = a.recompute(t.Context(), slices.Sorted(maps.Keys(w.Logged))); err != nil {
			t.Fatal(err)
		}
	}
	depths := 0
	for id, searched := range outcomes[0] {
		if !reflect.DeepEqual(searched, outcomes[1][id]) {
			t.Errorf("%s: searching gives %+v, all documents give %+v", id, searched.outcome, outcomes[1][id].outcome)
		}
		for _, pair := range searched.outcome.Pairs {
			if pair.Reason == mining.ReasonDepth {
				depths++
			}
		}
	}
	if len(outcomes[0]) != 12 || depths == 0 {
		t.Errorf("%d queries, %d lists ended by depth: nothing was tested", len(outcomes[0]), depths)
	}
	clean(w, "by search")
}

// TestAuditWaiting checks which queries wait for the miner, although refresh records were committed and
// purged before.
func TestAuditWaiting(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 18, 8)
	stop := w.Instance()
	w.Settle()
	stop()
	view, err := w.Conn().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	waiting := func() []string {
		queries := map[string]bool{}
		if err := addWaiting(t.Context(), view, queries); err != nil {
			t.Fatal(err)
		}
		return slices.Sorted(maps.Keys(queries))
	}
	if got := waiting(); len(got) > 0 {
		t.Errorf("%q wait, although all is worked off", got)
	}
	for _, id := range []string{"q1", "q5", "q1", "unknown"} {
		w.Produce(w.Config.Topics.Refresh, id, map[string]any{"kind": records.KindRefresh, "query_id": id, "source": records.Source{Topic: records.SourceSweep}})
	}
	if got, want := waiting(), []string{"q1", "q5", "unknown"}; !slices.Equal(got, want) {
		t.Errorf("%q wait, want %q", got, want)
	}
}
