package e2e

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/qdrant/go-client/qdrant"
)

// pacePerSecond is the number of changes that TestLongAudit makes in a second.
const pacePerSecond = 20

// TestLongAudit makes random changes for a while, and audits during them and after. Then a standard client
// corrupts ten stored states, each in another way, and the audit must find and repair them. The index is
// searched exactly, and the sweep is off, so that an error of a look-up would stay.
func TestLongAudit(t *testing.T) {
	dir := collection(t)
	if *longAudit <= time.Minute {
		dir = subset(t, dir, 600, 120)
	}
	s := newService(t, append(slices.Clone(small), "--embedded")...)
	s.spawn()
	names := namedTopics("hardneg", "")
	k, w := newKafka(t, s.Kafka, names), newWorld(names)
	s.load("beir", dir, "--split", "train")
	w.loaded(t, dir, "train")
	s.ready(patience)
	k.quiet(patience)
	r := random(t)
	c := newChurn(w, r)
	c.plausible = true
	changeFor(t, k, c, *longAudit/2)
	var changes sync.WaitGroup
	changes.Go(func() { changeFor(t, k, c, *longAudit/2) })
	during := audit(t, s, codeOK, "--all")
	if during.UnderWay > during.Queries/20 {
		t.Errorf("%d of %d queries could not be judged", during.UnderWay, during.Queries)
	}
	during.UnderWay = 0
	noneDiffer(t, "while documents and queries change", during)
	changes.Wait()

	start := time.Now()
	k.quiet(patience)
	t.Logf("quiet %v after the last change: %v", time.Since(start).Round(time.Millisecond), w)
	noneDiffer(t, "after the changes", audit(t, s, codeOK, "--all"))
	t.Log(compare(t, s, k, w, ""))

	corrupted := corrupt(t, s, r)
	found := audit(t, s, codeFailure, "--all")
	checkFound(t, corrupted, found)
	repaired := audit(t, s, codeOK, "--all", "--repair")
	checkFound(t, corrupted, repaired)
	if left := repaired.Repaired; left == nil || left.Queries != len(corrupted) || len(left.Left) > 0 {
		t.Errorf("the repair of %d states: %+v", len(corrupted), left)
	}
	noneDiffer(t, "after the repair", audit(t, s, codeOK, "--all"))
	t.Log(compare(t, s, k, w, ""))
	s.stop()
}

// changeFor makes changes at an even pace. It catches up if it is late.
func changeFor(t *testing.T, k *kafka, c *churn, d time.Duration) {
	t.Helper()
	start, made := time.Now(), 0
	before := map[string]int{}
	for time.Since(start) < d {
		due := int(time.Since(start).Seconds()*pacePerSecond) - made
		if due <= 0 {
			time.Sleep(time.Second / pacePerSecond)
			continue
		}
		records := c.steps(due)
		for _, r := range records {
			kind := r.Topic
			if r.Value == nil {
				kind += " (null)"
			}
			before[kind]++
		}
		k.produce(records...)
		made += due
	}
	t.Logf("%d changes in %v, records by topic: %v; %v", made, time.Since(start).Round(time.Second), before, c.world)
}

// auditReport is the output of `hardneg audit -o json`.
type auditReport struct {
	Queries, Pairs, Slots, Triplets, Behind int
	UnderWay                                int `json:"under_way"`
	Kinds                                   map[string]int
	Differences                             []difference
	Repaired                                *struct {
		Queries int
		Left    []difference
	}
}

type difference struct{ Kind, Query, Positive, Stored, Published, Recomputed string }

// audit runs `hardneg audit` and expects an exit code.
func audit(t *testing.T, s *service, code int, args ...string) (report auditReport) {
	t.Helper()
	start := time.Now()
	out := hardneg(t, *longAudit+patience, slices.Concat([]string{"audit", "--data-dir", s.dir, "-o", "json"}, args)...)
	if err := json.Unmarshal([]byte(out.stdout), &report); err != nil || out.code != code {
		t.Errorf("hardneg audit %v: exit code %d, want %d (%v)\n%s%s", args, out.code, code, err, out.stdout, out.stderr)
	}
	t.Logf("hardneg audit %v: %d queries, %d pairs, %d slots, %d triplets, %d differences %v, %d under way, in %v", args, report.Queries, report.Pairs,
		report.Slots, report.Triplets, len(report.Differences), report.Kinds, report.UnderWay, time.Since(start).Round(time.Millisecond))
	return report
}

// noneDiffer fails if an audit found anything, or looked at nothing.
func noneDiffer(t *testing.T, when string, r auditReport) {
	t.Helper()
	if len(r.Differences) > 0 || r.Slots == 0 || r.Behind > 0 || r.UnderWay > 0 {
		t.Errorf("%s: %d slots, %d records behind, %d queries under way, differences %+v", when, r.Slots, r.Behind, r.UnderWay, r.Differences)
	}
}

// checkFound checks that an audit found all corrupted states, each with the right kind, and no others.
func checkFound(t *testing.T, corrupted map[string]string, r auditReport) {
	t.Helper()
	kinds := map[string][]string{}
	for _, d := range r.Differences {
		kinds[d.Query] = append(kinds[d.Query], d.Kind)
	}
	found := 0
	for query, kind := range corrupted {
		if slices.Contains(kinds[query], kind) {
			found++
		} else {
			t.Errorf("query %q should differ by %q, but differs by %q", query, kind, kinds[query])
		}
	}
	if len(kinds) != len(corrupted) {
		t.Errorf("%d queries differ, %d were corrupted: %v", len(kinds), len(corrupted), kinds)
	}
	t.Logf("%d of %d corrupted states found", found, len(corrupted))
}

// fields are the values of a payload by the name of their field, as in the queries collection.
type fields = map[string]*qdrant.Value

func member(v *qdrant.Value) fields              { return v.GetStructValue().GetFields() }
func elements(v *qdrant.Value) *qdrant.ListValue { return v.GetListValue() }

// corruptions are ways to corrupt a stored state, each with the kind that an audit reports. The arguments are
// the state's payload, a positive in it with a list of at least two slots, and the state's vector.
var corruptions = []struct {
	kind    string
	corrupt func(state, positive fields, vector []float32)
}{
	{"stored", func(_, p fields, _ []float32) { // a slot is lost
		slots := elements(p["slots"])
		slots.Values = slots.Values[:len(slots.Values)-1]
	}},
	{"stored", func(_, p fields, _ []float32) { // two slots change places
		slots := elements(p["slots"]).Values
		slots[0], slots[1] = slots[1], slots[0]
	}},
	{"stored", func(_, p fields, _ []float32) { // another document, the positive itself
		member(elements(p["slots"]).Values[1])["doc_id"] = p["doc_id"]
	}},
	{"stored", func(_, p fields, _ []float32) { // an older version
		member(elements(p["slots"]).Values[0])["hash"] = qdrant.NewValueString("00000000000000000000000000000000")
	}},
	{"positive", func(_, p fields, _ []float32) { // its cosine
		p["similarity"] = qdrant.NewValueDouble(p["similarity"].GetDoubleValue() - 1e-3)
	}},
	{"positive", func(_, p fields, _ []float32) { // its list is empty
		p["paired"], p["slots"] = qdrant.NewValueBool(false), qdrant.NewValueList(&qdrant.ListValue{})
	}},
	{"watch", func(s, p fields, _ []float32) { // a slot is not watched
		slot := member(elements(p["slots"]).Values[0])["doc_id"].GetStringValue()
		watch := elements(s["watch"])
		watch.Values = slices.DeleteFunc(watch.Values, func(v *qdrant.Value) bool { return v.GetStringValue() == slot })
	}},
	{"entry", func(s, _ fields, _ []float32) { // no document may enter
		s["entry"] = qdrant.NewValueList(&qdrant.ListValue{})
	}},
	{"astray", func(_, _ fields, vector []float32) { // the look-up finds it too late
		vector[len(vector)-1] -= 0.25
	}},
	{"rank", func(s, p fields, _ []float32) { // the published rank is not known
		delete(member(s["published"]), p["doc_id"].GetStringValue())
	}},
}

// corrupt corrupts one state in each of the ways, random ones among those that allow it. It returns the kinds
// by query.
func corrupt(t *testing.T, s *service, r *rand.Rand) map[string]string {
	t.Helper()
	client := qdrantClient(t, s.Qdrant)
	type state struct {
		payload, positive fields
		vector            []float32
	}
	states := map[string]state{}
	scroll(t, client, "queries", func(payload fields, vector []float32) {
		positives := elements(payload["positives"]).GetValues()
		at := slices.IndexFunc(positives, func(v *qdrant.Value) bool { return len(elements(member(v)["slots"]).GetValues()) >= 2 })
		if at >= 0 && len(elements(payload["entry"]).GetValues()) > 0 {
			states[payload["query_id"].GetStringValue()] = state{payload, member(positives[at]), vector}
		}
	})
	ids := slices.Sorted(maps.Keys(states))
	r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	if len(ids) < len(corruptions) {
		t.Fatalf("%d states have a list of two slots and may be entered, too few to corrupt %d", len(ids), len(corruptions))
	}
	kinds := map[string]string{}
	for i, c := range corruptions {
		x := states[ids[i]]
		c.corrupt(x.payload, x.positive, x.vector)
		kinds[ids[i]] = c.kind
		_, err := client.Upsert(t.Context(), &qdrant.UpsertPoints{CollectionName: "queries", Wait: qdrant.PtrOf(true), Points: []*qdrant.PointStruct{{
			Id: qdrant.NewIDUUID(uuid5("hardneg:query:" + ids[i])), Payload: x.payload, Vectors: qdrant.NewVectorsDense(x.vector),
		}}})
		if err != nil {
			t.Fatalf("corrupt %q: %v", ids[i], err)
		}
	}
	return kinds
}
