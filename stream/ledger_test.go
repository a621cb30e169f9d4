package stream

import (
	"errors"
	"maps"
	"testing"
	"time"
)

// TestLedger publishes with marks and then opens the ledger again. The old owner is fenced, and the marks
// that the new owner gets are the marks of the last commit.
func TestLedger(t *testing.T) {
	ctx, c := testContext(t), testClient(t)
	in, out, id := testTopic(t, c, "ledger-in", 3), testTopic(t, c, "ledger-out", 2), unique("ledger")
	first, marks, err := c.OpenLedger(ctx, id, id, in, time.Minute)
	if err != nil || len(marks) != 0 {
		t.Fatalf("%v %v", marks, err)
	}
	plan := map[int32]Mark{0: {5, "{}"}, 2: {7, "to=9"}}
	if err := first.Commit(ctx, plan, numbered(out, 0, 10)); err != nil {
		t.Fatal(err)
	}
	if err := first.Commit(ctx, map[int32]Mark{0: {5, "more"}}, numbered(out, 10, 10)); err != nil {
		t.Fatal(err)
	}
	plan[0] = Mark{5, "more"}
	second, marks, err := c.OpenLedger(ctx, id, id, in, time.Minute)
	if err != nil || !maps.Equal(marks, plan) {
		t.Fatalf("marks %v, want %v: %v", marks, plan, err)
	}
	if err := first.Commit(ctx, map[int32]Mark{0: {6, "late"}}, numbered(out, 100, 10)); !errors.Is(err, ErrFenced) {
		t.Errorf("the old owner's commit: %v", err)
	}
	if err := second.Commit(ctx, map[int32]Mark{0: {5, "done"}}, nil); err != nil {
		t.Fatal(err)
	}
	_, marks, err = c.OpenLedger(ctx, id, id, in, time.Minute)
	plan[0] = Mark{5, "done"}
	if err != nil || !maps.Equal(marks, plan) {
		t.Errorf("marks %v, want %v: %v", marks, plan, err)
	}
	if got := readAll(t, out, true); len(got) < 20 || count(got) != 20 {
		t.Errorf("%d records are published, want 20", count(got))
	}
}

// TestLedgerAfterALostAnswer commits a second time after an answer was lost. The outputs are published once.
// If another owner has committed meanwhile, they are not published, and the commit is fenced.
func TestLedgerAfterALostAnswer(t *testing.T) {
	ctx, c := testContext(t), testClient(t)
	in, out, id := testTopic(t, c, "ledger-in", 1), testTopic(t, c, "ledger-out", 1), unique("ledger")
	l, _, err := c.OpenLedger(ctx, id, id, in, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	one, two := map[int32]Mark{0: {1, "one"}}, map[int32]Mark{0: {1, "two"}}
	if err := l.Commit(ctx, one, numbered(out, 0, 5)); err != nil {
		t.Fatal(err)
	}
	l.marks, l.producer = map[int32]Mark{}, nil // as after a lost answer
	if err := l.Commit(ctx, one, numbered(out, 0, 5)); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(ctx, two, numbered(out, 5, 5)); err != nil {
		t.Fatal(err)
	}
	l.marks, l.producer = maps.Clone(one), nil
	other, _, err := c.OpenLedger(ctx, id, id, in, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Commit(ctx, map[int32]Mark{0: {1, "three"}}, numbered(out, 10, 5)); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(ctx, two, numbered(out, 5, 5)); !errors.Is(err, ErrFenced) {
		t.Errorf("a commit behind another owner's: %v", err)
	}
	if n := count(readAll(t, out, true)); n != 15 {
		t.Errorf("%d records are published, want 15", n)
	}
}

// count returns the number of records, without transaction markers.
func count(all []logRecord) int {
	n := 0
	for _, s := range all {
		if !s.record.Attrs.IsControl() {
			n++
		}
	}
	return n
}

func TestOffsetsAt(t *testing.T) {
	ctx, c := testContext(t), testClient(t)
	topic := testTopic(t, c, "at", 2)
	before := time.Now()
	if err := c.Produce(ctx, []Output{{Topic: topic, Partition: 1, Key: []byte("a")}, {Topic: topic, Partition: 1, Key: []byte("b")}}); err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Time{{}, before.Add(-time.Hour)} {
		if got, err := c.OffsetsAt(ctx, topic, at); err != nil || got[0] != -1 || got[1] != 0 {
			t.Errorf("at %v: %v %v", at, got, err)
		}
	}
	if got, err := c.OffsetsAt(ctx, topic, time.Now().Add(time.Hour)); err != nil || got[0] != -1 || got[1] != -1 {
		t.Errorf("in an hour: %v %v", got, err)
	}
}

// TestDeletions deletes groups and topics, each twice: the second time there is nothing to delete.
func TestDeletions(t *testing.T) {
	ctx, c := testContext(t), testClient(t)
	in, group := testTopic(t, c, "deleted", 2), unique("group")
	l, _, err := c.OpenLedger(ctx, group, group, in, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(ctx, map[int32]Mark{1: {Offset: 3}}, nil); err != nil {
		t.Fatal(err)
	}
	has := func(what string, all []string, err error, name string, want bool) {
		t.Helper()
		got := false
		for _, x := range all {
			got = got || x == name
		}
		if err != nil || got != want {
			t.Errorf("%s has %s: %v, want %v: %v", what, name, got, want, err)
		}
	}
	groups, err := c.Groups(ctx)
	has("the list of groups", groups, err, group, true)
	if n, err := c.Members(ctx, group); n != 0 || err != nil {
		t.Errorf("%d members: %v", n, err)
	}
	for range 2 {
		if err := c.DeleteGroup(ctx, group); err != nil {
			t.Error(err)
		}
		if err := c.DeleteTopics(ctx, in); err != nil {
			t.Error(err)
		}
	}
	groups, err = c.Groups(ctx)
	has("the list of groups", groups, err, group, false)
	topics, err := c.Topics(ctx)
	has("the list of topics", topics, err, in, false)
	if n, err := c.Members(ctx, group); n != 0 || err != nil {
		t.Errorf("%d members of no group: %v", n, err)
	}
}
