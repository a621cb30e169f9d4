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
