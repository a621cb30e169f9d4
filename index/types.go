// Package index keeps reduced embeddings and query states in Qdrant, and answers which queries a changed
// document affects. It speaks gRPC through qdrant/go-client alone; the embedded server differs by address only.
package index

import (
	"encoding/json"

	"hardneg/mining"
)

// Document is a point of the documents collection.
type Document struct {
	mining.Document
	Title, Text string
	UpdatedAt   string          // RFC 3339, as the record had it
	Metadata    json.RawMessage // JSON object or nil
	Deleted     bool            // a delete marker: no vector, no text, never found by a search
	Carried     bool            // the record carried vectors: an equal hash does not mean an equal vector
	Partition   int32           // of the documents topic: the record that wrote it
	Offset      int64
}

// Logged is one piece of evidence: a judged positive or a click. Its identity is its position in the queries topic.
type Logged struct {
	Position
	Weight int64 // millionths
}

// Positive is a document that the log names for a query: its evidence, and its list where the weight suffices.
type Positive struct {
	Document   string
	Weight     int64 // sum of Log, in millionths
	Log        []Logged
	Paired     bool // the weight reached queries.min_weight; the fields below belong to the list
	Hash       string
	Similarity float32
	Slots      []mining.Slot
	Reason     mining.Reason
}

// Pair is the list as the rules see it.
func (p Positive) Pair() mining.Pair {
	return mining.Pair{Positive: p.Document, Hash: p.Hash, Similarity: p.Similarity, Slots: p.Slots, Reason: p.Reason}
}

// State is a point of the queries collection: all that is known of a query, written by the miner alone.
type State struct {
	QueryID     string
	Text        string               // trimmed text of the newest record; empty: forgotten
	Newest      Position             // that record
	Carried     map[string][]float32 // vectors that record carried, by embedder
	Forgotten   *Position            // the newest forget
	Positives   []Positive           // by document id
	Published   map[string]int       // highest rank ever stored, by positive: what a forced emission must null
	Watch       []string             // sorted
	Entry       []mining.Interval    // ascending
	Vector      []float32            // reduced embedding of the query; nil when forgotten
	Revision    int64
	Token       int64           // fencing token of the writer
	Fingerprint string          // of the mining configuration
	Applied     map[int32]int64 // highest offset of each queries partition whose evidence is in here
	StoredAt    int64           // Unix milliseconds
	Astray      string          // as read: where what the look-ups and filters go by is not what follows from the rest
}
