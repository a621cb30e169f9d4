package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The ensembles between which the tests rebuild, in turn.
var ensembles = []string{
	"embedders=[{name: words, type: lexical-word, dimensions: 512}]",
	"embedders=[{name: words, type: lexical-word, dimensions: 256}, {name: chars, type: lexical-char, dimensions: 256}]",
	"embedders=[{name: chars, type: lexical-char, dimensions: 384}]",
}

// live returns the generation that the aliases point at, once there is one.
func (c *cluster) live() (generation string) {
	c.t.Helper()
	client := qdrantClient(c.t, c.qdrant.Qdrant)
	c.qdrant.eventually(patience, "live generation", func() error {
		answer, err := client.GetCollectionsClient().ListAliases(c.t.Context(), &qdrant.ListAliasesRequest{})
		if err != nil {
			return err
		}
		for _, a := range answer.GetAliases() {
			if a.GetAliasName() == c.prefix+"documents" {
				generation = strings.TrimPrefix(a.GetCollectionName(), c.prefix+"documents-")
				return nil
			}
		}
		return errors.New("there is no alias")
	})
	return generation
}

// adopt tells the client the groups and the refresh topic of a generation.
func (c *cluster) adopt(generation string) { c.k.topics = c.generationTopics(generation) }

func (c *cluster) generationTopics(generation string) topics {
	named := namedTopics(c.name, c.prefix)
	if strings.Contains(generation, "-") {
		suffix := "-" + generation
		named.refresh += suffix
		named.groups = map[string]string{
			c.name + suffix + "-indexer": named.documents, c.name + suffix + "-intake": named.queries, c.name + suffix + "-miner": named.refresh,
		}
	}
	return named
}

// rebuild is a `hardneg rebuild` in the background.
type rebuild struct {
	t      testing.TB
	cmd    *exec.Cmd
	output bytes.Buffer
	done   chan error
}

func (c *cluster) rebuild(args ...string) *rebuild {
	c.t.Helper()
	r := &rebuild{t: c.t, done: make(chan error, 1)}
	r.cmd = exec.Command(mustProgram(c.t), slices.Concat([]string{"rebuild"}, c.settings, args)...)
	r.cmd.Stdout, r.cmd.Stderr, r.cmd.Env = &r.output, &r.output, environment()
	if err := r.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() { r.done <- r.cmd.Wait() }()
	c.t.Cleanup(func() { _ = r.cmd.Process.Kill() })
	return r
}

// wait expects the rebuild to succeed.
func (r *rebuild) wait(most time.Duration) {
	r.t.Helper()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Fatalf("rebuild: %v\n%s", err, r.output.String())
		}
	case <-time.After(most):
		_ = r.cmd.Process.Kill()
		<-r.done
		r.t.Fatalf("the rebuild did not end within %v\n%s", most, r.output.String())
	}
}

// TestRebuild replaces the generation while documents and queries keep coming, from the live collections and
// from the topics. At any time each list is the oracle's on the vectors of the generation that it names, as
// far as this can be known while changes are in progress. In the end the view equals the oracle on the new
// vectors, and no revision has gone back. Each bad record has one dead letter, however many generations read
// it.
func TestRebuild(t *testing.T) {
	c := newCluster(t)
	c.join([]string{"indexer", "intake", "miner"})
	c.awaitTopics()
	followed := follow(t, c.k, c.k.triplets)
	f := newFeed(t, c.k, seeded(t), 250)
	if f.pace = time.Second; *long {
		f.pace = 70 * time.Millisecond // 50 documents and 20 queries a second
	}
	go f.run()
	c.allReady()
	seen := []string{c.live()}
	m := newMoments(c, f)
	for i, from := range [][]string{nil, {"--from-topics"}} {
		m.during(c.rebuild(slices.Concat([]string{"--set", ensembles[i], "--keep", "1s"}, from)...))
		now := c.live()
		if slices.Contains(seen, now) {
			t.Fatalf("after the rebuild generation %s is live, after %v", now, seen)
		}
		seen = append(seen, now)
		c.adopt(now)
	}
	for range 10 {
		m.look()
	}
	m.enough(seen)
	f.end()
	c.allReady()
	took := c.k.quiet(patience)
	t.Logf("generations %v; quiet after %v: %v", seen, took.Round(time.Millisecond), compare(t, c.qdrant, c.k, f.world, c.prefix))
	c.checkGeneration(seen[len(seen)-1])
	checkFollowed(t, c.k, followed)
	letters := checkLetters(t, c.k, f)
	t.Logf("%d records in, %d dead letters", len(f.sent), letters)
	c.checkErased(seen)
	for _, i := range c.instances {
		i.terminate()
	}
}

// checkGeneration checks that every live triplet names the generation.
func (c *cluster) checkGeneration(want string) {
	c.t.Helper()
	errs := few{t: c.t}
	for at, x := range readView(c.t, c.k).live {
		if x.Generation != want {
			errs.errorf("slot %v is of generation %s, want %s", at, x.Generation, want)
		}
	}
}

// checkErased waits until all generations except the last are gone: collections, topics, groups.
func (c *cluster) checkErased(generations []string) {
	c.t.Helper()
	client := qdrantClient(c.t, c.qdrant.Qdrant)
	last := generations[len(generations)-1]
	c.qdrant.eventually(patience, "erasing of the old generations", func() error {
		answer, err := client.GetCollectionsClient().List(c.t.Context(), &qdrant.ListCollectionsRequest{})
		if err != nil {
			return err
		}
		for _, collection := range answer.GetCollections() {
			if !strings.HasSuffix(collection.GetName(), "-"+last) {
				return fmt.Errorf("collection %s is still there", collection.GetName())
			}
		}
		for _, old := range generations[:len(generations)-1] {
			refresh := c.prefix + "hardneg.refresh"
			if strings.Contains(old, "-") {
				refresh += "-" + old
			}
			if _, err := c.k.partitions(c.t.Context(), refresh); err == nil {
				return fmt.Errorf("topic %s is still there", refresh)
			}
		}
		return nil
	})
}

// TestRebuildSwitch looks at every moment of a switch. Nothing else changes meanwhile. So at any time a
// read_committed reader must see each query with the full lists of one of the two generations, as the oracle
// computes them on its vectors.
func TestRebuildSwitch(t *testing.T) {
	c := newCluster(t)
	c.join([]string{"indexer", "intake", "miner"})
	c.awaitTopics()
	f := newFeed(t, c.k, seeded(t), 250)
	f.produced(f.steps(150), nil)
	c.allReady()
	c.k.quiet(patience)
	old := c.live()
	change := []string{"--set", ensembles[0], "--keep", "1h"}
	c.rebuild(append(change, "--hold")...).wait(2 * time.Minute)
	if now := c.live(); now != old {
		t.Fatalf("generation %s is live before it is promoted, want %s", now, old)
	}
	c.checkGeneration(old)
	c.rebuild(change...).wait(2 * time.Minute)
	next := c.live()
	c.adopt(next)
	c.k.quiet(patience)
	t.Log(compare(t, c.qdrant, c.k, f.world, c.prefix))

	client := qdrantClient(t, c.qdrant.Qdrant)
	lists := map[string]map[pair][]slot{}
	for _, generation := range []string{old, next} {
		lists[generation] = c.oracle(client, f.world, generation)
	}
	c.replay(f.world, lists, old, next)
}

// oracle returns the lists of every pair on the vectors of a generation.
func (c *cluster) oracle(client *qdrant.Client, w *world, generation string) map[pair][]slot {
	documents := readCorpusOf(c.t, client, c.prefix+"documents-"+generation)
	vectors := readQueryVectorsOf(c.t, client, c.prefix+"queries-"+generation)
	lists := map[pair][]slot{}
	for id, log := range w.queries {
		q := question{vectors[id], map[string]bool{}, w.rules}
		for document, weight := range log.evidence {
			q.evidence[document] = positive(weight)
		}
		for document, list := range documents.mine(q) {
			lists[pair{id, document}] = list
		}
	}
	return lists
}

// replay reads the triplets topic, transaction by transaction, from the moment at which every query has the
// lists of the old generation. It checks that each query always has the lists of one of the two generations,
// and the new ones in the end.
func (c *cluster) replay(w *world, lists map[string]map[pair][]slot, old, next string) {
	c.t.Helper()
	state := map[string]map[place]triplet{} // by query
	whole := map[string]bool{}              // queries that have had the old lists
	errs := few{t: c.t}
	switched := 0
	matches := func(query, generation string) bool {
		for at, list := range lists[generation] {
			if at.query != query {
				continue
			}
			for rank, s := range list {
				x, ok := state[query][place{at.query, at.positive, rank + 1}]
				if !ok || x.Negative.ID != s.id || x.Generation != generation {
					return false
				}
			}
			if _, more := state[query][place{at.query, at.positive, len(list) + 1}]; more {
				return false
			}
		}
		return true
	}
	byPartition := map[int32][]*kgo.Record{}
	for _, r := range c.k.readCommitted(c.k.triplets) {
		byPartition[r.Partition] = append(byPartition[r.Partition], r)
	}
	for _, records := range byPartition {
		for i, r := range records {
			at, err := parsePlace(r.Key)
			if err != nil {
				c.t.Fatal(err)
			}
			if state[at.query] == nil {
				state[at.query] = map[place]triplet{}
			}
			delete(state[at.query], at)
			if r.Value != nil {
				var x triplet
				if err := json.Unmarshal(r.Value, &x); err != nil {
					c.t.Fatal(err)
				}
				state[at.query][at] = x
			}
			// In a transaction, the records of a query follow each other.
			if i+1 < len(records) {
				if after, err := parsePlace(records[i+1].Key); err == nil && after.query == at.query {
					continue
				}
			}
			switch {
			case w.queries[at.query] == nil:
			case matches(at.query, next):
				switched++
			case matches(at.query, old):
				whole[at.query] = true
			case whole[at.query]:
				errs.errorf("after %d/%d query %q has neither the lists of %s nor those of %s: %v", r.Partition, r.Offset, at.query, old, next, state[at.query])
			}
		}
	}
	if switched < len(w.queries)/2 {
		c.t.Errorf("only %d switches of %d queries were seen", switched, len(w.queries))
	}
	for query := range w.queries {
		if !matches(query, next) {
			errs.errorf("query %q does not have the lists of %s in the end", query, next)
		}
	}
	c.t.Logf("%d queries, of which %d had the old lists before; %d publications of new lists", len(w.queries), len(whole), switched)
}

// TestRebuildCrashes kills rebuilds and instances of the service at random moments, during a stream of
// changes.
func TestRebuildCrashes(t *testing.T) {
	n := 4
	if *long {
		n = 20
	}
	if *kills > 0 {
		n = *kills
	}
	start := seeded(t)
	random := rand.New(rand.NewPCG(start, 7))
	c := newCluster(t, "--set", "topics.partitions=3")
	c.join([]string{"indexer", "intake", "miner"})
	c.join([]string{"indexer", "miner"})
	c.awaitTopics()
	followed := follow(t, c.k, c.k.triplets)
	f := newFeed(t, c.k, start, 200)
	if f.pace = time.Second; *long {
		f.pace = 100 * time.Millisecond
	}
	go f.run()
	c.allReady()
	generations := []string{c.live()}
	for killed := 0; killed < n; {
		settings := []string{"--set", ensembles[len(generations)%len(ensembles)], "--keep", "1s"}
		for {
			r := c.rebuild(settings...)
			var err error
			ended := false
			select {
			case err = <-r.done:
				ended = true
			case <-time.After(time.Duration(100+random.IntN(2500)) * time.Millisecond):
			}
			if ended {
				if err != nil {
					t.Fatalf("rebuild: %v\n%s", err, r.output.String())
				}
				break
			}
			_ = r.cmd.Process.Kill()
			<-r.done
			killed++
			log := r.output.String()
			t.Logf("kill %d of a rebuild after: %s", killed, lastLine(log))
			if random.IntN(3) == 0 {
				i := c.running()[random.IntN(len(c.running()))]
				i.service.kill()
				i.spawn()
			}
			if killed >= n {
				c.rebuild(settings...).wait(4 * time.Minute)
				break
			}
		}
		now := c.live()
		if slices.Contains(generations, now) {
			t.Fatalf("after the rebuild generation %s is live, after %v", now, generations)
		}
		generations = append(generations, now)
	}
	f.end()
	c.allReady()
	c.adopt(generations[len(generations)-1])
	c.expelGhostsOf(c.k.groups)
	took := c.k.quiet(patience)
	t.Logf("%d generations; quiet after %v: %v", len(generations), took.Round(time.Millisecond), compare(t, c.qdrant, c.k, f.world, c.prefix))
	c.checkGeneration(generations[len(generations)-1])
	checkFollowed(t, c.k, followed)
	t.Logf("%d records in, %d dead letters", len(f.sent), checkLetters(t, c.k, f))
}

func lastLine(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return lines[len(lines)-1]
}

// expelGhostsOf is expelGhosts for groups of another generation.
func (c *cluster) expelGhostsOf(groups map[string]string) {
	c.t.Helper()
	c.expel(slices.Sorted(maps.Keys(groups)))
}

// TestRebuildAbort checks that an abort removes what a rebuild has made, and refuses what it must not do.
func TestRebuildAbort(t *testing.T) {
	c := newCluster(t)
	c.join([]string{"indexer", "intake", "miner"})
	c.awaitTopics()
	newFeed(t, c.k, seeded(t), 120)
	c.allReady()
	c.k.quiet(patience)
	run := func(args ...string) outcome {
		return hardneg(t, patience, slices.Concat([]string{"rebuild"}, c.settings, args)...)
	}
	if out := run("--abort", "--yes"); out.code != 0 || !strings.Contains(out.stdout, "no generation is being made") {
		t.Errorf("abort of nothing: %+v", out)
	}
	c.rebuild("--set", ensembles[0], "--hold").wait(patience)
	c.awaitStatus("beside a generation that is being made", func(s status) bool {
		return len(s.Others) == 1 && s.Others[0].Phase == "building" && s.Generation == c.live() && s.Documents > 0 && s.Queries > 0 && s.Instance.Ready
	})
	if out := run("--abort"); out.code != 2 || !strings.Contains(out.stderr, "--yes") {
		t.Errorf("abort without a yes: %+v", out)
	}
	if out := run("--set", ensembles[2], "--hold"); out.code != 1 || !strings.Contains(out.stderr, "is being built already") {
		t.Errorf("another rebuild beside the first: %+v", out)
	}
	if out := run("--abort", "--yes"); out.code != 0 || !strings.Contains(out.stdout, "is removed") {
		t.Errorf("abort: %+v", out)
	}
	collections, err := qdrantClient(t, c.qdrant.Qdrant).GetCollectionsClient().List(context.Background(), &qdrant.ListCollectionsRequest{})
	if err != nil || len(collections.GetCollections()) != 2 {
		t.Errorf("collections %v, %v: want the live pair", collections.GetCollections(), err)
	}
	c.awaitStatus("after it is removed, of quiet stages", func(s status) bool {
		quiet := len(s.Others) == 0 && len(s.Stages) == 3
		for _, stage := range s.Stages {
			quiet = quiet && stage.Members == 1 && stage.Lag == 0 && stage.Partitions > 0
		}
		return quiet
	})
	if out := run("--model", "0123456789abcdef"); out.code != 1 || !strings.Contains(out.stderr, "has no complete model") {
		t.Errorf("a model that is none: %+v", out)
	}
}

// TestRebuildRefused rebuilds to an ensemble with an embedder that uses carried vectors, which few records
// have. All others become dead letters. What the old generation had published of them is retracted: whole
// lists, and the last ranks of lists that get shorter because documents are refused. The live collections do
// not keep carried vectors, so this rebuild needs the topics.
func TestRebuildRefused(t *testing.T) {
	c := newCluster(t, "--set", "fit.minimum=10")
	c.join([]string{"indexer", "intake", "miner"})
	c.awaitTopics()
	f := newFeed(t, c.k, seeded(t), 60)
	random := rand.New(rand.NewPCG(3, 3))
	served := map[string]bool{} // a few queries and their positives
	for _, id := range slices.Sorted(maps.Keys(f.world.queries))[3:8] {
		served[id] = true
		for document := range f.world.queries[id].evidence {
			served[document] = true
		}
	}
	bare := map[string]bool{} // records that carry no vector
	for _, r := range f.sent {
		if served[string(r.Key)] {
			var value map[string]any
			if err := json.Unmarshal(r.Value, &value); err != nil {
				t.Fatal(err)
			}
			vector := make([]float64, 8)
			for i := range vector {
				vector[i] = random.NormFloat64()
			}
			value["embeddings"] = map[string]any{"own": vector}
			f.k.produce(&kgo.Record{Topic: r.Topic, Key: r.Key, Value: mustJSON(value), Timestamp: f.tick()})
			continue
		}
		bare[string(r.Key)] = true
	}
	c.allReady()
	c.k.quiet(patience)
	before := readView(t, c.k)
	own := []string{"--set", "embedders=[{name: words, type: lexical-word, dimensions: 256}, {name: own, type: carried, dimensions: 8}]", "--keep", "1s"}
	out := hardneg(t, patience, slices.Concat([]string{"rebuild"}, c.settings, own)...)
	if out.code != 1 || !strings.Contains(out.stderr, "rebuild with --from-topics") {
		t.Errorf("carried vectors without the topics: %+v", out)
	}
	c.rebuild(append(own, "--from-topics")...).wait(2 * time.Minute)
	now := c.live()
	c.adopt(now)
	c.k.quiet(patience)
	for id := range bare {
		delete(f.world.documents, id)
		delete(f.world.queries, id)
	}
	for _, q := range f.world.queries { // the same judgements were produced twice
		for id := range q.evidence {
			q.evidence[id]++
		}
	}
	refused, shorter := 0, 0
	after := readView(t, c.k)
	for at := range before.live {
		if bare[at.query] {
			refused++
		} else if _, ok := after.live[at]; !ok {
			shorter++
		}
	}
	if refused == 0 || shorter == 0 {
		t.Errorf("the old generation had %d triplets of refused queries and %d ranks that others lost: want some of both", refused, shorter)
	}
	t.Logf("%d records carry nothing; %d triplets of refused queries, %d ranks of others retracted; %v", len(bare), refused, shorter,
		compare(t, c.qdrant, c.k, f.world, c.prefix))
	c.checkGeneration(now)
	letters := map[string]int{}
	for _, r := range c.k.readCommitted(c.k.deadLetters) {
		letters[string(r.Key)]++
	}
	for id := range bare {
		if letters[id] != 1 {
			t.Errorf("%q has %d dead letters, want 1", id, letters[id])
		}
	}
}

// status is the output of `hardneg status`.
type status struct {
	Generation         string
	Documents, Queries int
	Stages             []struct{ Members, Partitions, Lag int }
	Others             []struct{ Generation, Phase string }
	Instance           struct{ Ready bool }
}

func (c *cluster) status() (s status) {
	c.t.Helper()
	out := hardneg(c.t, patience, slices.Concat([]string{"status"}, c.settings, []string{"-o", "json", "--http", c.instances[0].HTTP})...)
	if out.code != 0 {
		c.t.Fatalf("status: %+v", out)
	}
	if err := json.Unmarshal([]byte(out.stdout), &s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// awaitStatus waits until the status is as expected. A member that did not run for a session's time is no
// member for a moment.
func (c *cluster) awaitStatus(what string, is func(status) bool) {
	c.t.Helper()
	c.instances[0].eventually(patience, "a status "+what, func() error {
		if s := c.status(); !is(s) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}
