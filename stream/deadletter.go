package stream

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Headers that a dead letter has beside those of the record.
const (
	HeaderError     = "hardneg-error"
	HeaderStage     = "hardneg-stage"
	HeaderTopic     = "hardneg-topic"
	HeaderPartition = "hardneg-partition"
	HeaderOffset    = "hardneg-offset"
	HeaderTimestamp = "hardneg-timestamp" // of the record, RFC 3339 with milliseconds, UTC
)

// maxReason bounds the error text, for a dead letter must not be much larger than its record.
const maxReason = 4096

// DeadLetter is the record as it was, byte for byte, with headers that say where it was, and why it is here. Records
// with a key keep their order; those without go by their source partition.
func DeadLetter(topic, stage string, r Record, reason error) Output {
	o := Output{Topic: topic, Partition: ByKey, Key: r.Key, Value: r.Value}
	if r.Key == nil {
		o.Hash = strconv.AppendInt(nil, int64(r.Partition), 10)
	}
	o.Headers = slices.Concat(r.Headers, []Header{
		{HeaderError, []byte(cut(reason.Error(), maxReason))},
		{HeaderStage, []byte(stage)},
		{HeaderTopic, []byte(r.Topic)},
		{HeaderPartition, strconv.AppendInt(nil, int64(r.Partition), 10)},
		{HeaderOffset, strconv.AppendInt(nil, r.Offset, 10)},
		{HeaderTimestamp, []byte(r.Time.UTC().Format("2006-01-02T15:04:05.000Z07:00"))},
	})
	return o
}

// origin says, for an error, which record a dead letter is of; "" for other outputs.
func (o *Output) origin() string {
	header := map[string]string{}
	for _, h := range o.Headers {
		header[h.Key] = string(h.Value) // ours come after those of the record
	}
	if header[HeaderStage] == "" {
		return ""
	}
	return fmt.Sprintf(", dead letter of %s/%s, offset %s", header[HeaderTopic], header[HeaderPartition], header[HeaderOffset])
}

// cut returns valid UTF-8 of n bytes at most.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
