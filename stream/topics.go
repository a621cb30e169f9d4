package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// Topic describes a topic for EnsureTopics and CheckTopics.
type Topic struct {
	Name                          string
	Partitions, ReplicationFactor int               // of a new topic; 0 or less: the broker's default
	Config                        map[string]string // settings of a new topic; cleanup.policy is checked on an old one, too
	MaxMessageBytes               int               // the topic's max.message.bytes must be at least this; 0: anything
	// Shared says that others own the topic. Its settings are never changed, and another cleanup.policy is
	// only a warning. A topic that is not shared is the caller's own: a limit below MaxMessageBytes is raised
	// if the broker allows it.
	Shared bool
}

// The settings of existing topics that are checked.
const (
	cleanupPolicy   = "cleanup.policy"
	maxMessageBytes = "max.message.bytes"
)

// EnsureTopics creates the topics that are missing, waits until all topics have leaders, and checks the
// settings of all. It raises max.message.bytes of topics that are not shared. It returns an error, with the
// command to run, if a limit stays too low, or if a topic that is not shared has another cleanup.policy than
// Config asks for. Lesser findings are logged as warnings.
func (c *Client) EnsureTopics(ctx context.Context, topics ...Topic) error {
	existing, err := c.topicNames(ctx)
	if err != nil {
		return fmt.Errorf("listing topics: %w", err)
	}
	missing := slices.DeleteFunc(slices.Clone(topics), func(t Topic) bool { return existing[t.Name] })
	if err := c.createTopics(ctx, missing); err != nil {
		return err
	}
	for _, t := range topics {
		// One broker may know the topic before the others: wait until the metadata that route requests have
		// it.
		if err := retryWhile(ctx, func(err error) bool { return retriableOrLost(err) || errors.Is(err, ErrUnknownTopic) }, func() error {
			_, err := c.leaders(ctx, t.Name)
			return err
		}); err != nil {
			return fmt.Errorf("waiting for topic %s: %w", t.Name, err)
		}
	}
	return c.checkSettings(ctx, topics)
}

func (c *Client) topicNames(ctx context.Context) (map[string]bool, error) {
	names := map[string]bool{}
	err := retryWhile(ctx, retriableOrLost, func() error {
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

// createTopics creates topics. A topic that somebody else has created meanwhile is no error.
func (c *Client) createTopics(ctx context.Context, topics []Topic) error {
	if len(topics) == 0 {
		return nil
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
	if err := retryWhile(ctx, retriableOrLost, func() (err error) {
		res, err = c.api.CreateTopics(ctx, req)
		return unreachable(c.brokers, err)
	}); err != nil {
		return fmt.Errorf("creating topics: %w", err)
	}
	var errs []error
	for _, t := range topics {
		if err := res.Errors[t.Name]; err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
			errs = append(errs, fmt.Errorf("creating topic %s with %d partitions and replication factor %d: %w",
				t.Name, t.Partitions, t.ReplicationFactor, err))
		}
	}
	return errors.Join(errs...)
}

// TopicProblem is one problem with the settings of a topic.
type TopicProblem struct {
	Topic  string
	Text   string // the problem and the command that solves it
	Severe bool   // a stage would stop at a record or lose records; otherwise a warning
	Raise  [2]int // present and needed max.message.bytes, if EnsureTopics would raise it; otherwise zeros
}

// CheckTopics changes nothing. It returns the names of the topics that EnsureTopics would create, and the
// problems with the settings of the others. err is only set if the cluster could not be asked.
func (c *Client) CheckTopics(ctx context.Context, topics ...Topic) (missing []string, problems []TopicProblem, err error) {
	existing, err := c.topicNames(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("listing topics: %w", err)
	}
	var there []Topic
	for _, t := range topics {
		if existing[t.Name] {
			there = append(there, t)
		} else {
			missing = append(missing, t.Name)
		}
	}
	problems, err = c.problems(ctx, there)
	return missing, problems, err
}

// checkSettings raises the limits that may be raised. It returns grave problems as an error and logs the
// others.
func (c *Client) checkSettings(ctx context.Context, topics []Topic) error {
	problems, err := c.problems(ctx, topics)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range problems {
		switch {
		case f.Raise[1] > 0 && c.raiseLimit(ctx, f.Topic, f.Raise[0], f.Raise[1]) == nil:
		case f.Severe:
			errs = append(errs, errors.New(f.Text))
		default:
			c.log.Warn().Str("topic", f.Topic).Msg(f.Text)
		}
	}
	return errors.Join(errs...)
}

// problems compares the settings of topics with the settings that are needed. Retention deletes a view from a
// topic that is not compacted, compaction deletes records of a queue, and a record that its topic does not
// take stops a stage.
func (c *Client) problems(ctx context.Context, topics []Topic) ([]TopicProblem, error) {
	topics = slices.DeleteFunc(slices.Clone(topics), func(t Topic) bool { return t.Config[cleanupPolicy] == "" && t.MaxMessageBytes == 0 })
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.Name
	}
	found, err := c.settings(ctx, names, cleanupPolicy, maxMessageBytes)
	if err != nil {
		return nil, err
	}
	var problems []TopicProblem
	for _, t := range topics {
		if want, got := t.Config[cleanupPolicy], found[t.Name][cleanupPolicy]; want != "" && !samePolicy(want, got) {
			f := TopicProblem{Topic: t.Name, Severe: !t.Shared, Text: fmt.Sprintf("topic %s has %s=%s, where %s is needed: name another topic, or change it with\n  %s",
				t.Name, cleanupPolicy, got, want, c.alterCommand(t.Name, cleanupPolicy, want))}
			if t.Shared {
				f.Text = fmt.Sprintf("topic %s has %s=%s, where it is meant for %s, and loses what that lets it lose: consider\n  %s",
					t.Name, cleanupPolicy, got, want, c.alterCommand(t.Name, cleanupPolicy, want))
			}
			problems = append(problems, f)
		}
		if t.MaxMessageBytes == 0 {
			continue
		}
		got, err := limitOf(t.Name, found[t.Name])
		if err != nil {
			problems = append(problems, TopicProblem{Topic: t.Name, Severe: true, Text: err.Error()})
		} else if got < t.MaxMessageBytes {
			f := TopicProblem{Topic: t.Name, Severe: true, Text: fmt.Sprintf("topic %s has %s=%d, where at least %d is needed: change it with\n  %s",
				t.Name, maxMessageBytes, got, t.MaxMessageBytes, c.alterCommand(t.Name, maxMessageBytes, strconv.Itoa(t.MaxMessageBytes)))}
			if !t.Shared {
				f.Raise = [2]int{got, t.MaxMessageBytes}
			}
			problems = append(problems, f)
		}
	}
	return problems, nil
}

// raiseLimit raises max.message.bytes of a topic and logs it.
func (c *Client) raiseLimit(ctx context.Context, topic string, from, to int) error {
	res, err := c.api.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{
		Resources: []kafka.IncrementalAlterConfigsRequestResource{{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: topic,
			Configs: []kafka.IncrementalAlterConfigsRequestConfig{{Name: maxMessageBytes, Value: strconv.Itoa(to), ConfigOperation: kafka.ConfigOperationSet}},
		}},
	})
	if err != nil {
		return err
	}
	for _, r := range res.Resources {
		if r.Error != nil {
			return r.Error
		}
	}
	c.log.Warn().Str("topic", topic).Int("from", from).Int("to", to).Msg("raised max.message.bytes, for the topic must take all that goes into it")
	return nil
}

// alterCommand returns the command line that changes a setting of a topic. kafka-configs needs brackets
// around a value with commas.
func (c *Client) alterCommand(topic, setting, value string) string {
	if strings.Contains(value, ",") {
		value = "[" + value + "]"
	}
	return fmt.Sprintf("kafka-configs --bootstrap-server %s --alter --entity-type topics --entity-name %s --add-config %s=%s",
		strings.Join(c.brokers, ","), topic, setting, value)
}

// MaxMessageBytes returns, by topic, the largest batch in bytes after compression that the topic takes: its
// own max.message.bytes, or the broker's default. It returns an error if a topic does not exist.
func (c *Client) MaxMessageBytes(ctx context.Context, topics ...string) (map[string]int, error) {
	found, err := c.settings(ctx, topics, maxMessageBytes)
	if err != nil {
		return nil, err
	}
	limits := map[string]int{}
	for _, t := range topics {
		if limits[t], err = limitOf(t, found[t]); err != nil {
			return nil, err
		}
	}
	return limits, nil
}

func limitOf(topic string, settings map[string]string) (int, error) {
	limit, err := strconv.Atoi(settings[maxMessageBytes])
	if err != nil {
		return 0, fmt.Errorf("topic %s: the broker says %s=%q, which is no number", topic, maxMessageBytes, settings[maxMessageBytes])
	}
	return limit, nil
}

// Setting returns the value of one setting of a topic, its own or the broker's default, as Kafka's text. A
// setting that Kafka does not know is empty.
func (c *Client) Setting(ctx context.Context, topic, name string) (string, error) {
	found, err := c.settings(ctx, []string{topic}, name)
	return found[topic][name], err
}

// settings returns the named settings of topics, by topic and name.
func (c *Client) settings(ctx context.Context, topics []string, names ...string) (map[string]map[string]string, error) {
	found := map[string]map[string]string{}
	if len(topics) == 0 {
		return found, nil
	}
	req := &kafka.DescribeConfigsRequest{}
	for _, t := range topics {
		req.Resources = append(req.Resources, kafka.DescribeConfigRequestResource{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: t, ConfigNames: names,
		})
	}
	err := retryWhile(ctx, retriableOrLost, func() error {
		res, err := c.api.DescribeConfigs(ctx, req)
		if err != nil {
			return unreachable(c.brokers, err)
		}
		for _, r := range res.Resources {
			if r.Error != nil {
				return fmt.Errorf("topic %s: %w", r.ResourceName, r.Error)
			}
			found[r.ResourceName] = map[string]string{}
			for _, e := range r.ConfigEntries {
				found[r.ResourceName][e.ConfigName] = e.ConfigValue
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of topics: %w", err)
	}
	return found, nil
}

func samePolicy(a, b string) bool {
	split := func(s string) []string {
		parts := strings.Split(strings.ReplaceAll(s, " ", ""), ",")
		slices.Sort(parts)
		return parts
	}
	return slices.Equal(split(a), split(b))
}
