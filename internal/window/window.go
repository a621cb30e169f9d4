// Package window parses the bounds of a part of a Kafka topic, as users write them, and turns them into
// offsets. Only packages of hardneg import it: replay and the commands.
package window

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"hardneg/stream"
)

// ErrWindow means that the bounds do not make a window of this topic.
var ErrWindow = errors.New("not a window")

// Bound is one end of a window of a topic, as the user wrote it. It holds offsets or a time: exactly one of
// all, each, at and ago is set.
type Bound struct {
	text string
	all  *offset          // one offset for every partition; nil: not set
	each map[int32]offset // an offset for each partition that the user named; nil: not set
	at   time.Time        // zero: not set
	ago  time.Duration    // before the time at which Resolve is called; 0: not set
}

// offset is an offset of a partition, or one end of its log.
type offset struct {
	at  int64
	end string // earliest, latest, or empty: at holds the offset
}

const (
	earliest = "earliest"
	latest   = "latest"
)

// String returns the bound as the user wrote it.
func (b Bound) String() string { return b.text }

// ParseBound reads `earliest`, `latest`, an offset for every partition (12345), offsets of some partitions
// (0:100,1:250; earliest and latest are allowed as offsets), a time (RFC 3339), or a duration before now
// (24h, 7d, 1d12h30m).
func ParseBound(text string) (Bound, error) {
	b := Bound{text: text}
	if o, ok := parseOffset(text); ok {
		b.all = &o
		return b, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil && at.Unix() >= 0 {
		b.at = at
		return b, nil
	}
	if ago, ok := parseAgo(text); ok {
		b.ago = ago
		return b, nil
	}
	b.each = map[int32]offset{}
	for part := range strings.SplitSeq(text, ",") {
		name, rest, _ := strings.Cut(part, ":")
		partition, err := strconv.ParseInt(name, 10, 32)
		o, ok := parseOffset(rest)
		if err != nil || partition < 0 || !ok {
			return b, fmt.Errorf("%q: want earliest, latest, an offset, offsets of partitions such as 0:100,1:250, a time such as 2026-01-31T12:00:00Z, or how long ago, such as 24h or 7d", text)
		}
		if _, twice := b.each[int32(partition)]; twice {
			return b, fmt.Errorf("%q: partition %d is named twice", text, partition)
		}
		b.each[int32(partition)] = o
	}
	return b, nil
}

// parseOffset reads an offset, `earliest` or `latest`. It returns false for other text.
func parseOffset(text string) (offset, bool) {
	if text == earliest || text == latest {
		return offset{end: text}, true
	}
	at, err := strconv.ParseInt(text, 10, 64)
	return offset{at: at}, err == nil && at >= 0 && text[0] != '+'
}

// ParseSince reads a time (RFC 3339), or a duration before now (24h, 7d, 1d12h30m). It returns false for
// other text.
func ParseSince(text string, now time.Time) (time.Time, bool) {
	b, err := ParseBound(text)
	switch {
	case err != nil || b.all != nil || b.each != nil:
		return time.Time{}, false
	case b.ago > 0:
		return now.Add(-b.ago), true
	}
	return b.at, true
}

// parseAgo reads a positive duration that may begin with days. It returns false for other text.
func parseAgo(text string) (time.Duration, bool) {
	const day = 24 * time.Hour
	var ago time.Duration
	if days, rest, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16) // 16 bits: up to about 179 years, which a Duration can hold
		if err != nil {
			return 0, false
		}
		if ago = time.Duration(n) * day; rest == "" {
			return ago, ago > 0
		}
		text = rest
	}
	rest, err := time.ParseDuration(text)
	return ago + rest, err == nil && rest > 0
}

// Span is the part of a window that lies in one partition: offsets from From up to, not including, To.
type Span struct {
	Partition int32 `json:"partition"`
	From      int64 `json:"from"`
	To        int64 `json:"to"`
}

// Length counts the offsets of a window.
func Length(window []Span) (n int64) {
	for _, s := range window {
		n += s.To - s.From
	}
	return n
}

// Log knows where a topic begins and ends. *stream.Client implements it, and a fake in tests.
type Log interface {
	Offsets(ctx context.Context, topic string) ([]stream.Offsets, error)
	OffsetsAt(ctx context.Context, topic string, at time.Time) ([]int64, error)
}

// Resolve turns two bounds into one span for each partition, and cuts the spans to the offsets that the log
// has. The notes say what it cut. A time means the first record at or after it in each partition. So windows
// that follow one another share no record and leave none out. A partition that a bound does not name has no
// span. If the bounds are wrong for this topic, Resolve returns ErrWindow.
func Resolve(ctx context.Context, kafka Log, topic string, from, to Bound, now time.Time) (window []Span, notes []string, err error) {
	ends, err := kafka.Offsets(ctx, topic)
	if err != nil {
		return nil, nil, err
	}
	begins, err := from.offsets(ctx, kafka, topic, ends, now)
	if err != nil {
		return nil, nil, err
	}
	stops, err := to.offsets(ctx, kafka, topic, ends, now)
	if err != nil {
		return nil, nil, err
	}
	if !from.moment(now).IsZero() && !to.moment(now).IsZero() && from.moment(now).After(to.moment(now)) {
		return nil, nil, fmt.Errorf("%w: it begins (%s) after it ends (%s)", ErrWindow, from, to)
	}
	gone, beyond := 0, 0 // partitions whose span is deleted, or begins behind the end
	for _, end := range ends {
		begin, ok := begins[end.Partition]
		stop, named := stops[end.Partition]
		if !ok || !named {
			continue
		}
		at := fmt.Sprintf("%s/%d", topic, end.Partition)
		if from.exact(end.Partition) && to.exact(end.Partition) && begin > stop {
			return nil, nil, fmt.Errorf("%w: in %s it begins (%d) after it ends (%d)", ErrWindow, at, begin, stop)
		}
		if begin < end.Start && begin < stop {
			if stop <= end.Start {
				gone++
			}
			notes = append(notes, fmt.Sprintf("%s begins at offset %d: what came before is no longer in the log", at, end.Start))
		}
		if !from.moment(now).IsZero() && end.Start > 0 && begin == end.Start {
			if stop <= end.Start { // perhaps the whole span was deleted
				gone++
			}
			notes = append(notes, fmt.Sprintf("%s begins at offset %d, not before %s: what came earlier is no longer in the log", at, end.Start, from))
		}
		if to.exact(end.Partition) && stop > end.LastStable && begin <= end.HighWatermark {
			notes = append(notes, fmt.Sprintf("%s ends at offset %d, before %d", at, end.LastStable, stop))
		}
		if from.exact(end.Partition) && begin > end.HighWatermark {
			beyond++
			notes = append(notes, fmt.Sprintf("%s ends at offset %d, before %d", at, end.HighWatermark, begin))
		}
		begin = max(begin, end.Start)
		window = append(window, Span{end.Partition, begin, max(begin, min(stop, end.LastStable))})
	}
	if Length(window) == 0 && gone > 0 {
		return nil, nil, fmt.Errorf("nothing of the window is left: %s", strings.Join(notes, "; "))
	}
	if beyond > 0 && beyond == len(window) {
		return nil, nil, fmt.Errorf("%w: it begins behind the end of the log: %s", ErrWindow, strings.Join(notes, "; "))
	}
	return window, notes, nil
}

// offsets returns the offset that the bound means in each partition. The log may not have that offset.
func (b Bound) offsets(ctx context.Context, kafka Log, topic string, ends []stream.Offsets, now time.Time) (map[int32]int64, error) {
	offsets := make(map[int32]int64, len(ends))
	if at := b.moment(now); !at.IsZero() {
		first, err := kafka.OffsetsAt(ctx, topic, at)
		if err != nil {
			return nil, err
		}
		for _, end := range ends {
			offsets[end.Partition] = end.LastStable
			if int(end.Partition) < len(first) && first[end.Partition] >= 0 {
				offsets[end.Partition] = min(first[end.Partition], end.LastStable)
			}
		}
		return offsets, nil
	}
	for _, end := range ends {
		o, ok := b.each[end.Partition]
		if b.all != nil {
			o, ok = *b.all, true
		}
		if !ok {
			continue
		}
		switch o.end {
		case earliest:
			o.at = end.Start
		case latest:
			o.at = end.LastStable
		}
		offsets[end.Partition] = o.at
	}
	for partition := range b.each {
		if !slices.ContainsFunc(ends, func(o stream.Offsets) bool { return o.Partition == partition }) {
			return nil, fmt.Errorf("%w: %q names partition %d, but %s has %d partitions", ErrWindow, b.text, partition, topic, len(ends))
		}
	}
	return offsets, nil
}

// moment returns the time that the bound names, or the zero time if it names offsets.
func (b Bound) moment(now time.Time) time.Time {
	if b.ago > 0 {
		return now.Add(-b.ago)
	}
	return b.at
}

// exact reports whether the bound names an offset of this partition by number.
func (b Bound) exact(partition int32) bool {
	if b.all != nil {
		return b.all.end == ""
	}
	o, ok := b.each[partition]
	return ok && o.end == ""
}
