package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestOutsideKafka is TestView against the Kafka at HARDNEG_TEST_KAFKA, with the embedded Qdrant. The service
// is killed during the changes. The test uses its own names, so that it does not touch anything else there.
func TestOutsideKafka(t *testing.T) {
	address := os.Getenv("HARDNEG_TEST_KAFKA")
	if address == "" {
		t.Skip("HARDNEG_TEST_KAFKA names no Kafka")
	}
	dir := collection(t)
	name := fmt.Sprintf("e2e-%d", time.Now().UnixNano())
	names := namedTopics(name, name+".")
	settings := []string{"--set", "name=" + name, "--set", "topics.documents=" + names.documents, "--set", "topics.queries=" + names.queries,
		"--set", "topics.triplets=" + names.triplets, "--set", "topics.refresh=" + names.refresh, "--set", "topics.dead_letters=" + names.deadLetters,
		"--set", "topics.models=" + name + ".hardneg.models", "--set", "topics.purge_refresh=200ms"}
	index := newService(t, "--embedded", "--stages", "intake") // only its Qdrant is used
	index.spawn()
	s := newService(t, append(slices.Clone(settings), "--set", "kafka.brokers="+address, "--set", "qdrant.address="+index.Qdrant)...)
	s.spawn()
	k, w := newKafka(t, address, names), newWorld(names)
	out := hardneg(t, patience, append(slices.Clone(settings), "load", "beir", dir, "--split", "train", "--kafka", address)...)
	if out.code != codeOK {
		t.Fatalf("load: exit code %d\n%s", out.code, out.stderr)
	}
	w.loaded(t, dir, "train")
	s.ready(patience)
	k.quiet(patience)
	t.Log(w)
	t.Log(compare(t, s, k, w, ""))
	c := newChurn(w, random(t))
	k.produce(c.steps(350)...)
	s.kill() // here the embedded servers do not crash
	s.spawn()
	k.produce(c.steps(150)...)
	s.ready(patience)
	k.quiet(patience)
	t.Log(compare(t, s, k, w, ""))
	checkTwins(t, s, k, w, "")
	checkCommandsOutside(t, append(settings, "--kafka", address, "--qdrant", index.Qdrant), k)
	s.stop()
}

// checkCommandsOutside expects `check` to find no problem, and `dlq replay` to send a record once, which then
// comes back once.
func checkCommandsOutside(t *testing.T, settings []string, k *kafka) {
	t.Helper()
	run := func(args ...string) string {
		t.Helper()
		out := hardneg(t, patience, append(args, settings...)...)
		if out.code != codeOK {
			t.Errorf("%v: exit code %d\n%s%s", args, out.code, out.stdout, out.stderr)
		}
		return out.stdout
	}
	if out := run("check"); strings.Contains(out, "failed") || !strings.Contains(out, "transactions ") {
		t.Errorf("check:\n%s", out)
	}
	before := strings.Count(run("dlq", "list", "-o", "json"), "\n")
	k.produce(&kgo.Record{Topic: k.queries, Key: []byte("bad"), Value: []byte(`{"query":`)},
		&kgo.Record{Topic: k.queries, Key: []byte("zero"), Value: []byte(`{"query":"no direction","query_id":"zero","embeddings":{"words":[0,0]}}`)})
	k.quiet(patience)
	list := run("dlq", "list", "-o", "json")
	if n := strings.Count(list, "\n"); n != before+2 {
		t.Errorf("%d dead letters, want %d:\n%s", n, before+2, list)
	}
	for range 2 {
		if out := run("dlq", "replay", "--stage", "miner"); strings.Count(out, "  to "+k.queries+"/") != 1 || !strings.Contains(out, "1 sent again, 0 left; ") {
			t.Errorf("dlq replay:\n%s", out)
		}
		k.quiet(patience)
	}
	if out := run("dlq", "replay", "--key", "bad"); !strings.Contains(out, "left: it would come back: invalid JSON") {
		t.Errorf("dlq replay of what is malformed:\n%s", out)
	}
	times := 0
	for _, r := range k.readCommitted(k.deadLetters) {
		if string(r.Key) == "zero" {
			times++
		}
	}
	if times != 3 {
		t.Errorf("%d dead letters of a query that was refused three times", times)
	}
}
