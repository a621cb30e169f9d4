package stream

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"hardneg/internal/embedded/fault"
	embedded "hardneg/internal/embedded/kafka"
)

// faultyBroker starts a separate embedded broker whose calls fail as the plan says.
func faultyBroker(t *testing.T, plan *fault.Plan) *Client {
	t.Helper()
	server, err := embedded.Start(embedded.Config{Address: "127.0.0.1:0", Dir: t.TempDir(), Log: zerolog.Nop(), Faults: plan})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return clientOf(t, server.Addr())
}

// outcome is how a stage reacts to a fault.
type outcome string

const (
	unnoticed outcome = "unnoticed" // it repeats the call
	restarted outcome = "restarted" // it begins again with a new epoch, token and Processor
	rejoined  outcome = "rejoined"  // it leaves the group and joins again
)

// faultyStage is a stage that copies records from in to out, on a broker whose calls fail as the plan says.
type faultyStage struct {
	*recorder
	t       *testing.T
	plan    *fault.Plan
	c       *Client
	in, out string
	n       int // number of records written to in

	triggerMu sync.Mutex
	trigger   error // what the Processor returns for the next batch
}

func newFaultyStage(t *testing.T) *faultyStage {
	f := &faultyStage{recorder: &recorder{t: t}, t: t, plan: fault.New(1)}
	f.c = faultyBroker(t, f.plan)
	f.in, f.out = testTopic(t, f.c, "in", 1), testTopic(t, f.c, "out", 2)
	s := stageOf(f.in, f.recorder, func(a Assignment) Processor {
		return processFunc(func(ctx context.Context, batch []Record) ([]Output, error) {
			f.triggerMu.Lock()
			trigger := f.trigger
			f.trigger = nil
			f.triggerMu.Unlock()
			if trigger != nil {
				return nil, trigger
			}
			return passOn(f.out)(a).Process(ctx, batch)
		})
	})
	s.SessionTimeout = 6 * time.Second // short, because some faults end its membership
	runStage(t, f.c, s)
	f.more(3)
	f.done()
	return f
}

// more writes n records to in.
func (f *faultyStage) more(n int) {
	f.t.Helper()
	if err := f.c.Produce(testContext(f.t), numbered(f.in, f.n, n)); err != nil {
		f.t.Fatal(err)
	}
	f.n += n
}

// done waits until all records of in are committed.
func (f *faultyStage) done() {
	f.t.Helper()
	eventually(f.t, "all is committed", func() bool {
		// If only the answer to a commit was lost, there is no Committed event; the next owner's Assigned
		// event shows it.
		return slices.ContainsFunc(append(f.all(Committed), f.all(Assigned)...), func(e Event) bool { return e.Offset >= int64(f.n) })
	})
}

// try makes one call fail and returns how the stage reacted. trigger is an error that makes the stage send
// the call, for calls that it does not send with every batch.
func (f *faultyStage) try(rule fault.Rule, trigger error) outcome {
	f.t.Helper()
	failed, fenced, hits := len(f.all(Failed)), len(f.all(Fenced)), f.plan.Hits()[rule.Calls[0]]
	f.triggerMu.Lock()
	f.trigger = trigger
	f.triggerMu.Unlock()
	f.plan.Set(rule)
	f.more(3)
	f.done()
	eventually(f.t, "the fault was injected", func() bool { return f.plan.Hits()[rule.Calls[0]] > hits })
	f.plan.Set()
	f.more(1) // once this is committed, the events of the fault have been observed
	f.done()
	for _, e := range f.all(Failed)[failed:] {
		if !errors.Is(e.Err, trigger) {
			f.t.Log(e.Err)
			return restarted
		}
	}
	for _, e := range f.all(Fenced)[fenced:] {
		if !errors.Is(e.Err, trigger) {
			f.t.Log(e.Err)
			return rejoined
		}
	}
	return unnoticed
}

// exactlyOnce checks that out has each record once.
func (f *faultyStage) exactlyOnce() {
	f.t.Helper()
	if d := diff(numbers(f.n), valuesOf(fetchAll(f.t, f.c, f.out))); d != "" {
		f.t.Errorf("%s: %s", f.out, d)
	}
	tokensGrow(f.t, f.recorder)
	f.t.Logf("faults by call: %v", f.plan.Hits())
}

// Each call of a transaction fails in each way, once before and once after it took effect.
func TestEachCallSurvivesEachFault(t *testing.T) {
	f := newFaultyStage(t)
	trigger := errors.New("poked")
	transactional := func(request any) bool {
		switch r := request.(type) {
		case *kmsg.ProduceRequest:
			return r.TransactionID != nil
		case *kmsg.InitProducerIDRequest:
			return r.TransactionalID != nil
		}
		return true
	}
	calls := []struct {
		name    string
		read    bool  // a read, which may be repeated in every case
		trigger error // not nil: the stage sends the call only when an assignment begins
	}{
		{"InitProducerID", true, trigger},
		{"OffsetFetch", true, trigger},
		{"ListOffsets", true, trigger},
		{"Fetch", true, nil},
		{"AddPartitionsToTxn", false, nil},
		{"Produce", false, nil},
		{"AddOffsetsToTxn", false, nil},
		{"TxnOffsetCommit", false, nil},
		{"EndTxn", false, nil},
	}
	byCode := func(code *kerr.Error) outcome {
		return map[action]outcome{retry: unnoticed, restart: restarted, fenced: rejoined}[actions[kafka.Error(code.Code)]]
	}
	for _, call := range calls {
		lost := restarted
		if call.read {
			lost = unnoticed
		}
		type way struct {
			name  string
			fault fault.Fault
			want  outcome
		}
		ways := []way{
			{"late", fault.Fault{Delay: 100 * time.Millisecond}, unnoticed},
			{"answered late", fault.Fault{Delay: 100 * time.Millisecond, After: true}, unnoticed},
			{"cut before", fault.Fault{Cut: true}, lost},
			{"cut after", fault.Fault{Cut: true, After: true}, lost},
			{"timed out", fault.Fault{Err: kerr.RequestTimedOut}, lost},
			{"timed out after", fault.Fault{Err: kerr.RequestTimedOut, After: true}, lost},
		}
		for _, code := range []*kerr.Error{
			kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.ConcurrentTransactions, kerr.NotLeaderForPartition,
			kerr.UnstableOffsetCommit, kerr.UnknownServerError, kerr.InvalidProducerEpoch, kerr.ProducerFenced,
		} {
			want := byCode(code)
			if call.name == "ListOffsets" && code == kerr.UnknownServerError {
				want = unnoticed // kafka-go turns a failed exchange into this code, which is retried
			}
			ways = append(ways, way{code.Message, fault.Fault{Err: code}, want})
		}
		for _, way := range ways {
			t.Run(call.name+" "+way.name, func(t *testing.T) {
				f.t = t
				got := f.try(fault.Rule{Calls: []string{call.name}, When: transactional, Times: 1, Fault: way.fault}, call.trigger)
				if got != way.want {
					t.Errorf("%s, want %s", got, way.want)
				}
			})
		}
	}
	f.t = t
	f.exactlyOnce()
}

// Requests for metadata, coordinators and group membership fail, too. kafka-go decides what happens then. No
// record may be lost or come out twice.
func TestGroupCallsSurviveFaults(t *testing.T) {
	for _, test := range []struct {
		call, name string
		fault      fault.Fault
	}{
		{"FindCoordinator", "cut", fault.Fault{Cut: true}},
		{"JoinGroup", "late", fault.Fault{Delay: 200 * time.Millisecond}},
		{"JoinGroup", "answer cut", fault.Fault{Cut: true, After: true}},
		{"JoinGroup", "loading", fault.Fault{Err: kerr.CoordinatorLoadInProgress}},
		{"SyncGroup", "answer cut", fault.Fault{Cut: true, After: true}},
		{"SyncGroup", "moved", fault.Fault{Err: kerr.NotCoordinator}},
		{"Metadata", "cut", fault.Fault{Cut: true}},
		{"ApiVersions", "cut", fault.Fault{Cut: true}},
	} {
		t.Run(test.call+" "+test.name, func(t *testing.T) {
			t.Parallel()
			f := newFaultyStage(t)
			f.try(fault.Rule{Calls: []string{test.call}, Times: 1, Fault: test.fault}, ErrFenced)
			f.exactlyOnce()
		})
	}
}
