package mining

// Verdict says what a tier decided about a document in its range.
type Verdict uint8

// The verdicts.
const (
	Chosen           Verdict = iota // the document fills a slot
	Skipped                         // it is one of the tier's first documents, which Tier.Skip leaves out
	TakenBefore                     // an earlier tier chose it for this list
	SameContent                     // an earlier document has the same content hash, and is in the list or may be sampled
	NearerToPositive                // PolicySemantic: it is at least as near to the positive as to the query
	IsEvidence                      // it is evidence for the query
	CopyOfEvidence                  // it has the content hash of evidence
	NearDuplicate                   // its cosine to evidence is at least Config.NearDuplicate
	NearText                        // its MinHash.Jaccard with evidence is at least Config.NearText
	NotSampled                      // random sampling chose other documents
)

var verdicts = [...]string{
	"chosen", "skipped", "taken_before", "same_content", "nearer_to_positive", "is_evidence", "copy_of_evidence", "near_duplicate", "near_text", "not_sampled",
}

// String gives the verdict's name, such as "near_text".
func (v Verdict) String() string { return verdicts[v] }

// MarshalText encodes the verdict as its name. There is no error.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// Decision is a tier's verdict on one document.
type Decision struct {
	Document         string  `json:"doc_id"`
	QueryDocument    float32 `json:"query_document"`    // cosine of query and document
	PositiveDocument float32 `json:"positive_document"` // cosine of positive and document
	Verdict          Verdict `json:"verdict"`
	Rank             int     `json:"rank,omitempty"`       // of the slot that the document fills, from 1
	Of               string  `json:"of,omitempty"`         // id of the evidence that bars the document
	Similarity       float64 `json:"similarity,omitempty"` // of document and evidence: a cosine, or Jaccard for NearText
}

// TierLog.End says how a tier ended.
const (
	EndFull      = "full"      // the list has Tier.UpTo slots
	EndDepth     = "depth"     // the tier looked at Tier.Depth documents
	EndExhausted = "exhausted" // the tier looked at every document in its range
	EndNot       = "not_begun" // the list had Tier.UpTo slots before
)

// TierLog explains the work of one tier on one list.
type TierLog struct {
	Policy    string     `json:"policy"`
	UpTo      int        `json:"upto"`      // Tier.UpTo
	Low       float64    `json:"low"`       // lower end of the range of cosines to the query; -2: none; PolicySemantic excludes it
	High      float64    `json:"high"`      // upper end of the range; 2: none
	End       string     `json:"end"`       // how the tier ended: EndFull, EndDepth, EndExhausted or EndNot
	Decisions []Decision `json:"decisions"` // the documents that the tier looked at, the nearest to the query first
}

// PairLog explains one list.
type PairLog struct {
	Positive string    `json:"positive"` // id of the document
	Tiers    []TierLog `json:"tiers"`    // one for each of Config.Tiers
}

// Explain does the same as Mine, and also explains each list: the verdict on each document that a tier looked
// at. A positive without a document has no PairLog. If Outcome.More is set, there is none at all.
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

// tierLog is the log of the current tier.
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

// logTaken notes the slot of a document that random sampling chose.
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
