package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"hardneg/internal/config"
	"hardneg/stream"
)

// partitionsKey is the key of the record in the models topic that says how many partitions the topics had
// when the view began.
const partitionsKey = "partitions"

// KeepPartitions returns an error if refresh or triplets have another number of partitions than when the
// view, or the live generation, began. Otherwise the records of one query would lie in two partitions, and
// nothing would ever replace the older ones. When a view begins, KeepPartitions stores the numbers in the
// models topic. From then on the client refuses to write by key into a topic that has grown.
func KeepPartitions(ctx context.Context, kafka *stream.Client, cfg *config.Config, live Live) error {
	names := NamesOf(cfg, live.Generation).Topics
	now := map[string]int{}
	for _, topic := range []string{names.Refresh, names.Triplets} {
		n, err := kafka.Partitions(ctx, topic)
		if err != nil {
			return err
		}
		now[topic] = n
	}
	stored, err := storedPartitions(ctx, kafka, cfg)
	if err != nil {
		return err
	}
	want := map[string]int{}
	maps.Copy(want, stored)
	if live.Record != nil { // a rebuilt generation has a refresh topic of its own
		want[names.Refresh] = live.Record.Partitions
	}
	for topic, n := range want {
		if got, ok := now[topic]; ok && got != n {
			return partitionsError(topic, got, n)
		}
	}
	for topic, n := range now {
		kafka.FixPartitions(topic, n)
	}
	if stored != nil {
		return nil
	}
	value, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return kafka.Produce(ctx, []stream.Output{{Topic: names.Models, Key: []byte(partitionsKey), Value: value}})
}

// storedPartitions returns how many partitions the topics had when the view began, by topic; nil if it has
// not begun. Of several records the first counts: instances that start together may each write one.
func storedPartitions(ctx context.Context, kafka *stream.Client, cfg *config.Config) (stored map[string]int, err error) {
	err = kafka.ReadToEnd(ctx, cfg.Topics.Models, func(r stream.Record) error {
		if string(r.Key) == partitionsKey && stored == nil {
			return json.Unmarshal(r.Value, &stored)
		}
		return nil
	})
	return stored, err
}

// partitionsError returns the error for a topic whose number of partitions has changed.
func partitionsError(topic string, got, began int) error {
	return fmt.Errorf("topic %s has %d partitions, but the view began with %d: a query's records would be split over two partitions; "+
		"produce the view into a new topic with the partitions you want", topic, got, began)
}

// fixPartitions makes the client refuse to write by key into refresh or triplets once they have another number of
// partitions than when the view, or the live generation, began.
func fixPartitions(ctx context.Context, kafka *stream.Client, cfg *config.Config, live Live) error {
	stored, err := storedPartitions(ctx, kafka, cfg)
	for topic, n := range stored {
		kafka.FixPartitions(topic, n)
	}
	if live.Record != nil {
		kafka.FixPartitions(NamesOf(cfg, live.Generation).Topics.Refresh, live.Record.Partitions)
	}
	return err
}
