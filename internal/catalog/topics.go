package catalog

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"hardneg/internal/config"
	"hardneg/stream"
)

// Bounds of records, in bytes.
const (
	DefaultLimit = 1048588 // Kafka's own default of max.message.bytes

	// MaxRefresh bounds key and value of a refresh record. The refresh record that intake makes of a query record within
	// Kafka's default limit is smaller: a number of a vector grows from two bytes to five and a third, a text to
	// twice its size.
	MaxRefresh = 4 << 20

	// extra is room for the rest of a record: headers with offsets and a trace, and the error of a dead letter (4 KiB).
	extra = 64 << 10
)

// Topics lists the topics that a generation reads and writes, with the settings that each needs. The dead letters come last.
func Topics(cfg *config.Config, generation string) []stream.Topic {
	names := NamesOf(cfg, generation).Topics
	compact := map[string]string{"cleanup.policy": "compact"}
	keep := map[string]string{"cleanup.policy": "delete", "retention.ms": "-1"}
	queue := map[string]string{ // the miner purges it, and Kafka frees whole segments alone: so they are small, and end by time too
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
		shared(topic(names.Documents, n, 0, compact)),
		shared(topic(names.Queries, n, 0, keep)),
		shared(topic(names.Triplets, n, texts*cfg.Triplets.MaxText+extra, compact)),
		topic(names.Refresh, n, MaxRefresh+extra, withLimit(queue, MaxRefresh+extra)),
		topic(names.Models, 1, 0, compact),
		topic(names.DeadLetters, n, 0, withLimit(keep, max(2*DefaultLimit, MaxRefresh+extra)+extra)),
	}
}

func withLimit(settings map[string]string, bytes int) map[string]string {
	settings = maps.Clone(settings)
	settings["max.message.bytes"] = strconv.Itoa(bytes)
	return settings
}

// EnsureTopics creates the topics of a generation that are missing. Topics that exist keep their partitions and settings;
// only for hardneg's own topics (refresh, models, dead letters) it raises a max.message.bytes that is too low. It
// returns an error if a topic could not take the records that go into it: such a record would stop its partition for ever.
//
// A dead letter holds its record byte for byte. So its topic must take the largest record of the topics that the stages
// read, and the headers. hardneg makes it for records twice as large, because their producers may compress better.
func EnsureTopics(ctx context.Context, kafka *stream.Client, cfg *config.Config, generation string) error {
	topics := Topics(cfg, generation)
	last := len(topics) - 1
	if err := kafka.EnsureTopics(ctx, topics[:last]...); err != nil {
		return err
	}
	deadLetters, err := deadLettersTopic(ctx, kafka, NamesOf(cfg, generation).Topics, topics[last])
	if err != nil {
		return err
	}
	return kafka.EnsureTopics(ctx, deadLetters)
}

// deadLettersTopic adds the limits to the topic of the dead letters. They follow from the topics that the stages read.
func deadLettersTopic(ctx context.Context, kafka *stream.Client, names config.Topics, topic stream.Topic) (stream.Topic, error) {
	limits, err := kafka.MaxMessageBytes(ctx, names.Documents, names.Queries, names.Refresh)
	if err != nil {
		return topic, err
	}
	users := max(limits[names.Documents], limits[names.Queries])
	own := limits[names.Refresh]
	topic.MaxMessageBytes = max(users, own) + extra
	topic.Config = withLimit(topic.Config, max(2*users, own)+extra)
	return topic, nil
}

// CheckTopics looks for what EnsureTopics would do or refuse, and changes nothing. It also reports a topic whose number of
// partitions has changed since the view began.
func CheckTopics(ctx context.Context, kafka *stream.Client, cfg *config.Config) (missing []string, problems []stream.TopicProblem, err error) {
	topics := Topics(cfg, "")
	last := len(topics) - 1
	if missing, problems, err = kafka.CheckTopics(ctx, topics[:last]...); err != nil {
		return nil, nil, err
	}
	deadLetters := topics[last]
	if len(missing) == 0 {
		if deadLetters, err = deadLettersTopic(ctx, kafka, cfg.Topics, deadLetters); err != nil {
			return nil, nil, err
		}
	}
	alsoMissing, alsoProblems, err := kafka.CheckTopics(ctx, deadLetters)
	if err != nil {
		return nil, nil, err
	}
	missing, problems = append(missing, alsoMissing...), append(problems, alsoProblems...)
	if slices.Contains(missing, cfg.Topics.Models) {
		return missing, problems, nil
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
			problems = append(problems, stream.TopicProblem{Topic: topic, Severe: true, Text: splitView(topic, got, n).Error()})
		}
	}
	return missing, problems, nil
}
