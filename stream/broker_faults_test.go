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

// faultyBroker starts an embedded broker of its own whose calls fail by the plan.
func faultyBroker(t *testing.T, plan *fault.Plan) *Client {
	t.Helper()
	server, err := embedded.Start(embedded.Config{Address: "127.0.0.1:0", Dir: t.TempDir(), Log: zerolog.Nop(), Faults: plan})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return clientOf(t, server.Addr())
}

// outcome is what a stage makes of a fault.
type outcome string

const (
	unnoticed outcome = "unnoticed" // the call is repeated
	restarted outcome = "restarted" // a new epoch, token and Processor
	rejoined  outcome = "rejoined"  // the instance leaves the group and joins again
)

// faultyStage is a stage that passes records on, on a broker that fails by the plan.
type faultyStage struct {
	*recorder
	t       *testing.T
	plan    *fault.Plan
	c       *Client
	in, out string
	n       int // records that went in

	triggerMu sync.Mutex
	trigger   error // of the next batch
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
	s.SessionTimeout = 6 * time.Second // some faults cost it its membership
	runStage(t, f.c, s)
	f.more(3)
	f.done()
	return f
}

// more sends n records in.
func (f *faultyStage) more(n int) {
	f.t.Helper()
	if err := f.c.Produce(testContext(f.t), numbered(f.in, f.n, n)); err != nil {
		f.t.Fatal(err)
	}
	f.n += n
}

// done waits until all that went in is committed.
func (f *faultyStage) done() {
	f.t.Helper()
	eventually(f.t, "all is committed", func() bool {
		// Where only the answer to a commit was lost, the next owner says it.
		return slices.ContainsFunc(append(f.all(Committed), f.all(Assigned)...), func(e Event) bool { return e.Offset >= int64(f.n) })
	})
}

// try has one call fail, and tells what came of it. Trigger is the error that has the stage make the call, if it does not
// anyway.
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
	f.more(1) // whoever commits this has told of the fault before
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

// exactlyOnce checks what came out.
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
		read    bool  // may be repeated whatever happened
		trigger error // the call comes with a new assignment alone
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
				want = unnoticed // by this code kafka-go tells of an exchange that failed
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

// What joins a group and finds the way fails, too. kafka-go decides what it does then; no record may be lost or doubled.
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
