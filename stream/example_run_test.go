package stream_test

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"hardneg/stream"

	"github.com/rs/zerolog"
)

// doubler writes twice the number of each record. What is not a number becomes a dead letter: it would fail
// every time, and nothing behind it would be processed.
type doubler struct{ doubled, deadLetters string }

func (d doubler) Process(_ context.Context, batch []stream.Record) ([]stream.Output, error) {
	var outputs []stream.Output
	for _, r := range batch {
		n, err := strconv.Atoi(string(r.Value))
		if err != nil {
			outputs = append(outputs, stream.NewDeadLetter(d.deadLetters, "doubler", r, err))
			continue
		}
		outputs = append(outputs, stream.Output{
			Topic: d.doubled, Partition: stream.ByKey, Key: r.Key, Value: strconv.AppendInt(nil, int64(2*n), 10),
		})
	}
	return outputs, nil
}

// A consume-transform-produce loop. Outputs, dead letters and the offset of a batch are one transaction, so a
// read_committed reader sees the result of each record once.
func ExampleClient_Run() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	client, err := stream.New(stream.Config{Brokers: []string{stream.BrokerAddr()}, Log: zerolog.Nop()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	numbers, doubled, deadLetters := stream.Unique("numbers"), stream.Unique("doubled"), stream.Unique("dead-letters")
	err = client.EnsureTopics(ctx,
		stream.Topic{Name: numbers, Partitions: 1}, stream.Topic{Name: doubled, Partitions: 1}, stream.Topic{Name: deadLetters, Partitions: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	var inputs []stream.Output
	for _, value := range []string{"1", "two", "3"} {
		inputs = append(inputs, stream.Output{Topic: numbers, Partition: stream.ByKey, Value: []byte(value)})
	}
	if err := client.Produce(ctx, inputs); err != nil {
		fmt.Println(err)
		return
	}

	running, done := context.WithCancel(ctx) // a service would use signal.NotifyContext
	err = client.Run(running, stream.Stage{
		Name: "doubler", Group: numbers, Topic: numbers, TransactionalPrefix: numbers,
		New: func(stream.Assignment) stream.Processor { return doubler{doubled, deadLetters} },
		Observe: func(e stream.Event) {
			if e.Kind == stream.Committed && e.Offset == e.End {
				done() // there is nothing left to read
			}
		},
	})
	fmt.Println("Run:", err)
	for _, topic := range []string{doubled, deadLetters} {
		err := client.ReadToEnd(ctx, topic, func(r stream.Record) error {
			fmt.Printf("%s", r.Value)
			for _, h := range r.Headers {
				if h.Key == stream.HeaderError {
					fmt.Printf(": %s", h.Value)
				}
			}
			fmt.Println()
			return nil
		})
		if err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// Run: <nil>
	// 2
	// 6
	// two: strconv.Atoi: parsing "two": invalid syntax
}
