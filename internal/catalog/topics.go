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
	// DefaultLimit is Kafka's own default of max.message.bytes.
	DefaultLimit = 1048588

	// MaxRefresh bounds key and value of a refresh record, together. A query record within Kafka's default
	// limit always gives a smaller refresh record: at worst a number of a vector grows from 2 bytes to 5⅓,
	// and a text to twice its size.
	MaxRefresh = 4 << 20

	// extra is the room for the rest of a record: headers with offsets and a trace, and the error of a dead
	// letter (4 KiB).
	extra = 64 << 10
)

// Topics returns the topics that a generation reads and writes, with the settings that each needs. The topic
// of the dead letters comes last.
func Topics(cfg *config.Config, generation string) []stream.Topic {
	names := NamesOf(cfg, generation).Topics
	compact := map[string]string{"cleanup.policy": "compact"}
	keep := map[string]string{"cleanup.policy": "delete", "retention.ms": "-1"}
	queue := map[string]string{ // small, short segments: the miner purges the topic, and Kafka frees only whole segments
		"cleanup.policy": "delete", "retention.ms": "-1", "segment.bytes": strconv.Itoa(50 << 20), "segment.ms": strconv.Itoa(60 * 60 * 1000),
	}
	topic := func(name string, partitions, largest int, settings map[string]string) stream.Topic {
		return stream.Topic{
			Name: name, Partitions: partitions, ReplicationFactor: cfg.Topics.ReplicationFactor, MaxMessageBytes: largest, Config: settings,
		}
	}
	const texts = 5 // in a triplet: the query, two titles and two texts
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

// withLimit returns a copy of settings with a max.message.bytes.
func withLimit(settings map[string]string, bytes int) map[string]string {
	settings = maps.Clone(settings)
	settings["max.message.bytes"] = strconv.Itoa(bytes)
	return settings
}

// EnsureTopics creates the topics of a generation that are missing. Topics that exist keep their partitions
// and settings, with one exception: it raises a max.message.bytes that is too low in hardneg's own topics
// (refresh, models, dead letters). It returns an error if a topic cannot take the records that go into it,
// because such a record would stop its partition for ever.
//
// A dead letter holds its record byte for byte. So its topic must take the largest record of the topics that
// the stages read, plus the headers. When hardneg creates the topic it allows twice that size, because
// producers may compress better.
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

// deadLettersTopic returns the topic of the dead letters with its limits, which follow from the topics that
// the stages read.
func deadLettersTopic(ctx context.Context, kafka *stream.Client, names config.Topics, topic stream.Topic) (stream.Topic, error) {
	limits, err := kafka.MaxMessageBytes(ctx, names.Documents, names.Queries, names.Refresh)
	if err != nil {
		return topic, err
	}
	inputs := max(limits[names.Documents], limits[names.Queries])
	refresh := limits[names.Refresh]
	topic.MaxMessageBytes = max(inputs, refresh) + extra
	topic.Config = withLimit(topic.Config, max(2*inputs, refresh)+extra)
	return topic, nil
}

// CheckTopics returns the topics that EnsureTopics would create, and the problems that it would solve or
// refuse to start with. It changes nothing. It also reports a topic whose number of partitions has changed
// since the view began.
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
	s, err := readSettings(ctx, kafka, cfg.Topics.Models)
	if err != nil {
		return nil, nil, err
	}
	for _, topic := range []string{cfg.Topics.Refresh, cfg.Topics.Triplets} {
		n, ok := s.partitions[topic]
		if !ok || slices.Contains(missing, topic) {
			continue
		}
		got, err := kafka.Partitions(ctx, topic)
		if err != nil {
			return nil, nil, err
		}
		if got != n {
			problems = append(problems, stream.TopicProblem{Topic: topic, Severe: true, Text: partitionsError(topic, got, n).Error()})
		}
	}
	return missing, problems, nil
}
