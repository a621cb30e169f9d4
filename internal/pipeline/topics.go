package pipeline

import (
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

// maxDeadLetter is the largest dead letter in bytes: twice Kafka's default limit for a record, since the original
// comes with headers that say what was wrong with it.
const maxDeadLetter = 2*1048588 + 64<<10

// Topics lists the topics that hardneg reads and writes, with the policies each needs. Topics that exist already
// keep their partitions and settings.
func Topics(cfg *config.Config) []stream.Topic {
	compact := map[string]string{"cleanup.policy": "compact"}
	keep := map[string]string{"cleanup.policy": "delete", "retention.ms": "-1"}
	topic := func(name string, partitions int, settings map[string]string) stream.Topic {
		return stream.Topic{Name: name, Partitions: partitions, ReplicationFactor: cfg.Topics.ReplicationFactor, Config: settings}
	}
	n := cfg.Topics.Partitions
	return []stream.Topic{
		topic(cfg.Topics.Documents, n, compact),
		topic(cfg.Topics.Queries, n, keep),
		topic(cfg.Topics.Triplets, n, compact),
		topic(cfg.Topics.Refresh, n, keep),
		topic(cfg.Topics.Models, 1, compact),
		topic(cfg.Topics.DeadLetters, n, map[string]string{
			"cleanup.policy": "delete", "retention.ms": "-1", "max.message.bytes": strconv.Itoa(maxDeadLetter),
		}),
	}
}
