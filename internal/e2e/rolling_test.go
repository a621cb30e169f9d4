package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestRollingRestart restarts three instances one after the other, with SIGTERM and under load. It measures
// how long each partition stands still: from the last commit of its offset, or from the first input after it,
// to the next commit. The session timeout is the default.
func TestRollingRestart(t *testing.T) {
	if !*rolling {
		t.Skip("takes a minute: -rolling runs it")
	}
	const partitions = 12
	c := newCluster(t, "--set", fmt.Sprintf("topics.partitions=%d", partitions), "--set", "kafka.session_timeout=30s")
	for range 3 {
		c.join([]string{"indexer", "intake", "miner"})
	}
	c.awaitTopics()
	followed := follow(t, c.k, c.k.triplets)
	f := newFeed(t, c.k, seeded(t), 600)
	c.allReady()
	c.k.quiet(patience)
	f.pace, f.size = 100*time.Millisecond, 4 // far below what two cores can do, so that a pause is no backlog
	go f.run()
	watched := watchPauses(c.k)
	time.Sleep(10 * time.Second)
	t.Logf("without restarts: %v", watched.take())
	for at, i := range c.instances {
		start := time.Now()
		i.terminate()
		ended := time.Since(start)
		i.spawn()
		i.ready(patience)
		t.Logf("instance %d ended in %v and was ready again %v after the signal", at+1, ended.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
		time.Sleep(3 * time.Second)
	}
	t.Logf("rolling restart: %v", watched.take())
	f.end()
	watched.end()
	took := c.k.quiet(patience)
	t.Logf("%d records, quiet %v after the last: %v", len(f.sent), took.Round(time.Millisecond), compare(t, c.qdrant, c.k, f.world, c.prefix))
	checkFollowed(t, c.k, followed)
	checkOutcomes(t, c.k, f)
}

// pauses watches the committed offsets of all groups.
type pauses struct {
	mu      sync.Mutex
	standby map[string]standing      // by group and partition
	longest map[string]time.Duration // since the last take
	all     []time.Duration          // since the last take
	cancel  context.CancelFunc
	done    chan struct{}
}

// standing is the state of a partition.
type standing struct {
	offset int64
	since  time.Time // when the offset last advanced, or input came after that; zero if there is no input
}

func watchPauses(k *kafka) *pauses {
	ctx, cancel := context.WithCancel(k.t.Context())
	p := &pauses{standby: map[string]standing{}, longest: map[string]time.Duration{}, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for ctx.Err() == nil {
			for group, topic := range k.groups {
				p.look(ctx, k, group, topic)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return p
}

// look reads the ends before the offsets, so that a partition that seems to wait really does.
func (p *pauses) look(ctx context.Context, k *kafka, group, topic string) {
	ends, err := k.ends(ctx, topic, 1)
	if err != nil {
		return
	}
	seen := time.Now()
	offsets, err := k.groupOffsets(ctx, group, topic, false)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range offsets {
		key := fmt.Sprintf("%s/%d", group, at.Partition)
		s := p.standby[key]
		if at.Offset > s.offset {
			if !s.since.IsZero() {
				p.pause(key, time.Since(s.since))
			}
			s = standing{offset: at.Offset}
		}
		if s.since.IsZero() && ends[at.Partition] > at.Offset {
			s.since = seen
		}
		p.standby[key] = s
	}
}

func (p *pauses) pause(key string, took time.Duration) {
	p.all = append(p.all, took)
	p.longest[key] = max(p.longest[key], took)
}

// take describes the pauses since the last call, including those that still go on.
func (p *pauses) take() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, s := range p.standby {
		if !s.since.IsZero() {
			p.pause(key, time.Since(s.since))
		}
	}
	var longest []time.Duration
	for _, took := range p.longest {
		longest = append(longest, took)
	}
	out := fmt.Sprintf("all %d pauses: %s; the longest of each of %d partitions: %s", len(p.all), spread(p.all), len(longest), spread(longest))
	p.all, p.longest = nil, map[string]time.Duration{}
	return out
}

func spread(of []time.Duration) string {
	if len(of) == 0 {
		return "none"
	}
	slices.Sort(of)
	return fmt.Sprintf("p50 %v, max %v", of[len(of)/2].Round(time.Millisecond), of[len(of)-1].Round(time.Millisecond))
}

func (p *pauses) end() {
	p.cancel()
	<-p.done
}
