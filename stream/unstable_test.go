package stream

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
)

// The log and the error of a wait for an open transaction name the transaction and say what to do.
func TestWaitForOpenTransaction(t *testing.T) {
	c := testClient(t)
	c.explainUnstableAfter = 100 * time.Millisecond
	ctx := testContext(t)
	in := testTopic(t, c, "in", 1)
	m := membership{group: unique("group"), generation: -1}
	id := unique("id")
	p := testProducer(t, c, id)
	if err := p.commit(ctx, m, topicPartition{in, 0}, 5, "1", nil); err != nil {
		t.Fatal(err)
	}
	if err := retryWhile(ctx, retriable, func() error { return p.addOffsets(ctx, m.group) }); err != nil {
		t.Fatal(err)
	}
	if err := retryWhile(ctx, retriable, func() error { return p.commitOffsets(ctx, m, in, map[int32]committed{0: {9, "2"}}) }); err != nil {
		t.Fatal(err)
	}
	if at, err := c.CommittedSoFar(ctx, m.group, in); err != nil || at[0] != 5 {
		t.Errorf("so far: %v, %v", at, err)
	}
	short, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err := c.Committed(short, m.group, in)
	want := fmt.Sprintf("transactional id %q (producer %d, epoch %d), which is Ongoing and ends within its time-out", id, p.id, p.epoch)
	if !onRealKafka() {
		want = "which one cannot be seen" // kfake has no topic of offsets
	}
	if !contains(err, kafka.UnstableOffsetCommit.Title()) || !contains(err, want) {
		t.Errorf("%v, want %s", err, want)
	}
	p.close(t, true)
	if at, err := c.Committed(ctx, m.group, in); err != nil || at[0] != 9 {
		t.Errorf("after the end: %v, %v", at, err)
	}
}

// The expected hashes are the results of java.lang.String.hashCode.
func TestJavaHash(t *testing.T) {
	for name, want := range map[string]uint32{"": 0, "a": 97, "hardneg-miner": 0xd6edcf77, strings.Repeat("z", 40): 0x5e02d100} {
		if got := javaHash(name); got != want {
			t.Errorf("hash of %q is %#x, want %#x", name, got, want)
		}
	}
}

// A negative hash counts by its absolute value: "hardneg-miner" has 0xd6edcf77, which is -689057929.
func TestGroupPartition(t *testing.T) {
	for _, c := range []struct {
		group      string
		partitions int
		want       int32
	}{{"a", 50, 47}, {"", 50, 0}, {"hardneg-miner", 50, 29}, {"hardneg-miner", 4, 1}, {"polygenelubricants", 50, 0}} { // the hash of the last is the least int32
		if got := groupPartition(c.group, c.partitions); got != c.want {
			t.Errorf("group %q is in partition %d of %d, want %d", c.group, got, c.partitions, c.want)
		}
	}
}
