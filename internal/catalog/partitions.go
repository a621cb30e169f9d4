package catalog

import (
	"context"
	"encoding/json"
	"fmt"

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
	s, err := readSettings(ctx, kafka, cfg.Topics.Models)
	if err != nil {
		return err
	}
	for topic, n := range s.partitionsOf(cfg, live) {
		if got, ok := now[topic]; ok && got != n {
			return partitionsError(topic, got, n)
		}
	}
	for topic, n := range now {
		kafka.FixPartitions(topic, n)
	}
	if s.partitions != nil {
		return nil
	}
	value, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return kafka.Produce(ctx, []stream.Output{{Topic: names.Models, Key: []byte(partitionsKey), Value: value}})
}

// partitionsError returns the error for a topic whose number of partitions has changed.
func partitionsError(topic string, got, began int) error {
	return fmt.Errorf("topic %s has %d partitions, but the view began with %d: a query's records would be split over two partitions; "+
		"produce the view into a new topic with the partitions you want", topic, got, began)
}
