package kafka

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

const (
	childDir   = "HARDNEG_TEST_BROKER_DIR"
	childClean = 100 * time.Millisecond // how often the broker process cleans
)

// TestMain also serves as the broker process that the tests kill.
func TestMain(m *testing.M) {
	dir := os.Getenv(childDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := Start(Config{Address: "127.0.0.1:0", Dir: dir, Log: zerolog.New(os.Stderr), cleanEvery: childClean})
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	fmt.Println("listening on", s.Addr())
	<-stop
	if err := s.Close(); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

// child starts a broker process and returns its address and a function that kills it.
func child(t *testing.T, dir string) (addr string, kill func()) {
	t.Helper()
	addr, kill, _ = process(t, dir)
	return addr, kill
}

// process is child, with a function that stops the process in good order.
func process(t *testing.T, dir string) (addr string, kill, stop func()) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill() // SIGKILL
		_ = cmd.Wait()
	}
	stop = func() {
		t.Helper()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Fatalf("the broker does not stop in good order: %v", err)
		}
	}
	t.Cleanup(kill)
	line, _ := bufio.NewReader(out).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if !ok {
		t.Fatalf("the broker says %q", line)
	}
	return addr, kill, stop
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func connect(t testing.TB, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func makeTopic(t testing.TB, cl *kgo.Client, name string, partitions int32, configs ...string) {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, partitions, 1
	for i := 0; i < len(configs); i += 2 {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = configs[i], &configs[i+1]
		topic.Configs = append(topic.Configs, c)
	}
	req.Topics = append(req.Topics, topic)
	res, err := req.RequestWith(testContext(t), cl)
	if err != nil || res.Topics[0].ErrorCode != 0 {
		t.Fatal(err, res)
	}
}

// visible returns the values that a read_committed reader sees, up to the end of the partitions.
func visible(t testing.TB, addr, topic string, partitions int32) []string {
	t.Helper()
	ctx := testContext(t)
	cl := connect(t, addr, kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))
	defer cl.Close()
	end := kgo.KeyStringRecord("end", "end")
	end.Topic = topic
	var values []string
	for p := range partitions { // the last record of each partition says where to stop
		r := *end
		r.Partition = p
		if err := cl.ProduceSync(ctx, &r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[int32]int64{}
	for int32(len(seen)) < partitions {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("reading %s: %v", topic, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			switch {
			case r.Attrs.IsControl():
			case string(r.Value) == "end":
				seen[r.Partition] = r.Offset
			default:
				values = append(values, string(r.Value))
			}
		})
	}
	slices.Sort(values)
	return values
}

// A transaction that is open when the process is killed stays aborted, although the same producer goes on and
// the process is killed again. Without the repair, its records join the producer's next transaction at the
// second kill.
func TestTransactionOpenAtKill(t *testing.T) {
	dir := t.TempDir()
	const topic, partitions = "t", 3
	var want []string
	write := func(tx *kgo.Client, value string) {
		for p := range int32(partitions) {
			v := fmt.Sprintf("%s/%d", value, p)
			if err := tx.ProduceSync(testContext(t), &kgo.Record{Topic: topic, Partition: p, Value: []byte(v)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(value, "committed") {
				want = append(want, v)
			}
		}
	}
	for round := range 5 {
		addr, kill := child(t, dir)
		if round == 0 {
			makeTopic(t, connect(t, addr), topic, partitions)
		}
		tx := connect(t, addr, kgo.TransactionalID("producer"))
		for _, step := range []string{"committed first", "aborted", "committed second", "open at the kill"} {
			if err := tx.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			write(tx, fmt.Sprintf("%s %d", step, round))
			if step != "open at the kill" {
				if err := tx.EndTransaction(testContext(t), kgo.TransactionEndTry(step != "aborted")); err != nil {
					t.Fatal(err)
				}
			}
		}
		kill()
	}
	for round := range 3 {
		addr, kill := child(t, dir)
		slices.Sort(want)
		if got := visible(t, addr, topic, partitions); !slices.Equal(got, want) {
			t.Errorf("after kill %d: %d records visible, want %d: %q", round+5, len(got), len(want), got)
		}
		kill()
	}
}

// The same after a proper stop with an open transaction, followed by a kill before anything else happens.
func TestTransactionOpenAtStop(t *testing.T) {
	dir := t.TempDir()
	s, err := Start(Config{Address: "127.0.0.1:0", Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	makeTopic(t, connect(t, s.Addr()), "t", 1)
	tx := connect(t, s.Addr(), kgo.TransactionalID("producer"))
	if err := tx.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := tx.ProduceSync(testContext(t), &kgo.Record{Topic: "t", Value: []byte("open")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		addr, kill := child(t, dir)
		if got := visible(t, addr, "t", 1); len(got) != 0 {
			t.Errorf("visible: %q", got)
		}
		kill()
	}
}

// A deleted group stays deleted after a kill. A group that was not or could not be deleted keeps its offset.
func TestGroupDeletedBeforeKill(t *testing.T) {
	dir, named := t.TempDir(), kgo.MaxVersions(kversion.V3_0_0()) // later versions name topics by ids
	committed := func(cl *kgo.Client, group string) int64 {
		t.Helper()
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Group = group
		topic := kmsg.NewOffsetFetchRequestTopic()
		topic.Topic, topic.Partitions = "t", []int32{0, 1}
		req.Topics = append(req.Topics, topic)
		res, err := req.RequestWith(testContext(t), cl)
		if err == nil && len(res.Groups) == 1 && res.Groups[0].ErrorCode == kerr.GroupIDNotFound.Code {
			return -1
		}
		if err != nil || len(res.Topics) != 1 || len(res.Topics[0].Partitions) != 2 {
			t.Fatal(err, res)
		}
		if a, b := res.Topics[0].Partitions[0].Offset, res.Topics[0].Partitions[1].Offset; a != b {
			t.Errorf("group %s has offsets %d and %d", group, a, b)
		}
		return res.Topics[0].Partitions[0].Offset
	}
	addr, kill := child(t, dir)
	cl := connect(t, addr, named)
	makeTopic(t, cl, "t", 2)
	for _, group := range []string{"deleted", "kept", "made anew", "busy"} {
		commitOffset(t, cl, group, 5)
	}
	makeTopic(t, cl, "other", 1)
	busy := connect(t, addr, kgo.ConsumerGroup("busy"), kgo.ConsumeTopics("other"))
	if err := cl.ProduceSync(testContext(t), &kgo.Record{Topic: "other", Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := busy.PollFetches(testContext(t)).Err(); err != nil { // it has joined
		t.Fatal(err)
	}
	req := kmsg.NewPtrDeleteGroupsRequest()
	req.Groups = []string{"deleted", "made anew", "never there", "busy"}
	res, err := req.RequestWith(testContext(t), cl)
	if err != nil || len(res.Groups) != 4 {
		t.Fatal(err, res)
	}
	for _, g := range res.Groups {
		want := map[string]error{"never there": kerr.GroupIDNotFound, "busy": kerr.NonEmptyGroup}[g.Group]
		if err := kerr.ErrorForCode(g.ErrorCode); !errors.Is(err, want) {
			t.Errorf("deleting %s: %v", g.Group, err)
		}
	}
	commitOffset(t, cl, "made anew", 2)
	want := map[string]int64{"deleted": -1, "kept": 5, "made anew": 2, "busy": 5}
	for group, offset := range want {
		if got := committed(cl, group); got != offset {
			t.Errorf("%s stands at %d before the kill, want %d", group, got, offset)
		}
	}
	kill()
	addr, _ = child(t, dir)
	cl = connect(t, addr, named)
	for group, offset := range want {
		if got := committed(cl, group); got != offset {
			t.Errorf("%s stands at %d after the kill, want %d", group, got, offset)
		}
	}
}

// commitOffset commits an offset for both partitions of topic t.
func commitOffset(t *testing.T, cl *kgo.Client, group string, offset int64) {
	t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = group, -1
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic = "t"
	for p := range int32(2) {
		partition := kmsg.NewOffsetCommitRequestTopicPartition()
		partition.Partition, partition.Offset = p, offset
		topic.Partitions = append(topic.Partitions, partition)
	}
	req.Topics = append(req.Topics, topic)
	res, err := req.RequestWith(testContext(t), cl)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range res.Topics[0].Partitions {
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = Start(Config{Address: l.Addr().String(), Dir: t.TempDir(), Log: zerolog.Nop()})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()+" is in use by another program") {
		t.Errorf("error %v", err)
	}
	if _, err := Start(Config{Address: "nonsense", Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "want host:port") {
		t.Errorf("error %v", err)
	}
}

func TestDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	s, err := Start(Config{Address: "127.0.0.1:0", Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Start(Config{Address: "127.0.0.1:0", Dir: dir, Log: zerolog.Nop()}); err == nil || !strings.Contains(err.Error(), dir+" is in use by another process") {
		t.Errorf("error %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "running")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a stop in good order: %v", err)
	}
	s, err = Start(Config{Address: "127.0.0.1:0", Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Records survive a stop, a kill and a change of port. Topics are only created on request.
func TestDurable(t *testing.T) {
	dir := t.TempDir()
	addr, kill := child(t, dir)
	cl := connect(t, addr, kgo.ProducerBatchMaxBytes(3<<20), kgo.BrokerMaxWriteBytes(100<<20))
	makeTopic(t, cl, "t", 1)
	for i := range 100 {
		if err := cl.ProduceSync(testContext(t), &kgo.Record{Topic: "t", Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	err := cl.ProduceSync(testContext(t), &kgo.Record{Topic: "t", Value: bytes.Repeat([]byte{1}, 2<<20), Key: binary.BigEndian.AppendUint64(nil, 1)}).FirstErr()
	if err != nil && !errors.Is(err, kerr.MessageTooLarge) {
		t.Errorf("a record of 2 MiB: %v", err)
	}
	if err := cl.ProduceSync(testContext(t), &kgo.Record{Topic: "other", Value: nil}).FirstErr(); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("a topic that nobody made: %v", err)
	}
	kill()
	addr, _ = child(t, dir)
	if got := visible(t, addr, "t", 1); len(got) < 100 {
		t.Errorf("%d records after the kill", len(got))
	}
}
