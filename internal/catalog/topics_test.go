package catalog

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"hardneg/internal/config"
	embeddedkafka "hardneg/internal/embedded/kafka"
	"hardneg/stream"
)

// TestTopicsThatAreTooSmall: the service does not start on topics that could not take what must go into them.
func TestTopicsThatAreTooSmall(t *testing.T) {
	server, err := embeddedkafka.Start(embeddedkafka.Config{Address: "127.0.0.1:0", Dir: t.TempDir(), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	client, err := stream.New(stream.Config{Brokers: []string{server.Addr()}, ClientID: "test", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	queue := func(limit int) map[string]string {
		return map[string]string{"cleanup.policy": "delete", "retention.ms": "-1", "max.message.bytes": strconv.Itoa(limit)}
	}
	compacted := func(limit int) map[string]string {
		return map[string]string{"cleanup.policy": "compact", "max.message.bytes": strconv.Itoa(limit)}
	}
	for i, test := range []struct {
		name    string
		exists  func(*config.Config) []stream.Topic
		want    string // of the error; "": none
		letters int    // max.message.bytes of the dead letters afterwards
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
			case err != nil && !strings.Contains(err.Error(), "kafka-configs --bootstrap-server "+server.Addr()+" --alter --entity-type topics --entity-name "):
				t.Errorf("error %v: without the command that mends it", err)
			}
			if test.letters == 0 {
				return
			}
			limits, err := client.MaxMessageBytes(t.Context(), cfg.Topics.DeadLetters)
			if err != nil || limits[cfg.Topics.DeadLetters] != test.letters {
				t.Errorf("the dead letters take %v, %v, want %d", limits, err, test.letters)
			}
		})
	}
}
