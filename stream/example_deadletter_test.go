package stream_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hardneg/stream"

	"github.com/rs/zerolog"
)

// A record that could not be used goes to a topic of dead letters. Whoever reads that topic gets the record
// back as it was, with the reason and the topic, partition and offset it came from.
func ExampleDeadLetter() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := stream.New(stream.Config{Brokers: []string{stream.BrokerAddr()}, Log: zerolog.Nop()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	topic := stream.Unique("dead-letters")
	if err := client.EnsureTopics(ctx, stream.Topic{Name: topic, Partitions: 1}); err != nil {
		fmt.Println(err)
		return
	}

	// A Processor gets such a record in a batch, and returns the dead letter among its outputs.
	bad := stream.Record{
		Topic: "documents", Partition: 3, Offset: 1042, Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		Key: []byte("d7"), Value: []byte(`{"id":"d7"`), Headers: []stream.Header{{Key: "source", Value: []byte("crawler")}},
	}
	letter := stream.NewDeadLetter(topic, "indexer", bad, errors.New("unexpected end of JSON input"))
	if err := client.Produce(ctx, []stream.Output{letter}); err != nil {
		fmt.Println(err)
		return
	}

	err = client.ReadToEnd(ctx, topic, func(r stream.Record) error {
		l, err := stream.ParseDeadLetter(r)
		if err != nil {
			return err // not a dead letter
		}
		fmt.Printf("at %s, from stage %s: %s\n", l.At(), l.Stage, l.Reason)
		fmt.Printf("%s/%d/%d of %s\n", l.Record.Topic, l.Record.Partition, l.Record.Offset, l.Record.Time.Format(time.RFC3339))
		fmt.Printf("key %s, value %s, headers %s\n", l.Record.Key, l.Record.Value, l.Record.Headers)
		return nil
	})
	fmt.Println(err)
	// Output:
	// at 0/0, from stage indexer: unexpected end of JSON input
	// documents/3/1042 of 2026-03-01T12:00:00Z
	// key d7, value {"id":"d7", headers [{source crawler}]
	// <nil>
}
