package pipeline_test

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hardneg/internal/embedded/fault"
	embeddedqdrant "hardneg/internal/embedded/qdrant"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/testenv"
)

var faultsFor = flag.Duration("faults-for", 8*time.Second, "how long TestViewConvergesUnderFaults goes on beginning rounds")

// kafkaFaults hits each step of a transaction, before and after its effect. It also hits reads and, more
// rarely, requests of the consumer group.
func kafkaFaults() []fault.Rule {
	steps := []string{"AddPartitionsToTxn", "Produce", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn", "InitProducerID"}
	stages := func(request any) bool { // the stages send these requests; the test's producer sends others
		switch r := request.(type) {
		case *kmsg.ProduceRequest:
			return r.TransactionID != nil
		case *kmsg.InitProducerIDRequest:
			return r.TransactionalID != nil
		}
		return true
	}
	var rules []fault.Rule
	for _, f := range []fault.Fault{
		{Cut: true}, {Cut: true, After: true}, {Err: kerr.RequestTimedOut, After: true}, {Err: kerr.UnknownServerError},
		{Err: kerr.NotCoordinator}, {Err: kerr.CoordinatorLoadInProgress}, {Err: kerr.ConcurrentTransactions}, {Err: kerr.NotLeaderForPartition},
		{Delay: 30 * time.Millisecond}, {Delay: 30 * time.Millisecond, After: true},
	} {
		rules = append(rules, fault.Rule{Calls: steps, When: stages, Rate: 0.005, Fault: f})
	}
	return append(rules,
		fault.Rule{Calls: steps, When: stages, Rate: 0.001, Fault: fault.Fault{Err: kerr.InvalidProducerEpoch}},
		fault.Rule{Calls: []string{"DeleteRecords"}, Rate: 0.2, Fault: fault.Fault{Cut: true, After: true}},
		fault.Rule{Calls: []string{"OffsetFetch"}, Rate: 0.05, Fault: fault.Fault{Err: kerr.UnstableOffsetCommit, After: true}},
		fault.Rule{Calls: []string{"Fetch"}, Rate: 0.01, Fault: fault.Fault{Err: kerr.NotLeaderForPartition}},
		fault.Rule{Calls: []string{"Fetch", "ListOffsets", "OffsetFetch", "Metadata"}, Rate: 0.01, Fault: fault.Fault{Cut: true, After: true}},
		fault.Rule{Calls: []string{"Heartbeat"}, Rate: 0.02, Fault: fault.Fault{Err: kerr.RebalanceInProgress}})
}

// qdrantFaults hits reads and writes, before and after their effect. The client does not repeat a call after
// the error Unknown.
func qdrantFaults() []fault.Rule {
	var rules []fault.Rule
	for _, f := range []fault.Fault{
		{Cut: true}, {Cut: true, After: true}, {Err: status.Error(codes.Unavailable, "restarting")}, {Err: status.Error(codes.DeadlineExceeded, "late"), After: true},
		{Err: embeddedqdrant.Busy(0)}, {Err: embeddedqdrant.ErrWaitTimeout}, {Err: embeddedqdrant.ErrWaitTimeout, After: true},
		{Err: status.Error(codes.Internal, "disk")}, {Err: status.Error(codes.Internal, "disk"), After: true},
		{Err: status.Error(codes.Unknown, "what")}, {Err: status.Error(codes.Unknown, "what"), After: true}, {Delay: 20 * time.Millisecond, After: true},
	} {
		rules = append(rules, fault.Rule{Rate: 0.004, Fault: f})
	}
	return rules
}

// TestViewConvergesUnderFaults runs instances that come, go and overlap while every call to both servers
// fails now and then, before or after its effect. Whenever the servers are well again, the view must become
// what a batch job computes.
func TestViewConvergesUnderFaults(t *testing.T) {
	seed := testenv.Seed(t)
	kafka, qdrant := fault.New(seed), fault.New(seed+1)
	w := pipelinetest.NewFaulty(t, seed, kafka, qdrant)
	w.Config.Topics.PurgeRefresh = 50 * time.Millisecond
	for range 40 {
		w.Step()
	}
	stop := w.Instance()
	w.Settle()
	w.Compare("after the first load")
	faults := func() (n int) {
		for _, hits := range []map[string]int{kafka.Hits(), qdrant.Hits()} {
			for _, k := range hits {
				n += k
			}
		}
		return n
	}
	rounds := 0
	for start := time.Now(); rounds == 0 || time.Since(start) < *faultsFor || rounds < 50 && (len(w.Want()) < 5 || faults() < 20); rounds++ {
		kafka.Set(kafkaFaults()...)
		qdrant.Set(qdrantFaults()...)
		for range 120 {
			w.Step()
			time.Sleep(time.Duration(w.Rng.IntN(15)) * time.Millisecond)
		}
		kafka.Set()
		qdrant.Set()
		if rounds%2 == 1 {
			second := w.Instance()
			stop()
			stop = second
		}
		w.Settle()
		w.Compare(fmt.Sprintf("after round %d", rounds))
	}
	stop()
	if len(w.Want()) < 5 {
		t.Fatal("the history ended nearly empty: nothing was tested")
	}
	offsets, err := w.Kafka.Offsets(t.Context(), w.Config.Topics.Refresh)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range offsets {
		if o.HighWatermark > 20 && o.Start < o.HighWatermark/2 {
			t.Errorf("partition %d of refresh has offsets from %d to %d: what is committed is not deleted", o.Partition, o.Start, o.HighWatermark)
		}
	}
	t.Logf("%d rounds; faults: %v, %v", rounds, kafka.Hits(), qdrant.Hits())
	if faults() < 20 {
		t.Errorf("%d faults in %d rounds prove little", faults(), rounds)
	}
}
