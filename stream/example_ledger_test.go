package stream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"hardneg/stream"

	"github.com/rs/zerolog"
)

// A job copies lines to a topic, two lines in a transaction. The mark of each transaction says how many lines
// are out. A second job takes over in the middle: it goes on where the mark is, and fences the first one.
func ExampleLedger() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := stream.New(stream.Config{Brokers: []string{stream.BrokerAddr()}, Log: zerolog.Nop()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	topic, id := stream.Unique("lines"), stream.Unique("copy")
	if err := client.EnsureTopics(ctx, stream.Topic{Name: topic, Partitions: 1}); err != nil {
		fmt.Println(err)
		return
	}
	lines := strings.Fields("one two three four five six")

	// copyFrom publishes two lines and moves the mark of partition 0 behind them.
	copyFrom := func(ledger *stream.Ledger, at int64) error {
		var outputs []stream.Output
		for _, line := range lines[at : at+2] {
			outputs = append(outputs, stream.Output{Topic: topic, Partition: 0, Value: []byte(line)})
		}
		return ledger.Commit(ctx, map[int32]stream.Mark{0: {Offset: at + 2, Note: "copied"}}, outputs)
	}

	first, marks, err := client.OpenLedger(ctx, id, id, topic, time.Minute)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("marks of a new ledger:", marks)
	fmt.Println("first job:", copyFrom(first, 0))

	second, marks, err := client.OpenLedger(ctx, id, id, topic, time.Minute)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("mark that the second job finds:", marks[0].Offset, marks[0].Note)
	fmt.Println("first job is fenced:", errors.Is(copyFrom(first, 2), stream.ErrFenced))
	for at := marks[0].Offset; at < int64(len(lines)); at += 2 {
		fmt.Println("second job:", copyFrom(second, at))
	}
	err = client.ReadToEnd(ctx, topic, func(r stream.Record) error {
		fmt.Printf("%s ", r.Value)
		return nil
	})
	fmt.Println(err)
	// Output:
	// marks of a new ledger: map[]
	// first job: <nil>
	// mark that the second job finds: 2 copied
	// first job is fenced: true
	// second job: <nil>
	// second job: <nil>
	// one two three four five six <nil>
}
