package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// tally counts what happened in one schedule, or in several.
type tally struct {
	events         map[string]int
	aimed          int // kills and freezes inside a transaction
	zombies        int // instances that were frozen until others had their partitions, and then continued
	fenced         int // zombies that were refused something
	aborted        int // transactions in the raw log, once for each partition
	abortedRecords int
	deadLetters    int
	changes        int // records produced
	ghosts         int // dead members that had to be removed from the embedded broker
}

func (a *tally) add(b tally) {
	for kind, n := range b.events {
		a.events[kind] += n
	}
	a.aimed += b.aimed
	a.zombies += b.zombies
	a.fenced += b.fenced
	a.aborted += b.aborted
	a.abortedRecords += b.abortedRecords
	a.deadLetters += b.deadLetters
	a.changes += b.changes
	a.ghosts += b.ghosts
}

func (a tally) String() string {
	var events []string
	for _, kind := range slices.Sorted(maps.Keys(a.events)) {
		events = append(events, fmt.Sprintf("%d %s", a.events[kind], kind))
	}
	return fmt.Sprintf("%s; %d inside a transaction, %d of %d zombies fenced; %d records in, %d dead letters; %d aborted transactions with %d records in the raw log; %d ghosts",
		strings.Join(events, ", "), a.aimed, a.fenced, a.zombies, a.changes, a.deadLetters, a.aborted, a.abortedRecords, a.ghosts)
}

// TestSchedules runs random schedules of crashes. Each has its own servers and names, one to three instances
// with any mix of stages, and two to five events during a stream of changes with good and bad records. In the
// end the view equals brute force. Each input record has its one result among the committed records. A live
// read_committed reader received exactly the committed records. Schedule i of a run has the run's seed plus
// i.
func TestSchedules(t *testing.T) {
	first := seeded(t)
	sum := tally{events: map[string]int{}}
	start := time.Now()
	for i := range *schedules {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			s := newSchedule(t, first+uint64(i))
			s.run()
			sum.add(s.tally)
		})
	}
	t.Logf("%d schedules in %v: %v", *schedules, time.Since(start).Round(time.Second), sum)
}

// schedule is one such schedule.
type schedule struct {
	*rand.Rand
	*cluster
	seed       uint64
	partitions int
	feed       *feed
	tail       *tail
	tally
}

func newSchedule(t testing.TB, seed uint64) *schedule {
	r := rand.New(rand.NewPCG(seed, 2))
	s := &schedule{Rand: r, seed: seed, partitions: 2 + r.IntN(4), tally: tally{events: map[string]int{}}}
	s.cluster = newCluster(t,
		"--set", fmt.Sprintf("topics.partitions=%d", s.partitions),
		"--set", fmt.Sprintf("kafka.max_batch=%d", []int{5, 50, 500}[r.IntN(3)]))
	return s
}

func (s *schedule) run() {
	s.t.Helper()
	start := time.Now()
	defer s.keepLogs()
	for _, stages := range s.mix(1 + s.IntN(3)) {
		s.join(stages)
	}
	s.awaitTopics()
	s.tail = follow(s.t, s.k, s.k.triplets)
	s.feed = startFeed(s.t, s.k, s.seed, 150+s.IntN(60))
	if s.IntN(2) == 0 {
		s.allReady()
	}
	for range 2 + s.IntN(4) {
		time.Sleep(time.Duration(s.IntN(1000)) * time.Millisecond)
		s.event()
	}
	s.feed.end()
	for _, i := range s.instances {
		if i.command == nil {
			i.spawn()
		}
	}
	s.allReady()
	if s.kafka != nil {
		s.ghosts = s.expelGhosts()
	}
	took := s.k.quiet(patience)
	report := compare(s.t, s.qdrant, s.k, s.feed.world, s.prefix)
	s.abortedRecords, s.aborted = checkFollowed(s.t, s.k, s.tail)
	s.deadLetters = checkOutcomes(s.t, s.k, s.feed)
	s.changes = len(s.feed.sent)
	s.t.Logf("seed %d, %d partitions, stages %v: %v; quiet after %v: %v; %v in all", s.seed, s.partitions, s.instances, s.tally,
		took.Round(time.Millisecond), report, time.Since(start).Round(time.Millisecond))
}

// mix distributes the stages over n instances: each instance has some, and each stage is somewhere.
func (s *schedule) mix(n int) [][]string {
	all := []string{"indexer", "intake", "miner"}
	dealt := make([][]string, n)
	for i := range dealt {
		for len(dealt[i]) == 0 {
			for _, stage := range all {
				if s.IntN(3) > 0 {
					dealt[i] = append(dealt[i], stage)
				}
			}
		}
	}
	for _, stage := range all {
		if !slices.ContainsFunc(dealt, func(stages []string) bool { return slices.Contains(stages, stage) }) {
			i := s.IntN(n)
			dealt[i] = append(dealt[i], stage)
		}
	}
	return dealt
}

// event runs a random event.
func (s *schedule) event() {
	kinds := map[string]func(){
		"kill":         s.kill,
		"zombie":       s.zombie,
		"restart":      s.restart,
		"join":         func() { s.join(s.mix(2)[0]) },
		"kill qdrant":  s.killQdrant,
		"kill kafka":   s.killKafka,
		"kafka bounce": s.restartKafka,
	}
	deck := []string{"kill", "kill", "kill", "zombie", "zombie", "zombie", "restart", "join", "kill qdrant"}
	if s.kafka != nil {
		deck = append(deck, "kill kafka", "kill kafka")
	} else if os.Getenv(restartVariable) != "" {
		deck = append(deck, "kafka bounce", "kafka bounce")
	}
	if len(s.running()) == 0 {
		s.revive()
	}
	if len(s.instances) > 4 { // enough for two cores
		deck = slices.DeleteFunc(deck, func(kind string) bool { return kind == "join" })
	}
	kind := deck[s.IntN(len(deck))]
	s.events[kind]++
	kinds[kind]()
}

// any returns a running instance.
func (s *schedule) any() *instance {
	running := s.running()
	return running[s.IntN(len(running))]
}

// kill crashes an instance, half the time inside a transaction. It comes back now, soon, or after the last
// event.
func (s *schedule) kill() {
	i := s.any()
	if s.IntN(2) == 0 && s.freezeInTransaction(i, 3*time.Second) {
		s.aimed++
	}
	i.service.kill()
	s.back(i)
}

// restart ends an instance cleanly. It comes back as after a kill.
func (s *schedule) restart() {
	i := s.any()
	i.terminate()
	s.back(i)
}

func (s *schedule) back(i *instance) {
	switch s.IntN(3) {
	case 0:
		i.spawn()
	case 1:
		time.Sleep(time.Duration(s.IntN(1500)) * time.Millisecond)
		i.spawn()
	}
}

func (s *schedule) revive() {
	s.instances[s.IntN(len(s.instances))].spawn()
}

// zombie freezes an instance, half the time inside a transaction, until others have its partitions. Then it
// continues.
func (s *schedule) zombie() {
	z := s.any()
	if s.IntN(2) == 0 && s.freezeInTransaction(z, 3*time.Second) {
		s.aimed++
	} else {
		z.freeze()
	}
	frozen := time.Now()
	running := slices.DeleteFunc(s.running(), func(i *instance) bool { return i == z })
	var missing []string
	for _, stage := range z.stages {
		if !slices.ContainsFunc(running, func(i *instance) bool { return slices.Contains(i.stages, stage) }) {
			missing = append(missing, stage)
		}
	}
	if len(missing) > 0 {
		s.join(missing)
	}
	taken := s.takenOver(z.stages, frozen)
	time.Sleep(time.Duration(s.IntN(300)) * time.Millisecond)
	from := z.logSize()
	z.resume()
	if !taken {
		return
	}
	s.zombies++
	for deadline := time.Now().Add(1500 * time.Millisecond); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if z.refusedSince(from) {
			s.fenced++
			return
		}
	}
}

// takenOver waits until every partition of the stages has an owner that is newer than a time. The time is in
// the token that an owner commits beside its first offset. It returns false if this does not happen in time,
// for example because the model is still being fitted.
func (s *schedule) takenOver(stages []string, after time.Time) bool {
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*s.session+4*time.Second)
	defer cancel()
	for _, stage := range stages {
		group := s.name + "-" + stage
		for !s.k.ownedSince(ctx, group, s.partitions, after) {
			select {
			case <-ctx.Done():
				return false
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return true
}

// killQdrant crashes the embedded Qdrant at any moment.
func (s *schedule) killQdrant() {
	s.qdrant.kill()
	time.Sleep(time.Duration(s.IntN(500)) * time.Millisecond)
	s.qdrant.spawn()
}

// killKafka crashes the embedded Kafka while transactions may be open, but while no request is in progress. A
// kill within EndTxn could commit one half of a transaction and abort the other, which a real Kafka would not
// do. Some instances crash together with it.
func (s *schedule) killKafka() {
	s.feed.pause()
	running := s.running()
	for _, i := range running {
		i.freeze()
	}
	time.Sleep(300 * time.Millisecond)
	s.kafka.kill()
	s.kafka.spawn()
	for _, i := range running {
		if s.IntN(3) == 0 {
			i.service.kill()
		} else {
			i.resume()
		}
	}
	s.feed.resume()
}

// keepLogs copies the logs of a failed schedule to a folder that stays.
func (s *schedule) keepLogs() {
	if !s.t.Failed() {
		return
	}
	dir, err := os.MkdirTemp("", fmt.Sprintf("hardneg-schedule-%d-", s.seed))
	if err != nil {
		s.t.Error(err)
		return
	}
	all := map[string]*service{"qdrant": s.qdrant}
	if s.kafka != nil {
		all["kafka"] = s.kafka
	}
	for at, i := range s.instances {
		all[fmt.Sprintf("instance-%d", at+1)] = i.service
	}
	for name, of := range all {
		raw, err := os.ReadFile(of.log.Name())
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name+".log"), raw, 0o644)
		}
		if err != nil {
			s.t.Error(err)
		}
	}
	s.t.Logf("seed %d failed; replay with HARDNEG_TEST_SEED=%d -schedules 1; the logs are in %s", s.seed, s.seed, dir)
}
