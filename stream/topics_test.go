package stream

import (
	"errors"
	"strings"
	"testing"
)

func TestEnsureTopics(t *testing.T) {
	c, other := testClient(t), testClient(t)
	ctx := testContext(t)
	name := unique("compacted")
	topic := Topic{Name: name, Partitions: 3, ReplicationFactor: 1, Config: map[string]string{"cleanup.policy": "compact"}}
	if _, err := c.Partitions(ctx, name); !errors.Is(err, ErrUnknownTopic) {
		t.Errorf("before: %v", err)
	}
	both := make(chan error)
	go func() { both <- other.EnsureTopics(ctx, topic) }()
	if err := errors.Join(c.EnsureTopics(ctx, topic), <-both); err != nil {
		t.Fatalf("two at a time: %v", err)
	}
	for _, client := range []*Client{c, other} {
		if n, err := client.Partitions(ctx, name); n != 3 || err != nil {
			t.Errorf("%d partitions, %v", n, err)
		}
	}
	if err := c.EnsureTopics(ctx, topic, Topic{Name: unique("default")}); err != nil {
		t.Errorf("again: %v", err)
	}
	topic.Config["cleanup.policy"] = "delete"
	if err := c.EnsureTopics(ctx, topic); !contains(err, name+" has cleanup.policy=compact, where delete is needed") {
		t.Errorf("another policy: %v", err)
	}
	if err := c.EnsureTopics(ctx, topic); !contains(err, "kafka-configs --bootstrap-server "+strings.Join(c.brokers, ",")+
		" --alter --entity-type topics --entity-name "+name+" --add-config cleanup.policy=delete") {
		t.Errorf("another policy, the command: %v", err)
	}
	topic.Shared = true
	if err := c.EnsureTopics(ctx, topic); err != nil {
		t.Errorf("another policy of a shared topic: %v", err)
	}
	if err := c.EnsureTopics(ctx, Topic{Name: "not a name!"}); onRealKafka() && !contains(err, "not a name!") {
		t.Errorf("bad name: %v", err)
	}
}

func TestMaxMessageBytes(t *testing.T) {
	c := testClient(t)
	ctx := testContext(t)
	small := Topic{Name: unique("small"), Partitions: 1, ReplicationFactor: 1, Config: map[string]string{"max.message.bytes": "5000"}}
	plain := Topic{Name: unique("plain"), Partitions: 1, ReplicationFactor: 1}
	if err := c.EnsureTopics(ctx, small, plain); err != nil {
		t.Fatal(err)
	}
	if limits, err := c.MaxMessageBytes(ctx, small.Name, plain.Name); err != nil || limits[small.Name] != 5000 || limits[plain.Name] != 1048588 {
		t.Errorf("limits %v, %v", limits, err)
	}
	if limits, err := c.MaxMessageBytes(ctx); err != nil || len(limits) > 0 {
		t.Errorf("limits of no topics: %v, %v", limits, err)
	}
	small.MaxMessageBytes, plain.MaxMessageBytes = 5000, 1048588
	if err := c.EnsureTopics(ctx, small, plain); err != nil {
		t.Errorf("as much as they take: %v", err)
	}
	small.MaxMessageBytes, small.Shared = 5001, true
	if err := c.EnsureTopics(ctx, plain, small); !contains(err, "topic "+small.Name+" has max.message.bytes=5000, where at least 5001 is needed") ||
		!contains(err, "--entity-name "+small.Name+" --add-config max.message.bytes=5001") || strings.Contains(err.Error(), plain.Name) {
		t.Errorf("more than one of them takes: %v", err)
	}
	small.Shared = false
	if err := c.EnsureTopics(ctx, small); err != nil {
		t.Errorf("one's own topic is not raised: %v", err)
	}
	if limits, err := c.MaxMessageBytes(ctx, small.Name); err != nil || limits[small.Name] != 5001 {
		t.Errorf("raised to %v, %v", limits, err)
	}
	made := Topic{Name: unique("made"), MaxMessageBytes: 1 << 30, Shared: true} // a limit that new topics do not have, either
	if err := c.EnsureTopics(ctx, made); !contains(err, "where at least 1073741824 is needed") {
		t.Errorf("a new topic: %v", err)
	}
}
