package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"hardneg/internal/service"
	"hardneg/stream"
)

// TestCheck probes a service that runs, with one thing after another made wrong.
func TestCheck(t *testing.T) {
	dir := runService(t)
	kafka := client(t, dir)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/denied") {
			http.Error(w, "no such key", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"data":[{"index":0,"embedding":[1,2,3]}]}`)
	}))
	t.Cleanup(server.Close)
	embedder := func(more string) string {
		return `embedders=[{name: words, type: lexical-word}, {name: e5, type: openai, model: m, retry_for: 1ms, ` + more + `}]`
	}
	if err := kafka.EnsureTopics(t.Context(), stream.Topic{Name: "plain", Partitions: 1, ReplicationFactor: 1},
		stream.Topic{Name: "large", Partitions: 1, ReplicationFactor: 1, Config: map[string]string{"cleanup.policy": "compact", "max.message.bytes": "20000000"}},
		stream.Topic{Name: "models", Partitions: 1, ReplicationFactor: 1, Config: map[string]string{"cleanup.policy": "compact"}}); err != nil {
		t.Fatal(err)
	}
	if err := kafka.Produce(t.Context(), []stream.Output{{Topic: "models", Key: []byte("partitions"), Value: []byte(`{"triplets":7}`)}}); err != nil {
		t.Fatal(err)
	}
	all := []string{"kafka", "topics", "topic documents", "topic queries", "topic triplets", "topic hardneg.refresh", "topic hardneg.models",
		"topic hardneg.dead-letters", "transactions", "qdrant", "collections", "embedder words", "embedder e5"}
	for _, test := range []struct {
		name string
		set  []string
		code int
		want map[string]string // outcome and the beginning of the detail; all others must be ok
		left []string          // not probed
	}{
		{"all is well", []string{embedder("url: " + server.URL)}, 0, map[string]string{"collections": "note none is live"}, nil},
		{"the right length", []string{embedder("dimensions: 3, url: " + server.URL)}, 0, map[string]string{"collections": "note none is live"}, nil},
		{"another length", []string{embedder("dimensions: 4, url: " + server.URL)}, 1, map[string]string{"collections": "note", "embedder e5": "failed"}, nil},
		{"a wrong key", []string{embedder("url: " + server.URL + "/denied")}, 1, map[string]string{"collections": "note", "embedder e5": "failed embedder e5: " + server.URL + "/denied/embeddings"}, nil},
		{"no server", []string{embedder(`url: "http://127.0.0.1:1"`)}, 3, map[string]string{"collections": "note", "embedder e5": "failed"}, nil},
		{"a topic that is missing", []string{embedder("url: " + server.URL), "topics.triplets=other"}, 0,
			map[string]string{"collections": "note", "topics": "note not there yet, and made by hardneg run: other"}, []string{"topic triplets"}},
		{"a topic with another policy", []string{embedder("url: " + server.URL), "topics.triplets=plain"}, 0,
			map[string]string{"collections": "note", "topic plain": "note topic plain has cleanup.policy=delete, where it is meant for compact"}, []string{"topic triplets"}},
		{"a limit that will be raised", []string{embedder("url: " + server.URL), "topics.documents=large"}, 0,
			map[string]string{"collections": "note", "topic large": "ok", "topic hardneg.dead-letters": "note takes records of "}, []string{"topic documents"}},
		{"a topic that has grown", []string{embedder("url: " + server.URL), "topics.models=models"}, 1,
			map[string]string{"collections": "note", "topic models": "ok", "topic triplets": "failed topic triplets has 4 partitions, but the view began with 7"}, []string{"topic hardneg.models"}},
		{"another policy of one's own", []string{embedder("url: " + server.URL), "topics.models=plain"}, 1,
			map[string]string{"collections": "note", "topic plain": "failed topic plain has cleanup.policy=delete, where compact is needed"}, []string{"topic hardneg.models"}},
	} {
		args := []string{"check", "--data-dir", dir, "-o", "json"}
		for _, s := range test.set {
			args = append(args, "--set", s)
		}
		code, stdout, stderr := hardneg(t, args...)
		if code != test.code {
			t.Errorf("%s: exit code %d, want %d: %s", test.name, code, test.code, stderr)
		}
		probed := map[string]string{}
		for line := range strings.Lines(stdout) {
			var p service.Probe
			if err := json.Unmarshal([]byte(line), &p); err != nil {
				t.Fatal(err)
			}
			probed[p.What] = p.Outcome + " " + p.Detail
		}
		for _, what := range test.left {
			if _, ok := probed[what]; ok {
				t.Errorf("%s: %s was probed", test.name, what)
			}
			delete(probed, what)
			test.want[what] = ""
		}
		for _, what := range all {
			if _, ok := test.want[what]; !ok {
				test.want[what] = "ok "
			}
		}
		for what, want := range test.want {
			if !strings.HasPrefix(probed[what], want) {
				t.Errorf("%s: %s: %q, want %q", test.name, what, probed[what], want)
			}
		}
	}
	if table := succeed(t, "check", "--data-dir", dir); !strings.HasPrefix(table, "ok      kafka ") || strings.Count(table, "\n") != 13 {
		t.Errorf("the table:\n%s", table)
	}
	code, stdout, stderr := hardneg(t, "check", "--kafka", "127.0.0.1:1", "--qdrant", "127.0.0.1:2")
	if code != exitUnreachable || strings.Count(stdout, "failed  ") != 2 || strings.Contains(stdout, "topic") || !strings.Contains(stderr, "2 of 4 probes failed: cannot reach Kafka at 127.0.0.1:1") {
		t.Errorf("with nothing there: exit code %d, %s\n%s", code, stderr, stdout)
	}
}
