package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// Topic is a topic to make sure of. Partitions or ReplicationFactor 0 or less: the broker's default.
type Topic struct {
	Name                          string
	Partitions, ReplicationFactor int
	Config                        map[string]string
}

const cleanupPolicy = "cleanup.policy"

// EnsureTopics creates the topics that are missing and waits until all have leaders. Of those that exist it
// compares cleanup.policy, where one is asked for, and changes nothing.
func (c *Client) EnsureTopics(ctx context.Context, topics ...Topic) error {
	existing, err := c.topicNames(ctx)
	if err != nil {
		return fmt.Errorf("listing topics: %w", err)
	}
	var missing, present []Topic
	for _, t := range topics {
		if existing[t.Name] {
			present = append(present, t)
		} else {
			missing = append(missing, t)
		}
	}
	raced, err := c.createTopics(ctx, missing)
	if err != nil {
		return err
	}
	for _, t := range topics {
		// Known to one broker is not known to all: wait for what routes the requests.
		if err := again(ctx, func(err error) bool { return harmless(err) || errors.Is(err, ErrUnknownTopic) }, func() error {
			_, err := c.leaders(ctx, t.Name)
			return err
		}); err != nil {
			return fmt.Errorf("waiting for topic %s: %w", t.Name, err)
		}
	}
	return c.checkPolicies(ctx, append(present, raced...))
}

func (c *Client) topicNames(ctx context.Context) (map[string]bool, error) {
	names := map[string]bool{}
	err := again(ctx, harmless, func() error {
		res, err := call[*metadata.Response](ctx, c, &metadata.Request{})
		if err != nil {
			return err
		}
		for _, t := range res.Topics {
			names[t.Name] = true
		}
		return nil
	})
	return names, err
}

// createTopics creates topics and returns those that somebody else created meanwhile.
func (c *Client) createTopics(ctx context.Context, topics []Topic) (raced []Topic, err error) {
	if len(topics) == 0 {
		return nil, nil
	}
	req := &kafka.CreateTopicsRequest{}
	for _, t := range topics {
		made := kafka.TopicConfig{Topic: t.Name, NumPartitions: t.Partitions, ReplicationFactor: t.ReplicationFactor}
		if made.NumPartitions <= 0 {
			made.NumPartitions = -1
		}
		if made.ReplicationFactor <= 0 {
			made.ReplicationFactor = -1
		}
		for _, name := range slices.Sorted(maps.Keys(t.Config)) {
			made.ConfigEntries = append(made.ConfigEntries, kafka.ConfigEntry{ConfigName: name, ConfigValue: t.Config[name]})
		}
		req.Topics = append(req.Topics, made)
	}
	var res *kafka.CreateTopicsResponse
	if err := again(ctx, harmless, func() (err error) {
		res, err = c.api.CreateTopics(ctx, req)
		return unreachable(c.brokers, err)
	}); err != nil {
		return nil, fmt.Errorf("creating topics: %w", err)
	}
	var errs []error
	for _, t := range topics {
		switch err := res.Errors[t.Name]; {
		case errors.Is(err, kafka.TopicAlreadyExists):
			raced = append(raced, t)
		case err != nil:
			errs = append(errs, fmt.Errorf("creating topic %s with %d partitions and replication factor %d: %w",
				t.Name, t.Partitions, t.ReplicationFactor, err))
		}
	}
	return raced, errors.Join(errs...)
}

// checkPolicies compares cleanup.policy: a view in a topic that is not compacted is lost with its retention, and
// a queue in one that is compacted loses records.
func (c *Client) checkPolicies(ctx context.Context, topics []Topic) error {
	topics = slices.DeleteFunc(topics, func(t Topic) bool { return t.Config[cleanupPolicy] == "" })
	if len(topics) == 0 {
		return nil
	}
	req := &kafka.DescribeConfigsRequest{}
	for _, t := range topics {
		req.Resources = append(req.Resources, kafka.DescribeConfigRequestResource{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: t.Name, ConfigNames: []string{cleanupPolicy},
		})
	}
	found := map[string]string{}
	err := again(ctx, harmless, func() error {
		res, err := c.api.DescribeConfigs(ctx, req)
		if err != nil {
			return unreachable(c.brokers, err)
		}
		for _, r := range res.Resources {
			if r.Error != nil {
				return fmt.Errorf("topic %s: %w", r.ResourceName, r.Error)
			}
			for _, e := range r.ConfigEntries {
				if e.ConfigName == cleanupPolicy {
					found[r.ResourceName] = e.ConfigValue
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the configuration of topics: %w", err)
	}
	var errs []error
	for _, t := range topics {
		want, got := t.Config[cleanupPolicy], found[t.Name]
		if !samePolicy(want, got) {
			errs = append(errs, fmt.Errorf("topic %s has %s=%s, where %s is needed: change it with kafka-configs, or name another topic",
				t.Name, cleanupPolicy, got, want))
		}
	}
	return errors.Join(errs...)
}

func samePolicy(a, b string) bool {
	split := func(s string) []string {
		parts := strings.Split(strings.ReplaceAll(s, " ", ""), ",")
		slices.Sort(parts)
		return parts
	}
	return slices.Equal(split(a), split(b))
}
