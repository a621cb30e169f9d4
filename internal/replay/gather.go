package replay

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"hardneg/index"
	"hardneg/internal/embed"
	"hardneg/internal/records"
	"hardneg/internal/stages"
	"hardneg/internal/window"
	"hardneg/stream"
)

// settleAfter bounds the records of one query that wait to be applied to its state. So a query that is logged
// a million times needs memory only for its state and for this many records.
const settleAfter = 512

// query is the evidence of a query, as far as a pass has read the window.
type query struct {
	id, point string
	state     index.State       // with the records that are applied
	pending   []records.Refresh // records that are not applied yet, in the order of the log
	newest    records.Source    // the newest of all records
	trace     []stream.Header   // of the newest record
	refused   []BadRecord       // the first few records whose text cannot be embedded
	refusals  int64             // number of records whose text cannot be embedded
	size      int64             // bytes in memory, roughly
}

// gathered holds the queries of one pass: those in a range of point ids. The range ends where the memory was
// full.
type gathered struct {
	after   string            // the range begins behind this point id
	end     string            // the range ends before this point id; empty: it has no end
	memory  int64             // bytes that the queries may take
	held    int64             // bytes that they take
	queries map[string]*query // by id
	last    byPoint           // the same queries
}

// byPoint is a heap of queries. The one with the highest point id comes first.
type byPoint []*query

func (h byPoint) Len() int           { return len(h) }
func (h byPoint) Less(i, j int) bool { return h[i].point > h[j].point }
func (h byPoint) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byPoint) Push(x any)        { *h = append(*h, x.(*query)) }
func (h *byPoint) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}

// query returns the query with an id; nil if it belongs to another pass.
func (g *gathered) query(id string) *query {
	if q, ok := g.queries[id]; ok {
		return q
	}
	point := index.QueryPointID(id)
	if point <= g.after || g.end != "" && point >= g.end {
		return nil
	}
	q := &query{id: id, point: point}
	g.queries[id] = q
	heap.Push(&g.last, q)
	g.resize(q)
	return q
}

// resize computes the size of a query anew.
func (g *gathered) resize(q *query) {
	g.held -= q.size
	q.size = q.bytes()
	g.held += q.size
}

// shrink leaves the queries with the highest point ids to the next pass, until the others fit into the
// memory. One query always stays, even if it is too large.
func (g *gathered) shrink() {
	if g.held <= g.memory {
		return
	}
	for len(g.last) > 1 && g.held > g.memory/4*3 {
		q := heap.Pop(&g.last).(*query)
		delete(g.queries, q.id)
		g.held -= q.size
		g.end = q.point
	}
}

// Rough sizes in bytes, without texts and vectors.
const (
	queryBytes    = 600
	pendingBytes  = 160
	evidenceBytes = 24
	positiveBytes = 200
	loggedBytes   = 32
)

// bytes returns the size of a query in memory, roughly.
func (q *query) bytes() int64 {
	n := queryBytes + 2*len(q.id) + len(q.state.Text) + 4*len(q.state.Vector) + carriedBytes(q.state.Carried)
	for _, p := range q.state.Positives {
		n += positiveBytes + len(p.Document) + loggedBytes*cap(p.Log)
	}
	for _, r := range q.pending {
		n += refreshBytes(r)
	}
	return int64(n)
}

func refreshBytes(r records.Refresh) int {
	n := pendingBytes + len(r.Text) + carriedBytes(r.Embeddings)
	for _, e := range r.Evidence {
		n += evidenceBytes + len(e.Document)
	}
	return n
}

func carriedBytes(carried map[string][]float32) (n int) {
	for _, v := range carried {
		n += 4*len(v) + 100
	}
	return n
}

// gatherer reads a window of the query log and gathers the evidence of its queries.
type gatherer struct {
	kafka     *stream.Client
	topic     string
	memory    int64 // bytes of evidence that are held at a time
	settleAt  int   // pending records of a query at which they are applied
	fetchSize int   // bytes of a fetch; 0: it depends on the number of partitions
	reader    stages.QueryReader
	model     stages.Embedder
}

// gather reads a window once. It returns the queries that come after a point id, as many as fit into the
// memory. It calls progress with the share of the window that it has read, and malformed, which may be nil,
// with each record that cannot be used.
func (r *gatherer) gather(ctx context.Context, spans []window.Span, after string, progress func(share float64), malformed func(BadRecord)) (*gathered, error) {
	g := &gathered{after: after, memory: r.memory, queries: map[string]*query{}}
	read, total := int64(0), max(1, window.Length(spans))
	log, err := r.merge(ctx, spans)
	if err != nil {
		return nil, err
	}
	for {
		record, ok, err := log.next(ctx)
		if err != nil || !ok {
			return g, err
		}
		if read++; read%1000 == 0 {
			progress(float64(read) / float64(total))
		}
		refresh, err := r.reader.ReadFitting(record)
		if err != nil {
			if malformed != nil {
				malformed(BadRecord{record.Partition, record.Offset, err.Error()})
			}
			continue
		}
		q := g.query(refresh.QueryID)
		if q == nil {
			continue
		}
		q.add(refresh, record)
		if len(q.pending) >= r.settleAt {
			if err := r.settle(ctx, []*query{q}, nil); err != nil {
				return nil, err
			}
			g.resize(q)
		} else {
			more := int64(refreshBytes(refresh))
			q.size, g.held = q.size+more, g.held+more
		}
		g.shrink()
	}
}

// add adds a record to the pending ones. It shares equal strings and copies the trace, so that the record's
// batch does not stay in memory.
func (q *query) add(refresh records.Refresh, record stream.Record) {
	refresh.QueryID = q.id
	if n := len(q.pending); n > 0 && q.pending[n-1].Text == refresh.Text {
		refresh.Text = q.pending[n-1].Text
	}
	if source := refresh.Source; q.newest.Topic == "" || stages.PositionOf(q.newest).Compare(stages.PositionOf(source)) < 0 {
		q.newest, q.trace = source, slices.Clone(stages.Trace(record.Headers))
		for i := range q.trace {
			q.trace[i].Value = slices.Clone(q.trace[i].Value)
		}
	}
	q.pending = append(q.pending, refresh)
}

// settle applies the pending records of queries to their states. As in the miner, a record counts only if its
// text can be embedded, even if it is not the newest one. If the query's state or its state in the live view
// has the vector of a text, settle uses that.
func (r *gatherer) settle(ctx context.Context, queries []*query, live map[string]index.State) error {
	vectors := make([]map[index.Position][]float32, len(queries))
	var items []embed.Item
	type asked struct {
		query     int
		positions []index.Position // records with the same text
	}
	var asking []asked
	for i, q := range queries {
		vectors[i] = map[index.Position][]float32{}
		texts := map[string]int{} // index in asking, by text
		for _, refresh := range q.pending {
			if refresh.Kind != records.KindEvidence {
				continue
			}
			at, carries := stages.PositionOf(refresh.Source), len(refresh.Embeddings) > 0
			if v := stages.KnownVector(refresh, q.state, live[q.id]); v != nil {
				vectors[i][at] = v
				continue
			}
			if k, ok := texts[refresh.Text]; ok && !carries {
				asking[k].positions = append(asking[k].positions, at)
				continue
			}
			if !carries {
				texts[refresh.Text] = len(asking)
			}
			items, asking = append(items, embed.Item{Text: refresh.Text, Carried: refresh.Embeddings}), append(asking, asked{i, []index.Position{at}})
		}
	}
	var embedded [][]float32
	var refusals []error
	if len(items) > 0 {
		var err error
		if embedded, refusals, err = r.model.Vectors(ctx, embed.Query, items); err != nil {
			return err
		}
	}
	refused := map[index.Position]error{}
	for k, w := range asking {
		for _, at := range w.positions {
			if vectors[w.query][at] = embedded[k]; refusals[k] != nil {
				refused[at] = refusals[k]
			}
		}
	}
	for i, q := range queries {
		usable := q.pending[:0]
		for _, refresh := range q.pending {
			err := refused[stages.PositionOf(refresh.Source)]
			if err == nil {
				usable = append(usable, refresh)
				continue
			}
			if q.refusals++; len(q.refused) < badListed {
				q.refused = append(q.refused, BadRecord{refresh.Source.Partition, refresh.Source.Offset, err.Error()})
			}
		}
		q.state.QueryID = q.id
		q.state = stages.Advance(q.state, usable)
		if v, ok := vectors[i][q.state.Newest]; ok && q.state.Text != "" {
			q.state.Vector = v
		}
		q.pending = nil
	}
	return nil
}

// share returns the share of all point ids that come before a point id.
func share(point string) float64 {
	if len(point) < 8 {
		return 0
	}
	n, err := strconv.ParseUint(point[:8], 16, 32)
	if err != nil {
		return 0
	}
	return float64(n) / (1 << 32)
}

// merged reads the spans of a window in the order of timestamps, as far as each partition is in that order.
// So a forget comes after the records that it removes.
type merged struct {
	r     *gatherer
	heads []*head // a heap; the one with the oldest record comes first
	size  int     // bytes of a fetch
}

// head is a partition with records that are not read yet. The first of records is its next one.
type head struct {
	window.Span
	records []stream.Record
}

func (m *merged) Len() int { return len(m.heads) }
func (m *merged) Less(i, j int) bool {
	a, b := m.heads[i].records[0], m.heads[j].records[0]
	return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Partition, b.Partition)) < 0
}
func (m *merged) Swap(i, j int) { m.heads[i], m.heads[j] = m.heads[j], m.heads[i] }
func (m *merged) Push(x any)    { m.heads = append(m.heads, x.(*head)) }
func (m *merged) Pop() any {
	last := m.heads[len(m.heads)-1]
	m.heads = m.heads[:len(m.heads)-1]
	return last
}

const (
	fetchAll   = 64 << 20 // bytes for one fetch of each partition, together
	fetchLeast = 64 << 10 // bytes of a fetch, at least
	fetchMost  = 4 << 20  // bytes of a fetch, at most

	emptyFetches = 60 // empty fetches, of half a second each, after which fill gives up
)

// merge begins to read the spans of a window.
func (r *gatherer) merge(ctx context.Context, spans []window.Span) (*merged, error) {
	m := &merged{r: r, size: cmp.Or(r.fetchSize, max(fetchLeast, min(fetchMost, fetchAll/max(1, len(spans)))))}
	for _, span := range spans {
		h := &head{Span: span}
		if err := m.fill(ctx, h); err != nil {
			return nil, err
		}
		if len(h.records) > 0 {
			m.heads = append(m.heads, h)
		}
	}
	heap.Init(m)
	return m, nil
}

// fill fetches until a head has records or its span ends.
func (m *merged) fill(ctx context.Context, h *head) error {
	topic := m.r.topic
	for empty := 0; len(h.records) == 0 && h.From < h.To; {
		got, err := m.r.kafka.Fetch(ctx, topic, h.Partition, h.From, stream.FetchOptions{MaxBytes: m.size})
		if errors.Is(err, stream.ErrOffsetOutOfRange) {
			return fmt.Errorf("a part of the window is no longer in the log: %w; --restart begins anew with what is left", err)
		}
		if err != nil {
			return err
		}
		if got.Next == h.From { // not for long, because the log had the window
			if empty++; empty > emptyFetches {
				return fmt.Errorf("%s/%d ends at offset %d, within the window, which had %d: was the topic deleted and made anew?", topic, h.Partition, got.LastStable, h.To)
			}
		}
		h.records = got.Records
		if n := len(h.records); n > 0 && h.records[n-1].Offset >= h.To {
			end, _ := slices.BinarySearchFunc(h.records, h.To, func(r stream.Record, offset int64) int { return cmp.Compare(r.Offset, offset) })
			h.records = h.records[:end]
		}
		h.From = got.Next
	}
	return nil
}

// next returns the next record, or false at the end of the window.
func (m *merged) next(ctx context.Context) (stream.Record, bool, error) {
	if len(m.heads) == 0 {
		return stream.Record{}, false, ctx.Err()
	}
	h := m.heads[0]
	record := h.records[0]
	if h.records = h.records[1:]; len(h.records) > 0 {
		heap.Fix(m, 0)
		return record, true, nil
	}
	if err := m.fill(ctx, h); err != nil {
		return record, false, err
	}
	if len(h.records) > 0 {
		heap.Fix(m, 0)
	} else {
		heap.Pop(m)
	}
	return record, true, nil
}

// inOrder returns the queries in the order of their point ids.
func (g *gathered) inOrder() []*query {
	queries := slices.Clone([]*query(g.last))
	slices.SortFunc(queries, func(a, b *query) int { return strings.Compare(a.point, b.point) })
	return queries
}
