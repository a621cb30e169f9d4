package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hardneg/internal/service"
	"hardneg/stream"
)

// TestGoldenWorld runs every command that prints results on one small service.
func TestGoldenWorld(t *testing.T) {
	w := &goldenWorld{golden: newGolden(t, "world"), files: map[string]string{}}
	w.write("$CONFIG", goldenConfig)
	w.write("$REBUILD", strings.Replace(goldenConfig, goldenEmbedders, goldenOthers, 1))
	w.write("$DOCUMENTS", goldenDocuments())
	w.write("$QUERIES", goldenQueries)
	w.write("$WRONG", "{\"id\":\"a\",\"text\":\"b\"}\n{\"id\":\"c\"}\n")
	dir, stop := startService(t, "--config", w.files["$CONFIG"], "--set", "fit.minimum=1000000")
	w.dir = dir
	documents, queries := strings.Count(goldenDocuments(), "\n"), strings.Count(goldenQueries, "\n")

	w.begin(documents)
	w.run("load-queries", "load jsonl $QUERIES --topic queries -o json")
	w.await(documents, queries)
	w.look()
	w.models()
	w.replay()
	w.deadLetters(documents, queries)
	w.audit()
	w.pages()
	w.rebuild(documents, queries+1)

	w.topics()
	w.run("reset", "reset", "reset -o json", "reset --yes")
	stop()
	w.run("reset-embedded", "reset --embedded", "reset --embedded -o json", "reset --embedded --yes --keep-triplets -o json", "reset --embedded --yes", "reset --embedded --yes")
	w.finish()
}

// begin looks at a view that has nothing yet, and loads the documents.
func (w *goldenWorld) begin(documents int) {
	w.t.Helper()
	w.until("the service waits for documents", func(s goldenStatus) bool { return s.Instance.Ready && s.Stages[1].Members == 1 })
	w.run("empty", "status", "status -o json", "models list", "models list -o json", "models show 0", "fit --dry-run", "fit --from-index", "explain q1", "eval", "audit",
		"replay --from earliest --output x", "export", "dlq list", "dlq list -o json", "dlq show 0/0", "reset", "check", "rebuild")
	w.run("load", "load jsonl $DOCUMENTS", "load jsonl $WRONG --set topics.documents=other-documents", "load beir testdata/beir --set topics.documents=other-documents --set topics.queries=other-queries",
		"load beir testdata/beir --split test --set topics.documents=other-documents --set topics.queries=other-queries -o json", "load beir testdata/beir --split dev")
	w.learn("fit", "--dry-run")
	w.run("fit", "fit --dry-run", "fit --dry-run -o json", "fit -o json", "fit")
	w.await(documents, 0)
}

// look shows what can be seen of a view that rests.
func (w *goldenWorld) look() {
	w.t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(rw, `{"ready":false,"missing":{"miner":"kafka does not answer"}}`)
	}))
	defer server.Close()
	w.files["$INSTANCE"] = server.Listener.Addr().String()
	addresses, err := service.ReadAddresses(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	w.files["$KAFKA"], w.files["$QDRANT"] = addresses.Kafka, addresses.Qdrant
	w.run("addresses", "status --kafka $KAFKA", "check --kafka $KAFKA", "dlq list --kafka $KAFKA", "audit --all --kafka $KAFKA --qdrant $QDRANT")
	w.run("status", "status", "status -o json", "status -o json --http $INSTANCE", "status --http $INSTANCE", "status --http 127.0.0.1:1")
	w.run("export", "export", "export --format sentence-transformers", "export --format flag-embedding")
	w.run("tail", "tail --from-start --max 4", "tail --from-start --max 4 -o json")
	w.run("explain", "explain q1", "explain q1 -o json")
	w.run("explain-guards", "explain q7", "explain q7 --positive d060 -o json")
	w.run("explain-others", "explain q2", "explain q3 --positive d020 --max 2", "explain q4", "explain q4 --positive gone -o json", "explain q5", "explain q6", "explain q8", "explain q3 --positive d999")
	w.run("explain-document", "explain q1 --document pump-vector", "explain q1 --document pump", "explain q1 --document d100", "explain q1 --document d211", "explain q1 --document gone",
		"explain q3 --positive d020 --document d108 -o json")
	w.run("eval", "eval --all", "eval --all -o json", "eval --sample 3 --seed 2", "eval --sample 3 --seed 2 -o json")
	w.run("check", "check", "check -o json")
	w.run("check-failures", "check --kafka 127.0.0.1:1", "check --qdrant 127.0.0.1:1 -o json", "check --set topics.models=missing")
}

// models shows models that are live, unused and broken, and removes some.
func (w *goldenWorld) models() {
	w.t.Helper()
	w.run("fit-second", "fit --sample 50 --seed 3", "fit --from-index --dry-run", "fit --from-index --dry-run -o json --set reduce.method=none")
	w.produce(stream.Output{Topic: "hardneg.models", Key: []byte("00000000000000aa/manifest"), Value: []byte("{}")})
	w.run("models", "models list", "models list -o json", "models show $MODEL1", "models show $MODEL1 -o json", "models show $MODEL1 --http 127.0.0.1:1", "models show $MODEL2 -o json",
		"models show 00000000000000aa", "models show 00000000000000aa -o json", "models show x")
	w.run("models-remove", "models remove $MODEL2", "models remove $MODEL2 --yes", "models remove $MODEL2 --yes", "models remove 00000000000000aa --yes", "models remove $MODEL1 --yes")
}

// replay mines windows of the query log into files and topics.
func (w *goldenWorld) replay() {
	w.t.Helper()
	for _, name := range []string{"$OUT", "$COLUMNS"} {
		w.files[name] = filepath.Join(w.t.TempDir(), strings.ToLower(name[1:]))
	}
	w.run("replay", "replay --from earliest --output file:$OUT", "replay --from earliest --to 0:2 --output file:$COLUMNS --format sentence-transformers -o json",
		"replay --from earliest --output topic:backfill", "replay --from 1 --to latest --output backfill-json -o json", "replay --from latest --output nothing -o json", "replay --from 100 --output nothing",
		"replay --from earliest --output triplets", "replay --from earliest --output a/b", "export --set topics.triplets=backfill-json")
	for name, path := range map[string]string{"replay-file": w.files["$OUT"], "replay-columns": w.files["$COLUMNS"]} {
		text, err := os.ReadFile(path)
		if err != nil {
			w.t.Fatal(err)
		}
		w.compare(name, w.scrub(string(text)))
	}
}

// deadLetters lets the service write dead letters, and adds some that it would write in other cases.
func (w *goldenWorld) deadLetters(documents, queries int) {
	w.t.Helper()
	w.produce(stream.Output{Topic: "queries", Key: []byte("bytes"), Value: []byte("\xff")})
	w.awaitLetters(1)
	w.produce(stream.Output{Topic: "documents", Key: []byte("d001"), Value: []byte(`{"id":"d001","title":"no text"}`)})
	w.awaitLetters(2)
	at := time.UnixMilli(1_700_000_000_000)
	letter := func(stage string, r stream.Record, reason string) stream.Output {
		r.Time = at
		return stream.NewDeadLetter("hardneg.dead-letters", stage, r, errors.New(reason))
	}
	w.produce(
		letter("intake", stream.Record{Topic: "queries", Offset: 90, Key: []byte("q8"), Value: []byte(`{"query_id":"q8","query":"quiet library","positives":["d070"]}`),
			Headers: []stream.Header{{Key: "raw", Value: []byte{0xff}}, {Key: "none"}}}, "it was\ntoo \x1b[31mlong"),
		letter("indexer", stream.Record{Topic: "documents", Offset: 91, Key: []byte("lost")}, "no value"),
		letter("miner", stream.Record{Topic: "hardneg.refresh", Offset: 92, Key: []byte("q1"),
			Value: []byte(`{"kind":"evidence","query_id":"q1","text":"pump?","source":{"topic":"queries","partition":0,"offset":3,"timestamp":5}}`)}, "too large"),
	)
	w.await(documents-1, queries) // a document whose newest record is bad counts as deleted: d001
	w.run("dlq-list", "dlq list", "dlq list -o json", "dlq list --stage indexer", "dlq list --key q8 -o json", "dlq list --error nothing")
	w.run("dlq-show", "dlq show 0/0", "dlq show 0/0 -o json", "dlq show 0/2", "dlq show 0/4", "dlq show 0/4 -o json", "dlq show 0/4 --raw", "dlq show 0/5 -o json",
		"dlq show 0/6", "dlq show 0/6 -o json", "dlq show 9/9", "dlq show 0/1")
	w.run("dlq-replay", "dlq replay --all --dry-run", "dlq replay --all --dry-run -o json", "dlq replay --key q8", "dlq replay --key q8", "dlq replay 0/4", "dlq replay 0/4 -o json",
		"dlq replay 0/77 0/78", "dlq list", "dlq list --all", "dlq show 0/4", "dlq list --all --key q8 -o json")
	w.await(documents-1, queries+1)
	w.run("replay-bad", "replay --from earliest --output topic:backfill-bad", "replay --from earliest --output topic:backfill-bad-json -o json")
}

// audit compares a view that is right, and one with differences in the triplets topic.
func (w *goldenWorld) audit() {
	w.t.Helper()
	w.run("audit", "audit --all", "audit --all -o json", "audit --sample 2 --seed 7", "audit --sample 2 --seed 7 -o json")
	spoil := func() {
		w.produce(retraction("q1", "pump", 1), triplet("q2", "letters", 2, "d003"), triplet("q2", "letters", 9, "d003"), triplet("q99", "d003", 1, "d002"))
	}
	spoil()
	w.run("audit-differences", "audit --all", "audit --all -o json", "audit --all --repair")
	spoil()
	w.produce(stream.Output{Topic: "triplets", Key: []byte("x"), Value: []byte("y")})
	w.run("audit-stray", "export", "audit --all")
	w.run("audit-repair", "audit --all --repair -o json", "audit --all")
}

// rebuild makes a second generation, in two steps.
func (w *goldenWorld) rebuild(documents, queries int) {
	w.t.Helper()
	w.run("rebuild-hold", "rebuild --config $REBUILD --hold", "status", "status -o json", "models list", "rebuild", "rebuild --abort", "reset")
	w.run("rebuild-abort", "rebuild --abort --yes", "rebuild --abort --yes", "status")
	w.run("rebuild-hold-again", "rebuild --config $REBUILD --hold -o json")
	w.run("rebuild-promote", "rebuild --config $REBUILD -o json")
	w.await(documents-1, queries)
	w.run("rebuild-after", "status", "status -o json", "models list", "models list -o json", "tail --from-start --max 1", "eval --all", "audit --all")
}

// topics compares what is in hardneg's own topics: other programs, and other versions of hardneg, read them.
func (w *goldenWorld) topics() {
	w.t.Helper()
	kafka, _ := w.servers()
	defer kafka.Close()
	for _, topic := range []string{"hardneg.models", "hardneg.dead-letters", "hardneg.refresh", "triplets", "backfill"} {
		var lines []string
		if err := kafka.ReadToEnd(w.t.Context(), topic, func(r stream.Record) error {
			value := string(r.Value)
			switch {
			case r.Value == nil:
				value = "null"
			case topic == "triplets" || topic == "backfill":
				value = "a triplet" // the golden file of export has them
			case !json.Valid(r.Value):
				value = fmt.Sprintf("%d bytes", len(r.Value))
			}
			line := string(r.Key) + " " + value
			for _, h := range r.Headers {
				line += fmt.Sprintf(" %s=%q", h.Key, h.Value)
			}
			lines = append(lines, line)
			return nil
		}); err != nil {
			w.t.Fatal(err)
		}
		scrubbed := strings.Split(strings.TrimSuffix(w.scrub(strings.Join(lines, "\n")), "\n"), "\n")
		if topic != "hardneg.models" { // the order of refreshes, and how often one comes, is a matter of batches
			slices.Sort(scrubbed)
			scrubbed = slices.Compact(scrubbed)
		}
		w.compare("topic-"+topic, strings.Join(scrubbed, "\n")+"\n")
	}
}

// pages compares the HTTP pages of the service, and of the metrics their names and labels.
func (w *goldenWorld) pages() {
	w.t.Helper()
	kafka, address := w.servers()
	kafka.Close()
	get := func(path string) string {
		response, err := http.Get("http://" + address + path)
		if err != nil {
			w.t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			w.t.Fatal(err)
		}
		return fmt.Sprintf("%s: %s, %s\n%s", path, response.Status, response.Header.Get("Content-Type"), text)
	}
	var metrics []string
	for line := range strings.Lines(get("/metrics")) {
		if words := strings.Fields(line); strings.Contains(line, "hardneg_") {
			if words[0] == "#" {
				metrics = append(metrics, strings.TrimSpace(line))
			} else {
				metrics = append(metrics, strings.Join(words[:len(words)-1], " "))
			}
		}
	}
	w.compare("pages", w.scrub(get("/healthz")+get("/readyz")+get("/none")+strings.Join(metrics, "\n")))
}
