package stages

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/records"
	"hardneg/mining"
)

// simGenerator draws a history. It knows what the logs say so far, so it can make rare cases likely: copies,
// vectors that hardly move, positives that come before their documents.
type simGenerator struct {
	*rand.Rand
	setup     simSetup
	clock     int64
	documents int // number of ids to draw from
	queries   int
	anyKey    bool // keys of the query log are random, so records of a query lie in several partitions
	realTexts bool
	calm      int // mean number of steps between two operations
	texts     int
	docs      map[string]simDocument
	asked     map[string]simQuery
	named     map[string][]string // documents that a query's log names, by query
}

func simGenerate(seed uint64) simHistory {
	g := &simGenerator{
		Rand: rand.New(rand.NewPCG(seed, 1)), clock: simEpoch, docs: map[string]simDocument{},
		asked: map[string]simQuery{}, named: map[string][]string{},
	}
	g.setup = simSetup{
		Seed: seed, Dimensions: 3 + g.IntN(4),
		Partitions: map[string]int{catalog.StageIndexer: 1 + g.IntN(3), catalog.StageIntake: 1 + g.IntN(2), catalog.StageMiner: 1 + g.IntN(3)},
		MaxBatch:   1 + g.IntN(12), Scale: []int{1, 4, 10, 16, 48}[g.IntN(5)], Wide: g.IntN(3) == 0,
		Split: []float64{0, 0, 0.1, 0.5}[g.IntN(4)], Gaps: g.IntN(2) == 0, Skew: []int64{0, 5, 1000}[g.IntN(3)],
		Strategy: []string{"uniform", "sticky", "priorities"}[g.IntN(3)], Stick: 0.5 + g.Float64()/2,
		Queries: config.Queries{
			MinWeight:      []float64{1, 1, 1, 0.6, 0.6, 1.5}[g.IntN(6)],
			PositiveWeight: []float64{1, 1, 1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0}[g.IntN(12)],
			MinDwell:       time.Duration(g.IntN(2)) * time.Second,
		},
	}
	g.realTexts = g.IntN(4) == 0
	for range 1 + g.IntN(8)/7 {
		g.setup.Rules = append(g.setup.Rules, g.rules())
	}
	g.documents, g.queries = 12+g.IntN(20), 2+g.IntN(4)
	g.anyKey, g.calm = g.IntN(3) == 0, []int{0, 3, 15, 60}[g.IntN(4)]
	var ops []*simOp
	settles := 3 + g.IntN(2)
	for phase := range settles {
		n := 12 + g.IntN(10)
		if phase == 0 {
			n += 12
		}
		for range n {
			ops = append(ops, g.op(phase))
			for g.IntN(4) == 0 {
				ops = append(ops, g.fault())
			}
		}
		if phase == settles/2 && len(g.setup.Rules) > 1 {
			ops = append(ops, &simOp{kind: "rules", steps: g.steps()})
		}
		ops = append(ops, &simOp{kind: "settle"})
	}
	return simHistory{g.setup, ops}
}

// rules draws a valid configuration.
func (g *simGenerator) rules() config.Mining {
	for {
		m := config.Mining{
			Negatives: 1 + g.IntN(4), NearDuplicate: []float64{0.98, 0.98, 0.95, 1.5}[g.IntN(4)], NearText: 1.5,
			Depth: []int{3, 5, 200}[g.IntN(3)],
		}
		if g.realTexts {
			m.NearText = 0.5
		}
		tiers := 1 + g.IntN(3)
		for i := range tiers {
			t := config.Tier{Policy: mining.PolicySemantic, Sampling: mining.SamplingTop, Skip: g.IntN(5) / 3}
			odds := 4 // one tier in odds has a certain limit; last tiers seldom, or too many lists stay empty
			if i == tiers-1 {
				odds = 10
			}
			if g.IntN(4) > 0 {
				t.Policy = mining.PolicyPositiveAware
				for _, limit := range []**float64{&t.RelativeMargin, &t.AbsoluteMargin, &t.MaxScore} {
					if v := 0.3 * g.Float64(); g.IntN(odds) == 0 {
						*limit = &v
					}
				}
				if v := 0.4*g.Float64() - 0.3; g.IntN(odds) == 0 {
					t.MinScore = &v
				}
			}
			if g.IntN(4) == 0 {
				t.Sampling = mining.SamplingRandom
			}
			if g.IntN(3) == 0 {
				t.Depth = 2 + g.IntN(4)
			}
			if i < tiers-1 {
				t.UpTo = 1 + g.IntN(m.Negatives)
			}
			m.Tiers = append(m.Tiers, t)
		}
		if _, err := mining.New(catalog.RulesOf(&config.Config{Mining: m}).Mining); err == nil {
			return m
		}
	}
}

func (g *simGenerator) steps() int {
	if g.IntN(3) == 0 {
		return 0
	}
	return g.IntN(2*g.calm + 1)
}

func (g *simGenerator) op(phase int) *simOp {
	if !g.anyKey || g.IntN(4) == 0 { // with any keys the clock often stands still: only positions tell the order
		g.clock += int64(g.IntN(3))
	}
	op := &simOp{steps: g.steps(), time: g.clock - int64(g.IntN(3))}
	x := g.Float64()
	if phase == 0 {
		x *= 0.9
	}
	switch {
	case x < 0.21:
		op.kind = "query"
		g.evidence(op)
	case x < 0.94:
		op.kind = "document"
		g.document(op)
	case x < 0.955:
		op.kind, op.force = "sweep", g.IntN(2) == 0
		op.query = simQuery{id: g.query(), forget: g.IntN(6) == 0}
	case x < 0.975:
		op.kind = "query"
		op.query = simQuery{id: g.query(), forget: true}
		op.key = []byte(op.query.id)
	default:
		op.kind = "query"
		op.key = []byte("k" + strconv.Itoa(g.IntN(5)))
		op.query = simQuery{id: g.query(), bad: true}
		op.value = []byte(`{"query":"  ","query_id":"` + op.query.id + `"}`)
	}
	return op
}

func (g *simGenerator) query() string { return "q" + strconv.Itoa(g.IntN(g.queries)) }

func (g *simGenerator) id() string { return "d" + strconv.Itoa(g.IntN(g.documents)) }

// evidence draws a record of the query log.
func (g *simGenerator) evidence(op *simOp) {
	q := simQuery{id: g.query()}
	old, known := g.asked[q.id]
	switch {
	case known && g.IntN(4) > 0:
		q.text, q.vector = old.text, old.vector
	default:
		q.text = "query " + strconv.Itoa(g.IntN(1000))
		q.vector = g.vector()
	}
	if g.IntN(12) == 0 {
		q.text, q.refused = q.text+" "+simRefused, true
	}
	for range 1 + g.IntN(2) {
		doc := g.id()
		if len(g.docs) > 0 && g.IntN(4) > 0 {
			doc = g.any().id
		}
		if known := g.named[q.id]; len(known) > 0 && g.IntN(2) == 0 {
			doc = known[g.IntN(len(known))]
		}
		g.named[q.id] = append(g.named[q.id], doc)
		if g.IntN(2) == 0 {
			q.positives = append(q.positives, doc)
		} else {
			c := records.Click{DocID: doc, DwellMS: int64(g.IntN(4) * 600)}
			if weight := 0.25 * float64(1+g.IntN(5)); g.IntN(2) == 0 {
				c.Weight = &weight
			}
			q.clicks = append(q.clicks, c)
		}
	}
	record := records.Query{Query: " " + q.text, QueryID: q.id, Positives: q.positives, Clicks: q.clicks}
	if g.IntN(5) == 0 {
		q.vector = simTextVector(q.text, g.setup.Dimensions)
	} else {
		record.Embeddings = map[string][]float32{simEmbedder: q.vector}
	}
	op.value, op.key = record.Encode(), []byte(q.id)
	if g.anyKey && g.IntN(2) == 0 {
		op.key = []byte("k" + strconv.Itoa(g.IntN(5)))
	}
	if op.query = q; !q.refused {
		g.asked[q.id] = q
	}
}

// document draws a record of the documents topic.
func (g *simGenerator) document(op *simOp) {
	d := simDocument{id: g.id(), live: true, carried: true}
	op.key = []byte(d.id)
	old, known := g.docs[d.id]
	switch x := g.IntN(100); {
	case known && x < 15:
		op.doc = simDocument{id: d.id}
		delete(g.docs, d.id)
		return
	case x < 24: // malformed, without an id
		op.key, op.value, op.doc = nil, []byte(`{"text":7}`), simDocument{deadLetter: true}
		return
	case x < 26: // malformed, but the key gives the id
		op.value, op.doc = []byte(`{"text":7}`), simDocument{id: d.id, deadLetter: true}
		delete(g.docs, d.id)
		return
	case known && x < 40: // only the vector changes
		d = old
		d.carried, d.vector = true, g.vector()
	case known && x < 50: // only the vector changes, and hardly
		d = old
		d.carried, d.vector = true, g.near(old.vector, 3e-6)
	case known && x < 53: // nothing changes
		d = old
	case len(g.docs) > 0 && x < 63: // a copy of another document, with the same vector or another
		other := g.any()
		d.title, d.text, d.vector = other.title, other.text, g.vector()
		if g.IntN(2) == 0 {
			d.vector = other.vector
		}
	default:
		d.title, d.text, d.vector = g.title(), g.text(), g.vector()
	}
	if g.IntN(30) == 0 {
		d.text += " " + simRefused
	}
	if g.IntN(8) == 0 {
		d.carried = false
	}
	if d.live = !strings.Contains(d.text, simRefused); !d.live {
		d.deadLetter, d.refused = true, true
	}
	if !d.carried {
		d.vector = simTextVector(records.EmbeddedText(d.title, d.text), g.setup.Dimensions)
	}
	op.value = simDocumentJSON(d)
	if op.doc = d; d.live {
		g.docs[d.id] = d
	} else {
		delete(g.docs, d.id)
	}
}

func simDocumentJSON(d simDocument) []byte {
	fields := map[string]any{"id": d.id, "text": d.text}
	if d.title != "" {
		fields["title"] = d.title
	}
	if d.carried {
		fields["embeddings"] = map[string]any{simEmbedder: d.vector}
	}
	value, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return value
}

// any draws a document that exists.
func (g *simGenerator) any() simDocument {
	ids := slices.Sorted(maps.Keys(g.docs))
	return g.docs[ids[g.IntN(len(ids))]]
}

func (g *simGenerator) title() string {
	if g.IntN(3) > 0 {
		return ""
	}
	return "title " + strconv.Itoa(g.IntN(5))
}

// text draws a new text. In some histories it now and then draws an earlier text with another last word.
func (g *simGenerator) text() string {
	g.texts++
	if !g.realTexts {
		return "text " + strconv.Itoa(g.texts)
	}
	if len(g.docs) > 0 && g.IntN(3) == 0 {
		words := strings.Fields(g.any().text)
		words[len(words)-1] = fmt.Sprintf("w%d", g.Uint32())
		return strings.Join(words, " ")
	}
	words := make([]string, 24)
	for i := range words {
		words[i] = fmt.Sprintf("w%d", g.IntN(2000))
	}
	return strings.Join(words, " ")
}

// vector draws a direction, often near a query or another document.
func (g *simGenerator) vector() []float32 {
	switch x := g.IntN(10); {
	case x < 4 && len(g.asked) > 0:
		ids := slices.Sorted(maps.Keys(g.asked))
		return g.near(g.asked[ids[g.IntN(len(ids))]].vector, 0.3)
	case x < 6 && len(g.docs) > 0:
		return g.near(g.any().vector, 0.06)
	}
	return simUnit(g.Rand, g.setup.Dimensions)
}

func (g *simGenerator) near(v []float32, noise float64) []float32 {
	moved := make([]float64, len(v))
	for i, x := range v {
		moved[i] = float64(x) + noise*g.NormFloat64()
	}
	return simNormal(moved)
}

// fault draws something that goes wrong, soon.
func (g *simGenerator) fault() *simOp {
	stage := []string{catalog.StageMiner, catalog.StageMiner, catalog.StageMiner, catalog.StageIndexer, catalog.StageIndexer, catalog.StageIntake}[g.IntN(6)]
	op := &simOp{kind: "fault", stage: stage, partition: g.IntN(3), steps: g.steps()}
	switch x := g.IntN(10); {
	case x < 3:
		op.fault = simFault{"crash", 1 + g.IntN(40)}
	case x < 7:
		op.fault = simFault{"takeover", 1 + g.IntN(40)}
	case x < 9:
		op.call, op.fault = true, simFault{"fail", 1 + g.IntN(12)}
	default:
		op.call, op.fault = true, simFault{"lose", 1 + g.IntN(12)}
	}
	return op
}
