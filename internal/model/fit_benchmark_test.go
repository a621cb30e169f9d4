//go:build linux

package model

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/mining"
	"hardneg/mining/reduce"
)

// fitReport is the output of a fit that runs in its own process.
type fitReport struct {
	Wall, CPU time.Duration // of adding the vectors and of the fit
	Share     []float64
}

const fitVariable = "HARDNEG_TEST_FIT"

// BenchmarkReducerLexical fits the axes of real vectors of the paper's size: four lexical embedders, 5,632
// dimensions, 10,000 passages of medquad, 95 % of the variance. The variance of lexical vectors is spread
// over many axes, so this takes more than half of all axes: the hard case. Like BenchmarkReducerFit of
// mining, it uses a separate process. The peak includes the memory of the texts and the embedders.
func BenchmarkReducerLexical(b *testing.B) {
	folder := dataFolder(b)
	for range b.N {
		child := exec.Command(os.Args[0], "-test.run=^TestLexicalFitAlone$")
		child.Env = append(os.Environ(), fitVariable+"=1", "HARDNEG_TEST_DATA="+folder)
		output, err := child.CombinedOutput()
		if err != nil {
			b.Fatalf("%v: %s", err, output)
		}
		var r fitReport
		if err := json.NewDecoder(bytes.NewReader(output)).Decode(&r); err != nil {
			b.Fatalf("%v in %s", err, output)
		}
		b.ReportMetric(float64(r.Wall.Nanoseconds()), "ns/op")
		b.ReportMetric(r.CPU.Seconds(), "cpu-s/op")
		b.ReportMetric(float64(child.ProcessState.SysUsage().(*syscall.Rusage).Maxrss<<10)/1e6, "peak-MB") // Linux counts in KiB
		b.ReportMetric(float64(len(r.Share)), "axes")
		for _, k := range []int{64, 128, 256, 512, 1024, 2048, len(r.Share)} {
			b.ReportMetric(r.Share[k-1], "share@"+strconv.Itoa(k))
		}
	}
}

// TestLexicalFitAlone is the separate process of BenchmarkReducerLexical.
func TestLexicalFitAlone(t *testing.T) {
	if os.Getenv(fitVariable) == "" {
		t.Skip("is run by BenchmarkReducerLexical")
	}
	const most = 10_000
	passages := openCollection(t, "medquad", "test").passages
	var sample, backwards []embed.Item
	for i := range most {
		text := passages[i*len(passages)/most].Text
		sample = append(sample, embed.Item{Text: text})
		backwards = append(backwards, embed.Item{Text: backwardsWords(text)})
	}
	// The same embedders with fewer buckets would only add up buckets of the first two, and add no dimensions
	// to their span. Words that are written backwards have independent hashes.
	first := lexicalPair(t, sample, 2048, 2048)
	second := lexicalPair(t, backwards, 1024, 512)
	length := first.Dimensions() + second.Dimensions()

	var r fitReport
	timed := func(do func() error) {
		start, cpu := time.Now(), processorTime(t)
		if err := do(); err != nil {
			t.Fatal(err)
		}
		r.Wall += time.Since(start)
		r.CPU += processorTime(t) - cpu
	}
	rows := reduce.NewSample(most, length)
	for start := 0; start < most; start += blockRows {
		end := min(start+blockRows, most)
		a, b := vectors(t, first, embed.Passage, sample[start:end]), vectors(t, second, embed.Passage, backwards[start:end])
		block := reduce.NewMatrix(a.Rows, length)
		for i := range block.Rows {
			if err := mining.Concat([][]float32{a.Row(i), b.Row(i)}, []float64{1, 1}, block.Row(i)); err != nil {
				t.Fatal(err)
			}
		}
		timed(func() error { return rows.Add(block) })
	}
	timed(func() error {
		reducer, err := rows.Fit(t.Context(), reduce.Options{Variance: 0.95, Normalize: true, Seed: 1})
		if err == nil {
			r.Share = reducer.Share
		}
		return err
	})
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		t.Fatal(err)
	}
}

func lexicalPair(t *testing.T, sample []embed.Item, words, characters int) *Model {
	t.Helper()
	m, err := Fit(context.Background(), nil, []config.Embedder{
		{Name: "words", Type: embed.TypeLexicalWord, Dimensions: words, Weight: 1},
		{Name: "characters", Type: embed.TypeLexicalChar, Dimensions: characters, Weight: 1},
	}, config.Reduce{Method: "none"}, 1, sample)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// backwardsWords reverses each word.
func backwardsWords(text string) string {
	words := strings.Fields(text)
	for i, word := range words {
		var turned []byte
		for len(word) > 0 {
			r, size := utf8.DecodeLastRuneInString(word)
			turned, word = utf8.AppendRune(turned, r), word[:len(word)-size]
		}
		words[i] = string(turned)
	}
	return strings.Join(words, " ")
}

// processorTime returns the processor time that all threads of the process have used.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
