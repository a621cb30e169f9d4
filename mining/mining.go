// Package mining chooses hard negatives: documents that look relevant to a query but are not. Embedding
// models and re-rankers are trained on triplets of a query, a positive document and a negative document.
//
// The package is meant to be imported. It is pure: it uses no clock, no network and no storage, and equal
// input gives equal output. The service hardneg mines each query with it; a batch job can use it without
// Kafka and Qdrant.
//
// The flow of a batch job:
//
//  1. Embed documents and queries. [Concat] joins the vectors of several embedders, and package mining/reduce
//     makes the joined vectors shorter. Each vector must have unit length: see [Normalize].
//  2. Make a [Document] of each text, with its [ContentHash] and [NewMinHash].
//  3. Hold the documents in a [Corpus], or write a search of your own (see [Batch.Search]).
//  4. Choose the rules: a [Config], often [DefaultConfig]. [New] checks them and makes a [Miner].
//  5. Make an [Input] of each query, with its positive documents: see [Corpus.Input].
//  6. Run a [Batch]. It searches for candidates, mines, and searches deeper where a list needs more.
//  7. Read the [Outcome] of each query: a [Pair] for each positive, with a [Slot] for each negative.
//  8. [Miner.Explain] says for each document why it was chosen or left out.
//  9. [NDCG], [ReciprocalRank] and [Recall] measure the rankings of a model before and after training.
//
// Two policies fill a list, tier by tier. [PolicySemantic] is the strict rule of Meghwani et al., "Hard
// Negative Mining for Domain-Specific Retrieval in Enterprise Systems" (ACL 2025 Industry, arXiv 2505.18366),
// section "Methodology": with the cosine distance d, the query Q and the positive P, a document D is a
// negative if d(Q,D) < d(Q,P) and d(Q,D) < d(P,D). [PolicyPositiveAware] takes the documents that are clearly
// less similar to the query than the positive is. Guards keep evidence, its copies and its near-copies out of
// every list.
//
// A long-running service also needs to know when a list gets old. [Outcome.Watch] and [Outcome.Entry] answer
// this: a change of a document can alter the lists only if Watch names the document or Entry holds its new
// cosine.
package mining

// Document is a document as the rules see it.
type Document struct {
	// ID identifies the document. It must not be empty.
	ID string
	// Hash identifies the content: documents with equal hashes are copies of each other, see ContentHash. An
	// empty hash equals no other hash, so documents without one are never copies by hash.
	Hash string
	// MinHash is the signature of the text, see NewMinHash. A document without one is never a near-copy by
	// text.
	MinHash MinHash
	// Vector is the embedding. All vectors of a corpus have the same number of dimensions, and unit length.
	Vector []float32
}

// Evidence is a document that somebody named for a query: a judged positive, or a click. Evidence is never a
// negative of this query, nor is a copy of it.
type Evidence struct {
	ID       string    // of the document; must not be empty
	Positive bool      // the document gets a list of negatives; other evidence only bars documents from the lists
	Document *Document // nil: the document is deleted, or not indexed yet
}

// Input is one query with all documents that matter for it.
type Input struct {
	// QueryID identifies the query. Random sampling is seeded by it, and errors name it.
	QueryID string
	// Query is the embedding of the query, of unit length and with as many dimensions as the documents'
	// vectors. It may be nil only if no positive evidence has a document.
	Query []float32
	// Evidence lists the documents that were named for the query, in any order. No id may come twice. Without
	// positive evidence the outcome has no pairs.
	Evidence []Evidence
	// Candidates are the live documents nearest to Query, in any order. No id may come twice. Batch sets this
	// field.
	Candidates []Document
	// Exhausted says that Candidates lack no document that the rules may look at: usually because they are
	// all live documents. Batch sets this field.
	Exhausted bool
	// Floor is set if the search ranked more documents than Candidates holds. It is the cosine of the last
	// document of the ranking, and Candidates then hold those documents of the ranking that Miner.Windows
	// asks for. Batch sets this field.
	Floor *float32
	// Limit is for Batch alone: the number of candidates of this query's next search. 0 means Batch.First.
	// Batch raises it when the candidates do not suffice, so that a caller can begin with it another time.
	Limit int
}

// Outcome is what the rules decide for one query.
type Outcome struct {
	// More is set if a list could reach below the last candidate. The caller searches again with a larger
	// limit. The other fields are empty then.
	More bool
	// Pairs has one element for each positive, sorted by id.
	Pairs []Pair
	// Watch lists the documents whose removal or change could alter the pairs: their ids, sorted.
	Watch []string
	// Entry lists the ranges of cosine to the query in which a new document could alter the pairs. The ranges
	// are sorted and do not overlap.
	Entry []Interval
}

// Pair is a query with one positive and the list of its negatives.
type Pair struct {
	Positive   string  // id of the document
	Hash       string  // content hash of the positive; empty if the positive is not indexed
	Similarity float32 // cosine of query and positive
	Slots      []Slot  // the negatives, rank 1 first; at most Config.Negatives
	Reason     Reason  // why there are fewer than Config.Negatives; empty if there are as many
}

// Slot is one hard negative.
type Slot struct {
	Document         string  // id of the negative
	Hash             string  // its content hash
	Policy           string  // the policy that chose it: PolicySemantic or PolicyPositiveAware
	QueryNegative    float32 // cosine of query and negative
	PositiveNegative float32 // cosine of positive and negative
}

// Interval is a closed range of cosines.
type Interval struct{ Low, High float32 }

// Reason says why a list has empty slots.
type Reason string

// The reasons.
const (
	ReasonPositiveMissing Reason = "positive_missing" // the positive is deleted, or not indexed yet
	ReasonExhausted       Reason = "exhausted"        // the rules looked at every document in range
	ReasonDepth           Reason = "depth"            // the last tier reached its depth first
)

// Slack is the difference up to which two cosines of the same vectors count as equal. A search engine adds
// float32 products in another order than this package, so its sums differ a little.
const Slack = 1e-5
