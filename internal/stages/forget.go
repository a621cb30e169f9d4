package stages

import (
	"time"

	"hardneg/index"
	"hardneg/internal/records"
)

// NoPartition marks a forget made by the sweep: no record of the query log has partition −1.
const NoPartition = -1

// Aged returns a forget for a query that nobody has asked for longer than retention, and true; false for any
// other query. With retention 0 no query is too old. The forget reaches up to the newest record of the state,
// so a younger record that is still on its way stays.
func Aged(k index.Known, retention time.Duration, now time.Time) (records.Refresh, bool) {
	if retention <= 0 || k.Newest.Timestamp >= now.Add(-retention).UnixMilli() {
		return records.Refresh{}, false
	}
	return ForgetUpTo(k.QueryID, k.Newest.Timestamp), true
}

// ForgetUpTo returns a record that makes a query forget everything that was logged up to a time, in Unix
// milliseconds.
func ForgetUpTo(queryID string, logged int64) records.Refresh {
	return records.Refresh{
		Kind: records.KindForget, QueryID: queryID,
		Source: records.Source{Topic: records.SourceSweep, Partition: NoPartition, Offset: logged, Timestamp: logged},
	}
}
