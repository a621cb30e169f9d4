package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/rawproduce"
)

// The errors that callers tell apart.
var (
	ErrUnreachable      = errors.New("cannot reach Kafka")
	ErrUnknownTopic     = errors.New("topic does not exist")
	ErrOffsetOutOfRange = errors.New("offset is outside the log")
	ErrCorrupt          = errors.New("record batch is corrupt")
	ErrFenced           = errors.New("fenced by a newer owner of the partition")
	ErrTooLarge         = errors.New("record is larger than the topic's max.message.bytes")
)

// FencedError is an ErrFenced with the token of the newer owner, where a Processor saw it in a stored state: the
// next token of this partition will be greater.
type FencedError struct{ Token int64 }

func (e *FencedError) Error() string { return fmt.Sprintf("%v, whose token is %d", ErrFenced, e.Token) }

// Is makes a FencedError an ErrFenced.
func (e *FencedError) Is(target error) bool { return target == ErrFenced }

// action is what to do about an error of a broker.
type action uint8

const (
	restart action = iota // the effect is unknown or the transaction is lost: drop it, begin a new epoch
	retry                 // nothing happened: send the same request again after a pause
	fenced                // somebody else owns the partition: leave
	fatal                 // no repetition helps: a person must change something
)

func (a action) String() string {
	return [...]string{restart: "restart", retry: "retry", fenced: "fenced", fatal: "fatal"}[a]
}

// actions holds what is known of each error code; what is not listed is a restart, which is always safe. See
// docs/exactly-once.md for the reasons of the less obvious ones.
var actions = map[kafka.Error]action{
	kafka.UnknownTopicOrPartition:      retry, // 3: a new topic takes a moment to reach every broker
	kafka.LeaderNotAvailable:           retry, // 5
	kafka.NotLeaderForPartition:        retry, // 6: until the metadata are fetched again
	kafka.BrokerNotAvailable:           retry, // 8: kafka-go's own answer for a broker that is not in its metadata
	kafka.ReplicaNotAvailable:          retry, // 9
	kafka.GroupLoadInProgress:          retry, // 14
	kafka.GroupCoordinatorNotAvailable: retry, // 15: for 150–350 ms on a fresh cluster
	kafka.NotCoordinatorForGroup:       retry, // 16
	kafka.NotEnoughReplicas:            retry, // 19: refused before it was appended
	kafka.NotController:                retry, // 41
	kafka.ConcurrentTransactions:       retry, // 51: the markers of the transaction before are still being written
	kafka.FencedLeaderEpoch:            retry, // 74
	kafka.UnknownLeaderEpoch:           retry, // 75
	kafka.OffsetNotAvailable:           retry, // 78: the leader is new
	kafka.UnstableOffsetCommit:         retry, // 88: a transaction with offsets is open
	kafka.ThrottlingQuotaExceeded:      retry, // 89

	kafka.IllegalGeneration:    fenced, // 22
	kafka.UnknownMemberId:      fenced, // 25
	kafka.RebalanceInProgress:  fenced, // 27
	kafka.InvalidProducerEpoch: fenced, // 47: what Produce and TxnOffsetCommit tell a zombie
	kafka.FencedInstanceID:     fenced, // 82
	kafka.ProducerFenced:       fenced, // 90: what the transaction coordinator tells a zombie

	kafka.MessageSizeTooLarge:                fatal, // 10: batches are halved first, see producer.send
	kafka.OffsetMetadataTooLarge:             fatal, // 12
	kafka.InvalidTopic:                       fatal, // 17
	kafka.InvalidRequiredAcks:                fatal, // 21
	kafka.InconsistentGroupProtocol:          fatal, // 23: a member with another balancer is in the group
	kafka.InvalidGroupId:                     fatal, // 24
	kafka.InvalidSessionTimeout:              fatal, // 26
	kafka.TopicAuthorizationFailed:           fatal, // 29
	kafka.GroupAuthorizationFailed:           fatal, // 30
	kafka.ClusterAuthorizationFailed:         fatal, // 31
	kafka.InvalidTimestamp:                   fatal, // 32
	kafka.UnsupportedSASLMechanism:           fatal, // 33
	kafka.IllegalSASLState:                   fatal, // 34
	kafka.UnsupportedVersion:                 fatal, // 35
	kafka.UnsupportedForMessageFormat:        fatal, // 43
	kafka.PolicyViolation:                    fatal, // 44
	kafka.InvalidTransactionTimeout:          fatal, // 50: above the broker's transaction.max.timeout.ms
	kafka.TransactionalIDAuthorizationFailed: fatal, // 53
	kafka.SecurityDisabled:                   fatal, // 54
	kafka.SASLAuthenticationFailed:           fatal, // 58
	kafka.UnsupportedCompressionType:         fatal, // 76
	kafka.InvalidRecord:                      fatal, // 87: a record without a key in a compacted topic
}

// actionFor says what to do about err, which came from a broker, from kafka-go, or from this package.
func actionFor(err error) action {
	var code kafka.Error
	var unsent *rawproduce.Error
	switch {
	case errors.Is(err, ErrFenced):
		return fenced
	case errors.Is(err, ErrTooLarge), errors.Is(err, ErrOffsetOutOfRange), errors.Is(err, errForeignGroup):
		return fatal
	case errors.As(err, &code):
		return actions[code]
	case errors.As(err, &unsent), // kafka-go found no common leader, so it sent nothing
		errors.Is(err, protocol.ErrNoTopic),
		errors.Is(err, protocol.ErrNoPartition),
		errors.Is(err, protocol.ErrNoLeader):
		return retry
	}
	return restart
}

// Transient tells whether err passes by itself: the broker cannot be reached or is not ready, or somebody's transaction
// is open, which lasts up to its time-out.
func Transient(err error) bool {
	var code kafka.Error
	return errors.Is(err, ErrUnreachable) || actionFor(err) == retry || errors.As(err, &code) && lost(err)
}

// RefusesRecord tells whether a broker will not take a record, whatever else goes with it.
func RefusesRecord(err error) bool {
	return errors.Is(err, ErrTooLarge) || errors.Is(err, kafka.InvalidTimestamp) || errors.Is(err, kafka.InvalidRecord)
}

// lost tells whether err leaves open what the broker did: no answer came, or that it does not know.
func lost(err error) bool {
	var code kafka.Error // which is a net.Error, too, but mostly a definite answer
	if errors.As(err, &code) {
		return code == kafka.RequestTimedOut || code == kafka.NetworkException
	}
	var network net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &network)
}

// check turns the error code of an answer into an error; more says what it was about.
func check(code int16, more string, args ...any) error {
	if code == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(more, args...), kafka.Error(code))
}

// worst picks, of the errors of several partitions, the one that decides what to do.
func mostSevere(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	rank := func(err error) int {
		// What is fenced must not be retried, and a retry must not hide that another part is lost.
		return slices.Index([]action{retry, restart, fatal, fenced}, actionFor(err))
	}
	return slices.MaxFunc(errs, func(a, b error) int { return rank(a) - rank(b) })
}

// unreachable adds ErrUnreachable and the addresses to an error that says that no connection was made.
func unreachable(brokers []string, err error) error {
	var op *net.OpError
	var dns *net.DNSError
	if errors.Is(err, ErrUnreachable) || !(errors.As(err, &dns) || errors.As(err, &op) && op.Op == "dial") {
		return err
	}
	return fmt.Errorf("%w at %s: %w", ErrUnreachable, strings.Join(brokers, ","), err)
}
