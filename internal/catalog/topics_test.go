package catalog

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"hardneg/internal/config"
	"hardneg/internal/testenv"
	"hardneg/stream"
)

// TestTopicsThatAreTooSmall checks that the service raises the limits of its own topics, and does not start
// if a topic of somebody else cannot take the records that go into it.
func TestTopicsThatAreTooSmall(t *testing.T) {
	client, address := testenv.Kafka(t, zerolog.Nop(), nil)
	queue := func(limit int) map[string]string {
		return map[string]string{"cleanup.policy": "delete", "retention.ms": "-1", "max.message.bytes": strconv.Itoa(limit)}
	}
	compacted := func(limit int) map[string]string {
		return map[string]string{"cleanup.policy": "compact", "max.message.bytes": strconv.Itoa(limit)}
	}
	for i, test := range []struct {
		name        string
		exists      func(*config.Config) []stream.Topic
		want        string // part of the error; "": no error
		deadLetters int    // max.message.bytes of the dead letters topic afterwards
	}{
		{"none exist", func(*config.Config) []stream.Topic { return nil }, "", MaxRefresh + 2*extra},
		{"small dead letters", func(c *config.Config) []stream.Topic {
			return []stream.Topic{{Name: c.Topics.DeadLetters, Config: queue(MaxRefresh)}}
		}, "", MaxRefresh + 2*extra},
		{"dead letters that suffice", func(c *config.Config) []stream.Topic {
			return []stream.Topic{{Name: c.Topics.DeadLetters, Config: queue(MaxRefresh + 2*extra)}}
		}, "", MaxRefresh + 2*extra},
		{"large documents", func(c *config.Config) []stream.Topic {
			return []stream.Topic{{Name: c.Topics.Documents, Config: compacted(10_000_000)}}
		}, "", 20_000_000 + extra},
		{"large queries, and dead letters by default", func(c *config.Config) []stream.Topic {
			return []stream.Topic{{Name: c.Topics.Queries, Config: queue(10_000_000)}, {Name: c.Topics.DeadLetters, Config: queue(MaxRefresh + 2*extra)}}
		}, "", 10_000_000 + extra},
		{"small refresh", func(c *config.Config) []stream.Topic {
			return []stream.Topic{{Name: c.Topics.Refresh, Config: queue(DefaultLimit)}}
		}, "", MaxRefresh + 2*extra},
		{"small triplets", func(c *config.Config) []stream.Topic {
			return []stream.Topic{{Name: c.Topics.Triplets, Config: compacted(300_000)}}
		}, "triplets has max.message.bytes=300000, where at least 393216 is needed", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := config.Default()
			for _, name := range []*string{
				&cfg.Topics.Documents, &cfg.Topics.Queries, &cfg.Topics.Triplets, &cfg.Topics.Refresh, &cfg.Topics.Models, &cfg.Topics.DeadLetters,
			} {
				*name = fmt.Sprintf("%d-%s", i, *name)
			}
			if err := client.EnsureTopics(t.Context(), test.exists(cfg)...); err != nil {
				t.Fatal(err)
			}
			err := EnsureTopics(t.Context(), client, cfg, "")
			switch {
			case test.want == "" && err != nil, test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error %v, want %q", err, test.want)
			case err != nil && !strings.Contains(err.Error(), "kafka-configs --bootstrap-server "+address+" --alter --entity-type topics --entity-name "):
				t.Errorf("error %v: without the command that mends it", err)
			}
			if test.deadLetters == 0 {
				return
			}
			limits, err := client.MaxMessageBytes(t.Context(), cfg.Topics.DeadLetters)
			if err != nil || limits[cfg.Topics.DeadLetters] != test.deadLetters {
				t.Errorf("the dead letters take %v, %v, want %d", limits, err, test.deadLetters)
			}
		})
	}
}
