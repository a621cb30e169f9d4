//go:build linux

package reduce

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// fitCase describes a sample that sampleLike makes.
type fitCase struct {
	Rows, Dimensions int
	Decay            float64
	Variance         float64
	Most             int
}

// fitReport is the result of a fit in a process of its own.
type fitReport struct {
	Wall, CPU time.Duration // of adding the rows and of the fit
	Peak      int64         // bytes resident at most, of the whole process
	Share     []float64
}

const fitVariable = "HARDNEG_TEST_FIT"

// BenchmarkReducerFit fits each sample in a process of its own: only then does the peak of memory belong to this
// fit alone. Rows come in blocks, as in the service. ns/op is the time to add the rows and to fit, without the
// time to make the rows. cpu-s/op is the processor time of all cores. Other work on the machine changes it less.
func BenchmarkReducerFit(b *testing.B) {
	for _, c := range []fitCase{
		{5800, 4096, 0.6, 0.95, 512},
		{10000, 5632, 0.6, 0.95, 512},
		{10000, 5632, 0.6, 0.95, 0},
	} {
		b.Run(fmt.Sprintf("%dx%d/decay=%v/most=%d", c.Rows, c.Dimensions, c.Decay, c.Most), func(b *testing.B) {
			var sum fitReport
			for range b.N {
				r := fitAlone(b, c)
				sum.Wall += r.Wall
				sum.CPU += r.CPU
				sum.Peak = max(sum.Peak, r.Peak)
				sum.Share = r.Share
			}
			b.ReportMetric(float64(sum.Wall.Nanoseconds())/float64(b.N), "ns/op")
			b.ReportMetric(sum.CPU.Seconds()/float64(b.N), "cpu-s/op")
			b.ReportMetric(float64(sum.Peak)/1e6, "peak-MB")
			b.ReportMetric(float64(len(sum.Share)), "axes")
			for _, k := range []int{64, 128, 256, 512, 1024, len(sum.Share)} {
				if k <= len(sum.Share) {
					b.ReportMetric(sum.Share[k-1], "share@"+strconv.Itoa(k))
				}
			}
		})
	}
}

// fitAlone runs TestFitAlone in another process.
func fitAlone(b *testing.B, c fitCase) (r fitReport) {
	b.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		b.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestFitAlone$")
	child.Env = append(os.Environ(), fitVariable+"="+string(text))
	output, err := child.CombinedOutput()
	if err != nil {
		b.Fatalf("%v: %s", err, output)
	}
	if err := json.NewDecoder(bytes.NewReader(output)).Decode(&r); err != nil {
		b.Fatalf("%v in %s", err, output)
	}
	r.Peak = peakRSS(child.ProcessState)
	return r
}

// peakRSS gives the peak of resident memory in bytes. Linux counts in KiB.
func peakRSS(s *os.ProcessState) int64 { return s.SysUsage().(*syscall.Rusage).Maxrss << 10 }

// TestFitAlone runs in the other process of BenchmarkReducerFit.
func TestFitAlone(t *testing.T) {
	text := os.Getenv(fitVariable)
	if text == "" {
		t.Skip("is run by BenchmarkReducerFit")
	}
	var c fitCase
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	next := rowsLike(c.Dimensions, c.Decay, 1)
	block := NewMatrix(sampleBlock, c.Dimensions)
	var r fitReport
	timed := func(do func() error) {
		start, cpu := time.Now(), processorTime()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		r.Wall += time.Since(start)
		r.CPU += processorTime() - cpu
	}
	s := NewSample(c.Rows, c.Dimensions)
	for left := c.Rows; left > 0; left -= block.Rows {
		block = block.slice(0, min(block.Rows, left))
		for i := range block.Rows {
			next(block.Row(i))
		}
		timed(func() error { return s.Add(block) })
	}
	timed(func() error {
		reducer, err := s.Fit(context.Background(), Options{Variance: c.Variance, MaxDimensions: c.Most, Normalize: true})
		if err == nil {
			r.Share = reducer.Share
		}
		return err
	})
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		t.Fatal(err)
	}
}

// processorTime is the processor time of all threads of the process.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkReducerProject reduces 256 vectors at a time, as the service does.
func BenchmarkReducerProject(b *testing.B) {
	for _, d := range []int{4096, 5632} {
		m := sampleLike(768, d, 0.6, 1)
		r, err := Fit(context.Background(), m, Options{Variance: 1, MaxDimensions: 512, MinDimensions: 512, Normalize: true})
		if err != nil {
			b.Fatal(err)
		}
		in, out := m.slice(0, 256), NewMatrix(256, r.Out())
		for name, energy := range map[string]*Energy{"plain": nil, "measured": new(Energy)} {
			b.Run(fmt.Sprintf("%dto%d/%s", d, r.Out(), name), func(b *testing.B) {
				cpu := processorTime()
				for b.Loop() {
					if _, err := r.project(in, out, energy); err != nil {
						b.Fatal(err)
					}
				}
				cpu = processorTime() - cpu
				b.ReportMetric(256*float64(b.N)/b.Elapsed().Seconds(), "vectors/s")
				b.ReportMetric(256*float64(b.N)/cpu.Seconds(), "vectors/cpu-s")
			})
		}
	}
}
