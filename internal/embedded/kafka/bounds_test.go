package kafka

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// run is a broker that a test ends by a stop or by a kill.
type run struct {
	addr string
	end  func()
}

func start(t *testing.T, dir string, killed bool) run {
	t.Helper()
	addr, kill, stop := process(t, dir)
	if killed {
		return run{addr, kill}
	}
	return run{addr, stop}
}

// logBounds returns the first offset of a partition and the next one.
func logBounds(t testing.TB, cl *kgo.Client, topic string, number int32) (first, next int64) {
	t.Helper()
	for at, offset := range map[int64]*int64{-2: &first, -1: &next} {
		req := kmsg.NewPtrListOffsetsRequest()
		req.ReplicaID = -1
		topics := kmsg.NewListOffsetsRequestTopic()
		topics.Topic = topic
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = number, at
		topics.Partitions = append(topics.Partitions, p)
		req.Topics = append(req.Topics, topics)
		res, err := req.RequestWith(testContext(t), cl)
		if err == nil {
			err = kerr.ErrorForCode(res.Topics[0].Partitions[0].ErrorCode)
		}
		if err != nil {
			t.Fatal(err)
		}
		*offset = res.Topics[0].Partitions[0].Offset
	}
	return first, next
}

func purge(t testing.TB, cl *kgo.Client, topic string, number int32, before int64) {
	t.Helper()
	if err := tryPurge(t, cl, topic, number, before); err != nil {
		t.Fatal(err)
	}
}

func tryPurge(t testing.TB, cl *kgo.Client, topic string, number int32, before int64) error {
	t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = 10_000
	topics := kmsg.NewDeleteRecordsRequestTopic()
	topics.Topic = topic
	p := kmsg.NewDeleteRecordsRequestTopicPartition()
	p.Partition, p.Offset = number, before
	topics.Partitions = append(topics.Partitions, p)
	req.Topics = append(req.Topics, topics)
	res, err := req.RequestWith(testContext(t), cl)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(res.Topics[0].Partitions[0].ErrorCode)
}

func write(t testing.TB, cl *kgo.Client, topic string, number int32, values ...string) (last int64) {
	t.Helper()
	for _, v := range values {
		r := &kgo.Record{Topic: topic, Partition: number, Key: []byte(v), Value: []byte(v)}
		if err := cl.ProduceSync(testContext(t), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		last = r.Offset
	}
	return last
}

// A partition of which everything was deleted begins where it ended, after a stop and after a kill, by whatever
// it was deleted, and while a transaction is open in it. So a group that had read all of it goes on.
func TestAllDeleted(t *testing.T) {
	for _, ended := range []string{"stop", "kill"} {
		for _, by := range []string{"purge", "purge to the end", "retention", "retention and compaction"} {
			for _, open := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, open %v", ended, by, open), func(t *testing.T) {
					t.Parallel()
					testAllDeleted(t, ended == "kill", by, open)
				})
			}
		}
	}
}

func testAllDeleted(t *testing.T, killed bool, by string, open bool) {
	dir, named := t.TempDir(), kgo.MaxVersions(kversion.V3_0_0())
	r := start(t, dir, killed)
	cl := connect(t, r.addr, named)
	var configs []string
	switch by {
	case "retention":
		configs = []string{"cleanup.policy", "delete", "retention.ms", "1"}
	case "retention and compaction":
		configs = []string{"cleanup.policy", "compact,delete", "retention.ms", "1"}
	}
	makeTopic(t, cl, "t", 2, configs...)
	write(t, cl, "t", 0, "a", "b", "c", "d", "e", "f", "g")
	commitOffset(t, cl, "group", 7)
	if open {
		tx := connect(t, r.addr, kgo.TransactionalID("producer"))
		if err := tx.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		write(t, tx, "t", 0, "open", "open too")
	}
	_, want := logBounds(t, cl, "t", 0)
	switch by {
	case "purge":
		purge(t, cl, "t", 0, want)
	case "purge to the end":
		purge(t, cl, "t", 0, -1)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if first, _ := logBounds(t, cl, "t", 0); first == want {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the log still begins at %d", first)
		}
	}
	began := want
	for round := range 3 {
		r.end()
		r = start(t, dir, killed)
		cl = connect(t, r.addr, named)
		first, next := logBounds(t, cl, "t", 0)
		marker := int64(0)
		if open && !killed { // the stop ended the transaction, by a marker
			marker = 1
		}
		if first < began || first > next || next < want || next > began+marker {
			t.Fatalf("round %d: the log has offsets %d up to %d, want %d", round, first, next, want)
		}
		if first, next := logBounds(t, cl, "t", 1); first != 0 || next != 0 {
			t.Errorf("the other partition has offsets %d up to %d", first, next)
		}
		want = max(want, next)
	}
	if at := write(t, cl, "t", 0, "next"); at != want {
		t.Errorf("the next record has offset %d, want %d", at, want)
	}
	r.end()
	r = start(t, dir, killed)
	if _, next := logBounds(t, connect(t, r.addr, named), "t", 0); next != want+1 {
		t.Errorf("in the end the log ends at %d, want %d", next, want+1)
	}
	r.end()
}

// What was deleted does not come back after a kill, and what was not deleted stays.
func TestSomeDeleted(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, true)
	cl := connect(t, r.addr)
	makeTopic(t, cl, "t", 1)
	write(t, cl, "t", 0, "a", "b", "c")
	purge(t, cl, "t", 0, 2)
	if err := tryPurge(t, cl, "t", 0, 4); err == nil {
		t.Error("records behind the end are deleted")
	}
	r.end()
	r = start(t, dir, true)
	if first, next := logBounds(t, connect(t, r.addr), "t", 0); first != 2 || next != 3 {
		t.Errorf("the log has offsets %d up to %d, want 2 up to 3", first, next)
	}
	if got := visible(t, r.addr, "t", 1); !slices.Equal(got, []string{"c"}) {
		t.Errorf("visible: %q", got)
	}
	r.end()
}

// A kill between any two writes that belong to a deletion leaves a log that ends where it did.
func TestKillWithinDeletion(t *testing.T) {
	folderOf := func(dir string) string { return partitionFolder(filepath.Join(dir, "log"), partition{"t", 0}) }
	for name, c := range map[string]struct {
		disturb     func(t *testing.T, dir string)
		first, next int64
	}{
		"the bounds are written, nothing is deleted": {first: 7, next: 7, disturb: func(t *testing.T, dir string) {
			b, err := readBounds(filepath.Join(dir, "bounds.json"))
			if err != nil {
				t.Fatal(err)
			}
			at := b.known[partition{"t", 0}]
			at.Start, at.End = 7, 7
			b.known[partition{"t", 0}] = at
			if err := b.write(); err != nil {
				t.Fatal(err)
			}
		}},
		"the segment is deleted, its index is not": {first: 7, next: 7, disturb: func(t *testing.T, dir string) {
			removeAll(t, filepath.Join(folderOf(dir), "*.dat"))
		}},
		"a marker is written in part": {first: 7, next: 7, disturb: func(t *testing.T, dir string) {
			removeAll(t, filepath.Join(folderOf(dir), "*"))
			writeFile(t, filepath.Join(folderOf(dir), "6.dat.tmp"), "half")
		}},
		"a marker is written and not yet deleted": {first: 7, next: 7, disturb: func(t *testing.T, dir string) {
			removeAll(t, filepath.Join(folderOf(dir), "*"))
			b, err := readBounds(filepath.Join(dir, "bounds.json"))
			if err != nil {
				t.Fatal(err)
			}
			if err := b.restore(filepath.Join(dir, "log")); err != nil {
				t.Fatal(err)
			}
		}},
		"the next batch is written in part": {first: 7, next: 7, disturb: func(t *testing.T, dir string) {
			removeAll(t, filepath.Join(folderOf(dir), "*"))
			writeFile(t, filepath.Join(folderOf(dir), "7.dat"), "half a batch")
			writeFile(t, filepath.Join(folderOf(dir), "7.idx"), "")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := start(t, dir, true)
			cl := connect(t, r.addr)
			makeTopic(t, cl, "t", 1)
			write(t, cl, "t", 0, "a", "b", "c", "d", "e", "f", "g")
			purge(t, cl, "t", 0, 1) // so that the bounds are known; no segment goes
			r.end()
			c.disturb(t, dir)
			for range 2 {
				r = start(t, dir, true)
				if first, next := logBounds(t, connect(t, r.addr), "t", 0); first != c.first || next != c.next {
					t.Errorf("the log has offsets %d up to %d, want %d up to %d", first, next, c.first, c.next)
				}
				r.end()
			}
			r = start(t, dir, true)
			if at := write(t, connect(t, r.addr), "t", 0, "next"); at != c.next {
				t.Errorf("the next record has offset %d", at)
			}
			r.end()
		})
	}
}

func removeAll(t *testing.T, pattern string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatal(pattern, err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A topic that was deleted and made anew begins at 0.
func TestTopicMadeAnew(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, true)
	cl := connect(t, r.addr)
	for range 2 {
		makeTopic(t, cl, "a.topic", 1)
		write(t, cl, "a.topic", 0, "a", "b")
		purge(t, cl, "a.topic", 0, 2)
		r.end()
		r = start(t, dir, true)
		cl = connect(t, r.addr)
		if first, next := logBounds(t, cl, "a.topic", 0); first != 2 || next != 2 {
			t.Errorf("the log has offsets %d up to %d, want 2", first, next)
		}
		req := kmsg.NewPtrDeleteTopicsRequest()
		topic := kmsg.NewDeleteTopicsRequestTopic()
		topic.Topic = kmsg.StringPtr("a.topic")
		req.TopicNames, req.Topics = []string{"a.topic"}, append(req.Topics, topic)
		if res, err := req.RequestWith(testContext(t), cl); err != nil || res.Topics[0].ErrorCode != 0 {
			t.Fatal(err, res)
		}
	}
	makeTopic(t, cl, "a.topic", 1)
	r.end()
	r = start(t, dir, true)
	if first, next := logBounds(t, connect(t, r.addr), "a.topic", 0); first != 0 || next != 0 {
		t.Errorf("the new topic has offsets %d up to %d", first, next)
	}
	r.end()
}

// Compacted topics keep their records if the process is killed while they are compacted: kfake has removed their
// segments then, and has not written the compacted ones.
func TestKillWithinCompaction(t *testing.T) {
	dir := t.TempDir()
	s, err := Start(Config{Address: "127.0.0.1:0", Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	cl := connect(t, s.Addr())
	makeTopic(t, cl, "t", 2, "cleanup.policy", "compact")
	want := write(t, cl, "t", 0, "a", "b", "a", "b", "c") + 1
	if err := s.clean(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if got := visible(t, s.Addr(), "t", 1); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("after compaction: %q", got)
	}
	if _, err := os.Stat(string(s.kept)); !os.IsNotExist(err) {
		t.Errorf("after compaction there still is %s: %v", s.kept, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	log, kept := filepath.Join(dir, "log"), s.kept
	for i, disturb := range []func(){
		func() {},
		func() { removeAll(t, filepath.Join(partitionFolder(log, partition{"t", 0}), "*.dat")) },
		func() {
			removeAll(t, filepath.Join(partitionFolder(log, partition{"t", 0}), "*.[di][ad][tx]"))
			writeFile(t, filepath.Join(partitionFolder(log, partition{"t", 0}), "2.dat"), "half")
		},
	} {
		if err := kept.keep(log, []partition{{"t", 0}, {"t", 1}}); err != nil {
			t.Fatal(err)
		}
		disturb()
		r := start(t, dir, true)
		if _, next := logBounds(t, connect(t, r.addr), "t", 0); next < want {
			t.Errorf("%d: the log ends at %d", i, next)
		}
		if got := visible(t, r.addr, "t", 1); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("%d: %q", i, got)
		}
		r.end()
	}
}

// The segments that a kill left half linked are not put back.
func TestKillWithinKeeping(t *testing.T) {
	dir := t.TempDir()
	log, kept := filepath.Join(dir, "log"), keptSegments(filepath.Join(dir, "compacting"))
	folder := partitionFolder(log, partition{"t", 0})
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		writeFile(t, filepath.Join(folder, strconv.Itoa(i)+".dat"), "segment")
	}
	unfinished := filepath.Join(kept.unfinished(), filepath.Base(folder))
	if err := os.MkdirAll(unfinished, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(unfinished, "0.dat"), "seg")
	if err := kept.restore(log); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(folder)
	if err != nil || len(files) != 3 {
		t.Errorf("%v %v", files, err)
	}
	if _, err := os.Stat(kept.unfinished()); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", kept.unfinished(), err)
	}
}
