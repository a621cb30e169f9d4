package window

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hardneg/stream"
)

func TestParseBound(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for text, ago := range map[string]time.Duration{
		"24h": 24 * time.Hour, "7d": 7 * 24 * time.Hour, "1d12h30m": 36*time.Hour + 30*time.Minute, "90s": 90 * time.Second,
		"2026-02-28T23:00:00Z": time.Hour, "2026-03-01T00:30:00+01:00": 30 * time.Minute,
	} {
		b, err := ParseBound(text)
		if err != nil || !b.moment(now).Equal(now.Add(-ago)) {
			t.Errorf("%s: %v %v", text, b.moment(now), err)
		}
	}
	for _, text := range []string{"earliest", "latest", "0", "12345", "0:100", "0:100,1:250", "3:earliest,0:latest"} {
		if b, err := ParseBound(text); err != nil || !b.moment(now).IsZero() || b.String() != text {
			t.Errorf("%s: %+v %v", text, b, err)
		}
	}
	for _, text := range []string{"", " ", "-1", "+5", "0:", ":5", "0:100,", "0:1,0:2", "0:-5", "0:1;1:2", "7 d", "d", "0d", "0s", "-24h", "1d-2h", "7days",
		"2026-02-28", "2026-02-28T23:00:00", "1969-12-31T23:59:59Z", "EARLIEST", "99999999999999999999", "99999d"} {
		if b, err := ParseBound(text); err == nil {
			t.Errorf("%q is taken for %+v", text, b)
		}
	}
}

func FuzzParseBound(f *testing.F) {
	f.Add("0:100,1:latest")
	f.Add("7d12h")
	f.Fuzz(func(t *testing.T, text string) {
		b, err := ParseBound(text)
		if err == nil && b.all == nil && len(b.each) == 0 && b.moment(time.Now()).IsZero() {
			t.Errorf("%q is taken for nothing", text)
		}
	})
}

// fakeLog is a log that knows only timestamps. Each partition begins at an offset in start: what came before
// is deleted.
type fakeLog struct {
	times [][]int64 // milliseconds, by partition and offset
	start []int64
}

func (l fakeLog) Offsets(context.Context, string) ([]stream.Offsets, error) {
	var offsets []stream.Offsets
	for p, times := range l.times {
		n := int64(len(times))
		offsets = append(offsets, stream.Offsets{Partition: int32(p), Start: l.start[p], HighWatermark: n + 3, LastStable: n})
	}
	return offsets, nil
}

func (l fakeLog) OffsetsAt(_ context.Context, _ string, at time.Time) ([]int64, error) {
	first := make([]int64, len(l.times))
	for p, times := range l.times {
		first[p] = -1
		for offset := l.start[p]; offset < int64(len(times)); offset++ {
			if times[offset] >= at.UnixMilli() {
				first[p] = offset
				break
			}
		}
	}
	return first, nil
}

// TestWindow draws logs and bounds. It compares each span, offset by offset, with a second implementation
// that follows the description of the bounds.
func TestWindow(t *testing.T) {
	now := time.UnixMilli(1000)
	rapid.Check(t, func(t *rapid.T) {
		var log fakeLog
		for range rapid.IntRange(1, 4).Draw(t, "partitions") {
			times := rapid.SliceOfN(rapid.Int64Range(0, 1000), 0, 12).Draw(t, "times")
			slices.Sort(times)
			log.times = append(log.times, times)
			log.start = append(log.start, rapid.Int64Range(0, int64(len(times))).Draw(t, "start"))
		}
		draw := func(name string) (text string, offset func(partition int) (int64, bool)) {
			switch rapid.IntRange(0, 4).Draw(t, name) {
			case 0:
				return "earliest", func(p int) (int64, bool) { return log.start[p], true }
			case 1:
				return "latest", func(p int) (int64, bool) { return int64(len(log.times[p])), true }
			case 2:
				n := rapid.Int64Range(0, 14).Draw(t, "offset")
				return fmt.Sprint(n), func(int) (int64, bool) { return n, true }
			case 3:
				at := map[int]int64{}
				var parts []string
				for p := range log.times {
					if p == 0 || rapid.Bool().Draw(t, "named") {
						at[p] = rapid.Int64Range(0, 14).Draw(t, "offset")
						parts = append(parts, fmt.Sprintf("%d:%d", p, at[p]))
					}
				}
				return strings.Join(parts, ","), func(p int) (int64, bool) { n, ok := at[p]; return n, ok }
			}
			ago := rapid.Int64Range(1, 1000).Draw(t, "ago")
			return fmt.Sprintf("%dms", ago), func(p int) (int64, bool) {
				for offset, at := range log.times[p] {
					if int64(offset) >= log.start[p] && at >= 1000-ago {
						return int64(offset), true
					}
				}
				return int64(len(log.times[p])), true
			}
		}
		fromText, from := draw("from")
		toText, to := draw("to")
		begin, err := ParseBound(fromText)
		if err != nil {
			t.Fatal(err)
		}
		end, err := ParseBound(toText)
		if err != nil {
			t.Fatal(err)
		}
		window, _, err := Resolve(t.Context(), log, "queries", begin, end, now)
		if errors.Is(err, ErrWindow) {
			return // the window ends before it begins: TestWindowErrors tests that
		}
		present, meant := 0, 0 // offsets of the window: in the log, and in total
		got := map[[2]int64]bool{}
		for _, s := range window {
			for offset := s.From; offset < s.To; offset++ {
				got[[2]int64{int64(s.Partition), offset}] = true
			}
		}
		for p, times := range log.times {
			first, ok := from(p)
			last, named := to(p)
			for offset := first; ok && named && offset < last; offset++ {
				meant++
				if offset >= log.start[p] && offset < int64(len(times)) {
					present++
					if !got[[2]int64{int64(p), offset}] && err == nil {
						t.Fatalf("from %s to %s: %d/%d is missing in %v", fromText, toText, p, offset, window)
					}
				}
			}
		}
		// If a bound is a time before the first record in the log, nobody can say whether there were records.
		if err != nil && (present > 0 || meant == 0 && !strings.HasSuffix(fromText, "ms")) {
			t.Fatalf("from %s to %s: %d of %d offsets are there: %v", fromText, toText, present, meant, err)
		}
		if err == nil && present != len(got) {
			t.Fatalf("from %s to %s: %v has %d offsets, want %d", fromText, toText, window, len(got), present)
		}
	})
}

func TestWindowErrors(t *testing.T) {
	log := fakeLog{times: [][]int64{{1, 2, 3, 4, 5, 6}, {1, 2, 3}}, start: []int64{4, 0}}
	for _, test := range []struct{ from, to, err, note string }{
		{"5", "3", "not a window: in queries/0 it begins (5) after it ends (3)", ""},
		{"1970-01-01T00:00:09Z", "1970-01-01T00:00:08Z", "not a window: it begins (1970-01-01T00:00:09Z) after it ends (1970-01-01T00:00:08Z)", ""},
		{"0:1,2:1", "latest", `not a window: "0:1,2:1" names partition 2, but queries has 2 partitions`, ""},
		{"0:1", "0:3", "nothing of the window is left: queries/0 begins at offset 4: what came before is no longer in the log", ""},
		{"0", "latest", "", "queries/0 begins at offset 4: what came before is no longer in the log"},
		{"1970-01-01T00:00:00Z", "latest", "", "queries/0 begins at offset 4, not before 1970-01-01T00:00:00Z: what came earlier is no longer in the log"},
		{"1970-01-01T00:00:00Z", "1970-01-01T00:00:00.001Z", "nothing of the window is left: queries/0 begins at offset 4, not before 1970-01-01T00:00:00Z: what came earlier is no longer in the log", ""},
		{"1970-01-01T00:00:00Z", "1970-01-01T00:00:00.003Z", "", "queries/0 begins at offset 4, not before 1970-01-01T00:00:00Z: what came earlier is no longer in the log"},
		{"0:5", "0:9", "", "queries/0 ends at offset 6, before 9"},
		{"earliest", "latest", "", ""},
		{"0:10", "latest", "not a window: it begins behind the end of the log: queries/0 ends at offset 9, before 10", ""},
		{"10", "latest", "not a window: it begins behind the end of the log: queries/0 ends at offset 9, before 10; queries/1 ends at offset 6, before 10", ""},
		{"7", "latest", "", "queries/1 ends at offset 6, before 7"},
		{"7", "9", "", "queries/0 ends at offset 6, before 9; queries/1 ends at offset 6, before 7"},
	} {
		from, _ := ParseBound(test.from)
		to, _ := ParseBound(test.to)
		_, notes, err := Resolve(t.Context(), log, "queries", from, to, time.UnixMilli(100_000))
		if got := fmt.Sprint(err); test.err != "" && got != test.err || test.err == "" && err != nil {
			t.Errorf("from %s to %s: %v", test.from, test.to, err)
		}
		if got := strings.Join(notes, "; "); got != test.note {
			t.Errorf("from %s to %s: notes %q, want %q", test.from, test.to, got, test.note)
		}
	}
}
