package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// Config says how to reach Kafka. Brokers of version 2.5 or newer are needed.
type Config struct {
	Brokers  []string    // host:port
	TLS      *tls.Config // nil: plain text
	SASL     SASL
	ClientID string
	Log      zerolog.Logger
}

// SASL is how to authenticate: Mechanism plain, scram-sha-256 or scram-sha-512, empty for none.
type SASL struct{ Mechanism, Username, Password string }

func (s SASL) mechanism() (sasl.Mechanism, error) {
	switch strings.ToLower(s.Mechanism) {
	case "":
		return nil, nil
	case "plain":
		return plain.Mechanism{Username: s.Username, Password: s.Password}, nil
	case "scram-sha-256":
		return scram.Mechanism(scram.SHA256, s.Username, s.Password)
	case "scram-sha-512":
		return scram.Mechanism(scram.SHA512, s.Username, s.Password)
	}
	return nil, fmt.Errorf("unknown SASL mechanism %q: want plain, scram-sha-256 or scram-sha-512", s.Mechanism)
}

const (
	requestTimeout = 30 * time.Second
	metadataTTL    = 2 * time.Second // how late a moved leader or a topic made elsewhere is noticed, at worst
	retryFor       = 30 * time.Second
)

// Client is a connection pool to one cluster, for any number of goroutines.
type Client struct {
	brokers  []string
	clientID string
	addr     net.Addr
	tr       *kafka.Transport
	dialer   *kafka.Dialer
	api      *kafka.Client
	log      zerolog.Logger
	stop     context.CancelFunc

	explainUnstableAfter time.Duration // after this long of waiting for offsets that are not stable, say for what

	plain struct { // the producer of Produce
		sync.Mutex
		*producer
	}
}

// New checks the configuration. It connects to nothing; see Ping.
func New(cfg Config) (*Client, error) {
	if len(cfg.Brokers) == 0 {
		return nil, errors.New("no Kafka brokers are configured")
	}
	for _, b := range cfg.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			return nil, fmt.Errorf("broker %q of Kafka: want host:port: %w", b, err)
		}
	}
	mechanism, err := cfg.SASL.mechanism()
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	// kafka-go has two ways to connect: the Transport for requests, the Dialer for group membership.
	dial := (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	tr := &kafka.Transport{
		Dial: dial, ClientID: cfg.ClientID, TLS: cfg.TLS, SASL: mechanism, MetadataTTL: metadataTTL, Context: ctx,
	}
	addr := kafka.TCP(cfg.Brokers...)
	return &Client{
		brokers:  cfg.Brokers,
		clientID: cfg.ClientID,
		addr:     addr,
		tr:       tr,
		dialer: &kafka.Dialer{
			ClientID: cfg.ClientID, Timeout: 10 * time.Second, DialFunc: dial, TLS: cfg.TLS, SASLMechanism: mechanism,
		},
		api:  &kafka.Client{Addr: addr, Transport: tr, Timeout: requestTimeout},
		log:  cfg.Log,
		stop: stop,

		explainUnstableAfter: 5 * time.Second,
	}, nil
}

// Close closes the connections. Stages must have ended before.
func (c *Client) Close() {
	c.tr.CloseIdleConnections()
	c.stop()
}

// Ping connects, and authenticates where that is configured, to the first broker that answers. An error is an
// ErrUnreachable unless a broker refused.
func (c *Client) Ping(ctx context.Context) error {
	var errs []error
	for _, broker := range c.brokers {
		conn, err := c.dialer.DialContext(ctx, "tcp", broker)
		if err == nil {
			// The dialer's time-out ends with the dialing: something silent would hold the question for ever.
			deadline, ok := ctx.Deadline()
			if !ok {
				deadline = time.Now().Add(c.dialer.Timeout)
			}
			_ = conn.SetDeadline(deadline)
			_, err = conn.Brokers()
			_ = conn.Close()
		}
		if err == nil {
			return nil
		}
		var refused kafka.Error
		if errors.As(err, &refused) {
			return fmt.Errorf("broker %s refuses: %w", broker, err)
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("%w at %s: %w", ErrUnreachable, strings.Join(c.brokers, ","), errors.Join(errs...))
}

// roundTrip sends one request. It always has a deadline, for kafka-go keeps the connection until then.
func (c *Client) roundTrip(ctx context.Context, req protocol.Message) (protocol.Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err // kafka-go might send it nevertheless, and an InitProducerId that is too late fences others
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.tr.RoundTrip(ctx, c.addr, req)
	return res, unreachable(c.brokers, err)
}

// call is roundTrip with the answer's type.
func call[T protocol.Message](ctx context.Context, c *Client, req protocol.Message) (T, error) {
	res, err := c.roundTrip(ctx, req)
	if err != nil {
		var none T
		return none, err
	}
	return res.(T), nil
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// backoff is a pause that doubles from Least to Most, with up to half of it at random.
type backoff struct{ next, least, most time.Duration }

func (b *backoff) pause(ctx context.Context) error {
	d := max(b.next, b.least)
	b.next = min(2*d, b.most)
	return pause(ctx, d/2+rand.N(d/2+1))
}

// again repeats f while repeat says so of its error, for as long as patience, or ctx, lasts. An error after which ctx was
// cancelled is a context.Canceled too: it is no failure that would not have passed.
func retryWhile(ctx context.Context, repeat func(error) bool, f func() error) error {
	wait := backoff{least: time.Millisecond, most: 500 * time.Millisecond}
	for start := time.Now(); ; {
		err := f()
		if err == nil || !repeat(err) || time.Since(start) > retryFor {
			return err
		}
		Waiting(ctx)
		switch {
		case wait.pause(ctx) == nil:
		case errors.Is(ctx.Err(), context.Canceled):
			return fmt.Errorf("%w: %w", context.Canceled, err)
		default:
			return err
		}
	}
}

// harmless is for again: what only reads may be repeated after a lost answer too.
func retriableOrLost(err error) bool { return actionFor(err) == retry || lost(err) }

// refused is for again: nothing happened.
func retriable(err error) bool { return actionFor(err) == retry }

// Partitions returns the number of partitions of a topic, or ErrUnknownTopic.
func (c *Client) Partitions(ctx context.Context, topic string) (int, error) {
	leaders, err := c.leaders(ctx, topic)
	return len(leaders), err
}

// leaders returns the leader of each partition as kafka-go sees it; it fetches metadata every second or so. A
// topic that is not there yet is looked up directly, and waited for if it exists.
func (c *Client) leaders(ctx context.Context, topic string) ([]int32, error) {
	var leaders []int32
	looked := false
	err := retryWhile(ctx, retriableOrLost, func() error {
		res, err := call[*metadata.Response](ctx, c, &metadata.Request{TopicNames: []string{topic}})
		if err != nil {
			return err
		}
		if leaders, err = leadersOf(res, topic); err == nil || looked {
			return err
		}
		looked = true
		if _, direct := c.dialer.LookupPartitions(ctx, "tcp", c.brokers[rand.N(len(c.brokers))], topic); errors.Is(direct, kafka.UnknownTopicOrPartition) {
			return fmt.Errorf("%w: %s", ErrUnknownTopic, topic)
		}
		return err
	})
	return leaders, err
}

func leadersOf(res *metadata.Response, topic string) ([]int32, error) {
	for _, t := range res.Topics {
		if t.Name != topic {
			continue
		}
		if err := check(t.ErrorCode, "topic %s", topic); err != nil {
			return nil, err
		}
		leaders := make([]int32, len(t.Partitions))
		for _, p := range t.Partitions {
			if int(p.PartitionIndex) >= len(leaders) || p.LeaderID < 0 {
				return nil, protocol.NewErrNoLeader(topic, p.PartitionIndex)
			}
			leaders[p.PartitionIndex] = p.LeaderID
		}
		if len(leaders) > 0 {
			return leaders, nil
		}
	}
	return nil, protocol.NewErrNoTopic(topic)
}

// Offsets are the bounds of a partition: the log starts at Start; read_committed readers see what is before
// LastStable, the others what is before HighWatermark.
type Offsets struct {
	Partition                        int32
	Start, HighWatermark, LastStable int64
}

// Offsets returns the bounds of every partition of a topic.
func (c *Client) Offsets(ctx context.Context, topic string) ([]Offsets, error) {
	n, err := c.Partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	all := make([]Offsets, n)
	for p := range all {
		all[p].Partition = int32(p)
	}
	const first, last = -2, -1
	const uncommitted, committed = 0, 1
	for _, q := range []struct {
		timestamp int64
		isolation int8
		field     func(*Offsets) *int64
	}{
		{first, uncommitted, func(o *Offsets) *int64 { return &o.Start }},
		{last, uncommitted, func(o *Offsets) *int64 { return &o.HighWatermark }},
		{last, committed, func(o *Offsets) *int64 { return &o.LastStable }},
	} {
		err := retryWhile(ctx, retriableOrLost, func() error {
			return c.listOffsets(ctx, topic, n, q.timestamp, q.isolation, func(p int32, offset int64) {
				*q.field(&all[p]) = offset
			})
		})
		if err != nil {
			return nil, fmt.Errorf("offsets of %s: %w", topic, err)
		}
	}
	return all, nil
}

func (c *Client) listOffsets(ctx context.Context, topic string, n int, timestamp int64, isolation int8, set func(int32, int64)) error {
	req := &listoffsets.Request{ReplicaID: -1, IsolationLevel: isolation, Topics: []listoffsets.RequestTopic{{Topic: topic}}}
	for p := range n {
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, listoffsets.RequestPartition{
			Partition: int32(p), CurrentLeaderEpoch: -1, Timestamp: timestamp,
		})
	}
	res, err := call[*listoffsets.Response](ctx, c, req)
	if err != nil {
		return err
	}
	var errs []error
	seen := 0
	for _, t := range res.Topics {
		for _, p := range t.Partitions {
			switch {
			case p.ErrorCode == -1: // kafka-go's word for an exchange that failed
				errs = append(errs, fmt.Errorf("partition %d: %w", p.Partition, kafka.BrokerNotAvailable))
			case p.ErrorCode != 0:
				errs = append(errs, check(p.ErrorCode, "partition %d", p.Partition))
			case int(p.Partition) < n:
				set(p.Partition, p.Offset)
				seen++
			}
		}
	}
	if len(errs) == 0 && seen != n {
		return fmt.Errorf("%d of %d partitions were answered", seen, n)
	}
	return mostSevere(errs)
}
