package pipeline

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
	"hardneg/stream"
)

// settleAfter bounds the records of one query that wait to be applied. A query that is logged a million times holds its
// state, and no more than that many records.
const settleAfter = 512

// replayed is the evidence of a query, as far as a pass has read.
type replayed struct {
	id, point string
	state     index.State       // what is applied
	pending   []records.Refresh // what is not, in the order of the log
	newest    records.Source    // of all of them
	headers   []stream.Header   // the trace of that record
	refused   []BadRecord       // texts that cannot be embedded: the first few
	refusals  int64
	size      int64 // about what it takes, in bytes
}

// gathered is what a pass holds: the queries of a range of point ids, which ends where the memory did.
type gathered struct {
	after   string // point id; queries up to it are out already
	end     string // queries from it on are left to the next pass; empty: there are none
	memory  int64
	held    int64
	queries map[string]*replayed // by id
	last    byPoint
}

// byPoint is a heap with the query of the highest point id first.
type byPoint []*replayed

func (h byPoint) Len() int           { return len(h) }
func (h byPoint) Less(i, j int) bool { return h[i].point > h[j].point }
func (h byPoint) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byPoint) Push(x any)        { *h = append(*h, x.(*replayed)) }
func (h *byPoint) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}

// query finds the place of a query; nil: it is none of this pass.
func (g *gathered) query(id string) *replayed {
	if q, ok := g.queries[id]; ok {
		return q
	}
	point := index.QueryPointID(id)
	if point <= g.after || g.end != "" && point >= g.end {
		return nil
	}
	q := &replayed{id: id, point: point}
	g.queries[id] = q
	heap.Push(&g.last, q)
	g.resize(q)
	return q
}

// resize counts a query anew.
func (g *gathered) resize(q *replayed) {
	g.held -= q.size
	q.size = q.bytes()
	g.held += q.size
}

// shrink leaves queries to the next pass until what is held fits. One query always stays, however large.
func (g *gathered) shrink() {
	if g.held <= g.memory {
		return
	}
	for len(g.last) > 1 && g.held > g.memory/4*3 {
		q := heap.Pop(&g.last).(*replayed)
		delete(g.queries, q.id)
		g.held -= q.size
		g.end = q.point
	}
}

// Bytes of what a query holds, about, beside its texts and vectors.
const (
	queryBytes    = 600
	pendingBytes  = 160
	evidenceBytes = 24
	positiveBytes = 200
	loggedBytes   = 32
)

func (q *replayed) bytes() int64 {
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

// gather reads the window once.
func (r *replayer) gather(ctx context.Context) (*gathered, error) {
	g := &gathered{after: r.at.After, memory: r.Memory, queries: map[string]*replayed{}}
	first := r.report.Passes == 0 // what no query can be made of, every pass finds again
	if first {
		r.at.Counts.Unusable = 0
	}
	read, all := int64(0), max(1, length(r.plan.Window))
	log, err := r.merge(ctx)
	if err != nil {
		return nil, err
	}
	for {
		record, ok, err := log.next(ctx)
		if err != nil || !ok {
			return g, err
		}
		if read++; read%1000 == 0 {
			r.Progress(ReplayStatus{Reading: true, Share: float64(read) / float64(all), Queries: r.at.Counts.Queries})
		}
		refresh, err := r.read(record)
		if err != nil {
			if first {
				r.at.Counts.Unusable++
				r.bad(BadRecord{record.Partition, record.Offset, err.Error()})
			}
			continue
		}
		q := g.query(refresh.QueryID)
		if q == nil {
			continue
		}
		q.add(refresh, record)
		if len(q.pending) >= cmp.Or(r.settleAt, settleAfter) {
			if err := r.settle(ctx, []*replayed{q}, nil); err != nil {
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

// read is what the intake makes of a record.
func (r *replayer) read(record stream.Record) (records.Refresh, error) {
	s := intake{r.miner.Pipeline}
	refresh, err := s.read(record)
	if err == nil && len(record.Value) > defaultLimit { // nothing smaller grows too large, see maxRefresh
		err = checkRefresh(s.refreshOutput(refresh, nil))
	}
	return refresh, err
}

// add takes a record up. The strings of the record do not hold on to the batch that it came with.
func (q *replayed) add(refresh records.Refresh, record stream.Record) {
	refresh.QueryID = q.id
	if n := len(q.pending); n > 0 && q.pending[n-1].Text == refresh.Text {
		refresh.Text = q.pending[n-1].Text
	}
	if source := refresh.Source; q.newest.Topic == "" || before(placeAt(q.newest), placeAt(source)) {
		q.newest, q.headers = source, slices.Clone(traceparent(record.Headers))
		for i := range q.headers {
			q.headers[i].Value = slices.Clone(q.headers[i].Value)
		}
	}
	q.pending = append(q.pending, refresh)
}

func placeAt(s records.Source) index.Place {
	return index.Place{Timestamp: s.Timestamp, Partition: s.Partition, Offset: s.Offset}
}

// settle applies what is pending of some queries. As in the miner a record counts only if its text can be embedded, be
// it the newest or not; where the live view has the vector of a text, or the query itself, it is taken.
func (r *replayer) settle(ctx context.Context, queries []*replayed, live map[string]index.State) error {
	vectors := make([]map[index.Place][]float32, len(queries))
	var items []embed.Item
	type asked struct {
		query  int
		places []index.Place // with the same text
	}
	var wanted []asked
	for i, q := range queries {
		vectors[i] = map[index.Place][]float32{}
		texts := map[string]int{} // places in wanted
		for _, refresh := range q.pending {
			if refresh.Kind != records.KindEvidence {
				continue
			}
			at, carries := placeOf(refresh), len(refresh.Embeddings) > 0
			if v := known(refresh, q.state, live[q.id]); v != nil {
				vectors[i][at] = v
				continue
			}
			if k, ok := texts[refresh.Text]; ok && !carries {
				wanted[k].places = append(wanted[k].places, at)
				continue
			}
			if !carries {
				texts[refresh.Text] = len(wanted)
			}
			items, wanted = append(items, embed.Item{Text: refresh.Text, Carried: refresh.Embeddings}), append(wanted, asked{i, []index.Place{at}})
		}
	}
	embedded, refusals, err := r.miner.vectors(ctx, embed.Query, items)
	if err != nil {
		return err
	}
	refused := map[index.Place]error{}
	for k, w := range wanted {
		for _, at := range w.places {
			if vectors[w.query][at] = embedded[k]; refusals[k] != nil {
				refused[at] = refusals[k]
			}
		}
	}
	for i, q := range queries {
		usable := q.pending[:0]
		for _, refresh := range q.pending {
			err := refused[placeOf(refresh)]
			if err == nil {
				usable = append(usable, refresh)
				continue
			}
			if q.refusals++; len(q.refused) < badListed {
				q.refused = append(q.refused, BadRecord{refresh.Source.Partition, refresh.Source.Offset, err.Error()})
			}
		}
		q.state.QueryID = q.id
		q.state = advance(q.state, usable)
		if v, ok := vectors[i][q.state.Newest]; ok && q.state.Text != "" {
			q.state.Vector = v
		}
		q.pending = nil
	}
	return nil
}

// known is the vector of a record's text where one of the states has it.
func known(r records.Refresh, states ...index.State) []float32 {
	for _, s := range states {
		if r.Text == s.Text && s.Vector != nil && len(r.Embeddings) == 0 && len(s.Carried) == 0 {
			return s.Vector
		}
	}
	return nil
}

// share is how many of all point ids come before one.
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

// merged reads the spans of a window in the order of their timestamps, as far as the partitions are in that order
// themselves: so a forget comes behind what it forgets.
type merged struct {
	r     *replayer
	heads []*head // a heap, the oldest record first
	size  int
}

// head is a partition that has records left; the first of them is the next one.
type head struct {
	Span
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
	fetchAll   = 64 << 20 // bytes that the partitions' fetches may take together
	fetchLeast = 64 << 10
	fetchMost  = 4 << 20

	emptyFetches = 60 // of half a second
)

func (r *replayer) merge(ctx context.Context) (*merged, error) {
	m := &merged{r: r, size: cmp.Or(r.fetchSize, max(fetchLeast, min(fetchMost, fetchAll/max(1, len(r.plan.Window)))))}
	for _, span := range r.plan.Window {
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

// fill fetches until a head has records, or its span ends.
func (m *merged) fill(ctx context.Context, h *head) error {
	topic := m.r.Config.Topics.Queries
	for empty := 0; len(h.records) == 0 && h.From < h.To; {
		got, err := m.r.Kafka.Fetch(ctx, topic, h.Partition, h.From, stream.FetchOptions{MaxBytes: m.size})
		if errors.Is(err, stream.ErrOffsetOutOfRange) {
			return fmt.Errorf("a part of the window is no longer in the log: %w; --restart begins anew with what is left", err)
		}
		if err != nil {
			return err
		}
		if got.Next == h.From { // never for long, for the window was in the log
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

// next is the next record; false: the window is read.
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

// inOrder lists what was gathered by point id.
func (g *gathered) inOrder() []*replayed {
	all := slices.Clone([]*replayed(g.last))
	slices.SortFunc(all, func(a, b *replayed) int { return strings.Compare(a.point, b.point) })
	return all
}
