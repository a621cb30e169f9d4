package index

import "cmp"

// Position is where a record of the query log stands. Positions are ordered by timestamp, then partition, then
// offset. So records of several partitions have one order, whatever the order in which they are read.
type Position struct {
	Timestamp int64 // Unix milliseconds of the Kafka record
	Partition int32
	Offset    int64
}

// Compare orders positions by timestamp, then partition, then offset. It returns a negative number if a comes
// first.
func (a Position) Compare(b Position) int {
	return cmp.Or(cmp.Compare(a.Timestamp, b.Timestamp), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
}

// Covers reports whether a forget at this position removes a record at another one: every record that is not
// younger. Within the same millisecond the offset decides if both are in one partition, so "forget, then log
// again" keeps the new record. A forget also removes records of other partitions within its millisecond.
func (a Position) Covers(record Position) bool {
	if record.Timestamp != a.Timestamp {
		return record.Timestamp < a.Timestamp
	}
	return record.Partition != a.Partition || record.Offset < a.Offset
}
