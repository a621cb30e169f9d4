package stream

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// texts returns n records of about size bytes that compress like text.
func texts(topic string, n, size int) []Output {
	rng := rand.New(rand.NewPCG(1, 2))
	out := make([]Output, n)
	for i := range out {
		v := make([]byte, 0, size+16)
		for len(v) < size {
			v = fmt.Appendf(v, "word%d ", rng.IntN(5000))
		}
		out[i] = Output{Topic: topic, Partition: ByKey, Key: be32(i, 4), Value: v[:size]}
	}
	return out
}

func fill(b *testing.B, c *Client, topic string, n, size int) {
	b.Helper()
	all := texts(topic, min(n, 10_000), size)
	for n > 0 {
		m := min(n, len(all))
		if err := c.Produce(testContext(b), all[:m]); err != nil {
			b.Fatal(err)
		}
		n -= m
	}
}

func rate(b *testing.B, records int) {
	b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkProduce(b *testing.B) {
	for _, size := range []int{100, 1000} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			c := testClient(b)
			all := texts(testTopic(b, c, "bench", 4), 10_000, size)
			b.ResetTimer()
			for range b.N {
				if err := c.Produce(testContext(b), all); err != nil {
					b.Fatal(err)
				}
			}
			rate(b, b.N*len(all))
		})
	}
}

func BenchmarkFetch(b *testing.B) {
	c := testClient(b)
	topic := testTopic(b, c, "bench", 1)
	const n = 50_000
	fill(b, c, topic, n, 1000)
	b.ResetTimer()
	for range b.N {
		seen := 0
		if err := c.ReadToEnd(testContext(b), topic, func(Record) error { seen++; return nil }); err != nil || seen != n {
			b.Fatal(seen, err)
		}
	}
	rate(b, b.N*n)
}

// BenchmarkStage copies records of 1 KB to another topic, in transactions of 500.
func BenchmarkStage(b *testing.B) {
	for _, partitions := range []int{1, 4} {
		b.Run(fmt.Sprintf("%d-partitions", partitions), func(b *testing.B) {
			c := testClient(b)
			in, out := testTopic(b, c, "bench-in", partitions), testTopic(b, c, "bench-out", partitions)
			const n = 50_000
			fill(b, c, in, n, 1000)
			for range b.N {
				w := &recorder{t: b}
				s := stageOf(in, w, passOn(out))
				stop := runStage(b, c, s)
				eventually(b, "assigned", func() bool { return len(w.all(Assigned)) == partitions })
				done := func() (records int) {
					for _, e := range w.all(Committed) {
						records += e.Records
					}
					return records
				}
				for done() < n {
					time.Sleep(time.Millisecond)
				}
				b.StopTimer()
				if err := stop(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			rate(b, b.N*n)
		})
	}
}

// BenchmarkTransaction measures a transaction with one small record.
func BenchmarkTransaction(b *testing.B) {
	c := testClient(b)
	in, out := testTopic(b, c, "bench-in", 1), testTopic(b, c, "bench-out", 1)
	p := testProducer(b, c, unique("id"))
	m := membership{group: unique("group"), generation: -1}
	b.ResetTimer()
	for i := range b.N {
		if err := p.commit(testContext(b), m, topicPartition{in, 0}, int64(i), "1", numbered(out, i, 1)); err != nil {
			b.Fatal(err)
		}
	}
}
