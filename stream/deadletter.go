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

// Headers of a dead letter. They come after the headers of the record.
const (
	HeaderError     = "hardneg-error"
	HeaderStage     = "hardneg-stage"
	HeaderTopic     = "hardneg-topic"
	HeaderPartition = "hardneg-partition"
	HeaderOffset    = "hardneg-offset"
	// HeaderTimestamp is the record's timestamp: RFC 3339 in UTC with milliseconds, or Unix milliseconds for
	// a time that RFC 3339 cannot express (before the year 0 or after 9999).
	HeaderTimestamp = "hardneg-timestamp"

	// HeaderReplayed marks a note, which is a record without a value in the topic of dead letters. It says
	// that the record of a dead letter was sent again. The header's value is Letter.At of that dead letter.
	// HeaderTopic, HeaderPartition and HeaderOffset of the note name the record.
	HeaderReplayed = "hardneg-replayed"
)

const letterTime = "2006-01-02T15:04:05.000Z07:00"

// formatTime returns the value of HeaderTimestamp.
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

// maxReason bounds the error text in bytes, because a dead letter must not be much larger than its record.
const maxReason = 4096

// NewDeadLetter returns an output for topic that holds a record which a stage could not use. Key, value and
// headers are the record's own, byte for byte. Six headers are added: the reason (cut to 4,096 bytes), the
// name of the stage, and the topic, partition, offset and timestamp of the record. ParseLetter reads it back.
//
// The partition is chosen by the key, so that dead letters of one key keep their order. Without a key it is
// chosen by the source partition, so that dead letters of one source partition keep theirs.
func NewDeadLetter(topic, stage string, r Record, reason error) Output {
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

// DeadLetter is a dead letter that was read from its topic.
type DeadLetter struct {
	Partition     int32     // of the dead letter in its topic
	Offset        int64     // of the dead letter in its topic
	Time          time.Time // when the dead letter was written
	Stage, Reason string
	Record        Record // the record as the stage read it, with the topic, partition, offset and time it had there
}

// At returns where the dead letter is in its topic, as PARTITION/OFFSET.
func (l DeadLetter) At() string { return fmt.Sprintf("%d/%d", l.Partition, l.Offset) }

// ParseDeadLetter reads a dead letter. It looks only at the last six headers, because the record may itself have
// headers of these names, for example if it was a dead letter. It returns an error if they are not the
// headers of a dead letter; a note with HeaderReplayed is such a case.
func ParseDeadLetter(r Record) (DeadLetter, error) {
	names := []string{HeaderError, HeaderStage, HeaderTopic, HeaderPartition, HeaderOffset, HeaderTimestamp}
	recordHeaders := len(r.Headers) - len(names)
	values := make([]string, len(names))
	for i, name := range names {
		if recordHeaders < 0 || r.Headers[recordHeaders+i].Key != name {
			return DeadLetter{}, fmt.Errorf("%s/%d/%d is no dead letter: its last headers are not those of one", r.Topic, r.Partition, r.Offset)
		}
		values[i] = string(r.Headers[recordHeaders+i].Value)
	}
	l := DeadLetter{Partition: r.Partition, Offset: r.Offset, Time: r.Time, Reason: values[0], Stage: values[1], Record: r}
	partition, wrong := strconv.ParseUint(values[3], 10, 31)
	offset, wrong2 := strconv.ParseUint(values[4], 10, 63)
	at, wrong3 := parseTime(values[5])
	if err := errors.Join(wrong, wrong2, wrong3); err != nil {
		return DeadLetter{}, fmt.Errorf("%s/%d/%d is no dead letter: %w", r.Topic, r.Partition, r.Offset, err)
	}
	l.Record.Topic, l.Record.Partition, l.Record.Offset, l.Record.Time = values[2], int32(partition), int64(offset), at
	l.Record.Headers = r.Headers[:recordHeaders:recordHeaders]
	return l, nil
}

// origin names the record that a dead letter holds, for the text of an error. For other outputs it is empty.
func (o *Output) origin() string {
	header := map[string]string{}
	for _, h := range o.Headers {
		header[h.Key] = string(h.Value) // the dead letter's headers come last and win over the record's
	}
	if header[HeaderStage] == "" {
		return ""
	}
	return fmt.Sprintf(", dead letter of %s/%s, offset %s", header[HeaderTopic], header[HeaderPartition], header[HeaderOffset])
}

// cut shortens s to at most n bytes of valid UTF-8.
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
