// Package index keeps document vectors and the mining state of queries in Qdrant. When a document changes,
// it answers which queries have to be mined again. It speaks gRPC through qdrant/go-client; the embedded
// server in internal/embedded/qdrant differs by its address only.
//
// The package is meant to be imported by other programs, together with package mining, whose types it
// stores. A program that only wants to read what a running hardneg holds needs [Dial], [Client.Live] and
// the reading methods of [Index]. Writing beside a running hardneg breaks the rules by which its stages
// find each other's work. The server must be Qdrant 1.16 or newer: older ones ignore the guards of writes.
//
// # What it holds
//
// A generation is a pair of collections for one fitted model, <prefix>documents-<generation> and
// <prefix>queries-<generation>. The aliases <prefix>documents and <prefix>queries point at the live
// generation. A point of the documents collection is a [Document], a point of the queries collection is a
// [State]. All vectors are compared by dot product; for vectors of length 1 that is the cosine.
//
// # What it promises
//
//   - Read your writes: when a write returns, every later read by any client sees it, on a replicated
//     cluster, too. Every write waits for all replicas, so a read asks one active replica. A read consistency
//     of majority, quorum or all would be wrong: Qdrant leaves out what the replicas disagree on, and
//     "absent", "last page" and "exhausted" would be false.
//   - Documents never go backwards: [Index.WriteDocuments] does not replace a point that a later record
//     of the same partition wrote.
//   - States never go backwards: [Index.WriteStates] does not replace a state with a higher fencing
//     token.
//   - No query is missed: [Index.Watching] and [Index.Entering] together return every query that a
//     changed document may affect, and a few more. The exception is a collection of at least
//     Config.ExactBelow points: there Entering searches by HNSW, which may miss some.
//   - Reads return texts, vectors and numbers exactly as they were written. Only in metadata, numbers that are
//     no 64-bit integers are rounded to float64.
//
// # Errors
//
// A call that fails in a way that may pass is repeated for 10 s. Then its error wraps [ErrUnavailable], or
// [ErrUnreachable] if nothing answers at the address. Other errors name the call, the collection and the
// address. All calls end soon after their context ends.
//
// # Reading path
//
// docs/architecture.md tells why the two look-ups miss nothing, and how states, tokens and documents work
// together. The fencing tokens come from package stream; docs/exactly-once.md explains them. The files:
//
//   - types.go: [Document], [State] and their parts.
//   - client.go, collections.go: connecting; the collections of a generation and their payload indexes.
//   - documents.go, states.go: writing and reading points; values.go: their payload, field by field.
//   - affected.go: Watching and Entering.
//   - search.go: the documents nearest to a query.
//   - generations.go, reset.go: several generations side by side, switching between them, removing them.
//   - errors.go: one table from each failure to "repeat" or "give up".
package index
