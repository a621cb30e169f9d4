package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestReplay replays the whole query log into a topic and into a file, with and without kills. It compares
// the results with brute force and with the live view, which must not change. A replay of a time window uses
// only the evidence in it.
func TestReplay(t *testing.T) {
	dir := subset(t, collection(t), 600, 120)
	s := newService(t, append(small, "--embedded", "--set", "topics.purge_refresh=0s")...) // this topic is compared, too
	s.spawn()
	k, w := newKafka(t, s.Kafka, namedTopics("hardneg", "")), newWorld(namedTopics("hardneg", ""))
	s.load("beir", dir, "--split", "train")
	w.loaded(t, dir, "train")
	s.ready(patience)
	k.quiet(patience)
	k.produce(newChurn(w, random(t)).steps(150)...)
	k.quiet(patience)
	k.produce(&kgo.Record{Topic: k.queries, Key: []byte("bad"), Value: []byte(`{"query":`)}, &kgo.Record{Topic: k.queries, Value: []byte(`{"query": "?!"}`)})
	k.quiet(patience)
	t.Log("the live view: ", compare(t, s, k, w, ""))
	before, ends := snapshot(t, s, k), w.clock

	summary := replay(t, s, "--from", "earliest", "--output", "topic:whole")
	whole := k.named("whole")
	t.Log("a replay: ", compare(t, s, whole, w, ""))
	live := readView(t, k).live
	sameLists(t, "topic", readView(t, whole).live, live)
	if summary.Bad != 2 || len(summary.BadList) != 2 || summary.Triplets != len(live) || summary.Resumed {
		t.Errorf("summary %+v", summary)
	}
	for _, r := range readView(t, whole).records {
		if r.Value != nil && !bytes.Contains(r.Value, fmt.Appendf(nil, `"revision":%d`, summary.Revision)) {
			t.Errorf("%s is of another revision than %d", r.Value, summary.Revision)
		}
	}

	folder := t.TempDir()
	file := filepath.Join(folder, "whole.jsonl")
	replay(t, s, "--from", "earliest", "--output", file)
	sameLists(t, "file", readFile(t, file), live)
	for _, format := range []string{"sentence-transformers", "flag-embedding"} {
		path := filepath.Join(folder, format)
		replay(t, s, "--from", "earliest", "--output", "file:"+path, "--format", format)
		exported := hardneg(t, patience, "export", "--data-dir", s.dir, "--format", format)
		if got, want := sorted(t, path), strings.Split(exported.stdout, "\n"); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("--format %s has %d lines, which are not the %d of export", format, len(got), len(want))
		}
	}

	// Every run except the last is killed, after it has written something or within a transaction.
	killed := killedReplay(t, s, k, "killed", "--from", "earliest", "--output", "topic:killed")
	view := readView(t, k.named("killed"))
	sameLists(t, fmt.Sprintf("topic after %d kills", killed), view.live, live)
	once := map[string]int{}
	for _, r := range view.records {
		if once[string(r.Key)]++; once[string(r.Key)] == 2 {
			t.Errorf("%s was written twice", r.Key)
		}
	}
	file = filepath.Join(folder, "killed.jsonl")
	if err := os.WriteFile(filepath.Join(folder, ".killed.jsonl.replay.json.new"), []byte(`{"argu`), 0o644); err != nil { // left by a replay that was killed while it saved its state
		t.Fatal(err)
	}
	killedFiles := killedReplay(t, s, k, "", "--from", "earliest", "--output", file)
	sameLists(t, fmt.Sprintf("file after %d kills", killedFiles), readFile(t, file), live)
	if lines := sorted(t, file); len(lines) != len(live)+1 {
		t.Errorf("the file has %d lines, want %d", len(lines)-1, len(live))
	}
	left, err := filepath.Glob(filepath.Join(folder, ".*"))
	left = slices.DeleteFunc(left, func(path string) bool { // left by a replay that was killed after its summary
		info, err := os.Stat(path)
		return path == filepath.Join(folder, ".killed.jsonl.replay.json") || path == filepath.Join(folder, ".killed.jsonl.replay") && err == nil && info.Size() == 0
	})
	if err != nil || len(left) > 0 {
		t.Errorf("replays have left %v %v", left, err)
	}
	if killed < 2 || killedFiles < 2 {
		t.Errorf("only %d and %d kills", killed, killedFiles)
	}

	if after := snapshot(t, s, k); !maps.Equal(after, before) {
		for what := range before {
			if after[what] != before[what] {
				t.Errorf("the replays have changed %s", what)
			}
		}
	}

	// Only what is logged from here on.
	from := ends.Add(time.Second)
	w.clock = from
	var later []*kgo.Record
	for i, id := range slices.Sorted(maps.Keys(w.queries)) {
		if i%5 == 0 {
			for document := range w.queries[id].evidence {
				later = append(later, w.judge(id, w.queries[id].text, document))
				break
			}
		}
	}
	k.produce(later...)
	k.quiet(patience)
	replay(t, s, "--from", from.UTC().Format(time.RFC3339Nano), "--output", "topic:later")
	judged, want := map[pair]bool{}, map[place]triplet{}
	for _, r := range later {
		var x struct{ Positives []string }
		if err := json.Unmarshal(r.Value, &x); err != nil {
			t.Fatal(err)
		}
		judged[pair{string(r.Key), x.Positives[0]}] = true
	}
	for at, x := range readView(t, k).live { // other evidence of a query bars documents in both
		if judged[at.pair()] {
			want[at] = x
		}
	}
	if len(want) == 0 {
		t.Error("nothing is in the window")
	}
	sameLists(t, "window", readView(t, k.named("later")).live, want)
}

// named returns the client of a view whose triplets are in another topic.
func (k *kafka) named(triplets string) *kafka {
	other := *k
	other.triplets = triplets
	return &other
}

// replaySummary is the output of `hardneg replay -o json`.
type replaySummary struct {
	Revision int64   `json:"revision"`
	Queries  int     `json:"queries"`
	Triplets int     `json:"triplets"`
	Bad      int     `json:"bad_records"`
	BadList  []any   `json:"first_bad_records"`
	Resumed  bool    `json:"resumed"`
	Seconds  float64 `json:"seconds"`
}

func replay(t testing.TB, s *service, args ...string) replaySummary {
	t.Helper()
	out := hardneg(t, patience, append([]string{"replay", "--data-dir", s.dir, "-o", "json"}, args...)...)
	var summary replaySummary
	if err := json.Unmarshal([]byte(out.stdout), &summary); err != nil || out.code != codeOK {
		t.Fatalf("hardneg replay %v: exit code %d, %v\n%s%s", args, out.code, err, out.stdout, out.stderr)
	}
	return summary
}

// killedReplay runs a replay until it reaches its end. It kills each run as soon as the run has made
// progress, or is within a transaction of its topic. It returns the number of kills.
func killedReplay(t *testing.T, s *service, k *kafka, topic string, args ...string) int {
	t.Helper()
	r := random(t)
	args = append([]string{"replay", "--data-dir", s.dir, "--rate", "25", "-o", "json"}, args...)
	for kills := 0; ; kills++ {
		ctx, cancel := context.WithCancel(t.Context())
		command := exec.CommandContext(ctx, mustProgram(t), args...)
		command.Env = environment()
		var stdout, stderr bytes.Buffer
		command.Stdout, command.Stderr = &stdout, &stderr
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- command.Wait() }()
		begun, inside := progressOf(t, k, topic, args), r.IntN(2) == 0
		if kills >= 12 {
			begun = nil
		}
		var err error
		running := true
		for running {
			select {
			case err = <-ended:
				running = false
			case <-time.After(2 * time.Millisecond):
				now := progressOf(t, k, topic, args)
				open := inside && topic != "" && k.named(topic).openTransaction()
				if begun != nil && (open || !maps.Equal(now, begun)) {
					cancel()
					<-ended
					err, running = context.Canceled, false
					if stdout.Len() > 0 { // it had reached its end
						err = nil
					}
				}
			}
		}
		cancel()
		if err == nil {
			var summary replaySummary
			if err := json.Unmarshal(stdout.Bytes(), &summary); err != nil || kills > 0 && !summary.Resumed {
				t.Errorf("%v %s", err, stdout.String())
			}
			return kills
		}
		if ctx.Err() == nil {
			t.Fatalf("the replay ended with %v: %s", err, stderr.String())
		}
	}
}

// progressOf returns a value that changes during a replay: the ends of its topic, or the size of its file.
func progressOf(t *testing.T, k *kafka, topic string, args []string) map[int32]int64 {
	t.Helper()
	if topic != "" {
		ends, err := k.ends(t.Context(), topic, 1)
		if err != nil {
			return map[int32]int64{}
		}
		return ends
	}
	path := args[len(args)-1]
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".replay.json"))
	if err != nil {
		return map[int32]int64{}
	}
	var state struct {
		Size int64 `json:"size"`
	}
	_ = json.Unmarshal(raw, &state)
	return map[int32]int64{0: state.Size}
}

// sameLists compares triplets with the live view, except for the fields that belong to a replay itself.
func sameLists(t *testing.T, what string, got, want map[place]triplet) {
	t.Helper()
	errs := few{t: t}
	for at, b := range want {
		a := got[at]
		for _, c := range [][2]float64{
			{a.Similarity.QueryPositive, b.Similarity.QueryPositive}, {a.Similarity.QueryNegative, b.Similarity.QueryNegative},
			{a.Similarity.PositiveNegative, b.Similarity.PositiveNegative},
		} {
			if d := c[0] - c[1]; d > 1e-5 || d < -1e-5 {
				errs.errorf("%s: %v has cosines %+v, want %+v", what, at, a.Similarity, b.Similarity)
			}
		}
		a.Similarity, a.ID, a.Revision, a.MinedAt = b.Similarity, b.ID, b.Revision, b.MinedAt
		if a != b {
			errs.errorf("%s: %v is\n%+v, want\n%+v", what, at, a, b)
		}
	}
	for at := range got {
		if _, ok := want[at]; !ok {
			errs.errorf("%s: %v is none of the live view", what, at)
		}
	}
}

func readFile(t *testing.T, path string) map[place]triplet {
	t.Helper()
	found := map[place]triplet{}
	for _, line := range sorted(t, path) {
		if line == "" {
			continue
		}
		var x triplet
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			t.Fatal(err)
		}
		at := place{x.Query.ID, x.Positive.ID, x.Rank}
		if _, ok := found[at]; ok {
			t.Errorf("%v is twice in %s", at, path)
		}
		found[at] = x
	}
	return found
}

// sorted returns the sorted lines of a file, with the empty one after the last.
func sorted(t *testing.T, path string) []string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(raw), "\n")
	slices.Sort(lines)
	return lines
}

// snapshot returns everything that only the stages write.
func snapshot(t *testing.T, s *service, k *kafka) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, topic := range []string{k.documents, k.queries, k.refresh, k.triplets, k.deadLetters, "hardneg.models"} {
		var b strings.Builder
		for _, r := range k.readCommitted(topic) {
			fmt.Fprintf(&b, "%d %d %s %s %v\n", r.Partition, r.Offset, r.Key, r.Value, r.Headers)
		}
		ends, err := k.ends(t.Context(), topic, 0)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(b.String(), "\n")
		slices.Sort(lines)
		all["topic "+topic] = fmt.Sprint(lines, ends)
	}
	for group, topic := range k.groups {
		offsets, err := k.committed(t.Context(), group, topic)
		if err != nil {
			t.Fatal(err)
		}
		all["group "+group] = fmt.Sprint(offsets)
	}
	client := qdrantClient(t, s.Qdrant)
	for _, collection := range []string{"documents", "queries"} {
		var points []string
		scroll(t, client, collection, func(payload map[string]*qdrant.Value, vector []float32) {
			raw, err := json.Marshal(payload)
			if err != nil {
				t.Fatal(err)
			}
			points = append(points, fmt.Sprint(string(raw), vector))
		})
		all["collection "+collection] = fmt.Sprint(points)
	}
	return all
}

// TestReplaySpeed mines 10,000 logged queries live, and replays them into a topic and a file.
func TestReplaySpeed(t *testing.T) {
	if !*replaySpeed {
		t.Skip("takes minutes: -replay-speed runs it")
	}
	dir := filepath.Join(data(), "medquad")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the benchmark collections are not there:", err)
	}
	s := newService(t, "--embedded")
	s.spawn()
	names := namedTopics("hardneg", "")
	k, w := newKafka(t, s.Kafka, names), newWorld(names)
	w.loaded(t, dir, "train")
	folder := t.TempDir()
	var documents, log bytes.Buffer
	for _, id := range slices.Sorted(maps.Keys(w.documents)) {
		documents.Write(append(mustJSON(map[string]any{"id": id, "title": w.documents[id].title, "text": w.documents[id].text}), '\n'))
	}
	for i, id := range slices.Sorted(maps.Keys(w.queries)) {
		if i < 10_000 {
			positives := slices.Sorted(maps.Keys(w.queries[id].evidence))
			log.Write(append(mustJSON(map[string]any{"query_id": id, "query": w.queries[id].text, "positives": positives}), '\n'))
		}
	}
	for name, content := range map[string][]byte{"documents": documents.Bytes(), "queries": log.Bytes()} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.load("jsonl", filepath.Join(folder, "documents"))
	s.ready(10 * time.Minute)
	k.quiet(20 * time.Minute)

	measure := func(what string, f func()) (wall, used time.Duration) {
		start, before := time.Now(), processorTime(t, s.command.Process.Pid)
		f()
		wall, used = time.Since(start), processorTime(t, s.command.Process.Pid)-before
		t.Logf("%s: %v, %v of processor time of the service", what, wall.Round(10*time.Millisecond), used.Round(10*time.Millisecond))
		return wall, used
	}
	live, liveUsed := measure("live", func() {
		s.load("jsonl", filepath.Join(folder, "queries"), "--topic", "queries")
		k.quiet(20 * time.Minute)
	})
	view := readView(t, k).live
	path := filepath.Join(folder, "out.jsonl")
	for _, output := range []string{"topic:speed", "file:" + path} {
		var summary replaySummary
		wall, used := measure("replay into "+output, func() { summary = replay(t, s, "--from", "earliest", "--output", output) })
		t.Logf("%d queries, %d triplets: %.1f times as fast as live mining, with %.2f of the service's processor time",
			summary.Queries, summary.Triplets, float64(live)/float64(wall), float64(used)/float64(liveUsed))
	}
	sameLists(t, "topic", readView(t, k.named("speed")).live, view)
	sameLists(t, "file", readFile(t, path), view)
}

// processorTime returns the time that a process has used, user and system.
func processorTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Log("no processor times:", err)
		return 0
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // ticks of 100 Hz, as Linux shows them
}
