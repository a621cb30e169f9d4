package pipeline

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hardneg/index"
	"hardneg/internal/records"
	"hardneg/mining"
	"hardneg/stream"
)

// loadedWorld is a world whose documents and queries are in the topics, before an instance runs.
func loadedWorld(t *testing.T, seed uint64, queries int) *world {
	t.Helper()
	w := newWorld(t, seed)
	for i := range worldDocuments {
		w.write("d"+strconv.Itoa(i), w.random())
	}
	for i := range queries {
		query := "q" + strconv.Itoa(i)
		// A positive close to the query leaves room below the margin, and its nearest neighbours above.
		w.vector[query] = w.random()
		w.judge(query, "d"+strconv.Itoa(i), "d"+strconv.Itoa(i+queries))
	}
	return w
}

func (w *world) write(id string, vector []float32) {
	w.t.Helper()
	w.docs[id] = worldDocument{text: "text " + strconv.Itoa(w.texts), vector: vector}
	w.texts++
	w.produce("documents", id, map[string]any{"id": id, "text": w.docs[id].text, "embeddings": map[string]any{"v": vector}})
}

func (w *world) judge(query string, positives ...string) {
	w.t.Helper()
	w.logged[query] = &worldQuery{positives: map[string]bool{}}
	for _, p := range positives {
		w.logged[query].positives[p] = true
	}
	w.produce("queries", query, map[string]any{
		"query": query, "query_id": query, "positives": positives, "embeddings": map[string]any{"v": w.vector[query]},
	})
}

func (w *world) audit(change func(*AuditOptions)) *AuditReport {
	w.t.Helper()
	o := AuditOptions{Config: w.cfg, Kafka: w.kafka, Index: w.index, Log: w.log}
	if change != nil {
		change(&o)
	}
	report, err := Audit(w.t.Context(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return report
}

// clean fails where an audit finds anything, or looks at nothing.
func (w *world) clean(when string) {
	w.t.Helper()
	r := w.audit(nil)
	if len(r.Differences) > 0 || r.Slots == 0 || r.Triplets != r.Slots || r.Behind != 0 {
		w.t.Errorf("%s: the audit finds %d slots, %d triplets, %d records behind, and differences\n%s", when, r.Slots, r.Triplets, r.Behind, lines(r.Differences))
	}
}

func lines(differences []Difference) string {
	var b strings.Builder
	for _, d := range differences {
		fmt.Fprintf(&b, "%+v\n", d)
	}
	return b.String()
}

// corruptions are ways in which a state can be wrong, with the kind that an audit finds first of each.
var corruptions = []struct {
	kind    string
	corrupt func(s *index.State, p *index.Positive)
}{
	{DiffStored, func(_ *index.State, p *index.Positive) { p.Slots = p.Slots[:len(p.Slots)-1] }},
	{DiffStored, func(_ *index.State, p *index.Positive) { p.Slots[0], p.Slots[1] = p.Slots[1], p.Slots[0] }},
	{DiffStored, func(_ *index.State, p *index.Positive) { p.Slots[1].Hash = strings.Repeat("0", 32) }},
	{DiffStored, func(_ *index.State, p *index.Positive) { p.Slots[1].QueryNegative += 1e-3 }},
	{DiffStored, func(_ *index.State, p *index.Positive) { p.Slots[0].Policy = "random" }},
	{DiffPositive, func(_ *index.State, p *index.Positive) { p.Similarity -= 1e-3 }},
	{DiffPositive, func(_ *index.State, p *index.Positive) { p.Paired = false }},
	{DiffWatch, func(s *index.State, p *index.Positive) {
		s.Watch = slices.DeleteFunc(s.Watch, func(id string) bool { return id == p.Slots[0].Document })
	}},
	{DiffEntry, func(s *index.State, _ *index.Positive) { s.Entry = s.Entry[1:] }},
	{DiffEntry, func(s *index.State, _ *index.Positive) { s.Entry[0].Low += 1e-3 }},
	{DiffRank, func(s *index.State, p *index.Positive) { s.Published[p.Document] = 0 }},
}

func TestAuditFindsAndRepairs(t *testing.T) {
	t.Parallel()
	w := loadedWorld(t, 1, len(corruptions)+4)
	stop := w.instance()
	defer func() { stop() }()
	w.settle()
	w.compare("after the load")
	w.clean("after the load")

	// States that are wrong although this very owner wrote them: what nothing else would ever notice.
	live := w.live()
	want := map[string]string{}
	states, err := live.States(t.Context(), slices.Sorted(maps.Keys(w.logged)))
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
	report := w.audit(nil)
	got := map[string]string{}
	for _, d := range report.Differences {
		if got[d.Query] == "" || d.Kind == want[d.Query] {
			got[d.Query] = d.Kind
		}
	}
	if !maps.Equal(got, want) || report.Repaired != nil {
		t.Errorf("found %v, want %v\n%s", got, want, lines(report.Differences))
	}

	// Triplets that are wrong.
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
	stray.Partition = (stream.PartitionFor([]byte(other.QueryID), w.cfg.Topics.Partitions) + 1) % int32(w.cfg.Topics.Partitions)
	garbage := key(other, otherAt, 2)
	garbage.Value = []byte(`{"schema":7}`)
	foreign := stream.Output{Topic: "triplets", Partition: 0, Key: []byte("x"), Value: []byte("{}")}
	err = w.kafka.Produce(t.Context(), []stream.Output{
		key(nulled, nulledAt, 1), triplet(key(other, otherAt, 1), other, otherAt, 1), triplet(key(nulled, nulledAt, 9), nulled, nulledAt, 9),
		garbage, triplet(key(unknown, otherAt, 3), unknown, otherAt, 3), stray, foreign,
	})
	if err != nil {
		t.Fatal(err)
	}
	report = w.audit(func(o *AuditOptions) { o.Repair = true })
	for _, d := range []Difference{
		{Kind: DiffMissing, Query: nulled.QueryID, Positive: nulledAt.Document, Rank: 1},
		{Kind: DiffExtra, Query: nulled.QueryID, Positive: nulledAt.Document, Rank: 9},
		{Kind: DiffPublished, Query: other.QueryID, Positive: otherAt.Document, Rank: 1},
		{Kind: DiffPublished, Query: other.QueryID, Positive: otherAt.Document, Rank: 2},
		{Kind: DiffUnknown, Query: "nobody", Positive: otherAt.Document, Rank: 3},
		{Kind: DiffStray, Query: other.QueryID, Positive: otherAt.Document, Rank: 1},
		{Kind: DiffStray, Query: `key "x"`},
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
	w.clean("after the repair")
	if _, ok := w.got()[`["nobody","`+otherAt.Document+`",3]`]; ok {
		t.Error("the triplet of an unknown query is still there")
	}
	if got := w.strays(); len(got) > 0 {
		t.Errorf("strays are still there: %v", got)
	}
	w.compare("after the repair")
}

func (w *world) strays() map[stray]published {
	w.t.Helper()
	v, err := newAuditView(w.t.Context(), w.kafka, "triplets", func(string) bool { return true })
	if err != nil {
		w.t.Fatal(err)
	}
	return v.strays
}

// TestAuditSample checks that a sample is one, and can be repeated.
func TestAuditSample(t *testing.T) {
	t.Parallel()
	w := loadedWorld(t, 2, 12)
	stop := w.instance()
	defer func() { stop() }()
	w.settle()
	live := w.live()
	states, err := live.States(t.Context(), slices.Sorted(maps.Keys(w.logged)))
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
		r := w.audit(func(o *AuditOptions) { o.Sample, o.Seed = 5, seed })
		if r.Queries != 5 || r.Known != 12 || *r.Seed != seed || r.Kinds[DiffWatch] != 5 || len(r.Differences) != 5 {
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

// TestAuditWhileLive audits a service under a stream of changes: none of what is under way is a difference.
func TestAuditWhileLive(t *testing.T) {
	t.Parallel()
	w := loadedWorld(t, 3, worldQueries)
	stop := w.instance()
	defer func() { stop() }()
	w.settle()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 800 {
			w.step()
		}
	}()
	audits := 0
	for running := true; running; audits++ {
		select {
		case <-done:
			running = false
		default:
		}
		r := w.audit(nil)
		if len(r.Differences) > 0 {
			t.Errorf("audit %d: %s", audits, lines(r.Differences))
		}
	}
	t.Logf("%d audits", audits)
	w.settle()
	w.clean("at the end")
	w.compare("at the end")
}

// TestAuditTakesTheMinersRules: an audit by another configuration uses the miners' rules.
func TestAuditTakesTheMinersRules(t *testing.T) {
	t.Parallel()
	w := loadedWorld(t, 4, 6)
	stop := w.instance()
	defer func() { stop() }()
	w.settle()
	other := *w.cfg
	other.Mining.Negatives = 1
	r := w.audit(func(o *AuditOptions) { o.Config = &other })
	if len(r.Differences) > 0 || r.Fingerprint != newRuleset(w.cfg).Fingerprint {
		t.Errorf("%s: %s", r.Fingerprint, lines(r.Differences))
	}
}

// TestAuditScan: going through all documents decides as searching does, also where windows end by depth.
func TestAuditScan(t *testing.T) {
	t.Parallel()
	w := loadedWorld(t, 9, 12)
	w.cfg.Mining.Depth = 3
	w.cfg.Mining.Tiers[1].Skip = 1
	stop := w.instance()
	defer func() { stop() }()
	w.settle()
	var outcomes [2]map[string]recomputed
	for i, searchable := range []int{auditDocuments, 0} {
		a := &auditor{AuditOptions: AuditOptions{Config: w.cfg, Kafka: w.kafka, Index: w.index, Log: w.log}, searchable: searchable}
		if err := a.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		var err error
		if outcomes[i], err = a.recompute(t.Context(), slices.Sorted(maps.Keys(w.logged))); err != nil {
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
	w.clean("by search")
}

// TestAuditWaiting: which queries wait for the miner, whatever is committed, and purged.
func TestAuditWaiting(t *testing.T) {
	t.Parallel()
	w := loadedWorld(t, 18, 8)
	stop := w.instance()
	w.settle()
	stop()
	waiting := func() []string {
		queries := map[string]bool{}
		if err := (&auditor{AuditOptions: AuditOptions{Config: w.cfg, Kafka: w.kafka}}).waiting(t.Context(), queries); err != nil {
			t.Fatal(err)
		}
		return slices.Sorted(maps.Keys(queries))
	}
	if got := waiting(); len(got) > 0 {
		t.Errorf("%q wait, although all is worked off", got)
	}
	for _, id := range []string{"q1", "q5", "q1", "unknown"} {
		w.produce(w.cfg.Topics.Refresh, id, map[string]any{"kind": records.KindRefresh, "query_id": id, "source": records.Source{Topic: records.SourceSweep}})
	}
	if got, want := waiting(), []string{"q1", "q5", "unknown"}; !slices.Equal(got, want) {
		t.Errorf("%q wait, want %q", got, want)
	}
}
