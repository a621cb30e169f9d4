package stream

import (
	"cmp"
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

// Config says how to reach Kafka. Brokers must have version 2.5 or newer.
type Config struct {
	Brokers  []string    // host:port of one or more brokers; the others of the cluster are found through them
	TLS      *tls.Config // nil: plain text
	SASL     SASL
	ClientID string // shows up in the broker's logs and quotas
	// MaxFetched bounds the memory for the records of one fetch, in bytes after decompression; default 64 MiB. A
	// batch that holds more is read in several fetches. Records larger than this are refused, and so is what
	// a batch holds beyond 16 times as much: see Fetched.Refused and Stage.Refused.
	MaxFetched int
	Log        zerolog.Logger // the zero value logs nothing
}

// SASL says how to authenticate. Mechanism is plain, scram-sha-256 or scram-sha-512 in any case of letters,
// or empty for no authentication.
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
	metadataTTL    = 2 * time.Second // at worst, a moved leader or a topic made by others is noticed this late
	retryFor       = 30 * time.Second
)

// Client is a connection pool to one Kafka cluster. Any number of goroutines may use it at the same time.
type Client struct {
	brokers  []string
	clientID string
	addr     net.Addr

	maxFetched int64 // see Config.MaxFetched

	tr     *kafka.Transport
	dialer *kafka.Dialer
	api    *kafka.Client
	log    zerolog.Logger
	stop   context.CancelFunc

	explainUnstableAfter time.Duration // after waiting this long for stable offsets, log which transaction is open

	fixed sync.Map // topic to number of partitions: see FixPartitions

	plain struct { // the producer that Produce uses
		sync.Mutex
		*producer
	}
}

// New checks the configuration and makes a client. It opens no connection, see Ping. It returns an error if
// no broker is named, if an address is not host:port, or if the SASL mechanism is unknown.
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

		maxFetched: int64(cmp.Or(max(0, cfg.MaxFetched), DefaultMaxFetched)),

		tr: tr,
		dialer: &kafka.Dialer{
			ClientID: cfg.ClientID, Timeout: 10 * time.Second, DialFunc: dial, TLS: cfg.TLS, SASLMechanism: mechanism,
		},
		api:  &kafka.Client{Addr: addr, Transport: tr, Timeout: requestTimeout},
		log:  cfg.Log,
		stop: stop,

		explainUnstableAfter: 5 * time.Second,
	}, nil
}

// Close closes the connections. Every Run must have returned before.
func (c *Client) Close() {
	c.tr.CloseIdleConnections()
	c.stop()
}

// Ping connects to the brokers one after the other until one answers, and authenticates if that is
// configured. It returns ErrUnreachable if none answers, and the broker's own error if a broker refuses, for
// example a wrong password.
func (c *Client) Ping(ctx context.Context) error {
	var errs []error
	for _, broker := range c.brokers {
		conn, err := c.dialer.DialContext(ctx, "tcp", broker)
		if err == nil {
			// The dialer's time-out covers the dialing alone. Without a deadline, a peer that accepts and
			// then says nothing would block this call for ever.
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

// roundTrip sends one request. It sets a deadline in every case, because kafka-go keeps the connection busy
// until then.
func (c *Client) roundTrip(ctx context.Context, req protocol.Message) (protocol.Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err // kafka-go might still send it, and a late InitProducerId would fence the rightful owner
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.tr.RoundTrip(ctx, c.addr, req)
	return res, unreachable(c.brokers, err)
}

// call is roundTrip with an answer of type T.
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

// backoff makes pauses that double from least to most. Half of each pause is random, so that instances that
// failed together do not come back together.
type backoff struct{ next, least, most time.Duration }

func (b *backoff) pause(ctx context.Context) error {
	d := max(b.next, b.least)
	b.next = min(2*d, b.most)
	return pause(ctx, d/2+rand.N(d/2+1))
}

// retryWhile calls f until it succeeds, until repeat says no to its error, until retryFor has passed, or
// until ctx ends. If ctx is cancelled while it waits, the error is also a context.Canceled: the caller gave
// up, and the failure might have passed.
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

// retriableOrLost lets retryWhile repeat requests whose answer was lost, too. It is for requests that may
// take effect twice without harm, such as reads.
func retriableOrLost(err error) bool { return actionFor(err) == retry || lost(err) }

// retriable lets retryWhile repeat only requests that had no effect. It is for requests that must not be sent
// twice.
func retriable(err error) bool { return actionFor(err) == retry }

// Partitions returns the number of partitions of a topic. It returns ErrUnknownTopic if the topic does not
// exist.
func (c *Client) Partitions(ctx context.Context, topic string) (int, error) {
	leaders, err := c.leaders(ctx, topic)
	return len(leaders), err
}

// leaders returns the leader of each partition from kafka-go's metadata, which are up to metadataTTL old. If
// they do not have the topic, a broker is asked directly; if the topic exists, the call waits until the
// metadata have it.
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

// Offsets are the bounds of one partition. The log starts at Start. read_committed readers see records with
// offsets below LastStable; read_uncommitted readers see records with offsets below HighWatermark. The two
// differ while a transaction is open.
type Offsets struct {
	Partition                        int32
	Start, HighWatermark, LastStable int64
}

// Offsets returns the bounds of every partition of a topic, in the order of partitions. It returns
// ErrUnknownTopic if the topic does not exist.
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
			case p.ErrorCode == -1: // kafka-go's code for a failed exchange with one of the brokers
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
