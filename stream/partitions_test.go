package stream

import (
	"errors"
	"testing"
)

// TestFixedPartitions: once a topic has another number of partitions than it must have, nothing is written to it by key.
func TestFixedPartitions(t *testing.T) {
	c := testClient(t)
	topic := unique("fixed")
	if err := c.EnsureTopics(testContext(t), Topic{Name: topic, Partitions: 2, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	byKey, direct := Output{Topic: topic, Partition: ByKey, Key: []byte("k")}, Output{Topic: topic, Partition: 1, Key: []byte("k")}
	c.FixPartitions(topic, 2)
	if err := c.Produce(testContext(t), []Output{byKey}); err != nil {
		t.Fatalf("with the right number: %v", err)
	}
	c.FixPartitions(topic, 1)
	if err := c.Produce(testContext(t), []Output{direct, byKey}); !errors.Is(err, ErrRepartitioned) {
		t.Errorf("by key with another number: %v, want ErrRepartitioned", err)
	}
	if err := c.Produce(testContext(t), []Output{direct}); err != nil {
		t.Errorf("into a named partition: %v", err)
	}
	n := 0
	if err := c.ReadToEnd(testContext(t), topic, func(Record) error { n++; return nil }); err != nil || n != 2 {
		t.Errorf("%d records, %v, want 2: a refused call writes nothing", n, err)
	}
}
