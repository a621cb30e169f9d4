package mining

import "slices"

// Window is a range of cosines to the query, both ends included. The rules look at the first Most documents
// in it, the nearest to the query first.
type Window struct {
	Low, High float64 // -2 and 2 where the range has no bound
	Most      int
}

// Windows lists the documents that the rules may look at for a positive with this cosine to the query: one
// window for each tier whose range is not empty. A search can rank bare ids and then read only the documents
// in these windows; Input.Floor says how far down the ranking went. The windows of several positives are
// simply put together.
func (m *Miner) Windows(similarity float32) []Window {
	var windows []Window
	for i := range m.config.Tiers {
		t := &m.config.Tiers[i]
		if low, high, empty := t.bounds(similarity); !empty {
			windows = append(windows, Window{low, high, t.Depth})
		}
	}
	return windows
}

// Nearest collects the candidates of one query while the caller goes once through all documents, in any
// order. This takes the place of a search that would have to bring very many documents. Make it by
// Miner.Nearest.
//
// It holds at most two times the depth of each tier for each positive, however many documents there are. It
// is not safe for concurrent use.
type Nearest struct {
	query   []float32
	windows []tierWindow
}

// tierWindow keeps the first documents in the range of one tier and one positive.
type tierWindow struct {
	tier      *Tier
	low, high float64
	top
}

// Nearest makes an empty collection for the query and the positives of the input. The other fields of the
// input do not matter.
func (m *Miner) Nearest(in Input) *Nearest {
	n := &Nearest{query: in.Query}
	for _, e := range in.Evidence {
		if !e.Positive || e.Document == nil {
			continue
		}
		similarity := Cosine(in.Query, e.Document.Vector)
		for i := range m.config.Tiers {
			t := &m.config.Tiers[i]
			if low, high, empty := t.bounds(similarity); !empty {
				n.windows = append(n.windows, tierWindow{t, low, high, top{most: t.Depth}})
			}
		}
	}
	return n
}

// Add looks at one live document. No document may be added twice.
func (n *Nearest) Add(d Document) {
	if len(n.windows) == 0 {
		return
	}
	cosine := Cosine(n.query, d.Vector)
	for i := range n.windows {
		if w := &n.windows[i]; w.tier.inRange(cosine, w.low, w.high) {
			w.add(d, cosine)
		}
	}
}

// Fill sets Candidates and Exhausted of an input, once all live documents were added: Mine then decides as if
// Candidates were all of them.
func (n *Nearest) Fill(in *Input) {
	seen := map[string]bool{}
	in.Candidates = nil
	for i := range n.windows {
		for _, r := range n.windows[i].first() {
			if !seen[r.ID] {
				seen[r.ID] = true
				in.Candidates = append(in.Candidates, r.Document)
			}
		}
	}
	in.Exhausted, in.Floor = true, nil
}

// top keeps the first documents of a ranking, which come in any order.
type top struct {
	most int
	kept []ranked
}

type ranked struct {
	Document
	cosine float32 // to the query
}

func (t *top) add(d Document, cosine float32) {
	if t.kept = append(t.kept, ranked{d, cosine}); len(t.kept) >= 2*t.most {
		t.cut()
	}
}

func (t *top) cut() {
	slices.SortFunc(t.kept, func(a, b ranked) int { return CompareRank(a.cosine, a.ID, b.cosine, b.ID) })
	clear(t.kept[min(t.most, len(t.kept)):]) // so that the documents can be freed
	t.kept = t.kept[:min(t.most, len(t.kept))]
}

// first gives the kept documents, the nearest first.
func (t *top) first() []ranked {
	t.cut()
	return t.kept
}
