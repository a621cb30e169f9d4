package main

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// lineEvery is how often a long command prints a line about its progress if it does not run on a terminal.
const lineEvery = 3 * time.Second

// meter shows the progress of a long command: as a bar on a terminal, else as a plain line now and then.
type meter struct {
	out     io.Writer
	name    string
	bar     *progressbar.ProgressBar // nil: lines
	printed time.Time                // when the last line was printed
}

// newMeter makes a meter of so many steps. The number is -1 if nobody knows it before the end.
func newMeter(out io.Writer, name string, steps int, more ...progressbar.Option) meter {
	m := meter{out: out, name: name, printed: time.Now()}
	if terminal(out) {
		m.bar = progressbar.NewOptions(steps, append([]progressbar.Option{
			progressbar.OptionSetWriter(out),
			progressbar.OptionSetDescription(name),
			progressbar.OptionThrottle(100 * time.Millisecond),
			progressbar.OptionClearOnFinish(),
		}, more...)...)
	}
	return m
}

// line prints a line, unless the last one was printed a moment ago.
func (m *meter) line(text func(now time.Time) string) {
	if now := time.Now(); now.Sub(m.printed) >= lineEvery {
		m.printed = now
		fmt.Fprintf(m.out, "%s: %s\n", m.name, text(now))
	}
}

// end removes the bar. Errors of a bar are ignored here and below: a command goes on if its bar cannot be
// drawn.
func (m *meter) end() {
	if m.bar != nil {
		_ = m.bar.Finish()
	}
}

// progress counts things whose number is known at the end alone, such as the lines of a file.
type progress struct {
	meter
	count int
	start time.Time
}

func newProgress(out io.Writer, name string) *progress {
	return &progress{meter: newMeter(out, name, -1, progressbar.OptionShowCount(), progressbar.OptionShowIts()), start: time.Now()}
}

func (p *progress) add(n int) {
	p.count += n
	if p.bar != nil {
		_ = p.bar.Add(n)
		return
	}
	p.line(func(now time.Time) string {
		return fmt.Sprintf("%d, %.0f/s", p.count, float64(p.count)/now.Sub(p.start).Seconds())
	})
}

// share shows which part of a whole is done, and how long the rest may take.
type share struct {
	meter
	first float64   // the share that was done at the first call of set; below 0: it was not called yet
	start time.Time // of that call
	began int       // the number of things that were done then
}

// shareSteps is the length of the bar.
const shareSteps = 1000

func newShare(out io.Writer, name string) *share {
	return &share{meter: newMeter(out, name, shareSteps, progressbar.OptionSetPredictTime(false)), first: -1}
}

// note shows what a command does while it cannot say which part is done.
func (s *share) note(text string) { s.show(text, -1) }

// set shows that a share, from 0 to 1, is done, and that these are n things.
func (s *share) set(done float64, n int, things string) {
	if s.first < 0 {
		s.first, s.start, s.began = done, time.Now(), n
	}
	took := time.Since(s.start)
	text := fmt.Sprintf("%.0f %%, %d %s", 100*done, n, things)
	if gone := done - s.first; gone > 0.001 && took > time.Second {
		left := time.Duration((1 - done) / gone * float64(took)).Round(time.Second)
		text += fmt.Sprintf(", %.0f/s, about %v left", float64(n-s.began)/took.Seconds(), left)
	}
	s.show(text, done)
}

func (s *share) show(text string, done float64) {
	if s.bar == nil {
		s.line(func(time.Time) string { return text })
		return
	}
	s.bar.Describe(s.name + ": " + text)
	if done >= 0 {
		_ = s.bar.Set(int(done * (shareSteps - 1)))
	}
}
