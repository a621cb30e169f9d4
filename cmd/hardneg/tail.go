package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"hardneg/internal/catalog"
	"hardneg/internal/records"
	"hardneg/stream"
)

// errEnough ends a read that has printed as many records as the user wants.
var errEnough = errors.New("enough")

func (c *command) tailCommand() *cobra.Command {
	var t target
	var fromStart bool
	var most int
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Follow the triplets as they change",
		Long: `Follow the triplets topic as a reader that sees committed records alone. + is a triplet as it is from
now on, - a place in a list that is empty from now on. All places of a list come when one of them changes, and when
another instance takes over.`,
		Args: arguments(),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if most < 0 {
			return usage("--max must be at least 0, is %d", most)
		}
		return c.onKafka(cmd.Context(), t, func(on catalog.Conn) error {
			seen := 0
			err := on.Kafka.Tail(cmd.Context(), on.Config.Topics.Triplets, fromStart, func(r stream.Record) error {
				if err := c.printTriplet(r); err != nil {
					return err
				}
				if seen++; seen == most {
					return errEnough
				}
				return nil
			})
			if errors.Is(err, errEnough) {
				return nil
			}
			return err
		})
	}
	cmd.Flags().BoolVar(&fromStart, "from-start", false, "begin with the oldest record, not with the next new one")
	cmd.Flags().IntVar(&most, "max", 0, "end after this many records (default: never)")
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}

// change is a record of the triplets topic in JSON.
type change struct {
	Partition int32             `json:"partition"`
	Offset    int64             `json:"offset"`
	Timestamp string            `json:"timestamp"` // RFC 3339
	Key       json.RawMessage   `json:"key"`
	Headers   map[string]string `json:"headers"`
	Triplet   json.RawMessage   `json:"triplet"` // null: retracted
}

func (c *command) printTriplet(r stream.Record) error {
	queryID, positiveID, rank, err := records.ParseTripletKey(r.Key)
	if err != nil {
		return fmt.Errorf("%s/%d at offset %d: %w", r.Topic, r.Partition, r.Offset, err)
	}
	if c.output == "json" {
		return c.printChange(r)
	}
	if r.Value == nil {
		_, err := fmt.Fprintf(c.stdout, "- %s %s #%d\n", queryID, positiveID, rank)
		return err
	}
	triplet, err := records.ParseTriplet(r.Value)
	if err != nil {
		return fmt.Errorf("%s/%d at offset %d: %w", r.Topic, r.Partition, r.Offset, err)
	}
	_, err = fmt.Fprintf(c.stdout, "+ %s %s #%d %s\n    query    %s\n    positive %.3f %s\n    negative %.3f %s\n",
		queryID, positiveID, rank, triplet.Policy, brief(triplet.Query.Text),
		triplet.Similarity.QueryPositive, documentLine(triplet.Positive),
		triplet.Similarity.QueryNegative, documentLine(triplet.Negative))
	return err
}

func (c *command) printChange(r stream.Record) error {
	line := change{
		Partition: r.Partition, Offset: r.Offset, Timestamp: r.Time.UTC().Format(time.RFC3339Nano),
		Key: r.Key, Headers: make(map[string]string, len(r.Headers)), Triplet: r.Value,
	}
	for _, h := range r.Headers {
		line.Headers[h.Key] = string(h.Value)
	}
	return newEncoder(c.stdout).Encode(line)
}

func documentLine(d records.TripletDocument) string {
	if d.Title != "" {
		return d.ID + " " + brief(d.Title)
	}
	return d.ID + " " + brief(d.Text)
}
