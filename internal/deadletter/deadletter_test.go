package deadletter

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hardneg/internal/catalog"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/records"
	"hardneg/stream"
)

// choosy is a server of embeddings. While refusing is true it refuses the texts that have a vector in
// vectors.
type choosy struct {
	*httptest.Server
	vectors  map[string][]float32 // by text; other texts get a fixed vector
	refusing atomic.Bool
}

func newChoosy(t *testing.T, vectors map[string][]float32) *choosy {
	c := &choosy{vectors: vectors}
	c.refusing.Store(true)
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Input []string }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		type datum struct {
			Index     int       `json:"index"`
			Embedding []float32 `json:"embedding"`
		}
		var data []datum
		for i, text := range in.Input {
			vector, ok := c.vectors[text]
			if ok && c.refusing.Load() {
				http.Error(w, fmt.Sprintf("no vector for %q", text), http.StatusUnprocessableEntity)
				return
			}
			if !ok {
				vector = []float32{1, 0, 0, 0}
			}
			data = append(data, datum{i, vector})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
	}))
	t.Cleanup(c.Close)
	return c
}

// replayLetters replays dead letters. By the record's key it returns where each record was sent, or why not.
// A second dead letter with the same key gets a ' behind it.
func replayLetters(w *pipelinetest.World, o ReplayOptions) map[string]string {
	w.T.Helper()
	results := map[string]string{}
	if o.Choose == nil {
		o.Choose = func(stream.DeadLetter) bool { return true }
	}
	o.Tell = func(x Outcome) error {
		key := string(x.DeadLetter.Record.Key)
		if _, twice := results[key]; twice {
			key += "'"
		}
		if results[key] = x.Left; x.Left == "" {
			results[key] = "to " + x.To.Topic + "/" + strconv.Itoa(int(x.To.Partition))
		}
		return nil
	}
	if err := (Queue{w.Conn()}).Replay(w.T.Context(), o); err != nil {
		w.T.Fatal(err)
	}
	return results
}

// inputs returns all records of the topics that users write.
func inputs(w *pipelinetest.World) (written []stream.Record) {
	w.T.Helper()
	for _, topic := range []string{w.Config.Topics.Documents, w.Config.Topics.Queries} {
		if err := w.Kafka.ReadToEnd(w.T.Context(), topic, func(r stream.Record) error { written = append(written, r); return nil }); err != nil {
			w.T.Fatal(err)
		}
	}
	return written
}

// TestDeadLettersReplay replays records that an embedder refused, after the embedder was mended. Each record
// must be sent once, and the view must become what a batch job computes. What newer records have replaced or
// forgotten must stay so.
func TestDeadLettersReplay(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 31, 6)
	vectors := map[string][]float32{}
	for i := range 8 {
		vectors["refused "+strconv.Itoa(i)] = w.Random()
	}
	server := newChoosy(t, vectors)
	w.Config.Embedders[0].Type, w.Config.Embedders[0].URL, w.Config.Embedders[0].Model = "openai", server.URL, "m"
	w.Config.Queries.MinWeight, w.Config.Queries.MinDwell = 2, 5*time.Second
	stop := w.Instance()
	defer func() { stop() }()

	document := func(id string, text int) {
		w.Produce("documents", id, map[string]any{"text": "refused " + strconv.Itoa(text)})
		delete(w.Docs, id)
	}
	document("new", 0)
	document("d20", 1) // replaces a good record
	document("d21", 2)
	document("d22", 3)
	document("d23", 4)
	w.Settle() // so that the next record of d23 is in another batch: of two in one batch only the newer becomes a dead letter
	document("d23", 5)
	w.Produce("documents", "broken", map[string]any{"text": 5})
	query := func(id string, text int, more map[string]any) {
		w.Vector[id] = vectors["refused "+strconv.Itoa(text)]
		more["query"], more["query_id"] = "refused "+strconv.Itoa(text), id
		w.Produce("queries", id, more)
	}
	long := map[string]any{"doc_id": "d30", "dwell_ms": 6000, "weight": 2}
	short := map[string]any{"doc_id": "d31", "dwell_ms": 4000, "weight": 2}
	query("asked", 6, map[string]any{"clicks": []any{long, short}})
	query("forgotten", 7, map[string]any{"clicks": []any{long}})
	w.Settle()
	for _, q := range w.Logged { // each has one judgement of weight 1, which is less than min_weight
		q.Positives = map[string]bool{}
	}
	w.Compare("with refused records")

	time.Sleep(2 * time.Millisecond)
	w.Write("d21", w.Random())
	w.Produce("documents", "d22", nil)
	w.Produce("queries", "forgotten", nil)
	w.Settle()
	before := inputs(w)

	at := func(topic, key string) string {
		n, err := w.Kafka.Partitions(t.Context(), topic)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s/%d", topic, stream.PartitionFor([]byte(key), n))
	}
	want := map[string]string{
		"new": "to " + at("documents", "new"), "d20": "to " + at("documents", "d20"),
		"d21": "out of date", "d22": "out of date", "d23": "out of date", "d23'": "to " + at("documents", "d23"), "broken": "it would come back",
		"asked": "to " + at("queries", "asked"), "forgotten": "to " + at("queries", "forgotten"),
	}
	check := func(results map[string]string) {
		t.Helper()
		for key, outcome := range want {
			if !strings.HasPrefix(results[key], outcome) || len(results) != len(want) {
				t.Errorf("%s: %q, want %q", key, results[key], outcome)
			}
		}
	}
	check(replayLetters(w, ReplayOptions{DryRun: true}))
	service := w.Config
	other := *service
	other.Queries.MinDwell = 0 // the weights in the command's configuration must not matter
	w.Config = &other
	defer func() { w.Config = service }()
	if now := inputs(w); len(now) != len(before) {
		t.Fatalf("a dry run wrote %d records", len(now)-len(before))
	}
	chosen := replayLetters(w, ReplayOptions{DryRun: true, Choose: func(l stream.DeadLetter) bool { return l.Stage == catalog.StageMiner }})
	if got := slices.Sorted(maps.Keys(chosen)); !slices.Equal(got, []string{"asked", "forgotten"}) {
		t.Errorf("of the miner's there were chosen %v", got)
	}

	server.refusing.Store(false)
	check(replayLetters(w, ReplayOptions{}))
	var again []stream.Record
	for _, r := range inputs(w) {
		if !slices.ContainsFunc(before, func(b stream.Record) bool { return locationOf(b) == locationOf(r) }) {
			again = append(again, r)
		}
	}
	if len(again) != 5 {
		t.Errorf("%d records were sent, want 5", len(again))
	}
	for _, r := range again { // unchanged, or for a dead letter of the miner a record with the same evidence
		first := before[slices.IndexFunc(before, func(b stream.Record) bool {
			return string(b.Key) == string(r.Key) && (b.Topic == "queries" || strings.Contains(string(b.Value), "refused")) && (string(b.Key) != "d23" || strings.HasSuffix(string(b.Value), `5"}`))
		})]
		if r.Topic != first.Topic || r.Partition != first.Partition || !r.Time.Equal(first.Time) || r.Topic == "documents" && string(r.Value) != string(first.Value) {
			t.Errorf("%+v was sent again as %+v", first, r)
		}
	}
	w.Docs["new"] = pipelinetest.Document{Text: "refused 0", Vector: vectors["refused 0"]}
	w.Docs["d20"] = pipelinetest.Document{Text: "refused 1", Vector: vectors["refused 1"]}
	w.Docs["d23"] = pipelinetest.Document{Text: "refused 5", Vector: vectors["refused 5"]}
	w.Logged["asked"] = &pipelinetest.Query{Positives: map[string]bool{"d30": true}}
	w.Settle()
	w.Compare("after the replay")
	if len(w.Got()) == 0 {
		t.Error("the query that was refused has no negatives")
	}

	results := replayLetters(w, ReplayOptions{})
	for key, outcome := range want {
		if strings.HasPrefix(outcome, "to ") {
			outcome = "it was sent again before"
		}
		if !strings.HasPrefix(results[key], outcome) {
			t.Errorf("%s, the second time: %q, want %q", key, results[key], outcome)
		}
	}
	replayed := 0
	d := Queue{w.Conn()}
	err := d.Each(t.Context(), func(l stream.DeadLetter, was bool) error {
		if was {
			replayed++
		}
		if got, gotWas, err := d.Get(t.Context(), l.Partition, l.Offset); err != nil || gotWas != was || got.At() != l.At() || got.Reason != l.Reason {
			t.Errorf("%s: %+v, %v, %v", l.At(), got, gotWas, err)
		}
		return nil
	})
	if err != nil || replayed != 5 {
		t.Errorf("%d are results to be sent again, want 5: %v", replayed, err)
	}
	plan, err := catalog.PlanReset(t.Context(), catalog.ResetOptions{Conn: w.Conn()})
	if err != nil || !slices.Contains(plan.Groups, "hardneg-dead-letters") {
		t.Errorf("a reset would delete the groups %v: %v", plan.Groups, err)
	}
}

// writeDeadLetter writes a dead letter of a record.
func writeDeadLetter(w *pipelinetest.World, stage string, r stream.Record) {
	w.T.Helper()
	if err := w.Kafka.Produce(w.T.Context(), []stream.Output{stream.NewDeadLetter(w.Config.Topics.DeadLetters, stage, r, fmt.Errorf("refused"))}); err != nil {
		w.T.Fatal(err)
	}
}

// TestDeadLettersReplayOnce runs several replays at the same time, which fence each other. Each record must
// be sent once.
func TestDeadLettersReplayOnce(t *testing.T) {
	t.Parallel()
	w := pipelinetest.New(t, 1)
	const n = 2 * recordsTogether
	for i := range n {
		writeDeadLetter(w, catalog.StageIntake, stream.Record{
			Topic: "queries", Partition: int32(i % 3), Offset: int64(i), Time: time.UnixMilli(int64(1 + i)), Key: []byte("k" + strconv.Itoa(i)), Value: []byte(`{"query":"q"}`),
			Headers: []stream.Header{{Key: "h", Value: nil}},
		})
	}
	d := Queue{w.Conn()}
	var replays sync.WaitGroup
	var mu sync.Mutex
	results, fenced := map[string]int{}, 0
	for range 4 {
		replays.Go(func() {
			err := d.Replay(t.Context(), ReplayOptions{
				Choose: func(stream.DeadLetter) bool { return true },
				Tell: func(o Outcome) error {
					mu.Lock()
					defer mu.Unlock()
					if o.Left == "" {
						results[string(o.DeadLetter.Record.Key)]++
					}
					return nil
				},
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				fenced++
				t.Log(err)
			}
		})
	}
	replays.Wait()
	replayLetters(w, ReplayOptions{}) // sends what the fenced replays have not sent
	sent := map[string]int{}
	for _, r := range inputs(w) {
		sent[string(r.Key)]++
		if len(r.Headers) != 1 || r.Headers[0].Key != "h" || r.Headers[0].Value != nil {
			t.Errorf("%s has the headers %v", r.Key, r.Headers)
		}
	}
	if len(sent) != n {
		t.Errorf("%d of %d were sent", len(sent), n)
	}
	for key, times := range sent {
		if times != 1 || results[key] > 1 {
			t.Errorf("%s was sent %d times", key, times)
		}
	}
	t.Logf("%d replays of 4 were fenced", fenced)
}

// TestDeadLettersLeft checks which dead letters are not sent again, and the reasons.
func TestDeadLettersLeft(t *testing.T) {
	t.Parallel()
	w := pipelinetest.New(t, 1)
	refresh := func(key string, r records.Refresh) stream.Record {
		r.QueryID = key
		return stream.Record{Topic: "hardneg.refresh", Key: []byte(key), Value: r.Encode()}
	}
	log := func(offset int64) records.Source {
		return records.Source{Topic: "queries", Offset: offset, Timestamp: 7}
	}
	evidence := func(source records.Source, weight int64) records.Refresh {
		return records.Refresh{Kind: records.KindEvidence, Text: "t", Source: source, Evidence: []records.Evidence{{Document: "d", Weight: weight}}}
	}
	writeDeadLetter(w, catalog.StageMiner, refresh("swept", records.Refresh{Kind: records.KindRefresh, Source: records.Source{Topic: records.SourceSweep}}))
	writeDeadLetter(w, catalog.StageMiner, stream.Record{Topic: "hardneg.refresh", Key: []byte("nonsense"), Value: []byte("{")})
	writeDeadLetter(w, catalog.StageMiner, refresh("elsewhere", evidence(records.Source{Topic: "other"}, 1)))
	writeDeadLetter(w, catalog.StageMiner, refresh("first", evidence(log(1), 3_000_000_500_000)))
	writeDeadLetter(w, catalog.StageMiner, refresh("first", evidence(log(1), 1))) // the dead letter of another generation
	writeDeadLetter(w, catalog.StageMiner, refresh("huge", evidence(log(2), 1<<60)))
	writeDeadLetter(w, catalog.StageIntake, stream.Record{Topic: "old-queries", Key: []byte("old"), Value: []byte(`{"query":"q"}`)})
	writeDeadLetter(w, catalog.StageIndexer, stream.Record{Topic: "documents", Offset: 9, Time: time.UnixMilli(7), Key: []byte("gone"), Value: []byte(`{"text":"t"}`)})
	good := stream.Record{Topic: "queries", Offset: 20, Time: time.UnixMilli(8), Key: []byte("good"), Value: []byte(`{"query":"q"}`)}
	writeDeadLetter(w, catalog.StageIntake, good)
	for key, change := range map[string]func(*stream.Record){
		"no partition": func(r *stream.Record) { r.Partition = 7 }, "no time": func(r *stream.Record) { r.Time = time.UnixMilli(0) },
		"far": func(r *stream.Record) { r.Time = time.Date(2400, 1, 1, 0, 0, 0, 0, time.UTC) }, "farther": func(r *stream.Record) { r.Time = time.UnixMilli(1 << 50) },
		"large": func(r *stream.Record) { r.Value = []byte(`{"query":"` + pipelinetest.Noise(2<<20) + `"}`) },
	} {
		r := good
		r.Offset, r.Key = 21+int64(len(key)), []byte(key)
		change(&r)
		writeDeadLetter(w, catalog.StageIntake, r)
	}
	w.Produce(w.Config.Topics.DeadLetters, "no letter", map[string]any{})

	results := replayLetters(w, ReplayOptions{})
	want := map[string]string{
		"swept": "a record of kind refresh says nothing by itself", "nonsense": "it would come back", "elsewhere": "topic other is none",
		"first": "to queries/0", "first'": "its record is that of", "huge": "its weights are so large", "old": "topic old-queries is none",
		"gone": "documents/0 no longer has it", "good": "to queries/0", "no partition": "topic queries has no partition 7", "no time": "its timestamp, 0 ms, could not be kept",
		"far": "its timestamp, 13569465600000 ms, could not be kept", "farther": "its timestamp, 1125899906842624 ms, could not be kept",
		"large": "record is larger than the topic's max.message.bytes",
	}
	for key := range want {
		if !strings.HasPrefix(results[key], want[key]) || len(results) != len(want) {
			t.Errorf("%s: %q, want %q", key, results[key], want[key])
		}
	}
	sent := inputs(w)
	slices.SortFunc(sent, func(a, b stream.Record) int { return strings.Compare(string(a.Key), string(b.Key)) })
	if len(sent) != 2 || sent[0].Time.UnixMilli() != 7 || string(sent[1].Key) != "good" {
		t.Fatalf("sent: %+v", sent)
	}
	q, _, err := records.ParseQuery(sent[0].Key, sent[0].Value)
	if err != nil || len(q.Clicks) != 4 || *q.Clicks[0].Weight != 1e6 || *q.Clicks[3].Weight != 0.5 || q.QueryID != "first" {
		t.Errorf("%s %v", sent[0].Value, err)
	}
	if results := replayLetters(w, ReplayOptions{DryRun: true}); !strings.HasPrefix(results["first"], "it was sent again before") || !strings.HasPrefix(results["first'"], "its record is that of") {
		t.Errorf("the second time: %v", results)
	}
	d := Queue{w.Conn()}
	if _, _, err := d.Get(t.Context(), 0, 1000); err == nil || !strings.Contains(err.Error(), "no dead letter there: hardneg.dead-letters/0/1000") {
		t.Errorf("at an offset beyond the end: %v", err)
	}
}
