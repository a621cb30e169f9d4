package stages

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"sort"
	"strings"

	"hardneg/internal/config"
	"hardneg/internal/records"
)

// The oracle is a batch job. It reads both logs from end to end, and computes every list from the documented
// rules. It shares only the form of a triplet with the code under test.

// simPlaced is an operation, and where its record is in the log.
type simPlaced struct {
	*simOp
	partition int32
	offset    int64
}

// simLive is the present version of a document.
type simLive struct {
	id, title, text, version string
	vector                   []float32
}

type simOracle struct {
	rules   config.Mining
	queries config.Queries
	docs    map[string]simLive
}

// simWant computes the view. The keys are in RFC 8785 form; ids in histories need no escapes.
func (w *simWorld) want() map[string]records.Triplet {
	o := simOracle{w.setup.Rules[w.rules], w.setup.Queries, map[string]simLive{}}
	log := map[string][]simPlaced{}
	for _, p := range w.placed {
		switch {
		case p.kind == "query":
			if !p.query.bad && !p.query.refused {
				log[p.query.id] = append(log[p.query.id], p)
			}
		case p.doc.live:
			sum := sha256.Sum256([]byte(p.doc.title + "\n" + p.doc.text))
			o.docs[p.doc.id] = simLive{p.doc.id, p.doc.title, p.doc.text, hex.EncodeToString(sum[:16]), p.doc.vector}
		default:
			delete(o.docs, p.doc.id)
		}
	}
	view := map[string]records.Triplet{}
	for id, records := range log {
		o.query(id, records, view)
	}
	return view
}

// query adds the triplets of one query.
func (o *simOracle) query(id string, log []simPlaced, view map[string]records.Triplet) {
	later := func(a, b simPlaced) bool {
		if a.time != b.time {
			return a.time > b.time
		}
		if a.partition != b.partition {
			return a.partition > b.partition
		}
		return a.offset > b.offset
	}
	var forget, newest *simPlaced
	for i, r := range log {
		if r.query.forget && (forget == nil || later(r, *forget)) {
			forget = &log[i]
		}
	}
	weights := map[string]int64{}
	for i, r := range log {
		if r.query.forget {
			continue
		}
		if f := forget; f != nil && (r.time < f.time || r.time == f.time && (r.partition != f.partition || r.offset < f.offset)) {
			continue
		}
		if newest == nil || later(r, *newest) {
			newest = &log[i]
		}
		for _, p := range r.query.positives {
			weights[p] += int64(math.Round(1e6 * o.queries.PositiveWeight))
		}
		for _, c := range r.query.clicks {
			if c.DwellMS >= o.queries.MinDwell.Milliseconds() {
				weight := 1.0
				if c.Weight != nil {
					weight = *c.Weight
				}
				weights[c.DocID] += int64(math.Round(1e6 * weight))
			}
		}
	}
	if newest == nil {
		return
	}
	var evidence []simLive
	named := map[string]bool{}
	for d, weight := range weights {
		if weight > 0 {
			named[d] = true
			if doc, ok := o.docs[d]; ok {
				evidence = append(evidence, doc)
			}
		}
	}
	vector := newest.query.vector
	for _, p := range evidence {
		if weights[p.id] < int64(math.Round(1e6*o.queries.MinWeight)) {
			continue
		}
		for i, t := range o.pair(id, vector, p, evidence, named) {
			t.Query = records.TripletQuery{ID: id, Text: strings.TrimSpace(newest.query.text)}
			t.Positive = records.TripletDocument{ID: p.id, Title: p.title, Text: p.text, Version: p.version}
			t.Rank = i + 1
			t.Similarity.QueryPositive = float32(simCosine(vector, p.vector))
			view[fmt.Sprintf(`["%s","%s",%d]`, id, p.id, t.Rank)] = t
		}
	}
}

// simCosine returns the dot product, computed as exactly as possible and rounded to the precision of the
// rules.
func simCosine(a, b []float32) float64 {
	var sum float64
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return float64(float32(sum))
}

// pair fills one list, tier by tier.
func (o *simOracle) pair(query string, vector []float32, p simLive, evidence []simLive, named map[string]bool) []records.Triplet {
	var order []simLive
	for _, d := range o.docs {
		order = append(order, d)
	}
	sort.Slice(order, func(i, j int) bool {
		a, b := math.Round(1e6*simCosine(vector, order[i].vector)), math.Round(1e6*simCosine(vector, order[j].vector))
		return a > b || a == b && order[i].id < order[j].id
	})
	qp := simCosine(vector, p.vector)
	var list []simLive
	var triplets []records.Triplet
	for _, tier := range o.rules.Tiers {
		upto, depth := min(tier.UpTo, o.rules.Negatives), tier.Depth
		if upto == 0 {
			upto = o.rules.Negatives
		}
		if depth == 0 {
			depth = o.rules.Depth
		}
		low, high := simRange(tier, qp)
		var window []simLive
		for _, d := range order {
			if c := simCosine(vector, d.vector); len(window) < depth && c >= low && c <= high && !(tier.Policy == "semantic" && c == low) {
				window = append(window, d)
			}
		}
		var fit []simLive
		for rank, d := range window {
			if rank < tier.Skip || o.barred(d, evidence, named) || simHasVersion(list, d) || simHasVersion(fit, d) {
				continue
			}
			if tier.Policy == "semantic" && simCosine(vector, d.vector) <= simCosine(p.vector, d.vector) {
				continue
			}
			fit = append(fit, d)
		}
		n := max(0, min(upto-len(list), len(fit)))
		if tier.Sampling == "random" {
			fit = simSample(fit, n, query, p.id)
		}
		for _, d := range fit[:n] {
			list = append(list, d)
			triplets = append(triplets, records.Triplet{
				Policy:   tier.Policy,
				Negative: records.TripletDocument{ID: d.id, Title: d.title, Text: d.text, Version: d.version},
				Similarity: records.Similarity{
					QueryNegative: float32(simCosine(vector, d.vector)), PositiveNegative: float32(simCosine(p.vector, d.vector)),
				},
			})
		}
	}
	return triplets
}

// simRange returns the range of cosines to the query that a tier looks at.
func simRange(t config.Tier, qp float64) (low, high float64) {
	low, high = -3, 3
	if t.Policy == "semantic" {
		return qp, high // the lower end is not part of the range
	}
	if t.RelativeMargin == nil && t.AbsoluteMargin == nil {
		high = qp - 0.05*math.Abs(qp)
	}
	if t.RelativeMargin != nil {
		high = math.Min(high, qp-*t.RelativeMargin*math.Abs(qp))
	}
	if t.AbsoluteMargin != nil {
		high = math.Min(high, qp-*t.AbsoluteMargin)
	}
	if t.MaxScore != nil {
		high = math.Min(high, *t.MaxScore)
	}
	if t.MinScore != nil {
		low = *t.MinScore
	}
	return low, high
}

// barred reports whether a document cannot be a negative: the log names it for the query, or it is a copy of
// such a document by content, vector or text.
func (o *simOracle) barred(d simLive, evidence []simLive, named map[string]bool) bool {
	if named[d.id] {
		return true
	}
	for _, e := range evidence {
		if e.version == d.version || simCosine(e.vector, d.vector) >= o.rules.NearDuplicate || simSameText(e, d) >= o.rules.NearText {
			return true
		}
	}
	return false
}

func simHasVersion(list []simLive, d simLive) bool {
	for _, x := range list {
		if x.version == d.version {
			return true
		}
	}
	return false
}

// simSameText returns the Jaccard similarity of the sets of five words in a row. The stages only estimate it.
// That is good enough here, because texts in histories are either very similar or not at all.
func simSameText(a, b simLive) float64 {
	shingles := func(d simLive) map[string]bool {
		words := strings.Fields(strings.ToLower(d.title + " " + d.text))
		set := map[string]bool{}
		for i := 0; i+5 <= len(words); i++ {
			set[strings.Join(words[i:i+5], " ")] = true
		}
		if len(words) < 5 {
			set[strings.Join(words, " ")] = true
		}
		return set
	}
	x, y := shingles(a), shingles(b)
	both := 0
	for s := range x {
		if y[s] {
			both++
		}
	}
	return float64(both) / float64(len(x)+len(y)-both)
}

// simSample returns the n documents with the smallest hash of query, positive and document. The hash is
// 64-bit FNV-1a over the three, each followed by an 0xff, and then the finaliser of SplitMix64.
func simSample(from []simLive, n int, query, positive string) []simLive {
	draw := func(d simLive) uint64 {
		h := uint64(14695981039346656037)
		for _, b := range []byte(query + "\xff" + positive + "\xff" + d.id + "\xff") {
			h ^= uint64(b)
			h *= 1099511628211
		}
		h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>27) * 0x94d049bb133111eb
		return h ^ h>>31
	}
	var kept []simLive
	for _, d := range from {
		smaller := 0
		for _, x := range from {
			if draw(x) < draw(d) || draw(x) == draw(d) && x.id < d.id {
				smaller++
			}
		}
		if smaller < n {
			kept = append(kept, d)
		}
	}
	return kept
}
