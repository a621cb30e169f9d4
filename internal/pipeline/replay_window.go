package pipeline

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

// ErrWindow says that the bounds of a window make none.
var ErrWindow = errors.New("not a window")

// Bound is one end of a window of the query log, as its user wrote it.
type Bound struct {
	text string
	all  *place          // of every partition; nil: see below
	each map[int32]place // of the partitions that are named; nil: a time
	at   time.Time       // a time
	ago  time.Duration   // likewise, before the replay began; 0: at
}

// place is an offset, or an end of the log.
type place struct {
	offset int64
	end    string // earliest, latest, or empty
}

const (
	earliest = "earliest"
	latest   = "latest"
)

// Latest is the end of the log.
var Latest = Bound{text: latest, all: &place{end: latest}}

func (b Bound) String() string { return b.text }

// ParseBound reads `earliest`, `latest`, an offset for every partition (12345), offsets of some (0:100,1:250, where
// earliest and latest are offsets too), a time (RFC 3339), or how long ago (24h, 7d, 1d12h30m).
func ParseBound(text string) (Bound, error) {
	b := Bound{text: text}
	if p, ok := parsePlace(text); ok {
		b.all = &p
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
	b.each = map[int32]place{}
	for part := range strings.SplitSeq(text, ",") {
		name, offset, _ := strings.Cut(part, ":")
		partition, err := strconv.ParseInt(name, 10, 32)
		p, ok := parsePlace(offset)
		if err != nil || partition < 0 || !ok {
			return b, fmt.Errorf("%q: want earliest, latest, an offset, offsets of partitions such as 0:100,1:250, a time such as 2026-01-31T12:00:00Z, or how long ago, such as 24h or 7d", text)
		}
		if _, twice := b.each[int32(partition)]; twice {
			return b, fmt.Errorf("%q: partition %d is named twice", text, partition)
		}
		b.each[int32(partition)] = p
	}
	return b, nil
}

func parsePlace(text string) (place, bool) {
	if text == earliest || text == latest {
		return place{end: text}, true
	}
	offset, err := strconv.ParseInt(text, 10, 64)
	return place{offset: offset}, err == nil && offset >= 0 && text[0] != '+'
}

// ParseSince reads a time (RFC 3339), or how long before now it was (24h, 7d, 1d12h30m).
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

// parseAgo reads a duration that may begin with days.
func parseAgo(text string) (time.Duration, bool) {
	const day = 24 * time.Hour
	var ago time.Duration
	if days, rest, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16) // up to some 179 years, well within a Duration
		if err != nil {
			return 0, false
		}
		if ago = time.Duration(n) * day; rest == "" {
			return ago, ago > 0
		}
		text = rest
	}
	more, err := time.ParseDuration(text)
	return ago + more, err == nil && more > 0
}

// Span is the part of a window that lies in one partition: offsets from From up to, not including, To.
type Span struct {
	Partition int32 `json:"partition"`
	From      int64 `json:"from"`
	To        int64 `json:"to"`
}

// length is the number of offsets of a window.
func length(window []Span) (n int64) {
	for _, s := range window {
		n += s.To - s.From
	}
	return n
}

// logBounds is what a window asks of Kafka: *stream.Client, or a test.
type logBounds interface {
	Offsets(ctx context.Context, topic string) ([]stream.Offsets, error)
	OffsetsAt(ctx context.Context, topic string, at time.Time) ([]int64, error)
}

// resolve turns two bounds into the spans between them, clipped to what the log has, which notes tell. A time means the
// first record at or after it in each partition: so windows that follow one another share no record and leave none out.
// Partitions that a bound leaves out are in no span. An error is an ErrWindow where the bounds are wrong for this topic.
func resolve(ctx context.Context, kafka logBounds, topic string, from, to Bound, now time.Time) (window []Span, notes []string, err error) {
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
	gone, beyond := 0, 0
	for _, end := range ends {
		begin, ok := begins[end.Partition]
		stop, also := stops[end.Partition]
		if !ok || !also {
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
			if stop <= end.Start { // what was deleted may have been all of it
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
	if length(window) == 0 && gone > 0 {
		return nil, nil, fmt.Errorf("nothing of the window is left: %s", strings.Join(notes, "; "))
	}
	if beyond > 0 && beyond == len(window) {
		return nil, nil, fmt.Errorf("%w: it begins behind the end of the log: %s", ErrWindow, strings.Join(notes, "; "))
	}
	return window, notes, nil
}

// offsets are those of the bound, by partition, as they are: the log may have less.
func (b Bound) offsets(ctx context.Context, kafka logBounds, topic string, ends []stream.Offsets, now time.Time) (map[int32]int64, error) {
	found := make(map[int32]int64, len(ends))
	if at := b.moment(now); !at.IsZero() {
		first, err := kafka.OffsetsAt(ctx, topic, at)
		if err != nil {
			return nil, err
		}
		for _, end := range ends {
			found[end.Partition] = end.LastStable
			if int(end.Partition) < len(first) && first[end.Partition] >= 0 {
				found[end.Partition] = min(first[end.Partition], end.LastStable)
			}
		}
		return found, nil
	}
	for _, end := range ends {
		p, ok := b.each[end.Partition]
		if b.all != nil {
			p, ok = *b.all, true
		}
		if !ok {
			continue
		}
		switch p.end {
		case earliest:
			p.offset = end.Start
		case latest:
			p.offset = end.LastStable
		}
		found[end.Partition] = p.offset
	}
	for partition := range b.each {
		if !slices.ContainsFunc(ends, func(o stream.Offsets) bool { return o.Partition == partition }) {
			return nil, fmt.Errorf("%w: %q names partition %d, but %s has %d partitions", ErrWindow, b.text, partition, topic, len(ends))
		}
	}
	return found, nil
}

// moment is the time that the bound names; zero: none.
func (b Bound) moment(now time.Time) time.Time {
	if b.ago > 0 {
		return now.Add(-b.ago)
	}
	return b.at
}

// exact tells whether the bound names an offset of a partition.
func (b Bound) exact(partition int32) bool {
	if b.all != nil {
		return b.all.end == ""
	}
	p, ok := b.each[partition]
	return ok && p.end == ""
}
