// Package stream turns batches of Kafka records into other records, exactly once for read_committed
// readers. It speaks to Kafka through segmentio/kafka-go and adds the transaction protocol that kafka-go
// leaves out.
//
// The package is meant to be imported by other programs. It knows nothing of documents, queries or mining;
// the only traces of hardneg are the names of the dead-letter headers ("hardneg-error" and so on). It needs
// Kafka 2.5 or newer. Do not use it on Kafka 4.3.0, which loses transaction markers.
//
// # What it offers
//
//   - [Client.Run] is a consume-transform-produce loop. You give it a [Stage]: a consumer group, an input
//     topic and a constructor of a [Processor]. Each batch of input becomes one transaction, which holds
//     the outputs of the Processor and the offset behind the batch.
//   - [Ledger] publishes outputs together with a note of how far the work has come. It is for jobs that
//     are not a consumer group, such as a replay: after a crash the job reads the notes and goes on from
//     there.
//   - [NewDeadLetter] and [ParseDeadLetter] write and read records that a stage cannot use.
//   - [Client.Fetch], [Client.ReadToEnd], [Client.ReadRange] and [Client.Tail] read committed records
//     without a consumer group. [Client.Produce] writes without a transaction.
//   - [Client.EnsureTopics], [Client.CheckTopics] and the other methods of [Client] create, check and
//     delete topics and consumer groups.
//
// # What it promises
//
//   - The outputs of a batch and its offset are committed together or not at all. A read_committed reader
//     sees each output once, whatever crashes, hangs or loses its connection.
//   - Only one owner at a time can commit for a partition. Kafka refuses the commits of every earlier
//     owner. The order of records within a partition is kept.
//   - Each owner has a fencing token ([Assignment].Token) that is greater than the tokens of all earlier
//     owners. A Processor that also writes to a database stores the token there, and the database refuses
//     lower ones. Without that a paused owner could still write to the database after its successor
//     began.
//   - A Processor never sees a record twice under one token. After any error the same records come again,
//     to a new Processor with a higher token.
//   - No record is skipped silently. A batch with a wrong checksum holds up its partition, and Failed
//     events say so. A record that can never be read becomes the outputs of Stage.Refused. A record that
//     is too large for its topic ends Run with an error that names the record and the topic. If the log
//     has lost the committed offset, Run ends, or goes on elsewhere if Stage.OutOfRange allows it, with a
//     Skipped event.
//
// What it does not promise: a Processor's writes to other systems are not part of the transaction. They
// must be idempotent, or guarded by the token.
//
// # Errors
//
// Errors wrap one of the Err variables where a caller may want to tell them apart; use errors.Is.
// [Transient] says whether an error passes by itself. Calls that may be repeated are repeated for up to 30 s
// before they fail, with pauses that grow from 1 ms to 500 ms. Every method that talks to Kafka takes a context
// and returns soon after it ends.
//
// # Reading path
//
// docs/exactly-once.md has the protocol, the races and the rule that settles each race. Read it before you
// change task.go, transaction.go or produce.go. The files, in the order in which a record meets them:
//
//   - types.go: [Record], [Output], [Assignment], [Processor].
//   - stage.go: [Stage], [Event] and Run: the membership of the group, one task for each assigned
//     partition.
//   - task.go: one partition from the fencing token to the commit, and what follows an error.
//   - fetch.go, batch.go, unpack.go: reading; the bytes of a record batch; its records, in bounded memory.
//     Packages wire and decompress help: requests that kafka-go lacks, and compressed batches.
//   - transaction.go, produce.go: one transaction; producer ids, epochs and sequence numbers.
//   - committed.go, unstable.go: committed offsets, and what to say while they are not stable.
//   - errors.go: one table from each error code to retry, restart, fenced or fatal.
//   - watchdog.go, purge.go: batches that make no progress; deleting records that are done.
//   - ledger.go, deadletter.go, read.go, topics.go, partitions.go, admin.go, client.go: each is used on
//     its own.
package stream
