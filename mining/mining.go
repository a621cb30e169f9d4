// Package mining decides which documents are the hard negatives of a query and its positives. It is pure: no
// clock, no network, no storage, and the same input always gives the same outcome.
//
// The strict rule is that of Meghwani et al., "Hard Negative Mining for Domain-Specific Retrieval in Enterprise
// Systems" (ACL 2025 Industry, arXiv 2505.18366).
package mining

// Document is what the rules see of an indexed document.
type Document struct {
	ID      string
	Hash    string    // content hash, see records.ContentHash
	MinHash MinHash   // signature of the text; nil: none, the text guard passes
	Vector  []float32 // reduced embedding, unit length
}

// Evidence is a document that the query log names for a query, whatever its weight.
type Evidence struct {
	ID       string
	Positive bool      // its weight reached queries.min_weight: it gets a list of negatives
	Document *Document // nil: deleted, or not indexed yet
}

// Input is one query with everything that was read for it.
type Input struct {
	QueryID    string
	Query      []float32  // reduced embedding, unit length
	Evidence   []Evidence // distinct ids, any order; every one of them, and its copies, is barred from the lists
	Candidates []Document // live documents nearest to Query, distinct ids, any order
	Exhausted  bool       // Candidates holds every live document there is
	// Floor is set when Candidates are only those that Windows asks for, of a ranking that reached down to this cosine.
	Floor *float32
}

// Outcome is what a batch miner would compute from the input.
type Outcome struct {
	// More is set when the lists could reach below the last candidate: search again with a larger limit. The
	// other fields then mean nothing.
	More  bool
	Pairs []Pair     // one for each positive, by id
	Watch []string   // sorted ids of all documents whose removal or change could alter the pairs
	Entry []Interval // merged and ascending: where a new document's cosine to the query could alter them
}

// Pair is a query with one positive and the list of its negatives.
type Pair struct {
	Positive   string
	Hash       string  // content hash of the positive; empty where it is not indexed
	Similarity float32 // cosine of query and positive
	Slots      []Slot  // by rank, rank 1 first; shorter than Config.Negatives where candidates ran out
	Reason     Reason  // why the list is shorter; empty when it is full
}

// Slot is one hard negative.
type Slot struct {
	Document         string
	Hash             string
	Policy           string  // the policy that chose it
	QueryNegative    float32 // cosine of query and negative
	PositiveNegative float32 // cosine of positive and negative
}

// Interval is a closed range of cosines.
type Interval struct{ Low, High float32 }

// Reason says why a list has empty slots.
type Reason string

// The reasons.
const (
	ReasonPositiveMissing Reason = "positive_missing" // the positive is deleted or not indexed yet
	ReasonExhausted       Reason = "exhausted"        // every document in range was looked at
	ReasonDepth           Reason = "depth"            // the rank window of the last tier ended first
)

// Slack is the difference below which two cosines of the same vectors count as equal: float32 sums differ
// between a search engine and this package.
const Slack = 1e-5
