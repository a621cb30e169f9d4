package deadletter

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"hardneg/internal/catalog"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/records"
	"hardneg/stream"
)

// transaction opens a transaction of another producer, with one record in it. It returns a function that ends
// the transaction.
func transaction(w *pipelinetest.World, topic string, partition int32, key, value string) (end func(commit bool)) {
	w.T.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.Broker), kgo.TransactionalID("of another in "+topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		w.T.Fatal(err)
	}
	if err := client.BeginTransaction(); err != nil {
		w.T.Fatal(err)
	}
	if err := client.ProduceSync(w.T.Context(), &kgo.Record{Topic: topic, Partition: partition, Key: []byte(key), Value: []byte(value)}).FirstErr(); err != nil {
		w.T.Fatal(err)
	}
	return func(commit bool) {
		if err := client.EndTransaction(w.T.Context(), kgo.TransactionEndTry(commit)); err != nil {
			w.T.Error(err)
		}
		client.Close()
	}
}

// TestDeadLettersBehindTransactions checks that a replay waits for what the open transactions of others hide:
// notes, and newer documents.
func TestDeadLettersBehindTransactions(t *testing.T) {
	t.Parallel()
	w := pipelinetest.New(t, 1)
	one := func(topic string, partition int32, key, value string) stream.Record {
		t.Helper()
		out := stream.Output{Topic: topic, Partition: partition, Key: []byte(key), Value: []byte(value)}
		if err := w.Kafka.Produce(t.Context(), []stream.Output{out}); err != nil {
			t.Fatal(err)
		}
		all := inputs(w)
		at := slices.IndexFunc(all, func(r stream.Record) bool { return string(r.Key) == key })
		return all[at]
	}
	writeDeadLetter(w, catalog.StageIntake, one("queries", 0, "q", `{"query":"q"}`))
	writeDeadLetter(w, catalog.StageIndexer, one("documents", 0, "d", `{"text":"old"}`))
	letters, err := w.Kafka.Offsets(t.Context(), w.Config.Topics.DeadLetters)
	if err != nil {
		t.Fatal(err)
	}
	// Each replay begins while transactions are open, which end a moment later.
	var results map[string]string
	under := func(end ...func()) {
		t.Helper()
		var ended atomic.Bool
		var ending sync.WaitGroup
		ending.Go(func() {
			for i, f := range end {
				time.Sleep(300 * time.Millisecond)
				if i == len(end)-1 {
					ended.Store(true)
				}
				f()
			}
		})
		results = replayLetters(w, ReplayOptions{})
		if !ended.Load() {
			t.Error("it did not wait for a transaction")
		}
		ending.Wait()
	}
	for i := range 3 {
		end := transaction(w, w.Config.Topics.DeadLetters, letters[i%len(letters)].Partition, "k", "v")
		var newer []func()
		if i == 0 {
			end := transaction(w, "documents", 0, "d", `{"text":"new"}`)
			newer = append(newer, func() { end(true) })
		}
		under(append([]func(){func() { end(false) }}, newer...)...)
		want := map[string]string{"q": "it was sent again before", "d": "out of date"}
		if i == 0 {
			want["q"] = "to queries/0"
		}
		for key := range want {
			if !strings.HasPrefix(results[key], want[key]) {
				t.Errorf("replay %d, %s: %q, want %q", i, key, results[key], want[key])
			}
		}
	}
	copies := 0
	for _, r := range inputs(w) {
		if string(r.Key) == "q" {
			copies++
		}
	}
	if copies != 2 {
		t.Errorf("the query is in the log %d times, want as it was and once more", copies)
	}
	w.Config.Kafka.TransactionTimeout = -30*time.Second + time.Millisecond // so that a replay hardly waits
	end := transaction(w, w.Config.Topics.DeadLetters, 0, "k", "v")
	defer end(false)
	d := Queue{w.Conn()}
	if err := d.Replay(t.Context(), ReplayOptions{DryRun: true, Choose: func(stream.DeadLetter) bool { return true }}); !errors.Is(err, stream.ErrOpenTransaction) {
		t.Errorf("under one that stays: %v", err)
	}
}

// TestDeadLettersNewest checks that a replay leaves out a document that has come again, in any partition,
// before the replay or in the middle of it.
func TestDeadLettersNewest(t *testing.T) {
	t.Parallel()
	w := pipelinetest.New(t, 1)
	// A compacted topic takes no records without a key, and a topic of documents need not be compacted.
	if err := w.Kafka.DeleteTopics(t.Context(), "documents"); err != nil {
		t.Fatal(err)
	}
	plain := stream.Topic{Name: "documents", Partitions: 3, ReplicationFactor: 1, Config: map[string]string{"cleanup.policy": "delete"}}
	if err := w.Kafka.EnsureTopics(t.Context(), plain); err != nil {
		t.Fatal(err)
	}
	put := func(partition int32, id, text string) {
		t.Helper()
		value := fmt.Sprintf(`{"id":%q,"text":%q}`, id, text)
		out := stream.Output{Topic: "documents", Partition: partition, Value: []byte(value)} // without a key, so that any partition may have it
		if err := w.Kafka.Produce(t.Context(), []stream.Output{out}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
	}
	const n = recordsTogether + 100
	put(2, "elsewhere", "older, in another partition")
	put(0, "elsewhere", "old")
	put(0, "moved", "old")
	put(1, "moved", "new")
	var outputs []stream.Output
	for i := range n {
		outputs = append(outputs, stream.Output{Topic: "documents", Partition: 0, Value: fmt.Appendf(nil, `{"id":"d%d","text":"old"}`, i)})
	}
	if err := w.Kafka.Produce(t.Context(), outputs); err != nil {
		t.Fatal(err)
	}
	for _, r := range inputs(w) {
		if r.Partition == 0 {
			writeDeadLetter(w, catalog.StageIndexer, r)
		}
	}
	results, changed := map[string]string{}, false
	o := ReplayOptions{Choose: func(stream.DeadLetter) bool { return true }}
	o.Tell = func(x Outcome) error {
		results[records.DocumentID(nil, x.DeadLetter.Record.Value)] = x.Left
		if !changed {
			changed = true
			put(0, fmt.Sprintf("d%d", n-1), "new") // this document is in the second transaction of the replay
		}
		return nil
	}
	if err := (Queue{w.Conn()}).Replay(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	left := []string{}
	for id, reason := range results {
		if reason != "" {
			left = append(left, id+" "+reason)
		}
	}
	slices.Sort(left)
	if len(results) != n+2 || len(left) != 2 || !strings.HasPrefix(left[0], fmt.Sprintf("d%d out of date", n-1)) || !strings.HasPrefix(left[1], "moved out of date: its document came again in documents/1") {
		t.Errorf("%d were told, left are %v", len(results), left)
	}
	last := map[string]string{}
	for _, r := range inputs(w) {
		if r.Partition == 0 {
			last[records.DocumentID(r.Key, r.Value)] = string(r.Value)
		}
	}
	if v := last[fmt.Sprintf("d%d", n-1)]; !strings.Contains(v, "new") {
		t.Errorf("what came in the middle of the replay was undone: %s", v)
	}
}
