package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"hardneg/stream/wire"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/rawproduce"
)

// The errors that callers can tell apart with errors.Is. See also ErrGroupInUse, ErrOpenTransaction and
// ErrStalled.
var (
	// ErrUnreachable means that no connection to a broker could be made. It may pass.
	ErrUnreachable = errors.New("cannot reach Kafka")
	// ErrUnknownTopic means that a topic, or a partition of it, does not exist.
	ErrUnknownTopic = errors.New("topic does not exist")
	// ErrRepartitioned means that a topic has another number of partitions than FixPartitions allows.
	ErrRepartitioned = errors.New("the number of partitions has changed")
	// ErrOffsetOutOfRange means that an offset is below the start of the log or above its end.
	ErrOffsetOutOfRange = errors.New("offset is outside the log")
	// ErrCorrupt means that bytes from a broker cannot be read: a wrong checksum, a wrong length or an
	// unknown format.
	ErrCorrupt = wire.ErrCorrupt
	// ErrFenced means that a newer owner exists. A Processor may return it, too.
	ErrFenced = errors.New("fenced by a newer owner of the partition")
	// ErrTooLarge means that a topic does not take a record of this size. The text names the record, the
	// topic and the command that raises the limit.
	ErrTooLarge = errors.New("record is larger than the topic's max.message.bytes")
)

// FencedError is an ErrFenced that names the token of the newer owner. A Processor returns it when it finds a
// higher token than its own in a database. This instance's next token for the partition will be greater than
// Token.
type FencedError struct{ Token int64 }

func (e *FencedError) Error() string { return fmt.Sprintf("%v, whose token is %d", ErrFenced, e.Token) }

// Is makes errors.Is(err, ErrFenced) true for a FencedError.
func (e *FencedError) Is(target error) bool { return target == ErrFenced }

// action is the reaction to an error of a broker.
type action uint8

const (
	restart action = iota // the effect is unknown, or the transaction is lost: drop it and begin a new epoch
	retry                 // the request had no effect: send it again after a pause
	fenced                // another instance owns the partition: leave the group and join again
	fatal                 // a retry cannot help: a person must change something
)

func (a action) String() string {
	return [...]string{restart: "restart", retry: "retry", fenced: "fenced", fatal: "fatal"}[a]
}

// actions is the one table from error codes to actions. A code that is not listed means restart, which is
// always safe. docs/exactly-once.md gives the reasons that are not obvious.
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

// actionFor returns the action for err, which may come from a broker, from kafka-go or from this package.
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

// Transient reports whether err passes by itself, so that the caller can try again later: a broker cannot be
// reached, is not ready or did not answer in time, or a transaction is open, which lasts at most for its
// time-out.
func Transient(err error) bool {
	var code kafka.Error
	return errors.Is(err, ErrUnreachable) || actionFor(err) == retry || errors.As(err, &code) && lost(err)
}

// RefusesRecord reports whether a broker refuses a record for its own sake: its size, its timestamp, or a
// missing key in a compacted topic. Sending it again, alone or with others, will not help.
func RefusesRecord(err error) bool {
	return errors.Is(err, ErrTooLarge) || errors.Is(err, kafka.InvalidTimestamp) || errors.Is(err, kafka.InvalidRecord)
}

// lost reports whether err leaves the effect of a request unknown: no answer came, or the broker itself does
// not know.
func lost(err error) bool {
	var code kafka.Error // checked first: a kafka.Error is a net.Error, too, but most codes are definite answers
	if errors.As(err, &code) {
		return code == kafka.RequestTimedOut || code == kafka.NetworkException
	}
	var network net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &network)
}

// check turns the error code of an answer into an error. more and args say what the request was about.
func check(code int16, more string, args ...any) error {
	if code == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(more, args...), kafka.Error(code))
}

// mostSevere picks the error that decides the action when several partitions of one request failed.
func mostSevere(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	rank := func(err error) int {
		// A fenced producer must not retry, and a partition that may be retried must not hide a lost one.
		return slices.Index([]action{retry, restart, fatal, fenced}, actionFor(err))
	}
	return slices.MaxFunc(errs, func(a, b error) int { return rank(a) - rank(b) })
}

// unreachable adds ErrUnreachable and the brokers' addresses to an error that means that no connection was
// made.
func unreachable(brokers []string, err error) error {
	var op *net.OpError
	var dns *net.DNSError
	if errors.Is(err, ErrUnreachable) || !(errors.As(err, &dns) || errors.As(err, &op) && op.Op == "dial") {
		return err
	}
	return fmt.Errorf("%w at %s: %w", ErrUnreachable, strings.Join(brokers, ","), err)
}
