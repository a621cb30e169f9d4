package index_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"hardneg/index"
	"hardneg/mining"

	"github.com/qdrant/go-client/qdrant"
	"pgregory.net/rapid"
)

// interesting draws int64 values that float64 or int32 cannot hold.
var interesting = rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{0, 1, -1, 1<<53 + 1, math.MaxInt64, math.MinInt64, 1 << 31}))

var cosine = rapid.Float32Range(-1, 1)

func position() *rapid.Generator[index.Position] {
	return rapid.Custom(func(t *rapid.T) index.Position {
		return index.Position{Timestamp: interesting.Draw(t, "timestamp"), Partition: rapid.Int32().Draw(t, "partition"), Offset: interesting.Draw(t, "offset")}
	})
}

func orNil[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return s
}

func orNilMap[K comparable, V any](m map[K]V) map[K]V {
	if len(m) == 0 {
		return nil
	}
	return m
}

// anyState draws states of every shape. Empty slices and maps are nil.
var anyState = rapid.Custom(func(t *rapid.T) index.State {
	word := rapid.String()
	slot := rapid.Custom(func(t *rapid.T) mining.Slot {
		return mining.Slot{Document: word.Draw(t, "document"), Hash: word.Draw(t, "hash"), Policy: word.Draw(t, "policy"),
			QueryNegative: cosine.Draw(t, "qn"), PositiveNegative: cosine.Draw(t, "pn")}
	})
	logged := rapid.Custom(func(t *rapid.T) index.Logged {
		return index.Logged{Position: position().Draw(t, "position"), Weight: interesting.Draw(t, "weight")}
	})
	positive := rapid.Custom(func(t *rapid.T) index.Positive {
		return index.Positive{
			Document: word.Draw(t, "document"), Weight: interesting.Draw(t, "weight"), Paired: rapid.Bool().Draw(t, "paired"),
			Hash: word.Draw(t, "hash"), Similarity: cosine.Draw(t, "similarity"), Reason: mining.Reason(word.Draw(t, "reason")),
			Log: orNil(rapid.SliceOfN(logged, 0, 3).Draw(t, "log")), Slots: orNil(rapid.SliceOfN(slot, 0, 4).Draw(t, "slots")),
		}
	})
	interval := rapid.Custom(func(t *rapid.T) mining.Interval {
		bound := rapid.OneOf(cosine, rapid.SampledFrom([]float32{float32(math.Inf(-1)), float32(math.Inf(1)), 1, 0, -1}))
		i := mining.Interval{Low: bound.Draw(t, "low"), High: bound.Draw(t, "high")}
		if i.Low > i.High {
			i.Low, i.High = i.High, i.Low
		}
		if math.IsInf(float64(i.Low), 1) || math.IsInf(float64(i.High), -1) {
			i = mining.Interval{Low: 0, High: 1}
		}
		return i
	})
	s := index.State{
		QueryID: rapid.StringN(1, 20, -1).Draw(t, "query_id"), Text: word.Draw(t, "text"), Newest: position().Draw(t, "newest"),
		Carried:   orNilMap(rapid.MapOfN(word, rapid.SliceOfN(rapid.Float32(), 1, 5), 0, 3).Draw(t, "carried")),
		Forgotten: rapid.Ptr(position(), true).Draw(t, "forgotten"),
		Positives: orNil(rapid.SliceOfN(positive, 0, 4).Draw(t, "positives")),
		Published: orNilMap(rapid.MapOfN(word, rapid.IntRange(0, 100), 0, 4).Draw(t, "published")),
		Watch:     orNil(rapid.SliceOfN(word, 0, 5).Draw(t, "watch")),
		Entry:     orNil(rapid.SliceOfN(interval, 0, 3).Draw(t, "entry")),
		Vector:    orNil(rapid.OneOf(rapid.SliceOfN(cosine, 0, 0), rapid.SliceOfN(cosine, dimensions, dimensions)).Draw(t, "vector")),
		Revision:  interesting.Draw(t, "revision"), Fingerprint: word.Draw(t, "fingerprint"), StoredAt: interesting.Draw(t, "stored_at"),
		Applied: orNilMap(rapid.MapOfN(rapid.Int32(), interesting, 0, 3).Draw(t, "applied")),
	}
	return s
})

func TestStateRoundTrip(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x := open(t, config)
		token := int64(1) // grows with each write, so that the guard never keeps an older state
		rapid.Check(t, func(rt *rapid.T) {
			token++
			s := anyState.Draw(rt, "state")
			s.Token = token
			if err := x.WriteStates(t.Context(), []index.State{s}, token); err != nil {
				rt.Fatal(err)
			}
			got, err := x.States(t.Context(), []string{s.QueryID, "unknown"})
			if err != nil {
				rt.Fatal(err)
			}
			if len(got) != 1 || !reflect.DeepEqual(got[s.QueryID], s) {
				rt.Fatalf("wrote %+v\nread  %+v", s, got)
			}
		})
	})
}

func TestDocumentRoundTrip(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x := open(t, config)
		offset := int64(0)
		rapid.Check(t, func(rt *rapid.T) {
			offset++
			word := rapid.String()
			d := index.Document{
				Document: mining.Document{ID: rapid.StringN(1, 20, -1).Draw(rt, "id"), Hash: word.Draw(rt, "hash"), Vector: rapid.SliceOfN(cosine, dimensions, dimensions).Draw(rt, "vector")},
				Title:    word.Draw(rt, "title"), Text: word.Draw(rt, "text"), UpdatedAt: word.Draw(rt, "updated_at"), Carried: rapid.Bool().Draw(rt, "carried"), Partition: rapid.Int32().Draw(rt, "partition"), Offset: offset,
			}
			if rapid.Bool().Draw(rt, "minhash") {
				d.MinHash = mining.NewMinHash("one two three four five six " + word.Draw(rt, "shingles"))
			}
			if rapid.Bool().Draw(rt, "metadata") {
				d.Metadata, _ = json.Marshal(map[string]any{"n": interesting.Draw(rt, "n"), "s": word.Draw(rt, "s"), "f": rapid.Float64().Draw(rt, "f"),
					"list": []any{nil, true, map[string]any{"deep": "x"}}})
			}
			if err := x.WriteDocuments(t.Context(), []index.Document{d}, d.Partition, d.Offset); err != nil {
				rt.Fatal(err)
			}
			got, _ := read(t, x, d.ID)
			if !sameJSON(got.Metadata, d.Metadata) {
				rt.Fatalf("metadata %s, want %s", got.Metadata, d.Metadata)
			}
			got.Metadata = d.Metadata
			if !reflect.DeepEqual(got, d) {
				rt.Fatalf("wrote %+v\nread  %+v", d, got)
			}
		})
	})
}

// sameJSON compares JSON values. Whole numbers must be exactly equal.
func sameJSON(a, b json.RawMessage) bool {
	decode := func(raw json.RawMessage) (v any) {
		decoder := json.NewDecoder(strings.NewReader(string(raw)))
		decoder.UseNumber()
		_ = decoder.Decode(&v)
		return v
	}
	var same func(a, b any) bool
	same = func(a, b any) bool {
		switch a := a.(type) {
		case json.Number:
			other, ok := b.(json.Number)
			if i, err := a.Int64(); err == nil {
				j, err := other.Int64()
				return ok && err == nil && i == j
			}
			f, _ := a.Float64()
			g, err := other.Float64()
			return ok && err == nil && f == g
		case map[string]any:
			other, ok := b.(map[string]any)
			if !ok || len(a) != len(other) {
				return false
			}
			for key, value := range a {
				if !same(value, other[key]) {
					return false
				}
			}
			return true
		}
		return reflect.DeepEqual(a, b)
	}
	return same(decode(a), decode(b))
}

func state(r *rand.Rand, id string, token int64) index.State {
	return index.State{QueryID: id, Text: "text of " + id, Vector: unit(r, dimensions), Token: token}
}

// TestStateAstray: a read compares the values that are stored for look-ups with the rest of the state, and
// reports the first one that does not follow from it.
func TestStateAstray(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, r := open(t, config), random(t)
		client, collection := raw(t, config.Address), config.Prefix+"queries-g1"
		s := state(r, "q", 1)
		s.Entry = []mining.Interval{{Low: 0.25, High: 1}}
		point := qdrant.NewIDUUID(index.QueryPointID("q"))
		late := append(slices.Clone(s.Vector), -0.5)
		for want, corrupt := range map[string]func() error{
			"": func() error { return nil },
			"tau 0.75000, not 0.25000": func() error {
				_, err := client.SetPayload(t.Context(), &qdrant.SetPayloadPoints{CollectionName: collection, Wait: qdrant.PtrOf(true),
					PointsSelector: qdrant.NewPointsSelector(point), Payload: qdrant.NewValueMap(map[string]any{"tau": 0.75})})
				return err
			},
			"marked as forgotten: true": func() error {
				_, err := client.SetPayload(t.Context(), &qdrant.SetPayloadPoints{CollectionName: collection, Wait: qdrant.PtrOf(true),
					PointsSelector: qdrant.NewPointsSelector(point), Payload: qdrant.NewValueMap(map[string]any{"deleted": true})})
				return err
			},
			"threshold -0.50000 in the vector, not -0.25000": func() error {
				stored, err := client.Get(t.Context(), &qdrant.GetPoints{CollectionName: collection, Ids: []*qdrant.PointId{point}, WithPayload: qdrant.NewWithPayload(true)})
				if err != nil {
					return err
				}
				_, err = client.Upsert(t.Context(), &qdrant.UpsertPoints{CollectionName: collection, Wait: qdrant.PtrOf(true), Points: []*qdrant.PointStruct{
					{Id: point, Vectors: qdrant.NewVectorsDense(late), Payload: stored[0].GetPayload()},
				}})
				return err
			},
		} {
			if err := x.WriteStates(t.Context(), []index.State{s}, 1); err != nil {
				t.Fatal(err)
			}
			if err := corrupt(); err != nil {
				t.Fatal(err)
			}
			got, err := x.States(t.Context(), []string{"q"})
			if err != nil {
				t.Fatal(err)
			}
			if got["q"].Inconsistent != want {
				t.Errorf("astray by %q, want %q", got["q"].Inconsistent, want)
			}
		}
	})
}

func TestStateGuard(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, r := open(t, config), random(t)
		store := func(token, revision int64) index.State {
			t.Helper()
			s := state(r, "q", token)
			s.Revision = revision
			if err := x.WriteStates(t.Context(), []index.State{s}, token); err != nil {
				t.Fatal(err)
			}
			got, err := x.States(t.Context(), []string{"q"})
			if err != nil {
				t.Fatal(err)
			}
			return got["q"]
		}
		const now = 1_790_000_000_000 // tokens are Unix milliseconds
		if got := store(now, 1); got.Revision != 1 {
			t.Errorf("the first state was not inserted: %+v", got)
		}
		if got := store(now, 2); got.Revision != 2 {
			t.Errorf("the same token did not replace: revision %d", got.Revision)
		}
		if got := store(now+1, 3); got.Revision != 3 {
			t.Errorf("the next token did not replace: revision %d", got.Revision)
		}
		if got := store(now, 4); got.Revision != 3 || got.Token != now+1 {
			t.Errorf("a fenced writer replaced the state: revision %d, token %d", got.Revision, got.Token)
		}
	})
}

func TestBadStates(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, r := open(t, config), random(t)
		change := func(f func(*index.State)) []index.State {
			s := state(r, "q", 7)
			f(&s)
			return []index.State{s}
		}
		nan := float32(math.NaN())
		for want, states := range map[string][]index.State{
			`query "": the query id is empty`:                                change(func(s *index.State) { s.QueryID = "" }),
			`query "q": the state has token 6, its writer 7`:                 change(func(s *index.State) { s.Token = 6 }),
			`query "q": the vector has 2 dimensions, the index 16`:           change(func(s *index.State) { s.Vector = s.Vector[:2] }),
			`query "q": a string of the state "\xff" is not UTF-8`:           change(func(s *index.State) { s.Watch = []string{"\xff"} }),
			`query "q": entry interval [NaN, 1] has a NaN`:                   change(func(s *index.State) { s.Entry = []mining.Interval{{Low: nan, High: 1}} }),
			`query "q": similarities: element 0 is NaN, not a finite number`: change(func(s *index.State) { s.Positives = []index.Positive{{Similarity: nan}} }),
			`query "q" is twice in one write`:                                {state(r, "q", 7), state(r, "q", 7)},
		} {
			if err := x.WriteStates(t.Context(), states, 7); err == nil || err.Error() != want {
				t.Errorf("error %v, want %s", err, want)
			}
		}
	})
}

func TestWatching(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, r := open(t, config), random(t)
		const n = 1300 // more than a page
		states := make([]index.State, n)
		for i := range states {
			states[i] = state(r, fmt.Sprintf("q%04d", i), 1)
			for range r.IntN(12) {
				states[i].Watch = append(states[i].Watch, fmt.Sprintf("d%d", r.IntN(600)))
			}
			states[i].Watch = append(states[i].Watch, "popular")
		}
		if err := x.WriteStates(t.Context(), states, 1); err != nil {
			t.Fatal(err)
		}
		// Some states are written again with another watch. The documents that they watched before must not
		// find them.
		for i := 0; i < n; i += 3 {
			states[i].Watch = []string{fmt.Sprintf("d%d", r.IntN(600)), "popular"}
		}
		if err := x.WriteStates(t.Context(), states, 1); err != nil {
			t.Fatal(err)
		}
		var many []string
		for i := range 400 { // more ids than one filter holds
			many = append(many, fmt.Sprintf("d%d", i))
		}
		for name, ids := range map[string][]string{"none": {"unknown"}, "one": {"d5"}, "some": {"d1", "d2", "unknown"}, "many": many, "all": {"popular"}, "empty": nil} {
			var want []string
			for _, s := range states {
				if slices.ContainsFunc(s.Watch, func(id string) bool { return slices.Contains(ids, id) }) {
					want = append(want, s.QueryID)
				}
			}
			got, err := x.Watching(t.Context(), ids)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %d queries, want %d", name, len(got), len(want))
			}
		}
	})
}

func TestEntering(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, r := open(t, config), random(t)
		const n = 1500 // so many that an easy document gets more hits than the first two limits
		states := make([]index.State, n)
		for i := range states {
			states[i] = state(r, fmt.Sprintf("q%04d", i), 1)
			switch i % 5 {
			case 0: // no document can enter
			case 1:
				states[i].Vector, states[i].Text = nil, "" // forgotten
			case 2:
				low := float32(r.Float64()*0.6 - 0.1)
				states[i].Entry = []mining.Interval{{Low: low, High: low + 0.1}, {Low: low + 0.2, High: 1}}
			default:
				states[i].Entry = []mining.Interval{{Low: float32(r.Float64()*2 - 1), High: float32(math.Inf(1))}}
			}
		}
		if err := x.WriteStates(t.Context(), states, 1); err != nil {
			t.Fatal(err)
		}
		probes := make([][]float32, 70)
		for i := range probes {
			probes[i] = unit(r, dimensions)
		}
		got, err := x.Entering(t.Context(), probes)
		if err != nil {
			t.Fatal(err)
		}
		total := 0
		for i, probe := range probes {
			total += checkEntering(t, states, probe, got[i])
		}
		if total == 0 {
			t.Error("no document entered any query: the test says nothing")
		}
		for i := range states {
			if states[i].Entry != nil {
				states[i].Entry[0].Low = -1
			}
		}
		if err := x.WriteStates(t.Context(), states, 1); err != nil {
			t.Fatal(err)
		}
		if got, err = x.Entering(t.Context(), probes); err != nil {
			t.Fatal(err)
		}
		for i, probe := range probes {
			if sure := checkEntering(t, states, probe, got[i]); sure < 600 {
				t.Errorf("%d queries entered: too few for the limit to grow", sure)
			}
		}
	})
}

// checkEntering compares the found ids with every state. A query must be found if an interval contains the
// cosine, and may be found if one does within 1e-4. It returns the number of queries that must be found.
func checkEntering(t *testing.T, states []index.State, probe []float32, got []string) int {
	t.Helper()
	found := make(map[string]bool)
	for _, id := range got {
		if found[id] {
			t.Errorf("%s comes twice", id)
		}
		found[id] = true
	}
	sure := 0
	byID := make(map[string]float64)
	for _, s := range states {
		if s.Vector == nil {
			if found[s.QueryID] {
				t.Errorf("forgotten query %s was entered", s.QueryID)
			}
			continue
		}
		cos, reached, near := dot(s.Vector, probe), false, false
		lowest := 2.0
		for _, e := range s.Entry {
			reached = reached || cos >= float64(e.Low) && cos <= float64(e.High)
			near = near || cos >= float64(e.Low)-1e-4 && cos <= float64(e.High)+1e-4
			lowest = min(lowest, float64(e.Low))
		}
		byID[s.QueryID] = cos - lowest
		if reached {
			sure++
		}
		if reached && !found[s.QueryID] || found[s.QueryID] && !near {
			t.Errorf("query %s: cosine %g, intervals %v, found %v", s.QueryID, cos, s.Entry, found[s.QueryID])
		}
	}
	if !slices.IsSortedFunc(got, func(a, b string) int {
		if math.Abs(byID[a]-byID[b]) < 1e-5 {
			return 0
		}
		return cmp.Compare(byID[b], byID[a])
	}) {
		t.Error("hits do not come hardest first")
	}
	return sure
}

// TestEnteringInDoubt: intervals that miss the cosine by less than the error of float32 sums count as hits.
func TestEnteringInDoubt(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, r := open(t, config), random(t)
		probe := unit(r, dimensions)
		var states []index.State
		for i, off := range []float32{-5e-5, -0.9e-5, 0, 0.9e-5, 5e-5} {
			above, below := state(r, fmt.Sprintf("above%d", i), 1), state(r, fmt.Sprintf("below%d", i), 1)
			above.Entry = []mining.Interval{{Low: float32(dot(above.Vector, probe)) + off, High: 1}}
			below.Entry = []mining.Interval{{Low: -1, High: float32(dot(below.Vector, probe)) - off}}
			states = append(states, above, below)
		}
		if err := x.WriteStates(t.Context(), states, 1); err != nil {
			t.Fatal(err)
		}
		got, err := x.Entering(t.Context(), [][]float32{probe})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(got[0])
		want := []string{"above0", "above1", "above2", "above3", "below0", "below1", "below2", "below3"}
		if !slices.Equal(got[0], want) {
			t.Errorf("entered %v, want %v", got[0], want)
		}
	})
}

func TestScanAndCountStates(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, r := open(t, config), random(t)
		const n = 600
		states := make([]index.State, n)
		for i := range states {
			states[i] = state(r, fmt.Sprintf("q%d", i), 1)
		}
		states[5].Text, states[5].Vector = "", nil
		if err := x.WriteStates(t.Context(), states, 1); err != nil {
			t.Fatal(err)
		}
		seen := make(map[string]index.State)
		if err := x.ScanStates(t.Context(), func(s index.State) error { seen[s.QueryID] = s; return nil }); err != nil {
			t.Fatal(err)
		}
		if len(seen) != n || !reflect.DeepEqual(seen["q7"], states[7]) || !reflect.DeepEqual(seen["q5"], states[5]) {
			t.Errorf("scan saw %d states, want %d", len(seen), n)
		}
		if _, queries, err := x.Counts(t.Context()); err != nil || queries != n-1 {
			t.Errorf("%d queries, %v; want %d: a forgotten one does not count", queries, err, n-1)
		}
	})
}

// TestPayloadIsReadable reads points with another client, by the field names that users are promised.
func TestPayloadIsReadable(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, r := open(t, config), random(t)
		s := state(r, "q", 3)
		s.Positives = []index.Positive{{Document: "p", Weight: 1_000_000, Slots: []mining.Slot{{Document: "n", Hash: "h", QueryNegative: 0.5}}}}
		s.Watch, s.Entry, s.Applied = []string{"n", "p"}, []mining.Interval{{Low: 0.25, High: 1}}, map[int32]int64{4: 1<<53 + 1}
		if err := x.WriteStates(t.Context(), []index.State{s}, 3); err != nil {
			t.Fatal(err)
		}
		points, err := raw(t, config.Address).Get(t.Context(), &qdrant.GetPoints{
			CollectionName: config.Prefix + "queries", Ids: []*qdrant.PointId{qdrant.NewID(index.QueryPointID("q"))},
			WithPayload: qdrant.NewWithPayload(true), WithVectors: qdrant.NewWithVectors(true),
		})
		if err != nil || len(points) != 1 {
			t.Fatalf("%d points, %v", len(points), err)
		}
		p := points[0].GetPayload()
		positive := p["positives"].GetListValue().GetValues()[0].GetStructValue().GetFields()
		slot := positive["slots"].GetListValue().GetValues()[0].GetStructValue().GetFields()
		entry := p["entry"].GetListValue().GetValues()[0].GetListValue().GetValues()
		if p["query_id"].GetStringValue() != "q" || p["text"].GetStringValue() != "text of q" || p["token"].GetIntegerValue() != 3 ||
			positive["doc_id"].GetStringValue() != "p" || slot["doc_id"].GetStringValue() != "n" || slot["similarity"].GetDoubleValue() != 0.5 ||
			len(p["watch"].GetListValue().GetValues()) != 2 || entry[0].GetDoubleValue() != 0.25 ||
			p["applied"].GetStructValue().GetFields()["4"].GetIntegerValue() != 1<<53+1 {
			t.Errorf("payload %v", p)
		}
		vector := points[0].GetVectors().GetVector().GetDense().GetData()
		if len(vector) != dimensions+1 || vector[dimensions] != -0.25 || !slices.Equal(vector[:dimensions], s.Vector) {
			t.Errorf("vector %v, want (q, -tau) with tau 0.25", vector)
		}
	})
}
