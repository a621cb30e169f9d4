package e2e

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// TestOutsideKafka is TestView against the Kafka at HARDNEG_TEST_KAFKA, with the embedded Qdrant, and the service is killed
// in the midst of the changes. Names of its own keep it apart from whatever else is there.
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
	index := newService(t, "--embedded", "--stages", "intake") // for its Qdrant
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
	s.kill() // the embedded servers are not the ones that crash here
	s.spawn()
	k.produce(c.steps(150)...)
	s.ready(patience)
	k.quiet(patience)
	t.Log(compare(t, s, k, w, ""))
	checkTwins(t, s, k, w, "")
	s.stop()
}
