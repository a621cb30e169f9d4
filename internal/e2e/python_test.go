package e2e

import (
	"os"
	"os/exec"
	"testing"
)

// TestPython lets clients in another language use the embedded servers: confluent-kafka reads triplets and
// changes a document, qdrant-client reads the collections.
func TestPython(t *testing.T) {
	python := os.Getenv("HARDNEG_TEST_PYTHON")
	if python == "" {
		python = "python3"
	}
	if out, err := exec.Command(python, "-c", "import confluent_kafka, qdrant_client").CombinedOutput(); err != nil {
		t.Skipf("%s has no confluent-kafka and qdrant-client: %v %s", python, err, out)
	}
	s := newService(t, append(small, "--embedded")...)
	s.spawn()
	names := namedTopics("hardneg", "")
	k, w := newKafka(t, s.Kafka, names), newWorld(names)
	k.produce(goRecords(t, w, 300)...)
	s.ready(patience)
	k.quiet(patience)
	out, err := exec.CommandContext(t.Context(), python, "testdata/clients.py", s.Kafka, s.Qdrant).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
