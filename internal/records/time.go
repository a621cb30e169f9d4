package records

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// timeForms are layouts of times that are read besides RFC 3339. One without a zone is in UTC. Go reads fractions
// of a second in all of them.
var timeForms = []string{
	"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05Z07", "2006-01-02T15:04:05",
	"2006-01-02T15:04Z07:00", "2006-01-02T15:04",
	"2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05Z0700", "2006-01-02 15:04:05Z07", "2006-01-02 15:04:05",
	"2006-01-02 15:04:05 Z07:00", "2006-01-02 15:04:05 -0700", "2006-01-02 15:04:05 -0700 MST", "2006-01-02 15:04:05 UTC",
	"2006-01-02 15:04", "2006-01-02", "20060102T150405Z07:00", "20060102T150405",
	time.RFC1123Z, time.RFC1123,
}

// time returns an optional time in RFC 3339, see readTime. An empty string counts as absent, as many exports write
// it for null.
func (o object) time(name string) (string, error) {
	raw, ok := o.field(name)
	if !ok {
		return "", nil
	}
	var s string
	var err error
	if kind(raw) == "a number" {
		s = string(raw)
	} else if s, err = o.text(name); err != nil {
		return "", err
	}
	if strings.Trim(s, " \t\r\n") == "" {
		return "", nil
	}
	if t, ok := readTime(s); ok {
		return t, nil
	}
	return "", fmt.Errorf("field %q is no time: %q; want one in RFC 3339 such as 2026-01-31T12:00:00Z, without a zone such as "+
		"2026-01-31 12:00:00 (then UTC), or seconds or milliseconds since 1970", o.path+name, clip([]byte(s)))
}

// readTime returns a time in RFC 3339. It leaves one in RFC 3339 as it is. It also reads the forms of timeForms, and
// numbers since 1970: their size says whether they are seconds, milliseconds, microseconds or nanoseconds.
func readTime(s string) (string, bool) {
	if _, err := time.Parse(time.RFC3339, s); err == nil {
		return s, true
	}
	s = strings.TrimSpace(s)
	t, ok := unixTime(s)
	for i := 0; i < len(timeForms) && !ok; i++ {
		parsed, err := time.Parse(timeForms[i], s)
		t, ok = parsed, err == nil
		if !ok { // RFC 3339 allows t and z in small letters
			parsed, err = time.Parse(timeForms[i], strings.ToUpper(s))
			t, ok = parsed, err == nil
		}
	}
	if !ok {
		return "", false
	}
	text := t.Format(time.RFC3339Nano)
	if _, err := time.Parse(time.RFC3339, text); err != nil { // a year of five digits, or an odd zone
		return "", false
	}
	return text, true
}

// unixTime reads a number since 1970. Up to 1e11 it counts seconds, which lie before the year 5138. Each larger unit
// begins where the same time would be in the smaller one, so all numbers from 1973 on are told apart. Eight digits
// that make a date are that date.
func unixTime(s string) (time.Time, bool) {
	if t, err := time.Parse("20060102", s); err == nil {
		return t, true
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		switch size := math.Abs(float64(n)); {
		case size < 1e11:
			return time.Unix(n, 0).UTC(), true
		case size < 1e14:
			return time.UnixMilli(n).UTC(), true
		case size < 1e17:
			return time.UnixMicro(n).UTC(), true
		}
		return time.Unix(0, n).UTC(), true
	}
	if strings.Trim(s, "0123456789+-.eE") != "" { // ParseFloat also reads words, hexadecimal numbers and underscores
		return time.Time{}, false
	}
	v, err := strconv.ParseFloat(s, 64)
	size := math.Abs(v)
	if err != nil || size >= 9e18 {
		return time.Time{}, false
	}
	micros := v // rounded to microseconds: a float64 of seconds holds no more
	switch {
	case size < 1e11:
		micros *= 1e6
	case size < 1e14:
		micros *= 1e3
	case size >= 1e17:
		micros /= 1e3
	}
	return time.UnixMicro(int64(math.Round(micros))).UTC(), true
}
