package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// freeAddress returns a local address that nothing listens on, a different one each time. Its port is below
// the range that the system uses for outgoing connections: one of these could take the port while the test's
// server is down.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000))
		if _, given := givenAddresses.LoadOrStore(address, true); given {
			continue
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		defer listener.Close()
		return address
	}
	t.Fatal("no port between 15000 and 30000 is free")
	return ""
}

var givenAddresses sync.Map

// TestCrashes kills the stages, and sometimes the servers too, at random moments during a stream of changes.
// In the end the view must equal brute force, and a live read_committed reader must not have received a
// record of an aborted transaction.
func TestCrashes(t *testing.T) {
	documents, queries, n := 800, 150, 3
	if *long {
		documents, queries, n = 3000, 500, 20
	}
	if *kills > 0 {
		n = *kills
	}
	dir := subset(t, collection(t), documents, queries)
	kafkaAddress, qdrantAddress := freeAddress(t), freeAddress(t)
	servers := newService(t, append(small, "--embedded", "--embedded-kafka", kafkaAddress, "--embedded-qdrant", qdrantAddress, "--stages", "intake")...)
	stages := newService(t, append(small, "--set", "kafka.brokers="+kafkaAddress, "--set", "qdrant.address="+qdrantAddress,
		"--set", "kafka.session_timeout=6s", "--set", "topics.purge_refresh=0s", // aborted records in that topic are counted
		"--set", "kafka.max_batch=50", // such a batch is finished between two kills, however slow the machine is
		"--stages", "indexer,miner")...)
	servers.spawn()
	stages.spawn()
	names := namedTopics("hardneg", "")
	k, w := newKafka(t, kafkaAddress, names), newWorld(names)
	tail := follow(t, k, names.triplets)
	servers.load("beir", dir, "--split", "train")
	w.loaded(t, dir, "train")
	r := random(t)
	c := newChurn(w, r)
	hits := 0
	for i := 0; i < n || hits == 0 && i < n+10; i++ { // at least one of the aimed kills must hit
		stop, both, aimed := make(chan struct{}), i%3 == 2, i%4 != 3
		var changes sync.WaitGroup
		changes.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(60 * time.Millisecond):
					k.produce(c.steps(6)...)
				}
			}
		})
		time.Sleep(time.Duration(r.IntN(2000)) * time.Millisecond)
		hit := aimed && stages.freezeInTransaction(k, 20*time.Second)
		if hit {
			hits++
		}
		if both { // a killed embedded Kafka forgets sequence numbers, so a record in transit could appear twice
			close(stop)
			changes.Wait()
		}
		stages.kill()
		if both {
			servers.kill()
			servers.spawn()
		}
		stages.spawn()
		if !both {
			close(stop)
			changes.Wait()
		}
		t.Logf("kill %d, inside a transaction: %v, servers too: %v", i+1, hit, both)
		stages.ready(patience)
	}
	expelGhosts(k, stages)
	took := k.quiet(patience)
	t.Logf("quiet %v after the last kill: %v", took.Round(time.Millisecond), w)
	t.Log(compare(t, servers, k, w, ""))
	checkAborted(t, k, tail)
}

// expelGhosts restarts the stages while one of their groups has an additional member. If a member is killed
// while it joins, kfake starts no session timer for it and leaves its partitions with it until the next
// rebalance. A real Kafka removes such a member.
func expelGhosts(k *kafka, stages *service) {
	k.expel([]string{"hardneg-indexer", "hardneg-miner"}, 8*time.Second, func(string) int { return 1 }, func(string) {
		stages.stop()
		stages.spawn()
		stages.ready(patience)
	})
}

// freezeInTransaction stops the process while one of its transactions has written triplets and is open. It
// returns false if this does not happen in time. A transaction is open for milliseconds. If the process was
// frozen too late, it goes on, and the next transaction is tried.
func (s *service) freezeInTransaction(k *kafka, most time.Duration) bool {
	for deadline := time.Now().Add(most); time.Now().Before(deadline); {
		if !k.openTransaction() {
			continue
		}
		_ = s.command.Process.Signal(syscall.SIGSTOP)
		time.Sleep(30 * time.Millisecond) // requests in transit arrive
		if k.openTransaction() {
			return true
		}
		_ = s.command.Process.Signal(syscall.SIGCONT)
	}
	return false
}

// openTransaction reports whether a transaction that wrote triplets is open.
func (k *kafka) openTransaction() bool {
	ctx, cancel := context.WithTimeout(k.t.Context(), 5*time.Second)
	defer cancel()
	stable, err := k.ends(ctx, k.triplets, 1)
	if err != nil {
		return false // the topic may not exist yet
	}
	written, err := k.ends(ctx, k.triplets, 0)
	for partition, end := range written {
		if err == nil && stable[partition] < end {
			return true
		}
	}
	return false
}

// tail is a read_committed reader that runs during a test.
type tail struct {
	mu   sync.Mutex
	seen map[int32]map[int64]bool // offsets by partition
}

func follow(t testing.TB, k *kafka, topic string) *tail {
	t.Helper()
	reader, err := kgo.NewClient(append(k.client.Opts(), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		t.Fatal(err)
	}
	followed := &tail{seen: map[int32]map[int64]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			reader.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				followed.mu.Lock()
				defer followed.mu.Unlock()
				if followed.seen[r.Partition] == nil {
					followed.seen[r.Partition] = map[int64]bool{}
				}
				followed.seen[r.Partition][r.Offset] = true
			})
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		reader.Close()
	})
	return followed
}

// checkAborted is checkFollowed for a run in which some transactions must have been aborted.
func checkAborted(t *testing.T, k *kafka, followed *tail) {
	t.Helper()
	total, _ := checkFollowed(t, k, followed)
	t.Logf("%d records of aborted transactions in the log, none of them reached the read_committed reader", total)
	if total == 0 || *long && total < 20 {
		t.Errorf("only %d aborted records: the kills missed the transactions", total)
	}
}

// checkFollowed reads the raw batches that the stages wrote. It checks that the live reader received every
// committed record of the triplets topic and no other. It returns the number of aborted records, and of the
// markers that aborted some.
func checkFollowed(t testing.TB, k *kafka, followed *tail) (records, markers int) {
	t.Helper()
	for _, topic := range []string{k.refresh, k.triplets, k.deadLetters} {
		partitions, err := k.partitions(t.Context(), topic)
		if err != nil {
			t.Fatal(err)
		}
		for _, partition := range partitions {
			batches, err := k.rawLog(t.Context(), topic, partition, 0)
			if err != nil {
				t.Fatal(err)
			}
			committed, aborted, open := visible(batches)
			records += len(aborted)
			markers += abortMarkers(batches)
			if topic == k.triplets {
				if err := followed.check(partition, committed, aborted, open); err != nil {
					t.Errorf("%s/%d: %v", topic, partition, err)
				}
			}
		}
	}
	return records, markers
}

func (f *tail) check(partition int32, committed, aborted, open map[int64]bool) error {
	deadline := time.Now().Add(patience)
	for {
		f.mu.Lock()
		missing := 0
		for offset := range committed {
			if !f.seen[partition][offset] {
				missing++
			}
		}
		for offset := range f.seen[partition] {
			if aborted[offset] || open[offset] {
				f.mu.Unlock()
				return fmt.Errorf("the read_committed reader got offset %d: aborted %v, open %v", offset, aborted[offset], open[offset])
			}
		}
		f.mu.Unlock()
		if missing == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the read_committed reader missed %d of %d committed records", missing, len(committed))
		}
		time.Sleep(100 * time.Millisecond)
	}
}
