package stream

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

// TestFence: after Fence, earlier owners cannot commit any more, with an open transaction or without one. An
// owner that begins after Fence can.
func TestFence(t *testing.T) {
	c := testClient(t)
	in, out := testTopic(t, c, "fence-in", 2), testTopic(t, c, "fence-out", 1)
	prefix := unique("prefix")
	owners := make([]*producer, 2)
	for i := range owners {
		owners[i] = testProducer(t, c, transactionalID(prefix, in, int32(i)))
	}
	owners[0].open(t, numbered(out, 0, 3))
	if err := c.Fence(testContext(t), prefix, in); err != nil {
		t.Fatal(err)
	}
	for i, p := range owners {
		err := p.commit(testContext(t), membership{group: unique("group"), generation: -1}, topicPartition{in, int32(i)}, 1, "", numbered(out, 10, 1))
		if err == nil {
			t.Errorf("the owner of partition %d committed after it was fenced", i)
		}
	}
	next := testProducer(t, c, transactionalID(prefix, in, 0))
	next.open(t, numbered(out, 20, 1))
	next.close(t, true)
	eventually(t, "the successor's record, and no other", func() bool { return slices.Equal(values(readAll(t, out, true)), []string{"20"}) })
	if err := c.Fence(testContext(t), prefix, unique("no-topic")); err != nil {
		t.Errorf("a topic that does not exist: %v", err)
	}
}

// TestGroupBegins: a group begins at the offsets that CommitOffsets set. While it has members, its offsets
// cannot be set and it cannot be deleted.
func TestGroupBegins(t *testing.T) {
	c := testClient(t)
	in, out := testTopic(t, c, "begin-in", 2), testTopic(t, c, "begin-out", 1)
	for p := range int32(2) {
		outputs := numbered(in, int(10*p), 5)
		for i := range outputs {
			outputs[i].Partition = p
		}
		if err := c.Produce(testContext(t), outputs); err != nil {
			t.Fatal(err)
		}
	}
	w := &recorder{t: t}
	s := stageOf(in, w, passOn(out))
	if err := c.CommitOffsets(testContext(t), s.Group, in, map[int32]int64{0: 3}); err != nil {
		t.Fatal(err)
	}
	stop := runStage(t, c, s)
	want := []string{"10", "11", "12", "13", "14", "3", "4"}
	eventually(t, "records from the offsets on", func() bool { return slices.Equal(sorted(values(readAll(t, out, true))), want) })
	if err := c.CommitOffsets(testContext(t), s.Group, in, map[int32]int64{0: 0}); err == nil {
		t.Error("the offsets of a group with members were set")
	}
	if err := c.DeleteGroup(testContext(t), s.Group); !errors.Is(err, ErrGroupInUse) {
		t.Errorf("deleting a group with members: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the group without members is deleted", func() bool {
		ctx, cancel := context.WithTimeout(testContext(t), 5*time.Second)
		defer cancel()
		return c.DeleteGroup(ctx, s.Group) == nil
	})
	if at, err := c.Committed(testContext(t), s.Group, in); err != nil || len(at) != 0 {
		t.Errorf("a deleted group has %v, %v", at, err)
	}
}
