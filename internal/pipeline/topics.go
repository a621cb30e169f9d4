package pipeline

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"hardneg/internal/config"
	"hardneg/stream"
)

// Stage names, as in the configuration, in consumer groups, metrics and dead letters.
const (
	StageIndexer = "indexer"
	StageIntake  = "intake"
	StageMiner   = "miner"
)

// Group is the consumer group of a stage.
func Group(cfg *config.Config, stage string) string { return cfg.Name + "-" + stage }

// inputTopic is the topic that a stage consumes.
func inputTopic(cfg *config.Config, stage string) string {
	switch stage {
	case StageIndexer:
		return cfg.Topics.Documents
	case StageIntake:
		return cfg.Topics.Queries
	default:
		return cfg.Topics.Refresh
	}
}

// behind is the number of offsets between what a stage has committed and some ends of its input, by partition. A
// transaction that is open does not count: of many partitions that work one has some at any time, so that to wait until
// none is would be to wait for ever.
func behind(ctx context.Context, kafka *stream.Client, cfg *config.Config, stage string, ends []end) (left int64, err error) {
	committed, err := kafka.CommittedSoFar(ctx, Group(cfg, stage), inputTopic(cfg, stage))
	for _, e := range ends {
		left += max(0, e.offset-max(committed[e.partition], e.start))
	}
	return left, err
}

// end is where a partition starts, and where it is to be read up to.
type end struct {
	partition     int32
	start, offset int64
}

// stable are the ends that read_committed readers see, written those with what open transactions have written.
func stable(all []stream.Offsets) []end {
	return ends(all, func(o stream.Offsets) int64 { return o.LastStable })
}
func written(all []stream.Offsets) []end {
	return ends(all, func(o stream.Offsets) int64 { return o.HighWatermark })
}

func ends(all []stream.Offsets, offset func(stream.Offsets) int64) []end {
	out := make([]end, len(all))
	for i, o := range all {
		out[i] = end{o.Partition, o.Start, offset(o)}
	}
	return out
}

// Bounds of records, in bytes.
const (
	defaultLimit = 1048588 // Kafka's max.message.bytes where nothing else is said

	// maxRefresh bounds key and value of a refresh record. What comes of a query record within Kafka's default limit is
	// smaller, whatever it holds: a number of a vector grows from two bytes to five and a third, a text to twice its size.
	maxRefresh = 4 << 20

	// extra is room for what a record has beside key and value: places, a trace, of a dead letter the error (4 KiB).
	extra = 64 << 10
)

// Topics lists the topics that hardneg reads and writes, with the policies each needs. The dead letters come last.
func Topics(cfg *config.Config) []stream.Topic {
	compact := map[string]string{"cleanup.policy": "compact"}
	keep := map[string]string{"cleanup.policy": "delete", "retention.ms": "-1"}
	queue := map[string]string{ // is shortened, which frees whole segments: small ones, and not for ever
		"cleanup.policy": "delete", "retention.ms": "-1", "segment.bytes": strconv.Itoa(50 << 20), "segment.ms": strconv.Itoa(60 * 60 * 1000),
	}
	topic := func(name string, partitions, largest int, settings map[string]string) stream.Topic {
		return stream.Topic{
			Name: name, Partitions: partitions, ReplicationFactor: cfg.Topics.ReplicationFactor, MaxMessageBytes: largest, Config: settings,
		}
	}
	const texts = 5 // of a triplet: the query's, two titles and two texts
	n := cfg.Topics.Partitions
	shared := func(t stream.Topic) stream.Topic {
		t.Shared = true
		return t
	}
	return []stream.Topic{
		shared(topic(cfg.Topics.Documents, n, 0, compact)),
		shared(topic(cfg.Topics.Queries, n, 0, keep)),
		shared(topic(cfg.Topics.Triplets, n, texts*cfg.Triplets.MaxText+extra, compact)),
		topic(cfg.Topics.Refresh, n, maxRefresh+extra, withLimit(queue, maxRefresh+extra)),
		topic(cfg.Topics.Models, 1, 0, compact),
		topic(cfg.Topics.DeadLetters, n, 0, withLimit(keep, max(2*defaultLimit, maxRefresh+extra)+extra)),
	}
}

func withLimit(settings map[string]string, bytes int) map[string]string {
	settings = maps.Clone(settings)
	settings["max.message.bytes"] = strconv.Itoa(bytes)
	return settings
}

// EnsureTopics creates the topics that are missing. Those that exist keep their partitions and settings, but for
// hardneg's own (refresh, models, dead letters), whose max.message.bytes is raised where it is too low. It is an error
// where a topic could not hold what has to go into it: a record that no topic takes would stop its partition for ever.
//
// A dead letter holds its record byte for byte, so its topic must take what the topics that the stages read take, and
// the headers. It is made for twice of what users write, for they may compress better.
func EnsureTopics(ctx context.Context, kafka *stream.Client, cfg *config.Config) error {
	topics := Topics(cfg)
	last := len(topics) - 1
	if err := kafka.EnsureTopics(ctx, topics[:last]...); err != nil {
		return err
	}
	letters, err := lettersTopic(ctx, kafka, cfg, topics[last])
	if err != nil {
		return err
	}
	return kafka.EnsureTopics(ctx, letters)
}

// lettersTopic is the topic of the dead letters with its limits, which follow from those of the topics that are read.
func lettersTopic(ctx context.Context, kafka *stream.Client, cfg *config.Config, letters stream.Topic) (stream.Topic, error) {
	limits, err := kafka.MaxMessageBytes(ctx, cfg.Topics.Documents, cfg.Topics.Queries, cfg.Topics.Refresh)
	if err != nil {
		return letters, err
	}
	users := max(limits[cfg.Topics.Documents], limits[cfg.Topics.Queries])
	own := limits[cfg.Topics.Refresh]
	letters.MaxMessageBytes = max(users, own) + extra
	letters.Config = withLimit(letters.Config, max(2*users, own)+extra)
	return letters, nil
}

// CheckTopics is EnsureTopics without its effects. A topic that has grown and must not is a flaw, too.
func CheckTopics(ctx context.Context, kafka *stream.Client, cfg *config.Config) (missing []string, flaws []stream.Flaw, err error) {
	topics := Topics(cfg)
	last := len(topics) - 1
	if missing, flaws, err = kafka.CheckTopics(ctx, topics[:last]...); err != nil {
		return nil, nil, err
	}
	letters := topics[last]
	if len(missing) == 0 {
		if letters, err = lettersTopic(ctx, kafka, cfg, letters); err != nil {
			return nil, nil, err
		}
	}
	alsoMissing, alsoFlaws, err := kafka.CheckTopics(ctx, letters)
	if err != nil {
		return nil, nil, err
	}
	missing, flaws = append(missing, alsoMissing...), append(flaws, alsoFlaws...)
	if slices.Contains(missing, cfg.Topics.Models) {
		return missing, flaws, nil
	}
	began, err := partitionsAtFirst(ctx, kafka, cfg)
	if err != nil {
		return nil, nil, err
	}
	for _, topic := range []string{cfg.Topics.Refresh, cfg.Topics.Triplets} {
		n, ok := began[topic]
		if !ok || slices.Contains(missing, topic) {
			continue
		}
		got, err := kafka.Partitions(ctx, topic)
		if err != nil {
			return nil, nil, err
		}
		if got != n {
			flaws = append(flaws, stream.Flaw{Topic: topic, Grave: true, Text: splitView(topic, got, n).Error()})
		}
	}
	return missing, flaws, nil
}
