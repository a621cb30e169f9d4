package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hardneg/internal/embed"
	"hardneg/internal/records"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// triplets is the compacted content of a topic: the triplets by key, without what a replay has of its own.
func (w *world) triplets(topic string) map[string]records.Triplet {
	w.t.Helper()
	view := map[string]records.Triplet{}
	err := w.kafka.ReadToEnd(w.t.Context(), topic, func(r stream.Record) error {
		query, _, _, err := records.ParseTripletKey(r.Key)
		if n, _ := w.kafka.Partitions(w.t.Context(), topic); err != nil || stream.PartitionFor([]byte(query), n) != r.Partition {
			w.t.Errorf("%s/%d/%d: key %s, %v", topic, r.Partition, r.Offset, r.Key, err)
		}
		if r.Value == nil {
			delete(view, string(r.Key))
			return nil
		}
		t, err := records.ParseTriplet(r.Value)
		if want := records.TripletID(t.Query.ID, t.Positive.ID, t.Negative.ID, t.Revision); t.ID != want {
			w.t.Errorf("%s: triplet_id %s, want %s", r.Key, t.ID, want)
		}
		t.ID, t.Revision, t.MinedAt = "", 0, ""
		view[string(r.Key)] = t
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return view
}

// sameTriplets compares two views; cosines may differ by 1e-5.
func sameTriplets(t *testing.T, what string, got, want map[string]records.Triplet) {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(want)) {
		a, b := got[key], want[key]
		for _, c := range [][2]float32{
			{a.Similarity.QueryPositive, b.Similarity.QueryPositive}, {a.Similarity.QueryNegative, b.Similarity.QueryNegative},
			{a.Similarity.PositiveNegative, b.Similarity.PositiveNegative},
		} {
			if math.Abs(float64(c[0]-c[1])) > 1e-5 {
				t.Errorf("%s: %s has cosines %+v, want %+v", what, key, a.Similarity, b.Similarity)
			}
		}
		if a.Similarity = b.Similarity; a != b {
			t.Errorf("%s: %s is\n%+v, want\n%+v", what, key, a, b)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[key]; !ok {
			t.Errorf("%s: %s is there, want nothing", what, key)
		}
	}
}

// replay runs one into a topic.
func (w *world) replay(ctx context.Context, from, to, topic string, change func(*ReplayOptions)) (*ReplayReport, error) {
	w.t.Helper()
	o := ReplayOptions{Config: w.cfg, Kafka: w.kafka, Index: w.index, Log: w.log}
	var err error
	if o.From, err = ParseBound(from); err == nil {
		o.To, err = ParseBound(to)
	}
	if err == nil {
		o.Output, err = NewReplayTopic(w.kafka, w.cfg, topic, from+to)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if change != nil {
		change(&o)
	}
	report, err := Replay(ctx, o)
	if err == nil {
		err = o.Output.Forget(ctx)
	}
	return report, err
}

// written is what a topic holds, record by record, with the partitions' ends.
func (w *world) written(topic string) string {
	w.t.Helper()
	var b strings.Builder
	err := w.kafka.ReadToEnd(w.t.Context(), topic, func(r stream.Record) error {
		fmt.Fprintf(&b, "%d %d %s %s %s\n", r.Partition, r.Offset, r.Key, r.Value, r.Headers)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ends, err := w.kafka.Offsets(w.t.Context(), topic)
	return fmt.Sprint(b.String(), ends, err)
}

// everything is what a replay must leave alone: topics, offsets of the stages, collections.
func (w *world) everything() string {
	w.t.Helper()
	var b strings.Builder
	for _, t := range Topics(w.cfg) {
		b.WriteString(w.written(t.Name))
	}
	for _, stage := range []string{StageIndexer, StageIntake, StageMiner} {
		at, err := w.kafka.Committed(w.t.Context(), Group(w.cfg, stage), inputTopic(w.cfg, stage))
		fmt.Fprint(&b, at, err)
	}
	live := w.live()
	states, err := live.States(w.t.Context(), slices.Sorted(maps.Keys(w.logged)))
	if err != nil {
		w.t.Fatal(err)
	}
	encoded, err := json.Marshal(states)
	fmt.Fprint(&b, string(encoded), err)
	documents, queries, err := live.Counts(w.t.Context())
	fmt.Fprint(&b, documents, queries, err)
	return b.String()
}

// TestReplayIsTheView replays the whole log of a random history, with and without the live service, in one pass and
// in many, interrupted and not; each time it gives the live view. A window that ends before the newest records does not.
func TestReplayIsTheView(t *testing.T) {
	t.Parallel()
	w := loadedWorld(t, 11, 12)
	stop := w.instance()
	for range 120 {
		w.step()
	}
	w.produce("queries", "bad", "no object")
	w.settle()
	w.compare("live")
	want := w.triplets(w.cfg.Topics.Triplets)
	before := w.everything()

	report, err := w.replay(t.Context(), "earliest", "latest", "one-pass", nil)
	if err != nil {
		t.Fatal(err)
	}
	got := w.triplets("one-pass")
	sameTriplets(t, "in one pass", got, want)
	covered := report.Covered["semantic"] > 0 && report.Covered["positive-aware"] > 0
	if report.Passes != 1 || report.Triplets != len(want) || report.Pairs < report.Queries || !covered || report.Bad != 1 || len(report.BadList) != 1 ||
		!strings.Contains(report.BadList[0].Error, "JSON object") || report.Resumed {
		t.Errorf("report %+v", report)
	}

	report, err = w.replay(t.Context(), "earliest", "latest", "a-pass-a-query", func(o *ReplayOptions) { o.Memory, o.Exactly = 1, true })
	if err != nil || report.Passes < report.Queries || report.Queries < 5 {
		t.Errorf("%+v %v", report, err)
	}
	sameTriplets(t, "with a pass a query", w.triplets("a-pass-a-query"), want)

	// The source of a triplet is the newest record of its query.
	newest := map[string]stream.Record{}
	if err := w.kafka.ReadToEnd(t.Context(), "queries", func(r stream.Record) error {
		old, ok := newest[string(r.Key)]
		if later := r.Time.Compare(old.Time); !ok || later > 0 || later == 0 && (r.Partition > old.Partition || r.Partition == old.Partition && r.Offset > old.Offset) {
			newest[string(r.Key)] = r
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := w.kafka.ReadToEnd(t.Context(), "one-pass", func(r stream.Record) error {
		query, _, _, err := records.ParseTripletKey(r.Key)
		from := newest[query]
		want := fmt.Sprintf("queries/%d/%d", from.Partition, from.Offset)
		if at := slices.IndexFunc(r.Headers, func(h stream.Header) bool { return h.Key == HeaderSource }); at < 0 || string(r.Headers[at].Value) != want {
			t.Errorf("%s has the headers %s, want the source %s", r.Key, r.Headers, want)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}

	// Every fourth write is the last of its run.
	writes, resumed := 0, 0
	for done := false; !done; {
		ctx, cancel := context.WithCancel(t.Context())
		report, err := w.replay(ctx, "earliest", "latest", "many-passes", func(o *ReplayOptions) {
			o.Memory, o.settleAt, o.fetchSize = 1, 2, 300
			o.mined = func() {
				if writes++; writes%4 == 0 {
					cancel()
				}
			}
		})
		cancel()
		switch {
		case err == nil:
			if done = true; !report.Resumed || report.Triplets != len(want) || report.Bad != 1 {
				t.Errorf("report of many passes %+v", report)
			}
		case !errors.Is(err, context.Canceled):
			t.Fatal(err)
		}
		resumed++
	}
	if resumed < 3 {
		t.Errorf("%d runs, want several", resumed)
	}
	sameTriplets(t, "in many passes", w.triplets("many-passes"), want)
	once := map[string]int{}
	if err := w.kafka.ReadToEnd(t.Context(), "many-passes", func(r stream.Record) error { once[string(r.Key)]++; return nil }); err != nil {
		t.Fatal(err)
	}
	for key, n := range once {
		if n != 1 {
			t.Errorf("%s came %d times", key, n)
		}
	}
	if after := w.everything(); after != before {
		t.Errorf("the replays have changed the live view:\n%s\nwas\n%s", after, before)
	}
	stop()

	// Once it is finished, the same arguments are another replay.
	if report, err := w.replay(t.Context(), "earliest", "latest", "one-pass", nil); err != nil || report.Resumed {
		t.Errorf("%+v %v", report, err)
	}
	sameTriplets(t, "a second time", w.triplets("one-pass"), want)
}

// TestReplayWindow logs a positive and a forget beyond a window: the first is none of the window's pairs, but bars, and
// the second does not count.
func TestReplayWindow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5)
	w.cfg.Topics.Partitions = 3
	at := func(x float64) []float32 { return []float32{float32(x), float32(math.Sqrt(1 - x*x)), 0, 0} }
	w.vector["q"], w.vector["r"] = []float32{1, 0, 0, 0}, []float32{1, 0, 0, 0}
	for i, x := range []float64{0.9, 0.7, 0.4, 0.1} {
		w.write("d"+strconv.Itoa(i), at(x))
	}
	stop := w.instance()
	defer func() { stop() }()
	w.judge("q", "d0")
	w.judge("r", "d0")
	ends, err := w.kafka.Offsets(t.Context(), "queries")
	if err != nil {
		t.Fatal(err)
	}
	var parts []string
	for _, e := range ends {
		parts = append(parts, fmt.Sprintf("%d:%d", e.Partition, e.HighWatermark))
	}
	border := strings.Join(parts, ",")
	w.judge("q", "d1")
	w.produce("queries", "r", nil)
	w.settle()

	lists := func(topic string) string {
		var b []string
		for key, x := range w.triplets(topic) {
			b = append(b, key+x.Negative.ID)
		}
		slices.Sort(b)
		return strings.Join(b, " ")
	}
	if _, err := w.replay(t.Context(), "earliest", border, "first", nil); err != nil {
		t.Fatal(err)
	}
	if got, want := lists("first"), `["q","d0",1]d2 ["q","d0",2]d3 ["r","d0",1]d1 ["r","d0",2]d2 ["r","d0",3]d3`; got != want {
		t.Errorf("the first window gives %s, want %s", got, want)
	}
	report, err := w.replay(t.Context(), border, "latest", "second", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := lists("second"), `["q","d1",1]d2 ["q","d1",2]d3`; got != want || report.Records != 2 || report.Queries != 1 || report.Pairs != 1 {
		t.Errorf("the second window gives %s, want %s; %+v", got, want, report)
	}
	report, err = w.replay(t.Context(), "latest", "latest", "nothing", nil)
	if err != nil || report.Queries != 0 || len(report.Notes) != 1 || report.Notes[0] != "the window from latest to latest is empty" {
		t.Errorf("an empty window: %+v %v", report, err)
	}
	for _, topic := range []string{"triplets", "queries", "hardneg.refresh", "hardneg.refresh-0123456789abcdef-1", "__consumer_offsets", "a b", ".."} {
		if _, err := NewReplayTopic(w.kafka, w.cfg, topic, ""); err == nil {
			t.Errorf("topic %q can be written", topic)
		}
	}
}

// letters embeds a text as its length, and refuses those with an x.
type letters struct{}

func (letters) Vectors(_ context.Context, _ embed.Kind, items []embed.Item) ([][]float32, []error, error) {
	vectors, refusals := make([][]float32, len(items)), make([]error, len(items))
	for i, item := range items {
		if vectors[i] = []float32{float32(len(item.Text))}; strings.Contains(item.Text, "x") {
			vectors[i], refusals[i] = nil, errors.New("an x")
		}
	}
	return vectors, refusals, nil
}

// TestReplayGathers draws logs and windows, and compares the evidence that passes of any size gather with a count over
// what was logged that shares nothing with them.
func TestReplayGathers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	w.cfg.Queries.MinDwell = 2 * time.Second
	w.cfg.Queries.PositiveWeight = 0.5
	w.cfg.Embedders = nil
	type logged struct {
		id, text  string
		forget    bool
		weights   map[string]float64
		partition int32
		offset    int64
		time      int64
	}
	for round := range 12 {
		topic := fmt.Sprintf("log-%d", round)
		w.cfg.Topics.Queries = topic
		if err := w.kafka.EnsureTopics(t.Context(), stream.Topic{Name: topic, Partitions: 3, ReplicationFactor: 1}); err != nil {
			t.Fatal(err)
		}
		ids := 1 + rng.IntN(12)
		var batch []stream.Output
		var log []logged
		var next [3]int64
		bad := 0
		flush := func() {
			if err := w.kafka.Produce(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
			batch = nil
		}
		for range 20 + rng.IntN(150) {
			r := logged{id: fmt.Sprintf("q%d", rng.IntN(ids)), partition: int32(rng.IntN(3)), weights: map[string]float64{}}
			r.offset = next[r.partition]
			next[r.partition]++
			out := stream.Output{Topic: topic, Partition: r.partition, Key: []byte(r.id)}
			switch x := rng.IntN(20); {
			case x == 0:
				r.forget = true
			case x == 1:
				out.Value = []byte(`{"query": 5}`)
				r.id = ""
				bad++
			default:
				r.text = []string{"a", "bb", "ccc", "dx"}[rng.IntN(4)]
				value := map[string]any{"query": " " + r.text, "query_id": r.id}
				var positives []string
				var clicks []map[string]any
				for range rng.IntN(3) {
					d := fmt.Sprintf("d%d", rng.IntN(4))
					if rng.IntN(2) == 0 {
						positives = append(positives, d)
						r.weights[d] += 0.5
						continue
					}
					dwell := 1000 * rng.IntN(4)
					clicks = append(clicks, map[string]any{"doc_id": d, "dwell_ms": dwell, "weight": 0.25})
					if dwell >= 2000 {
						r.weights[d] += 0.25
					}
				}
				value["positives"], value["clicks"] = positives, clicks
				out.Value, _ = json.Marshal(value)
			}
			log, batch = append(log, r), append(batch, out)
			if rng.IntN(5) == 0 {
				flush() // another timestamp
				time.Sleep(time.Duration(rng.IntN(2)) * time.Millisecond)
			}
		}
		flush()
		at := map[string]int64{}
		if err := w.kafka.ReadToEnd(t.Context(), topic, func(r stream.Record) error {
			at[fmt.Sprint(r.Partition, r.Offset)] = r.Time.UnixMilli()
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		var window []Span
		for p, n := range next {
			from := rng.Int64N(n/2 + 1)
			window = append(window, Span{int32(p), from, from + rng.Int64N(n-from+1)})
		}
		in := func(r logged) bool { return r.offset >= window[r.partition].From && r.offset < window[r.partition].To }
		for i := range log {
			log[i].time = at[fmt.Sprint(log[i].partition, log[i].offset)]
		}

		// What was logged, the naive way.
		want := map[string]string{}
		refused := int64(0)
		for i := range ids {
			id := fmt.Sprintf("q%d", i)
			var forget, newest *logged
			later := func(a, b logged) bool {
				return a.time > b.time || a.time == b.time && (a.partition > b.partition || a.partition == b.partition && a.offset > b.offset)
			}
			for k, r := range log {
				if r.id == id && in(r) && r.forget && (forget == nil || later(r, *forget)) {
					forget = &log[k]
				}
			}
			weights := map[string]float64{}
			for k, r := range log {
				if r.id != id || !in(r) || r.forget {
					continue
				}
				if strings.Contains(r.text, "x") {
					refused++
					continue
				}
				if forget != nil && (r.time < forget.time || r.time == forget.time && (r.partition != forget.partition || r.offset < forget.offset)) {
					continue
				}
				if newest == nil || later(r, *newest) {
					newest = &log[k]
				}
				for d, x := range r.weights {
					weights[d] += x
				}
			}
			if newest != nil {
				want[id] = fmt.Sprint(newest.text, len(newest.text), weights)
			}
		}
		for _, r := range log {
			if r.id == "" && !in(r) {
				bad--
			}
		}

		r := &replayer{
			ReplayOptions: ReplayOptions{
				Config: w.cfg, Kafka: w.kafka, Log: w.log, Memory: []int64{1, 1500, 4000, 1 << 30}[rng.IntN(4)],
				settleAt: 1 + rng.IntN(20), fetchSize: 1 + rng.IntN(3000), Progress: func(ReplayStatus) {},
			},
			miner: miner{Pipeline: &Pipeline{cfg: w.cfg, model: letters{}, metrics: telemetry.NewMetrics(prometheus.NewRegistry())}},
			plan:  ReplayPlan{Window: window},
		}
		got := map[string]string{}
		for end := "?"; end != ""; r.report.Passes++ {
			g, err := r.gather(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			queries := g.inOrder()
			if err := r.settle(t.Context(), queries, nil); err != nil {
				t.Fatal(err)
			}
			for _, q := range queries {
				if q.point <= r.at.After || g.end != "" && q.point >= g.end {
					t.Fatalf("query %s is none of this pass", q.id)
				}
				r.at.After = q.point
				refused -= q.refusals
				weights := map[string]float64{}
				for _, p := range q.state.Positives {
					weights[p.Document] = float64(p.Weight) / 1e6
				}
				if q.state.Text != "" {
					got[q.id] = fmt.Sprint(q.state.Text, q.state.Vector[0], weights)
				}
			}
			end = g.end
		}
		if !maps.Equal(got, want) || refused != 0 || r.at.Counts.Unusable != int64(bad) {
			t.Fatalf("round %d, %d passes with %d bytes, settling at %d, window %v: got\n%v, want\n%v; %d refused are missing, %d bad, want %d",
				round, r.report.Passes, r.Memory, r.settleAt, window, got, want, refused, r.at.Counts.Unusable, bad)
		}
	}
}
