package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"hardneg/internal/service"
	"hardneg/stream"
)

// goldenConfig is the configuration of the service and of every command. With one partition in each topic, all
// records stay in one order. The service never fits a model itself: it takes the one that the test publishes.
const goldenConfig = goldenEmbedders + `
fit: {minimum: 100, wait: 1h, sample: 1000000}
topics: {partitions: 1, purge_refresh: 0s}
mining:
  negatives: 3
  depth: 12
  tiers:
    - {policy: semantic, upto: 1, depth: 8, skip: 1}
    - {policy: positive-aware, upto: 3, depth: 10}
triplets: {max_text: 100}
sweep: {rate: 0}
log: {level: warn}
`

const goldenEmbedders = `embedders:
  - {name: words, type: lexical-word, dimensions: 1024}
  - {name: chars, type: lexical-char, dimensions: 1024, weight: 0.5}
reduce: {max_dimensions: 64}
`

// goldenOthers are the embedders of the second generation.
const goldenOthers = `embedders:
  - {name: words, type: lexical-word, dimensions: 512}
reduce: {max_dimensions: 32}
`

// goldenDocuments makes lines of documents: 240 by a fixed formula, and a few special ones for the guards.
func goldenDocuments() string {
	words := [][]string{
		{"old", "small", "heavy", "quiet", "bright", "narrow", "rusty", "patient", "wooden", "cold", "foreign", "hollow", "brave"},
		{"pump", "letter", "bridge", "engine", "garden", "library", "kettle", "harbour", "ladder", "violin", "market"},
		{"repairs", "carries", "measures", "paints", "follows", "collects", "hides", "borrows", "cleans"},
		{"river", "winter", "mountain", "kitchen", "station", "island", "village"},
	}
	var b strings.Builder
	state := uint32(2463534242)
	pick := func(list []string) string { // xorshift
		state ^= state << 13
		state ^= state >> 17
		state ^= state << 5
		return list[state%uint32(len(list))]
	}
	put := func(d map[string]any) {
		line, _ := json.Marshal(d) // strings alone
		b.Write(append(line, '\n'))
	}
	for i := range 240 {
		text := fmt.Sprintf("The %s %s %s a %s %s near the %s.", pick(words[0]), pick(words[1]), pick(words[2]), pick(words[0]), pick(words[1]), pick(words[3]))
		if i%3 == 0 {
			text += fmt.Sprintf(" In the %s it %s every %s.", pick(words[3]), pick(words[2]), pick(words[1]))
		}
		d := map[string]any{"id": fmt.Sprintf("d%03d", i), "text": text}
		if i%4 == 0 {
			d["title"] = fmt.Sprintf("%s %s", pick(words[0]), pick(words[1]))
		}
		put(d)
	}
	pump := "An old pump repairs itself slowly when the narrow river is cold, and a patient engine measures the kettle."
	put(map[string]any{"id": "pump", "title": "The <old> pump & the river", "text": pump, "url": "https://example.org/pump", "metadata": map[string]any{"kind": "guide"}})
	put(map[string]any{"id": "pump-copy", "title": "The <old> pump & the river", "text": pump, "url": "https://example.org/copy", "metadata": map[string]any{"kind": "guide"}})
	put(map[string]any{"id": "pump-near", "title": "The <old> pump & the river", "text": pump + " Often."})
	put(map[string]any{"id": "pump-vector", "title": "The river <old> & the pump", "text": "a patient engine measures the kettle, and an old pump repairs itself slowly when the narrow river is cold"})
	put(map[string]any{"id": "pump-words", "title": "Why does the old pump repair the river?", "text": "Nobody asks\twhy does\u001b[31m the old pump repair the river."})
	put(map[string]any{"id": "pump-words-again", "title": "Why does the old pump repair the river?", "text": "Nobody asks\twhy does\u001b[31m the old pump repair the river."})
	put(map[string]any{"id": "letters", "text": "A foreign letter follows the quiet violin to the island market. " + strings.Repeat("It is a very long letter. ", 20)})
	return b.String()
}

const goldenQueries = `{"query_id":"q1","query":"Why does the old pump repair the river?","positives":["pump"],"session_id":"s","timestamp":"2026-01-02T03:04:05Z"}
{"query_id":"q2","query":"foreign letter that follows a violin","clicks":[{"doc_id":"letters","dwell_ms":9000},{"doc_id":"d005","weight":0.25}]}
{"query_id":"q3","query":"brave market hides a ladder in winter","positives":["d010","d020"]}
{"query_id":"q4","query":"a document that nobody has","positives":["gone","d030"]}
{"query_id":"q5","query":"wooden bridge cleans the harbour","clicks":[{"doc_id":"d040","weight":0.5}]}
{"query_id":"q7","query":"the patient engine measures an old pump","positives":["pump","d060"]}
{"query_id":"q6","query":"rusty engine & <kettle>","positives":["d050"]}
`

// goldenScrub replaces what changes from run to run. Each line goes through it from top to bottom.
var goldenScrub = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d{4,}`), `127.0.0.1:PORT`},
	{regexp.MustCompile(`20(2[4-9]|[3-9]\d)-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`), `YYYY-MM-DDTHH:MM:SSZ`},
	{regexp.MustCompile(`^! \d\d:\d\d:\d\d `), `! HH:MM:SS `},
	{regexp.MustCompile(`"revision":( ?)\d{13}\b`), `"revision":${1}MILLIS`},
	{regexp.MustCompile(`"triplet_id":"[0-9a-f-]{36}"`), `"triplet_id":"UUID"`}, // of the revision, too
	{regexp.MustCompile(`"timestamp":\d{13}\b`), `"timestamp":MILLIS`},
	{regexp.MustCompile(`"took_ns":\d+`), `"took_ns":N`},
	{regexp.MustCompile(`^(ok|note|failed)( +.{28}) +\d\S*s  `), `$1$2   TOOK  `}, // check
	{regexp.MustCompile(`\b\d+ offsets`), `N offsets`},                            // with the marks of transactions
	{regexp.MustCompile(`^\{"partition":0,"offset":\d+`), `{"partition":0,"offset":N`},
	{regexp.MustCompile(`triplets/0 at offset \d+`), `triplets/0 at offset N`},
	{regexp.MustCompile(`("(read|fit|publish|documents|queries|mine|verify|seconds)": ?)(\d+\.\d+(e-\d+)?|\d+e-\d+)(,|$|\})`), `${1}N$5`},
	{regexp.MustCompile(`"records_per_second":[\d.e+]+`), `"records_per_second":N`},
	{regexp.MustCompile(`^! (documents|queries|mine|publish): -?\d+ (of \d+|to go).*$`), `! $1: N`}, // a step of a rebuild
	{regexp.MustCompile(`(<model number \d+>)-\d{13}`), `$1-UNIX-MILLISEC`},                         // the generation of a rebuild
	{regexp.MustCompile(`\b\d+\.\d s\b`), `N s`},
	{regexp.MustCompile(`\b\d+/s\b`), `N/s`},
	{regexp.MustCompile(`"sha256": "[0-9a-f]{64}"`), `"sha256": "SHA256"`},
}

// goldenWorld is a service with its documents and queries, and the commands that are run on it.
type goldenWorld struct {
	*golden
	dir   string            // of the service's data
	files map[string]string // by the name that transcripts have for it: path
	ids   []string          // of models, in the order of their publication
}

func (w *goldenWorld) at(args ...string) []string {
	return append(args, "--data-dir", w.dir, "--config", w.files["$CONFIG"])
}

// run runs command lines, and compares what they print with a golden file.
func (w *goldenWorld) run(name string, lines ...string) {
	w.t.Helper()
	w.compare(name, w.text(lines...))
}

func (w *goldenWorld) text(lines ...string) string {
	w.t.Helper()
	var b strings.Builder
	for _, line := range lines {
		args := strings.Fields(line)
		for i := range args {
			for name, path := range w.files {
				args[i] = strings.ReplaceAll(args[i], name, path)
			}
			if n, err := strconv.Atoi(strings.TrimPrefix(args[i], "$MODEL")); err == nil && strings.HasPrefix(args[i], "$MODEL") {
				args[i] = w.ids[n-1]
			}
		}
		switch {
		case slices.Contains(args, "--config"):
			args = append(args, "--data-dir", w.dir)
		case !strings.Contains(line, "$KAFKA"): // it names the service by --data-dir
			args = w.at(args...)
		}
		b.WriteString(transcript(w.t.Context(), line, args...))
	}
	text := b.String()
	if slices.ContainsFunc(hash.FindAllString(text, -1), func(id string) bool { return !slices.Contains(w.ids, id) }) {
		w.learn("models", "list")
	}
	return w.scrub(text)
}

var (
	// goldenProgress matches the lines by which long commands show their progress. They are left out: how many
	// come depends on the speed of the machine.
	goldenProgress = regexp.MustCompile(`^! [a-z ]+: (\d+, \d+/s|\d+ %, .*|reading the window, .*)$`)
	// goldenStep matches a scrubbed line of a step of a rebuild. Equal lines become one, for the same reason.
	goldenStep   = regexp.MustCompile(`^! [a-z]+: N$`)
	longFraction = regexp.MustCompile(`-?\d+\.\d{5,}(e-\d+)?`)
	manifestID   = regexp.MustCompile(`"id": "([0-9a-f]{16})"`)
	hash         = regexp.MustCompile(`\b[0-9a-f]{16}\b`)
)

// shorten gives a fraction four decimals.
func shorten(text string) string {
	f, _ := strconv.ParseFloat(text, 64)
	return strconv.FormatFloat(f, 'f', 4, 64)
}

// learn notes the ids of the models that a command prints as JSON. Transcripts name a model by its number
// in this list.
func (w *goldenWorld) learn(args ...string) {
	w.t.Helper()
	printed := succeed(w.t, w.at(append(args, "-o", "json")...)...)
	for _, found := range manifestID.FindAllStringSubmatch(printed, -1) {
		if !slices.Contains(w.ids, found[1]) {
			w.ids = append(w.ids, found[1])
		}
	}
}

func (w *goldenWorld) scrub(text string) string {
	for name, path := range w.files {
		text = strings.ReplaceAll(text, path, name)
	}
	text = strings.ReplaceAll(text, w.dir, "$DATA")
	for i, id := range w.ids {
		text = strings.ReplaceAll(text, id, fmt.Sprintf("<model number %d>", i+1)) // as long as an id, for tables
	}
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if goldenProgress.MatchString(line) {
			continue
		}
		for _, s := range goldenScrub {
			line = s.pattern.ReplaceAllString(line, s.with)
		}
		line = longFraction.ReplaceAllStringFunc(line, shorten)
		if len(lines) > 0 && line == lines[len(lines)-1] && goldenStep.MatchString(line) {
			continue
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n") + "\n"
}

// status holds the fields of `hardneg status -o json` that the test reads.
type goldenStatus struct {
	Generation string
	Publishing bool
	Documents  int
	Queries    int
	Stages     []struct{ Members, Lag int }
	Instance   struct{ Ready bool }
}

// rests returns true if the service has no work left.
func (s goldenStatus) rests() bool {
	for _, stage := range s.Stages {
		if stage.Members != 1 || stage.Lag > 0 {
			return false
		}
	}
	return s.Generation != "" && !s.Publishing && s.Instance.Ready
}

// until waits until f accepts the status twice in a row. The status asks one stage after another, so it can
// overlook a record once that goes from one to the next at that moment.
func (w *goldenWorld) until(what string, f func(goldenStatus) bool) {
	w.t.Helper()
	var s goldenStatus
	for times, deadline := 0, time.Now().Add(patience); times < 2; time.Sleep(50 * time.Millisecond) {
		s = goldenStatus{}
		if err := json.Unmarshal([]byte(succeed(w.t, w.at("status", "-o", "json")...)), &s); err != nil {
			w.t.Fatal(err)
		}
		times++
		if !f(s) {
			times = 0
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("it does not come to be that %s: %+v", what, s)
		}
	}
}

// await waits until the view has this many documents and queries, and nothing to do any more.
func (w *goldenWorld) await(documents, queries int) {
	w.t.Helper()
	w.until(fmt.Sprintf("%d documents and %d queries rest", documents, queries), func(s goldenStatus) bool { return s.rests() && s.Documents == documents && s.Queries == queries })
}

// awaitLetters waits until there are so many dead letters.
func (w *goldenWorld) awaitLetters(n int) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); strings.Count(succeed(w.t, w.at("dlq", "list", "--all", "-o", "json")...), "\n") < n; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%d dead letters do not come", n)
		}
	}
}

// write writes a file that command lines name.
func (w *goldenWorld) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), strings.ToLower(name[1:]))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.files[name] = path
}

// servers connects to the Kafka of the service, and returns its HTTP address, too.
func (w *goldenWorld) servers() (kafka *stream.Client, http string) {
	w.t.Helper()
	addresses, err := service.ReadAddresses(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	kafka, err = stream.New(stream.Config{Brokers: []string{addresses.Kafka}, Log: zerolog.Nop()})
	if err != nil {
		w.t.Fatal(err)
	}
	return kafka, addresses.HTTP
}

// produce writes records that no command would write.
func (w *goldenWorld) produce(outputs ...stream.Output) {
	w.t.Helper()
	kafka, _ := w.servers()
	defer kafka.Close()
	if err := kafka.Produce(w.t.Context(), outputs); err != nil {
		w.t.Fatal(err)
	}
}
