package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// moments looks at a view again and again while documents and queries keep coming.
//
// At each moment it knows two things for each generation: which records the stages had already processed, all
// the way to the triplets, and which records were produced at all. So a document either has one valid
// version, or its version is one of those that changed in between.
//
// It checks each list that a read_committed reader sees, after every transaction. The list must be the
// oracle's on the vectors of the generation that it names, for one choice among the changed versions.
type moments struct {
	*cluster
	feed    *feed
	history *history
	reader  *kgo.Client
	next    map[int32]int64 // offsets in the triplets topic
	live    map[string]map[place]triplet
	past    map[string]*passage                // by generation
	points  map[string]map[string]*point       // documents that were seen, by generation, id and hash
	asked   map[string]map[[2]string][]float64 // vectors of queries, by generation, id and text
	bases   map[*inputs]*base                  // of this moment
	errs    few
	stats   struct{ moments, lists, unseen, inFlux, documents int }
	named   map[string]int // lists by generation
}

// passage is the progress of a generation's stages.
type passage struct {
	done    map[string]*inputs // by query: inputs that are fully processed
	last    map[string]*inputs // value of done at the previous moment
	under   *inputs
	nothing inputs
	until   map[int32]int64 // when the miner has reached these offsets, the inputs in under are processed
}

// inputs are offsets in the topics of documents and of queries.
type inputs struct{ documents, queries map[int32]int64 }

func newMoments(c *cluster, f *feed) *moments {
	c.t.Helper()
	reader, err := kgo.NewClient(append(c.k.client.Opts(), kgo.ConsumeTopics(c.k.triplets), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.KeepControlRecords())...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(reader.Close)
	return &moments{
		cluster: c, feed: f, history: newHistory(c.k.topics), reader: reader, next: map[int32]int64{}, live: map[string]map[place]triplet{},
		past: map[string]*passage{}, points: map[string]map[string]*point{}, asked: map[string]map[[2]string][]float64{}, errs: few{t: c.t},
		named: map[string]int{},
	}
}

// during looks until a rebuild ends.
func (m *moments) during(r *rebuild) {
	m.t.Helper()
	for start := time.Now(); len(r.done) == 0 && time.Since(start) < patience; time.Sleep(50 * time.Millisecond) {
		m.look()
	}
	r.wait(time.Second)
	m.look()
}

// look checks one moment.
func (m *moments) look() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	for _, p := range m.past {
		p.last = maps.Clone(p.done)
	}
	for _, generation := range m.generations(ctx) {
		m.advance(ctx, generation)
	}
	for generation := range m.past {
		m.witness(generation)
	}
	published := m.read(ctx)
	m.history.extend(m.t, m.feed)
	m.bases = map[*inputs]*base{}
	for _, p := range published {
		state := maps.Clone(m.live[p.query])
		if state == nil {
			state = map[place]triplet{}
		}
		for at, x := range p.slots {
			if delete(state, at); x != nil {
				state[at] = *x
			}
		}
		m.live[p.query] = state
		m.check(p.query, func(p *passage) map[string]*inputs { return p.last }, fmt.Sprintf("after %d/%d", p.partition, p.offset))
	}
	for query := range m.history.queries {
		m.check(query, func(p *passage) map[string]*inputs { return p.done }, "later")
	}
	m.stats.moments++
}

// generations returns the generations that have collections.
func (m *moments) generations(ctx context.Context) (ids []string) {
	m.t.Helper()
	names, err := qdrantClient(m.t, m.qdrant.Qdrant).ListCollections(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, name := range names {
		if id, ok := strings.CutPrefix(name, m.prefix+"documents-"); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// advance finds out how far a generation's stages are. Records that the indexer and the intake have committed
// are processed once the miner has committed everything that the refresh topic held at that time. This does
// not apply to a query that still has a record in the topic, because the miner may have queued the query
// again. Topics and groups that appear or disappear are no error.
func (m *moments) advance(ctx context.Context, generation string) {
	p := m.past[generation]
	if p == nil {
		p = &passage{done: map[string]*inputs{}}
		m.past[generation] = p
	}
	names := m.generationTopics(generation)
	group := func(stage string) string {
		for name := range names.groups {
			if strings.HasSuffix(name, "-"+stage) {
				return name
			}
		}
		panic(stage)
	}
	if p.under != nil {
		waiting, err := m.waiting(ctx, group("miner"), names.refresh, p.until)
		if err != nil {
			return
		}
		for query := range m.history.queries {
			if !waiting[query] {
				p.done[query] = p.under
			}
		}
		p.under = nil
	}
	documents, err := m.k.committed(ctx, group("indexer"), names.documents)
	if err != nil {
		return
	}
	queries, err := m.k.committed(ctx, group("intake"), names.queries)
	if err != nil {
		return
	}
	if p.until, err = m.k.ends(ctx, names.refresh, 0); err == nil {
		p.under = &inputs{documents, queries}
	}
}

// waiting returns the queries with refresh records that the miner has not committed. It returns an error if
// some of these records are older than `until`.
func (m *moments) waiting(ctx context.Context, group, refresh string, until map[int32]int64) (map[string]bool, error) {
	mined, err := m.k.committed(ctx, group, refresh)
	if err != nil {
		return nil, err
	}
	queries := map[string]bool{}
	for partition, end := range until {
		batches, err := m.k.rawLog(ctx, refresh, partition, mined[partition])
		if err != nil {
			return nil, err
		}
		_, aborted, _ := visible(batches)
		for _, b := range batches {
			for i, offset := range b.offsets {
				if b.control || aborted[offset] || offset < mined[partition] {
					continue
				}
				if offset < end {
					return nil, fmt.Errorf("%s/%d is mined up to %d of %d", refresh, partition, offset, end)
				}
				queries[b.keys[i]] = true
			}
		}
	}
	return queries, nil
}

// witness stores the vectors that a generation has now.
func (m *moments) witness(generation string) {
	client := qdrantClient(m.t, m.qdrant.Qdrant)
	if m.points[generation] == nil {
		m.points[generation], m.asked[generation] = map[string]*point{}, map[[2]string][]float64{}
	}
	documents, err := corpusOf(m.t, client, m.prefix+"documents-"+generation)
	if err != nil {
		return // it was erased
	}
	for _, p := range documents {
		m.points[generation][p.id+"\x00"+p.hash] = p
	}
	_ = tryScroll(m.t, client, m.prefix+"queries-"+generation, func(payload fields, vector []float32) {
		if len(vector) > 0 && !payload["deleted"].GetBoolValue() {
			key := [2]string{payload["query_id"].GetStringValue(), payload["text"].GetStringValue()}
			m.asked[generation][key] = widen(vector[:len(vector)-1])
		}
	})
}

// publication is the part of a transaction that belongs to one query.
type publication struct {
	query     string
	partition int32
	offset    int64
	slots     map[place]*triplet
}

// read reads the triplets topic up to its present stable end.
func (m *moments) read(ctx context.Context) (all []*publication) {
	m.t.Helper()
	ends, err := m.k.ends(ctx, m.k.triplets, 1)
	if err != nil {
		m.t.Fatal(err)
	}
	behind := func() bool {
		for partition, end := range ends {
			if m.next[partition] < end {
				return true
			}
		}
		return false
	}
	open := map[int32]*publication{}
	for behind() {
		fetches := m.reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			m.t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			m.next[r.Partition] = r.Offset + 1
			current := open[r.Partition]
			if r.Attrs.IsControl() {
				delete(open, r.Partition)
				return
			}
			at, err := parsePlace(r.Key)
			if err != nil {
				m.t.Fatal(err)
			}
			if current == nil || current.query != at.query {
				current = &publication{query: at.query, partition: r.Partition, slots: map[place]*triplet{}}
				all = append(all, current)
			}
			current.offset = r.Offset
			var x *triplet
			if r.Value != nil {
				if err := json.Unmarshal(r.Value, &x); err != nil {
					m.t.Fatal(err)
				}
			}
			current.slots[at] = x
			open[r.Partition] = current
		})
	}
	return all
}

// base is the knowledge about a generation's documents and queries at a moment.
type base struct {
	generation string
	inputs
	settled  corpus              // documents with one valid version
	unseen   map[string]bool     // documents with one valid version whose vector is not known
	changing map[string][]string // the hashes that each document may have
}

func (m *moments) base(generation string, past *inputs) *base {
	if past == nil {
		past = &m.past[generation].nothing
	}
	if b := m.bases[past]; b != nil {
		return b
	}
	b := &base{generation, *past, corpus{}, map[string]bool{}, map[string][]string{}}
	m.bases[past] = b
	for id, editions := range m.history.documents {
		hashes := since(editions, past.documents)
		slices.Sort(hashes)
		switch hashes = slices.Compact(hashes); {
		case len(hashes) > 1:
			b.changing[id] = hashes
		case hashes[0] == "":
		case m.points[generation][id+"\x00"+hashes[0]] == nil:
			b.unseen[id] = true
		default:
			b.settled[id] = m.points[generation][id+"\x00"+hashes[0]]
		}
	}
	return b
}

// check checks all lists of a query. done says which inputs were processed at that time.
func (m *moments) check(query string, done func(*passage) map[string]*inputs, when string) {
	m.t.Helper()
	generations := map[string]bool{}
	lists := map[pair][]triplet{}
	for at, x := range m.live[query] {
		generations[x.Generation] = true
		for len(lists[at.pair()]) < at.rank {
			lists[at.pair()] = append(lists[at.pair()], triplet{})
		}
		lists[at.pair()][at.rank-1] = x
	}
	if len(generations) > 1 {
		m.errs.errorf("%s query %q names generations %v", when, query, slices.Collect(maps.Keys(generations)))
		return
	}
	for _, e := range m.history.queries[query] {
		if e.value != nil {
			for document := range e.value.evidence {
				if at := (pair{query, document}); lists[at] == nil {
					lists[at] = []triplet{}
				}
			}
		}
	}
	for at, list := range lists {
		var err error
		for generation, p := range m.past {
			if len(generations) == 0 || generations[generation] { // a query without triplets names no generation
				b := m.base(generation, done(p)[query])
				m.stats.documents += len(m.history.documents)
				m.stats.inFlux += len(b.changing)
				if err = m.explain(b, at, list); err == nil {
					if len(list) > 0 {
						m.named[generation]++
					}
					break
				}
			}
		}
		if m.stats.lists++; err != nil {
			m.errs.errorf("%s pair %q has %s, of generation %v: %v", when, at, brief(list), slices.Collect(maps.Keys(generations)), err)
		}
	}
}

func brief(list []triplet) string {
	var b strings.Builder
	for _, x := range list {
		fmt.Fprintf(&b, "%d %q (%s, %.6f) ", x.Rank, x.Negative.ID, x.Policy, x.Similarity.QueryNegative)
	}
	return cmp.Or(b.String(), "no triplets")
}

var errUnseen = errors.New("a vector is not known")

// explain returns nil if a list can be the oracle's.
func (m *moments) explain(b *base, at pair, list []triplet) error {
	var errs []error
	for _, log := range since(m.history.queries[at.query], b.queries) {
		err := m.explainAs(b, at, list, log)
		if errors.Is(err, errUnseen) {
			m.stats.unseen++
			return nil
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// explainAs returns nil if a list can be the oracle's for this content of the query log.
func (m *moments) explainAs(b *base, at pair, list []triplet, log *logged) error {
	if log == nil || !positive(log.evidence[at.positive]) {
		if len(list) > 0 {
			return fmt.Errorf("it is no positive of the query: %v", log)
		}
		return nil
	}
	q := question{m.asked[b.generation][[2]string{at.query, log.text}], map[string]bool{}, m.feed.world.rules}
	if q.vector == nil {
		return errUnseen
	}
	for document, weight := range log.evidence {
		q.evidence[document] = positive(weight)
	}
	if len(list) == 0 {
		if _, unsure := b.changing[at.positive]; unsure || b.unseen[at.positive] {
			return nil
		}
		return m.justify(b, q, at, nil, nil)
	}
	// A list says which document versions it contains.
	chosen := map[string]string{}
	slots := make([]slot, len(list))
	for i, x := range list {
		slots[i] = slot{x.Negative.ID, x.Policy}
		for _, d := range []tripletDocument{x.Positive, x.Negative} {
			if before, ok := chosen[d.ID]; ok && before != d.Version {
				return fmt.Errorf("it has two versions of %q", d.ID)
			}
			chosen[d.ID] = d.Version
		}
	}
	return m.justify(b, q, at, slots, chosen)
}

// justify returns nil if slots with the chosen versions can be the oracle's. It ignores other documents that
// may have changed. It also ignores documents that changing evidence may bar, and ranks that changes may push
// out of the window.
func (m *moments) justify(b *base, q question, at pair, slots []slot, chosen map[string]string) error {
	c := maps.Clone(b.settled)
	open := len(b.changing) + len(b.unseen)
	for id, hash := range chosen {
		if hashes, ok := b.changing[id]; ok && slices.Contains(hashes, hash) {
			p := m.points[b.generation][id+"\x00"+hash]
			if p == nil {
				return errUnseen
			}
			c[id] = p
		} else if b.unseen[id] {
			return errUnseen
		} else if c[id] == nil || c[id].hash != hash {
			return fmt.Errorf("version %s of %q, which is neither the last that was indexed nor one of those under way, %v", hash, id, hashes)
		}
	}
	kept := func(id string) bool {
		_, named := q.evidence[id]
		return named || chosen[id] != ""
	}
	for id := range q.evidence {
		if b.unseen[id] {
			return errUnseen
		}
		if chosen[id] != "" {
			continue
		}
		for _, hash := range b.changing[id] {
			p := m.points[b.generation][id+"\x00"+hash]
			if p == nil && hash != "" {
				return errUnseen
			}
			maps.DeleteFunc(c, func(other string, d *point) bool {
				return p != nil && !kept(other) && (corpus{id: p}).barred(question{evidence: map[string]bool{id: true}}, d, tied)
			})
		}
	}
	for i, d := range c.rank(q) {
		if i >= depth-open && !kept(d.id) {
			delete(c, d.id)
		}
	}
	return c.justify(q, at.positive, slots)
}

func (m *moments) String() string {
	s := m.stats
	return fmt.Sprintf("%d moments, %d lists looked at, %d of them not judged for want of a vector; %.1f%% of the documents under way; lists by generation: %v",
		s.moments, s.lists, s.unseen, 100*float64(s.inFlux)/float64(max(1, s.documents)), m.named)
}

// enough fails if too few lists could be judged.
func (m *moments) enough(generations []string) {
	m.t.Helper()
	m.t.Log(m)
	if m.stats.unseen*20 > m.stats.lists {
		m.t.Errorf("%d of %d lists were not judged", m.stats.unseen, m.stats.lists)
	}
	for _, generation := range generations {
		if m.named[generation] == 0 {
			m.t.Errorf("no list of generation %s was looked at", generation)
		}
	}
}
