package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"hardneg/internal/embedded/kafka"
)

// brokerAddr is the broker of all tests: HARDNEG_TEST_KAFKA if that is set, otherwise an embedded one.
var brokerAddr string

func onRealKafka() bool { return os.Getenv("HARDNEG_TEST_KAFKA") != "" }

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if brokerAddr = os.Getenv("HARDNEG_TEST_KAFKA"); brokerAddr != "" {
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "stream-test-")
		if err != nil {
			log.Print(err)
			return 1
		}
		defer os.RemoveAll(dir)
		server, err := kafka.Start(kafka.Config{Address: "127.0.0.1:0", Dir: filepath.Join(dir, "kafka"), Log: zerolog.Nop()})
		if err != nil {
			log.Print(err)
			return 1
		}
		defer server.Close()
		brokerAddr = server.Addr()
		return m.Run()
	}())
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func testClient(t testing.TB) *Client {
	t.Helper()
	return clientOf(t, brokerAddr)
}

func clientOf(t testing.TB, brokers ...string) *Client {
	t.Helper()
	level := zerolog.Disabled
	if testing.Verbose() {
		level = zerolog.InfoLevel
	}
	c, err := New(Config{Brokers: brokers, ClientID: "hardneg-test", Log: zerolog.New(zerolog.NewTestWriter(t)).Level(level)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// unique returns a name that no earlier run on the same broker used.
func unique(kind string) string { return fmt.Sprintf("t-%s-%08x", kind, rand.Uint32()) }

// testTopic creates a topic with a unique name and returns the name.
func testTopic(t testing.TB, c *Client, kind string, partitions int) string {
	t.Helper()
	name := unique(kind)
	if err := c.EnsureTopics(testContext(t), Topic{Name: name, Partitions: partitions, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	return name
}

// logRecord is a record as readAll read it.
type logRecord struct {
	partition int32
	offset    int64
	record    *kgo.Record
}

// readAll reads a topic up to its end at the time of the call. It uses franz-go, which shares no code with
// this package. If committed is false, records of open and aborted transactions are included.
func readAll(t testing.TB, topic string, committed bool) []logRecord {
	t.Helper()
	ctx := testContext(t)
	isolation := kgo.ReadCommitted()
	if !committed {
		isolation = kgo.ReadUncommitted()
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokerAddr), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(isolation), kgo.KeepControlRecords(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ends := endOffsets(t, cl, topic, committed)
	starts := startOffsets(t, cl, topic)
	at := maps.Clone(starts)
	var all []logRecord
	for {
		done := true
		for p, end := range ends {
			done = done && at[p] >= end
		}
		if done {
			break
		}
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("independent reader of %s stuck at %v of %v: %v", topic, at, ends, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			at[r.Partition] = max(at[r.Partition], r.Offset+1)
			if !r.Attrs.IsControl() && r.Offset < ends[r.Partition] {
				all = append(all, logRecord{r.Partition, r.Offset, r})
			}
		})
	}
	slices.SortFunc(all, func(a, b logRecord) int {
		if a.partition != b.partition {
			return int(a.partition - b.partition)
		}
		return int(a.offset - b.offset)
	})
	return all
}

func startOffsets(t testing.TB, cl *kgo.Client, topic string) map[int32]int64 {
	return listed(t, cl, topic, -2, 0)
}

func endOffsets(t testing.TB, cl *kgo.Client, topic string, committed bool) map[int32]int64 {
	isolation := int8(0)
	if committed {
		isolation = 1
	}
	return listed(t, cl, topic, -1, isolation)
}

func listed(t testing.TB, cl *kgo.Client, topic string, timestamp int64, isolation int8) map[int32]int64 {
	t.Helper()
	ctx := testContext(t)
	metaReq := kmsg.NewPtrMetadataRequest()
	mt := kmsg.NewMetadataRequestTopic()
	mt.Topic = &topic
	metaReq.Topics = append(metaReq.Topics, mt)
	meta, err := metaReq.RequestWith(ctx, cl)
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = -1, isolation
	lt := kmsg.NewListOffsetsRequestTopic()
	lt.Topic = topic
	for _, p := range meta.Topics[0].Partitions {
		lp := kmsg.NewListOffsetsRequestTopicPartition()
		lp.Partition, lp.Timestamp = p.Partition, timestamp
		lt.Partitions = append(lt.Partitions, lp)
	}
	req.Topics = append(req.Topics, lt)
	res, err := req.RequestWith(ctx, cl)
	if err != nil {
		t.Fatal(err)
	}
	offsets := map[int32]int64{}
	for _, p := range res.Topics[0].Partitions {
		if p.ErrorCode != 0 {
			t.Fatalf("list offsets of %s/%d: error %d", topic, p.Partition, p.ErrorCode)
		}
		offsets[p.Partition] = p.Offset
	}
	return offsets
}

func values(all []logRecord) []string {
	var vs []string
	for _, s := range all {
		vs = append(vs, string(s.record.Value))
	}
	return vs
}

// numbered returns n outputs for the numbers from from on, each with its number as key and value.
func numbered(topic string, from, n int) []Output {
	out := make([]Output, n)
	for i := range out {
		v := []byte(fmt.Sprint(from + i))
		out[i] = Output{Topic: topic, Partition: ByKey, Key: v, Value: v}
	}
	return out
}

func numbers(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(i)
	}
	slices.Sort(all)
	return all
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

// diff describes in one line how two lists differ, whatever their order. It is empty if they hold the same
// values.
func diff(want, got []string) string {
	count := map[string]int{}
	for _, w := range want {
		count[w]++
	}
	for _, g := range got {
		count[g]--
	}
	var missing, extra []string
	for k, n := range count {
		if n > 0 {
			missing = append(missing, k)
		}
		if n < 0 {
			extra = append(extra, k)
		}
	}
	if len(missing)+len(extra) == 0 {
		return ""
	}
	return fmt.Sprintf("%d missing %.5v, %d too many %.5v", len(missing), missing, len(extra), extra)
}

// processFunc is a Processor made from a function.
type processFunc func(context.Context, []Record) ([]Output, error)

func (f processFunc) Process(ctx context.Context, batch []Record) ([]Output, error) {
	return f(ctx, batch)
}

// passOn makes Processors that copy records to another topic.
func passOn(to string) func(Assignment) Processor {
	return func(Assignment) Processor {
		return processFunc(func(_ context.Context, batch []Record) ([]Output, error) {
			out := make([]Output, len(batch))
			for i, r := range batch {
				out[i] = Output{Topic: to, Partition: ByKey, Key: r.Key, Value: r.Value, Headers: r.Headers}
			}
			return out, nil
		})
	}
}

// recorder keeps all events of a stage.
type recorder struct {
	mu     sync.Mutex
	events []Event
	t      testing.TB
}

func (w *recorder) observe(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

func (w *recorder) all(kind EventKind) []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []Event
	for _, e := range w.events {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

// stageOf returns a stage with its own group and short time-outs. Only the session time-out is long, so that
// a slow test machine does not look like a dead member.
func stageOf(topic string, w *recorder, make func(Assignment) Processor) Stage {
	group := unique("group")
	return Stage{
		Name: "test", Group: group, Topic: topic, TransactionalPrefix: group,
		SessionTimeout: 30 * time.Second, TransactionTimeout: 10 * time.Second, DrainTimeout: 2 * time.Second,
		New: make, Observe: w.observe,
	}
}

// runStage runs a stage until stop is called, which returns Run's error.
func runStage(t testing.TB, c *Client, s Stage) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, s) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(time.Minute):
			return errors.New("Run did not return")
		}
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

// eventually waits until f holds.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// noLag reports whether the group has committed the topic up to its end.
func noLag(t testing.TB, c *Client, group, topic string) bool {
	t.Helper()
	ctx := testContext(t)
	at, err := c.Committed(ctx, group, topic)
	if err != nil {
		t.Fatal(err)
	}
	ends, err := c.Offsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range ends {
		if offset, ok := at[o.Partition]; !ok || offset < o.LastStable {
			return false
		}
	}
	return true
}

// be32 returns a value of size bytes, at least 4, that begins with the number n.
func be32(n, size int) []byte {
	b := make([]byte, max(size, 4))
	binary.BigEndian.PutUint32(b, uint32(n))
	return b
}
