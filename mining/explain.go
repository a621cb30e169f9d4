package mining

// Verdict is what a tier made of a document in its range.
type Verdict uint8

// The verdicts.
const (
	Chosen           Verdict = iota // it fills a slot
	Skipped                         // it is one of the tier's first, which Tier.Skip leaves out
	TakenBefore                     // an earlier tier chose it for this list
	SameContent                     // a document before it, chosen or to be drawn from, has the same content hash
	NearerToPositive                // it is as near to the positive as to the query, or nearer (semantic)
	IsEvidence                      // the log names it for the query
	CopyOfEvidence                  // it has the content hash of evidence
	NearDuplicate                   // its cosine to evidence reaches Config.NearDuplicate
	NearText                        // likewise the Jaccard similarity of their texts and Config.NearText
	NotSampled                      // random sampling drew others
)

var verdicts = [...]string{
	"chosen", "skipped", "taken_before", "same_content", "nearer_to_positive", "is_evidence", "copy_of_evidence", "near_duplicate", "near_text", "not_sampled",
}

func (v Verdict) String() string { return verdicts[v] }

// MarshalText gives the verdict's name.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// Decision is what a tier made of one document.
type Decision struct {
	Document         string  `json:"doc_id"`
	QueryDocument    float32 `json:"query_document"`    // cosine
	PositiveDocument float32 `json:"positive_document"` // cosine
	Verdict          Verdict `json:"verdict"`
	Rank             int     `json:"rank,omitempty"`       // of the slot that it fills, from 1
	Of               string  `json:"of,omitempty"`         // the evidence that it is, or is a copy of
	Similarity       float64 `json:"similarity,omitempty"` // to that: the cosine, of near_text the Jaccard similarity
}

// The ways in which a tier ends.
const (
	EndFull      = "full"      // as many slots as it may fill are filled
	EndDepth     = "depth"     // its rank window ended
	EndExhausted = "exhausted" // no further document lies in its range
	EndNot       = "not_begun" // as many slots as it may fill were filled before
)

// TierLog is the work of a tier on a list.
type TierLog struct {
	Policy    string     `json:"policy"`
	UpTo      int        `json:"upto"`
	Low       float64    `json:"low"` // the range of cosines to the query, -2 and 2 where it has no bound; semantic leaves out its lower one
	High      float64    `json:"high"`
	End       string     `json:"end"`
	Decisions []Decision `json:"decisions"` // in order of similarity
}

// PairLog is how a list came to be.
type PairLog struct {
	Positive string    `json:"positive"`
	Tiers    []TierLog `json:"tiers"`
}

// Explain is Mine with an account of every document that a tier came to. It has no pairs where Outcome.More is set.
func (m *Miner) Explain(in Input) (Outcome, []PairLog) {
	var log []PairLog
	w := newWalk(m.config, in)
	w.log = &log
	out := mine(w)
	if out.More {
		return out, nil
	}
	return out, log
}

func (w *walk) logPair(p *Document) {
	if w.log != nil {
		*w.log = append(*w.log, PairLog{Positive: p.ID})
	}
}

// logTier begins a tier's log.
func (w *walk) logTier(t *Tier, pair Pair) {
	if w.log == nil {
		return
	}
	l := TierLog{Policy: t.Policy, UpTo: t.UpTo, End: EndNot}
	l.Low, l.High, _ = t.bounds(pair.Similarity)
	of := &(*w.log)[len(*w.log)-1]
	of.Tiers = append(of.Tiers, l)
}

// tierLog is that of the current tier.
func (w *walk) tierLog() *TierLog {
	pair := &(*w.log)[len(*w.log)-1]
	return &pair.Tiers[len(pair.Tiers)-1]
}

func (w *walk) logDecision(c *candidate, v Verdict, p *Document, pair *Pair) {
	d := Decision{Document: c.ID, QueryDocument: c.cosine, PositiveDocument: Cosine(p.Vector, c.Vector), Verdict: v}
	if v == Chosen {
		d.Rank = len(pair.Slots)
	}
	if barred, e := w.bars(c.Document); barred == v && e != nil {
		d.Of = e.ID
		switch v {
		case NearDuplicate:
			d.Similarity = float64(Cosine(e.Document.Vector, c.Vector))
		case NearText:
			d.Similarity = e.Document.MinHash.Jaccard(c.MinHash)
		}
	}
	l := w.tierLog()
	l.Decisions = append(l.Decisions, d)
}

// logTaken notes the slot of a document that was drawn from the window.
func (w *walk) logTaken(c *candidate, rank int) {
	if w.log == nil {
		return
	}
	l := w.tierLog()
	for i := range l.Decisions {
		if d := &l.Decisions[i]; d.Document == c.ID {
			d.Verdict, d.Rank = Chosen, rank
		}
	}
}

func (w *walk) logEnd(end ending) {
	if w.log != nil {
		w.tierLog().End = [...]string{filled: EndFull, depthReached: EndDepth, rangeExhausted: EndExhausted}[end]
	}
}
