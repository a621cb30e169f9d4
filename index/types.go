package index

import (
	"encoding/json"

	"hardneg/mining"
)

// Document is a point of the documents collection: a document, or the marker that remains after its deletion.
type Document struct {
	mining.Document // id, content hash, reduced vector, MinHash
	Title, Text     string
	UpdatedAt       string          // RFC 3339, as the record had it
	Metadata        json.RawMessage // JSON object or nil
	Deleted         bool            // a delete marker: it has no vector and no text, and no search finds it
	Carried         bool            // the record brought its own vectors, so equal hashes do not mean equal vectors
	Partition       int32           // partition of the documents topic with the record that wrote this point
	Offset          int64           // offset of that record
}

// Logged is one piece of evidence: a judged positive or a click. The position of its record in the queries topic
// identifies it.
type Logged struct {
	Position
	Weight int64 // millionths
}

// Positive is a document that the query log names for a query, with its evidence. If the evidence weighs
// enough, it has a list of negatives, too.
type Positive struct {
	Document   string
	Weight     int64 // sum of the weights in Log, in millionths
	Log        []Logged
	Paired     bool          // the weight reached queries.min_weight; the fields below describe the list
	Hash       string        // content hash of the document when it was mined
	Similarity float32       // cosine of query and document
	Slots      []mining.Slot // the negatives, by rank
	Reason     mining.Reason // why the list is shorter than it could be; empty if it is full
}

// Pair returns the list in the form that package mining uses.
func (p Positive) Pair() mining.Pair {
	return mining.Pair{Positive: p.Document, Hash: p.Hash, Similarity: p.Similarity, Slots: p.Slots, Reason: p.Reason}
}

// State is a point of the queries collection: all that is known of a query. Only the miner writes it.
type State struct {
	QueryID     string
	Text        string               // trimmed text of the newest record; empty: the query is forgotten
	Newest      Position             // the newest record of the query
	Carried     map[string][]float32 // vectors that the newest record brought, by name of the embedder
	Forgotten   *Position            // the newest forget; nil: none
	Positives   []Positive           // sorted by document id
	Published   map[string]int       // by positive, the highest rank ever stored: ranks up to it may be in the topic
	Watch       []string             // ids of the documents whose change may alter a list, sorted
	Entry       []mining.Interval    // cosines with which a new document may enter a list, ascending
	Vector      []float32            // reduced embedding of the query; nil if it is forgotten
	Revision    int64                // version of the lists in the triplets topic
	Token       int64                // fencing token of the miner that wrote the state
	Fingerprint string               // hash of the mining configuration
	Applied     map[int32]int64      // by partition of the queries topic, the highest offset that is counted in here
	StoredAt    int64                // Unix milliseconds

	// Inconsistent is set by reads and ignored by writes. It names the first of the values stored for look-ups and
	// filters (threshold, last vector component, marker) that does not follow from the rest of the state.
	// Empty: all agree.
	Inconsistent string
}
