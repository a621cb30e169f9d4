package replay

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

	"hardneg/internal/catalog"
	"hardneg/internal/embed"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/records"
	"hardneg/internal/stages"
	"hardneg/internal/testenv"
	"hardneg/internal/window"
	"hardneg/stream"
)

// triplets returns the compacted content of a topic: the triplets by key, without the fields in which a
// replay differs from the live view.
func view(w *pipelinetest.World, topic string) map[string]records.Triplet {
	w.T.Helper()
	view := map[string]records.Triplet{}
	err := w.Kafka.ReadToEnd(w.T.Context(), topic, func(r stream.Record) error {
		query, _, _, err := records.ParseTripletKey(r.Key)
		if n, _ := w.Kafka.Partitions(w.T.Context(), topic); err != nil || stream.PartitionFor([]byte(query), n) != r.Partition {
			w.T.Errorf("%s/%d/%d: key %s, %v", topic, r.Partition, r.Offset, r.Key, err)
		}
		if r.Value == nil {
			delete(view, string(r.Key))
			return nil
		}
		t, err := records.ParseTriplet(r.Value)
		if want := records.TripletID(t.Query.ID, t.Positive.ID, t.Negative.ID, t.Revision); t.ID != want {
			w.T.Errorf("%s: triplet_id %s, want %s", r.Key, t.ID, want)
		}
		t.ID, t.Revision, t.MinedAt = "", 0, ""
		view[string(r.Key)] = t
		return err
	})
	if err != nil {
		w.T.Fatal(err)
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

// replay runs a replay into a topic.
func replay(ctx context.Context, w *pipelinetest.World, from, to, topic string, change func(*Options)) (*Report, error) {
	w.T.Helper()
	o := Options{Conn: w.Conn()}
	var err error
	if o.From, err = window.ParseBound(from); err == nil {
		o.To, err = window.ParseBound(to)
	}
	if err == nil {
		o.Output, err = NewTopic(w.Kafka, w.Config, topic, from+to)
	}
	if err != nil {
		w.T.Fatal(err)
	}
	if change != nil {
		change(&o)
	}
	report, err := Run(ctx, o)
	if err == nil {
		err = o.Output.Forget(ctx)
	}
	return report, err
}

// written returns all records of a topic, and the ends of its partitions, as text.
func written(w *pipelinetest.World, topic string) string {
	w.T.Helper()
	var b strings.Builder
	err := w.Kafka.ReadToEnd(w.T.Context(), topic, func(r stream.Record) error {
		fmt.Fprintf(&b, "%d %d %s %s %s\n", r.Partition, r.Offset, r.Key, r.Value, r.Headers)
		return nil
	})
	if err != nil {
		w.T.Fatal(err)
	}
	ends, err := w.Kafka.Offsets(w.T.Context(), topic)
	return fmt.Sprint(b.String(), ends, err)
}

// everything returns, as text, everything that a replay must leave alone: topics, offsets of the stages,
// collections.
func everything(w *pipelinetest.World) string {
	w.T.Helper()
	var b strings.Builder
	for _, t := range catalog.Topics(w.Config, "") {
		b.WriteString(written(w, t.Name))
	}
	for _, stage := range catalog.Stages {
		at, err := w.Kafka.Committed(w.T.Context(), catalog.NamesOf(w.Config, "").Group(stage), catalog.NamesOf(w.Config, "").Input(stage))
		fmt.Fprint(&b, at, err)
	}
	live := w.Live()
	states, err := live.States(w.T.Context(), slices.Sorted(maps.Keys(w.Logged)))
	if err != nil {
		w.T.Fatal(err)
	}
	encoded, err := json.Marshal(states)
	fmt.Fprint(&b, string(encoded), err)
	documents, queries, err := live.Counts(w.T.Context())
	fmt.Fprint(&b, documents, queries, err)
	return b.String()
}

// TestReplayIsTheView replays the whole log of a random history: with and without the live service, in one
// pass and in many, interrupted and not. Each time the result must be the live view. With a window that ends
// before the newest records it must not.
func TestReplayIsTheView(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 11, 12)
	stop := w.Instance()
	for range 120 {
		w.Step()
	}
	w.Produce("queries", "bad", "no object")
	w.Settle()
	w.Compare("live")
	want := view(w, w.Config.Topics.Triplets)
	before := everything(w)

	report, err := replay(t.Context(), w, "earliest", "latest", "one-pass", nil)
	if err != nil {
		t.Fatal(err)
	}
	got := view(w, "one-pass")
	sameTriplets(t, "in one pass", got, want)
	covered := report.Covered["semantic"] > 0 && report.Covered["positive-aware"] > 0
	if report.Passes != 1 || report.Triplets != len(want) || report.Pairs < report.Queries || !covered || report.Bad != 1 || len(report.BadList) != 1 ||
		!strings.Contains(report.BadList[0].Error, "JSON object") || report.Resumed {
		t.Errorf("report %+v", report)
	}

	report, err = replay(t.Context(), w, "earliest", "latest", "a-pass-a-query", func(o *Options) { o.Memory, o.Exactly = 1, true })
	if err != nil || report.Passes < report.Queries || report.Queries < 5 {
		t.Errorf("%+v %v", report, err)
	}
	sameTriplets(t, "with a pass a query", view(w, "a-pass-a-query"), want)

	// Each triplet must name the newest record of its query as its source.
	newest := map[string]stream.Record{}
	if err := w.Kafka.ReadToEnd(t.Context(), "queries", func(r stream.Record) error {
		old, ok := newest[string(r.Key)]
		if later := r.Time.Compare(old.Time); !ok || later > 0 || later == 0 && (r.Partition > old.Partition || r.Partition == old.Partition && r.Offset > old.Offset) {
			newest[string(r.Key)] = r
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := w.Kafka.ReadToEnd(t.Context(), "one-pass", func(r stream.Record) error {
		query, _, _, err := records.ParseTripletKey(r.Key)
		from := newest[query]
		want := fmt.Sprintf("queries/%d/%d", from.Partition, from.Offset)
		if at := slices.IndexFunc(r.Headers, func(h stream.Header) bool { return h.Key == records.HeaderSource }); at < 0 || string(r.Headers[at].Value) != want {
			t.Errorf("%s has the headers %s, want the source %s", r.Key, r.Headers, want)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}

	// Every run is interrupted after its fourth write.
	writes, resumed := 0, 0
	for done := false; !done; {
		ctx, cancel := context.WithCancel(t.Context())
		report, err := replay(ctx, w, "earliest", "latest", "many-passes", func(o *Options) {
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
	sameTriplets(t, "in many passes", view(w, "many-passes"), want)
	once := map[string]int{}
	if err := w.Kafka.ReadToEnd(t.Context(), "many-passes", func(r stream.Record) error { once[string(r.Key)]++; return nil }); err != nil {
		t.Fatal(err)
	}
	for key, n := range once {
		if n != 1 {
			t.Errorf("%s came %d times", key, n)
		}
	}
	if after := everything(w); after != before {
		t.Errorf("the replays have changed the live view:\n%s\nwas\n%s", after, before)
	}
	stop()

	// After a replay has finished, the same arguments begin another one.
	if report, err := replay(t.Context(), w, "earliest", "latest", "one-pass", nil); err != nil || report.Resumed {
		t.Errorf("%+v %v", report, err)
	}
	sameTriplets(t, "a second time", view(w, "one-pass"), want)
}

// TestReplayWindow logs a positive and a forget outside of a window. The positive must not make a pair, but
// it must not become a negative either. The forget must not count.
func TestReplayWindow(t *testing.T) {
	t.Parallel()
	w := pipelinetest.New(t, 5)
	w.Config.Topics.Partitions = 3
	at := func(x float64) []float32 { return []float32{float32(x), float32(math.Sqrt(1 - x*x)), 0, 0} }
	w.Vector["q"], w.Vector["r"] = []float32{1, 0, 0, 0}, []float32{1, 0, 0, 0}
	for i, x := range []float64{0.9, 0.7, 0.4, 0.1} {
		w.Write("d"+strconv.Itoa(i), at(x))
	}
	stop := w.Instance()
	defer func() { stop() }()
	w.Judge("q", "d0")
	w.Judge("r", "d0")
	ends, err := w.Kafka.Offsets(t.Context(), "queries")
	if err != nil {
		t.Fatal(err)
	}
	var parts []string
	for _, e := range ends {
		parts = append(parts, fmt.Sprintf("%d:%d", e.Partition, e.HighWatermark))
	}
	border := strings.Join(parts, ",")
	w.Judge("q", "d1")
	w.Produce("queries", "r", nil)
	w.Settle()

	lists := func(topic string) string {
		var b []string
		for key, x := range view(w, topic) {
			b = append(b, key+x.Negative.ID)
		}
		slices.Sort(b)
		return strings.Join(b, " ")
	}
	if _, err := replay(t.Context(), w, "earliest", border, "first", nil); err != nil {
		t.Fatal(err)
	}
	if got, want := lists("first"), `["q","d0",1]d2 ["q","d0",2]d3 ["r","d0",1]d1 ["r","d0",2]d2 ["r","d0",3]d3`; got != want {
		t.Errorf("the first window gives %s, want %s", got, want)
	}
	report, err := replay(t.Context(), w, border, "latest", "second", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := lists("second"), `["q","d1",1]d2 ["q","d1",2]d3`; got != want || report.Records != 2 || report.Queries != 1 || report.Pairs != 1 {
		t.Errorf("the second window gives %s, want %s; %+v", got, want, report)
	}
	report, err = replay(t.Context(), w, "latest", "latest", "nothing", nil)
	if err != nil || report.Queries != 0 || len(report.Notes) != 1 || report.Notes[0] != "the window from latest to latest is empty" {
		t.Errorf("an empty window: %+v %v", report, err)
	}
	for _, topic := range []string{"triplets", "queries", "hardneg.refresh", "hardneg.refresh-0123456789abcdef-1", "__consumer_offsets", "a b", ".."} {
		if _, err := NewTopic(w.Kafka, w.Config, topic, ""); err == nil {
			t.Errorf("topic %q can be written", topic)
		}
	}
}

// lengths is a model that embeds a text as its length, and refuses texts with an x.
type lengths struct{}

func (lengths) Vectors(_ context.Context, _ embed.Kind, items []embed.Item) ([][]float32, []error, error) {
	vectors, refusals := make([][]float32, len(items)), make([]error, len(items))
	for i, item := range items {
		if vectors[i] = []float32{float32(len(item.Text))}; strings.Contains(item.Text, "x") {
			vectors[i], refusals[i] = nil, errors.New("an x")
		}
	}
	return vectors, refusals, nil
}

// TestReplayGathers draws logs and windows, and gathers the evidence in passes of any size. It compares the
// evidence with a simple count over the log, which shares no code with the gatherer.
func TestReplayGathers(t *testing.T) {
	t.Parallel()
	w := pipelinetest.New(t, 1)
	rng := rand.New(rand.NewPCG(testenv.Seed(t), 2))
	w.Config.Queries.MinDwell = 2 * time.Second
	w.Config.Queries.PositiveWeight = 0.5
	w.Config.Embedders = nil
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
		w.Config.Topics.Queries = topic
		if err := w.Kafka.EnsureTopics(t.Context(), stream.Topic{Name: topic, Partitions: 3, ReplicationFactor: 1}); err != nil {
			t.Fatal(err)
		}
		ids := 1 + rng.IntN(12)
		var batch []stream.Output
		var log []logged
		var next [3]int64
		bad := 0
		flush := func() {
			if err := w.Kafka.Produce(t.Context(), batch); err != nil {
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
				flush() // so that the next records have another timestamp
				time.Sleep(time.Duration(rng.IntN(2)) * time.Millisecond)
			}
		}
		flush()
		at := map[string]int64{}
		if err := w.Kafka.ReadToEnd(t.Context(), topic, func(r stream.Record) error {
			at[fmt.Sprint(r.Partition, r.Offset)] = r.Time.UnixMilli()
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		var spans []window.Span
		for p, n := range next {
			from := rng.Int64N(n/2 + 1)
			spans = append(spans, window.Span{Partition: int32(p), From: from, To: from + rng.Int64N(n-from+1)})
		}
		in := func(r logged) bool { return r.offset >= spans[r.partition].From && r.offset < spans[r.partition].To }
		for i := range log {
			log[i].time = at[fmt.Sprint(log[i].partition, log[i].offset)]
		}

		// This is the simple count.
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

		weights := catalog.Weights{PositiveWeight: w.Config.Queries.PositiveWeight, MinDwell: w.Config.Queries.MinDwell}
		r := &gatherer{
			kafka: w.Kafka, topic: topic, memory: []int64{1, 1500, 4000, 1 << 30}[rng.IntN(4)],
			settleAt: 1 + rng.IntN(20), fetchSize: 1 + rng.IntN(3000), reader: stages.QueryReader{Weights: weights}, model: lengths{},
		}
		passes, after, unusable := 0, "", 0
		got := map[string]string{}
		for end := "?"; end != ""; passes++ {
			malformed := func(BadRecord) { unusable++ }
			if passes > 0 {
				malformed = nil
			}
			g, err := r.gather(t.Context(), spans, after, func(float64) {}, malformed)
			if err != nil {
				t.Fatal(err)
			}
			queries := g.inOrder()
			if err := r.settle(t.Context(), queries, nil); err != nil {
				t.Fatal(err)
			}
			for _, q := range queries {
				if q.point <= after || g.end != "" && q.point >= g.end {
					t.Fatalf("query %s is none of this pass", q.id)
				}
				after = q.point
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
		if !maps.Equal(got, want) || refused != 0 || unusable != bad {
			t.Fatalf("round %d, %d passes with %d bytes, settling at %d, window %v: got\n%v, want\n%v; %d refused are missing, %d bad, want %d",
				round, passes, r.memory, r.settleAt, spans, got, want, refused, unusable, bad)
		}
	}
}
