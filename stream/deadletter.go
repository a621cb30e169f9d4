package stream

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Headers that a dead letter has beside those of the record.
const (
	HeaderError     = "hardneg-error"
	HeaderStage     = "hardneg-stage"
	HeaderTopic     = "hardneg-topic"
	HeaderPartition = "hardneg-partition"
	HeaderOffset    = "hardneg-offset"
	HeaderTimestamp = "hardneg-timestamp" // of the record, RFC 3339 with milliseconds, UTC; Unix milliseconds beyond the year 9999

	// HeaderReplayed is what a note has, a record of the same topic without a value: the place of the dead letter whose record
	// was sent again, as in Letter.At. It comes with HeaderTopic, HeaderPartition and HeaderOffset.
	HeaderReplayed = "hardneg-replayed"
)

const letterTime = "2006-01-02T15:04:05.000Z07:00"

// formatTime is the timestamp's header: RFC 3339 as far as that goes, and else Unix milliseconds.
func formatTime(t time.Time) string {
	if t = t.UTC(); t.Year() < 0 || t.Year() > 9999 {
		return strconv.FormatInt(t.UnixMilli(), 10)
	}
	return t.Format(letterTime)
}

func parseTime(text string) (time.Time, error) {
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.UnixMilli(ms).UTC(), nil
	}
	return time.Parse(letterTime, text)
}

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
		{HeaderTimestamp, []byte(formatTime(r.Time))},
	})
	return o
}

// Letter is a dead letter as it is read from its topic.
type Letter struct {
	Partition     int32 // of the dead letter
	Offset        int64
	Time          time.Time
	Stage, Reason string
	Record        Record // as it was, with the place and the time that it had
}

// At is the dead letter's place in its topic, PARTITION/OFFSET.
func (l Letter) At() string { return fmt.Sprintf("%d/%d", l.Partition, l.Offset) }

// ParseLetter reads a dead letter. Its own headers are the last ones: a record may have had some of the same names.
func ParseLetter(r Record) (Letter, error) {
	names := []string{HeaderError, HeaderStage, HeaderTopic, HeaderPartition, HeaderOffset, HeaderTimestamp}
	recordHeaders := len(r.Headers) - len(names)
	values := make([]string, len(names))
	for i, name := range names {
		if recordHeaders < 0 || r.Headers[recordHeaders+i].Key != name {
			return Letter{}, fmt.Errorf("%s/%d/%d is no dead letter: its last headers are not those of one", r.Topic, r.Partition, r.Offset)
		}
		values[i] = string(r.Headers[recordHeaders+i].Value)
	}
	l := Letter{Partition: r.Partition, Offset: r.Offset, Time: r.Time, Reason: values[0], Stage: values[1], Record: r}
	partition, wrong := strconv.ParseUint(values[3], 10, 31)
	offset, wrong2 := strconv.ParseUint(values[4], 10, 63)
	at, wrong3 := parseTime(values[5])
	if err := errors.Join(wrong, wrong2, wrong3); err != nil {
		return Letter{}, fmt.Errorf("%s/%d/%d is no dead letter: %w", r.Topic, r.Partition, r.Offset, err)
	}
	l.Record.Topic, l.Record.Partition, l.Record.Offset, l.Record.Time = values[2], int32(partition), int64(offset), at
	l.Record.Headers = r.Headers[:recordHeaders:recordHeaders]
	return l, nil
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
