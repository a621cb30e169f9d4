// Package catalog knows the parts of a view on Kafka and in Qdrant: topics and their limits, consumer groups
// and transactional ids, generations, the records of the models topic (models, generations, rules,
// partitions), and how far the stages are. The other packages ask it; it runs no stage itself. Only packages
// of hardneg import it.
package catalog

import (
	"strings"

	"hardneg/internal/config"
)

// Stage names, as in the configuration, in consumer groups, metrics and dead letters.
const (
	StageIndexer = "indexer"
	StageIntake  = "intake"
	StageMiner   = "miner"
)

// Stages lists the stages in the order in which a change passes through them.
var Stages = []string{StageIndexer, StageIntake, StageMiner}

// Names holds the names of one generation of a view on Kafka.
type Names struct {
	Topics config.Topics // Refresh belongs to the generation; the other topics belong to the view
	prefix string        // of consumer groups and transactional ids
}

// NamesOf returns the names of a generation. The first generation of a view, and one that does not exist yet
// (""), have the names of the configuration. A generation that rebuild made has its id in every name of its
// own.
func NamesOf(cfg *config.Config, generation string) Names {
	n := Names{Topics: cfg.Topics, prefix: cfg.Name}
	if ModelOf(generation) != generation {
		n.prefix += "-" + generation
		n.Topics.Refresh += "-" + generation
	}
	return n
}

// Group returns the consumer group of a stage.
func (n Names) Group(stage string) string { return n.prefix + "-" + stage }

// TransactionalPrefix returns the beginning of a stage's transactional ids.
func (n Names) TransactionalPrefix(stage string) string { return n.prefix + "-" + stage }

// Input returns the topic that a stage consumes.
func (n Names) Input(stage string) string {
	switch stage {
	case StageIndexer:
		return n.Topics.Documents
	case StageIntake:
		return n.Topics.Queries
	default:
		return n.Topics.Refresh
	}
}

// ModelOf returns the id of a generation's model.
func ModelOf(generation string) string {
	id, _, _ := strings.Cut(generation, "-")
	return id
}

// ReplayGroups returns the beginning of the names of the consumer groups that hold the progress of replays.
func ReplayGroups(cfg *config.Config) string { return cfg.Name + "-replay-" }

// DeadLettersGroup returns the consumer group of the replays of dead letters. It has no members: its offsets
// make sure that one replay at a time sends records.
func DeadLettersGroup(cfg *config.Config) string { return cfg.Name + deadLettersSuffix }

const deadLettersSuffix = "-dead-letters"
