package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"hardneg/internal/config"
	"hardneg/stream"
)

// partitionsKey is the key, in the models topic, of the numbers of partitions that the view began with.
const partitionsKey = "partitions"

// KeepPartitions refuses to start if refresh or triplets have another number of partitions than at the beginning of the
// view, or of the generation: the records of one query would lie in two partitions, and nothing would ever replace
// the older ones. A view that begins writes its numbers down.
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
	began, err := partitionsAtFirst(ctx, kafka, cfg)
	if err != nil {
		return err
	}
	want := map[string]int{}
	maps.Copy(want, began)
	if live.Record != nil { // a rebuilt generation has a refresh topic of its own
		want[names.Refresh] = live.Record.Partitions
	}
	for topic, n := range want {
		if got, ok := now[topic]; ok && got != n {
			return splitView(topic, got, n)
		}
	}
	if began != nil {
		return nil
	}
	value, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return kafka.Produce(ctx, []stream.Output{{Topic: names.Models, Key: []byte(partitionsKey), Value: value}})
}

// partitionsAtFirst reads how many partitions the topics had when the view began; nil if it has not begun.
func partitionsAtFirst(ctx context.Context, kafka *stream.Client, cfg *config.Config) (began map[string]int, err error) {
	err = kafka.ReadToEnd(ctx, cfg.Topics.Models, func(r stream.Record) error {
		if string(r.Key) == partitionsKey && began == nil {
			return json.Unmarshal(r.Value, &began)
		}
		return nil
	})
	return began, err
}

func splitView(topic string, got, began int) error {
	return fmt.Errorf("topic %s has %d partitions, but the view began with %d: a query's records would be split over two partitions; "+
		"produce the view into a new topic with the partitions you want", topic, got, began)
}
