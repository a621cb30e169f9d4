package stream

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	brokerDir    = flag.String("broker-dir", "", "folder of a Kafka that .ci/kafka.sh started: TestBrokerRestarts stops, kills and restarts it")
	brokerCycles = flag.Int("broker-cycles", 10, "restarts of TestBrokerRestarts")
)

// node is a broker that .ci/kafka.sh started. Its own command line is used to start it again.
type node struct {
	dir     string
	command []string
	process *os.Process
	exited  chan struct{}
}

func openNode(t *testing.T, dir string) *node {
	t.Helper()
	pid, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(pid)), "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	n := &node{dir: dir}
	for _, arg := range bytes.Split(bytes.TrimRight(line, "\x00"), []byte{0}) {
		n.command = append(n.command, string(arg))
	}
	number, _ := strconv.Atoi(strings.TrimSpace(string(pid)))
	n.process, _ = os.FindProcess(number)
	return n
}

// end stops or kills the broker and waits until it is gone.
func (n *node) end(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := n.process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	if n.exited != nil {
		<-n.exited
		return
	}
	eventually(t, "the broker ends", func() bool { return n.process.Signal(syscall.Signal(0)) != nil })
}

// start starts the broker and waits until its log says that it runs.
func (n *node) start(t *testing.T) {
	t.Helper()
	path := filepath.Join(n.dir, "kafka.log")
	_ = os.Rename(path, filepath.Join(n.dir, fmt.Sprintf("kafka-%d.log", time.Now().UnixMilli())))
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(n.command[0], n.command[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.process, n.exited = cmd.Process, make(chan struct{})
	go func() { _ = cmd.Wait(); close(n.exited) }()
	if err := os.WriteFile(filepath.Join(n.dir, "pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		log, _ := os.ReadFile(path)
		if bytes.Contains(log, []byte("Kafka Server started")) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the broker does not start; see %s", path)
		}
	}
}

// committer commits the offsets of one partition in one transaction after the other, as a task does. After
// each error it begins with a new epoch. It notes when it last committed.
type committer struct {
	c      *Client
	id     string
	group  string
	input  topicPartition
	output string

	mu       sync.Mutex
	last     time.Time
	waiting  string // the step that is under way
	commits  int
	restarts int
}

func (w *committer) doing(what string) {
	w.mu.Lock()
	w.waiting = what
	w.mu.Unlock()
}

func (w *committer) run(ctx context.Context, rng *rand.Rand) error {
	m := membership{group: w.group, generation: -1}
	for ctx.Err() == nil {
		err := w.own(ctx, m, rng)
		w.mu.Lock()
		w.restarts++
		w.mu.Unlock()
		if err != nil && actionFor(err) == fatal {
			return err
		}
		_ = pause(ctx, 50*time.Millisecond)
	}
	return nil
}

func (w *committer) own(ctx context.Context, m membership, rng *rand.Rand) error {
	w.doing("InitProducerId")
	p, err := w.c.newProducer(ctx, w.id, 10*time.Second)
	if err != nil {
		return err
	}
	w.doing("reading the committed offset")
	at, err := w.c.committed(ctx, w.group, w.input.topic, []int32{w.input.partition})
	if err != nil {
		return err
	}
	offset := at[w.input.partition].offset
	for ctx.Err() == nil {
		outputs := []Output{{Topic: w.output, Partition: w.input.partition, Key: []byte(w.id), Value: be32(int(offset), 4)}}
		if rng.IntN(20) == 0 { // leave the transaction open, as a kill does
			w.doing("leaving a transaction open")
			all, err := w.c.groupByPartition(ctx, outputs)
			if err == nil && p.addPartitions(ctx, all) == nil && p.send(ctx, all, retriable) == nil && p.addOffsets(ctx, w.group) == nil {
				_ = p.commitOffsets(ctx, m, w.input.topic, map[int32]committed{w.input.partition: {offset + 1, "1"}})
			}
			return nil
		}
		w.doing("committing")
		if err := p.commit(ctx, m, w.input, offset+1, "1", outputs); err != nil {
			if rng.IntN(2) == 0 {
				p.abort(ctx)
			}
			return err
		}
		offset++
		w.mu.Lock()
		w.commits, w.last = w.commits+1, time.Now()
		w.mu.Unlock()
	}
	return nil
}

// A broker is stopped or killed at any moment of a transaction and started again. After that each partition
// commits again. In the end each read_committed output belongs to one committed offset.
func TestBrokerRestarts(t *testing.T) {
	if *brokerDir == "" {
		t.Skip("needs a broker to restart: -broker-dir DIR of .ci/kafka.sh, with HARDNEG_TEST_KAFKA")
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	broker := openNode(t, *brokerDir)
	c := testClient(t)
	const n = 12
	in, out := testTopic(t, c, "in", n), testTopic(t, c, "out", n)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var all []*committer
	for i := range n {
		w := &committer{c: c, id: unique("restart"), group: unique("group"), input: topicPartition{in, int32(i)}, output: out}
		all = append(all, w)
		own := rand.New(rand.NewPCG(seed, uint64(i+1)))
		running.Go(func() {
			if err := w.run(ctx, own); err != nil {
				t.Errorf("%s: %v", w.id, err)
			}
		})
	}
	defer running.Wait()
	defer cancel()
	for cycle := range *brokerCycles {
		time.Sleep(time.Duration(200+rng.IntN(1500)) * time.Millisecond)
		signal := syscall.SIGKILL
		if rng.IntN(2) == 0 {
			signal = syscall.SIGTERM
		}
		broker.end(t, signal)
		broker.start(t)
		since := time.Now()
		for _, w := range all {
			for {
				w.mu.Lock()
				last, waiting := w.last, w.waiting
				w.mu.Unlock()
				if last.After(since) {
					break
				}
				if time.Since(since) > 90*time.Second {
					t.Fatalf("cycle %d, %v: %s, group %s, %s/%d has not committed for 90 s: %s", cycle, signal, w.id, w.group, w.input.topic, w.input.partition, waiting)
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
		t.Logf("cycle %d: %v, all commit again after %v", cycle, signal, time.Since(since).Round(time.Millisecond))
	}
	cancel()
	running.Wait()
	commits := 0
	for _, w := range all {
		at, err := c.Committed(testContext(t), w.group, in)
		if err != nil {
			t.Fatal(err)
		}
		commits += int(at[w.input.partition])
	}
	if got := len(readAll(t, out, true)); got != commits {
		t.Errorf("%d outputs are committed with %d offsets", got, commits)
	}
	t.Logf("%d commits", commits)
}
