package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	kafkaVariable = "HARDNEG_TEST_KAFKA"

	// restartVariable is a command that restarts that Kafka and returns when it is up. Do not use it with
	// Kafka 4.3.0, which loses transaction markers when it is stopped: a schedule then fails with "not quiet
	// … UNSTABLE_OFFSET_COMMIT". docs/exactly-once.md has the reason.
	restartVariable = "HARDNEG_TEST_KAFKA_RESTART"
)

// cluster is a view with its own servers and names, on which several instances work. Kafka and Qdrant are
// embedded in one process each, so that each can be killed separately. Alternatively Kafka is the one at
// HARDNEG_TEST_KAFKA.
type cluster struct {
	t             testing.TB
	kafka, qdrant *service // kafka is nil for a Kafka outside the test
	k             *kafka
	name, prefix  string
	settings      []string
	session       time.Duration
	instances     []*instance
}

// instance is a process with some of the stages.
type instance struct {
	*service
	stages []string
}

func (i *instance) String() string { return strings.Join(i.stages, "+") }

// newCluster starts the servers.
func newCluster(t testing.TB, settings ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, name: fmt.Sprintf("e2e-%d", time.Now().UnixNano()), session: 6 * time.Second}
	c.prefix = c.name + "."
	names := namedTopics(c.name, c.prefix)
	c.qdrant = newService(t, "--embedded", "--embedded-qdrant", freeAddress(t), "--stages", "intake")
	c.qdrant.spawn()
	address := os.Getenv(kafkaVariable)
	if address == "" {
		c.kafka = newService(t, "--embedded", "--embedded-kafka", freeAddress(t), "--stages", "intake")
		c.kafka.spawn()
		address = c.kafka.Kafka
		c.session = 2 * time.Second
	}
	c.k = newKafka(t, address, names)
	if c.kafka != nil {
		c.k.allowSession(c.session)
	} else {
		t.Cleanup(func() { c.k.deleteTopics(names, c.prefix+"hardneg.models") })
	}
	c.settings = append([]string{
		"--set", "kafka.brokers=" + address, "--set", "qdrant.address=" + c.qdrant.Qdrant, "--set", "qdrant.prefix=" + c.prefix,
		"--set", "name=" + c.name, "--set", "topics.documents=" + names.documents, "--set", "topics.queries=" + names.queries,
		"--set", "topics.triplets=" + names.triplets, "--set", "topics.refresh=" + names.refresh, "--set", "topics.purge_refresh=0s", // its records are counted
		"--set", "topics.dead_letters=" + names.deadLetters, "--set", "topics.models=" + c.prefix + "hardneg.models",
		"--set", "kafka.session_timeout=" + c.session.String(), "--set", "log.format=json", "--set", "log.level=debug",
		"--set", "embedders=[{name: words, type: lexical-word, dimensions: 256}, {name: chars, type: lexical-char, dimensions: 256}]",
		"--set", "reduce.max_dimensions=64", "--set", "fit.minimum=50", "--set", "fit.sample=100", "--set", "fit.wait=1s",
	}, settings...)
	return c
}

// join starts a new instance.
func (c *cluster) join(stages []string) {
	c.t.Helper()
	i := &instance{newService(c.t, slices.Concat(c.settings, []string{"--stages", strings.Join(stages, ",")})...), stages}
	c.instances = append(c.instances, i)
	i.spawn()
}

// running returns the instances that are not down.
func (c *cluster) running() []*instance {
	var up []*instance
	for _, i := range c.instances {
		if i.command != nil {
			up = append(up, i)
		}
	}
	return up
}

func (c *cluster) allReady() {
	c.t.Helper()
	for _, i := range c.running() {
		i.ready(patience)
	}
}

// awaitTopics waits until the first instance has created the topics.
func (c *cluster) awaitTopics() {
	c.t.Helper()
	c.instances[0].eventually(patience, "topics", func() error {
		for _, topic := range []string{c.k.documents, c.k.queries, c.k.refresh, c.k.triplets, c.k.deadLetters} {
			if _, err := c.k.partitions(c.t.Context(), topic); err != nil {
				return err
			}
		}
		return nil
	})
}

// expelGhosts restarts an instance if a group of the embedded broker keeps a member that is none of the
// instances. It returns the number of restarts. If a member's process is killed while it waits to join, kfake
// starts no session timer for it and gives it partitions until the next rebalance. A real Kafka removes such
// a member.
func (c *cluster) expelGhosts() int {
	c.t.Helper()
	return c.expel([]string{c.name + "-indexer", c.name + "-intake", c.name + "-miner"})
}

func (c *cluster) expel(groups []string) int {
	c.t.Helper()
	of := func(group string) (own []*instance) {
		for _, i := range c.running() {
			if slices.ContainsFunc(i.stages, func(stage string) bool { return strings.HasSuffix(group, "-"+stage) }) {
				own = append(own, i)
			}
		}
		return own
	}
	return c.k.expel(groups, c.session, func(group string) int { return len(of(group)) }, func(group string) {
		i := c.running()[0]
		if own := of(group); len(own) > 0 {
			i = own[0]
		}
		i.terminate()
		i.spawn()
		i.ready(patience)
	})
}

// expel restarts an instance if a group does not have the right number of members, and returns the number of
// restarts. On a busy machine a real member may miss its session timeout, so expel waits longer each time.
func (k *kafka) expel(groups []string, session time.Duration, want func(group string) int, restart func(group string)) (ghosts int) {
	k.t.Helper()
	wait := session + 2*time.Second
	for _, group := range groups {
		for start := time.Now(); !k.hasMembers(group, want(group), wait); wait = min(2*wait, time.Minute) {
			if time.Since(start) > patience {
				k.t.Fatalf("group %s has not come to have %d members", group, want(group))
			}
			ghosts++
			restart(group)
		}
	}
	return ghosts
}

// hasMembers waits until a group is stable with a number of members. It returns false if this does not happen
// in time.
func (k *kafka) hasMembers(group string, want int, most time.Duration) bool {
	request := kmsg.NewPtrDescribeGroupsRequest()
	request.Groups = []string{group}
	for deadline := time.Now().Add(most); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		answer, err := request.RequestWith(k.t.Context(), k.client)
		if err == nil && len(answer.Groups) == 1 && answer.Groups[0].State == "Stable" && len(answer.Groups[0].Members) == want {
			return true
		}
	}
	return false
}

// restartKafka restarts the outside Kafka, whatever is in progress.
func (c *cluster) restartKafka() {
	c.t.Helper()
	if out, err := exec.CommandContext(c.t.Context(), "sh", "-c", os.Getenv(restartVariable)).CombinedOutput(); err != nil {
		c.t.Fatalf("%s: %v\n%s", restartVariable, err, out)
	}
}

func (i *instance) freeze() { _ = i.command.Process.Signal(syscall.SIGSTOP) }
func (i *instance) resume() { _ = i.command.Process.Signal(syscall.SIGCONT) }

// terminate ends the process with SIGTERM, and expects a clean end.
func (i *instance) terminate() {
	i.t.Helper()
	i.end(syscall.SIGTERM)
}

func (i *instance) logSize() int64 {
	info, err := i.log.Stat()
	if err != nil {
		i.t.Fatal(err)
	}
	return info.Size()
}

// refusedSince reports whether the broker or the index refused the instance something because it was no
// longer the owner. It reads the log from an offset on.
func (i *instance) refusedSince(from int64) bool {
	raw, err := os.ReadFile(i.log.Name())
	if err != nil {
		i.t.Fatal(err)
	}
	for line := range bytes.Lines(raw[from:]) {
		if bytes.Contains(line, []byte("no longer the owner")) ||
			bytes.Contains(line, []byte("partition given back")) && bytes.Contains(line, []byte(`"error":`)) {
			return true
		}
	}
	return false
}

// freezeInTransaction stops an instance while one of its transactions is open. It returns false if this does
// not happen in time. Transactions that were open before do not count, because they may belong to an instance
// that is down.
func (c *cluster) freezeInTransaction(i *instance, most time.Duration) bool {
	stale := c.k.openTransactions()
	same := func(a, b map[string]int64) bool {
		for at, from := range a {
			if old, ok := stale[at]; b[at] == from && !(ok && old == from) {
				return true
			}
		}
		return false
	}
	for deadline := time.Now().Add(most); time.Now().Before(deadline); {
		if open := c.k.openTransactions(); !same(open, open) {
			continue
		}
		i.freeze()
		time.Sleep(30 * time.Millisecond) // requests in transit arrive
		before := c.k.openTransactions()
		time.Sleep(30 * time.Millisecond) // transactions of other instances end
		if same(before, c.k.openTransactions()) {
			return true
		}
		i.resume()
	}
	return false
}

// openTransactions returns the last stable offset of each partition of refresh and triplets with an open
// transaction.
func (k *kafka) openTransactions() map[string]int64 {
	ctx, cancel := context.WithTimeout(k.t.Context(), 5*time.Second)
	defer cancel()
	open := map[string]int64{}
	for _, topic := range []string{k.triplets, k.refresh} {
		stable, err := k.ends(ctx, topic, 1)
		if err != nil {
			return nil
		}
		written, err := k.ends(ctx, topic, 0)
		if err != nil {
			return nil
		}
		for partition, end := range written {
			if stable[partition] < end {
				open[fmt.Sprintf("%s/%d", topic, partition)] = stable[partition]
			}
		}
	}
	return open
}

// ownedSince reports whether the owner of every partition of a group took its token after a time.
func (k *kafka) ownedSince(ctx context.Context, group string, partitions int, after time.Time) bool {
	offsets, err := k.groupOffsets(ctx, group, k.groups[group], true)
	if err != nil {
		return false // a transaction of the frozen instance is open
	}
	young := 0
	for _, p := range offsets {
		if p.Metadata == nil {
			continue
		}
		if token, err := strconv.ParseInt(*p.Metadata, 10, 64); err == nil && token > after.UnixMilli() {
			young++
		}
	}
	return young == partitions
}

// allowSession makes the embedded broker accept a session timeout below its minimum.
func (k *kafka) allowSession(least time.Duration) {
	k.t.Helper()
	request := kmsg.NewPtrIncrementalAlterConfigsRequest()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType = kmsg.ConfigResourceTypeBroker
	setting := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	setting.Name, setting.Value = "group.min.session.timeout.ms", kmsg.StringPtr(strconv.FormatInt(least.Milliseconds(), 10))
	resource.Configs = append(resource.Configs, setting)
	request.Resources = append(request.Resources, resource)
	answer, err := request.RequestWith(k.t.Context(), k.client)
	if err == nil {
		err = kerr.ErrorForCode(answer.Resources[0].ErrorCode)
	}
	if err != nil {
		k.t.Fatal("group.min.session.timeout.ms:", err)
	}
}

// deleteTopics deletes the test's topics from an outside Kafka, as far as possible.
func (k *kafka) deleteTopics(names topics, more ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	request := kmsg.NewPtrDeleteTopicsRequest()
	request.TimeoutMillis = 20_000
	for _, topic := range append(more, names.documents, names.queries, names.triplets, names.refresh, names.deadLetters) {
		request.TopicNames = append(request.TopicNames, topic)
		rt := kmsg.NewDeleteTopicsRequestTopic()
		rt.Topic = kmsg.StringPtr(topic)
		request.Topics = append(request.Topics, rt)
	}
	if _, err := request.RequestWith(ctx, k.client); err != nil {
		k.t.Log("deleting the topics:", err)
	}
}
