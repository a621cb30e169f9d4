package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"
)

// lineEvery is how often progress is told where there is no terminal.
const lineEvery = 3 * time.Second

// progress shows how far a long command is: a bar on a terminal, a plain line now and then elsewhere.
type progress struct {
	out         io.Writer
	name        string
	bar         *progressbar.ProgressBar // nil: lines
	count       int
	start, told time.Time
}

func newProgress(out io.Writer, name string) *progress {
	now := time.Now()
	p := &progress{out: out, name: name, start: now, told: now}
	if file, ok := out.(*os.File); ok && isatty.IsTerminal(file.Fd()) {
		p.bar = progressbar.NewOptions(-1, // how many there will be is known at the end of the file
			progressbar.OptionSetWriter(out),
			progressbar.OptionSetDescription(name),
			progressbar.OptionShowCount(),
			progressbar.OptionShowIts(),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(),
		)
	}
	return p
}

func (p *progress) add(n int) {
	p.count += n
	if p.bar != nil {
		_ = p.bar.Add(n) // a bar that can't be drawn is no reason to stop
		return
	}
	if now := time.Now(); now.Sub(p.told) >= lineEvery {
		p.told = now
		fmt.Fprintf(p.out, "%s: %d, %.0f/s\n", p.name, p.count, float64(p.count)/now.Sub(p.start).Seconds())
	}
}

func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}

// share shows how much of a whole is done, and how long the rest may take.
type share struct {
	out         io.Writer
	name        string
	bar         *progressbar.ProgressBar // nil: lines
	first       float64                  // where this run began; below 0: not known yet
	start, told time.Time
	began       int // what was counted then
}

// shareSteps is the length of the bar.
const shareSteps = 1000

func newShare(out io.Writer, name string) *share {
	s := &share{out: out, name: name, first: -1, told: time.Now()}
	if file, ok := out.(*os.File); ok && isatty.IsTerminal(file.Fd()) {
		s.bar = progressbar.NewOptions(shareSteps,
			progressbar.OptionSetWriter(out),
			progressbar.OptionSetDescription(name),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(),
		)
	}
	return s
}

// note tells what goes on without a share of the whole.
func (s *share) note(text string) { s.tell(text, -1) }

// set tells that a share is done, from 0 to 1, with n things.
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
	s.tell(text, done)
}

func (s *share) tell(text string, done float64) {
	if s.bar != nil { // a bar that can't be drawn is no reason to stop
		s.bar.Describe(s.name + ": " + text)
		if done >= 0 {
			_ = s.bar.Set(int(done * (shareSteps - 1)))
		}
		return
	}
	if now := time.Now(); now.Sub(s.told) >= lineEvery {
		s.told = now
		fmt.Fprintf(s.out, "%s: %s\n", s.name, text)
	}
}

func (s *share) end() {
	if s.bar != nil {
		_ = s.bar.Finish()
	}
}
