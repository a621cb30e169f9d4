package index_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"hardneg/index"
	"hardneg/internal/embedded/fault"
	embedded "hardneg/internal/embedded/qdrant"

	"github.com/qdrant/go-client/qdrant"
	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// startWithFaults starts an embedded server whose calls fail as the plan says.
func startWithFaults(t testing.TB, plan *fault.Plan) index.Config {
	t.Helper()
	server, err := embedded.Start(embedded.Config{Address: "127.0.0.1:0", Dir: t.TempDir(), Log: zerolog.Nop(), Faults: plan})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return index.Config{Address: server.Addr(), ExactBelow: 1 << 30, Log: zerolog.Nop()}
}

// passing lists the faults that pass, so that the client repeats the call.
var passing = []struct {
	name  string
	fault fault.Fault
}{
	{"late", fault.Fault{Delay: 50 * time.Millisecond}},
	{"answered late", fault.Fault{Delay: 50 * time.Millisecond, After: true}},
	{"unavailable", fault.Fault{Err: status.Error(codes.Unavailable, "restarting")}},
	{"unavailable after", fault.Fault{Err: status.Error(codes.Unavailable, "restarting"), After: true}},
	{"internal", fault.Fault{Err: status.Error(codes.Internal, "service internal error: shard is loading")}},
	{"internal after", fault.Fault{Err: status.Error(codes.Internal, "service internal error: disk"), After: true}},
	{"precondition", fault.Fault{Err: status.Error(codes.FailedPrecondition, "replica is not active")}},
	{"aborted", fault.Fault{Err: status.Error(codes.Aborted, "shard transfer")}},
	{"cancelled", fault.Fault{Err: status.Error(codes.Canceled, "cancelled by the server")}},
	{"too late", fault.Fault{Err: status.Error(codes.DeadlineExceeded, "too late")}},
	{"too late after", fault.Fault{Err: status.Error(codes.DeadlineExceeded, "too late"), After: true}},
	{"busy", fault.Fault{Err: embedded.Busy(0)}},
	{"wait timeout", fault.Fault{Err: embedded.ErrWaitTimeout}},
	{"wait timeout after", fault.Fault{Err: embedded.ErrWaitTimeout, After: true}},
	{"cut", fault.Fault{Cut: true}},
	{"cut after", fault.Fault{Cut: true, After: true}},
}

// TestEachCallSurvivesEachFault makes each call of the index fail with each fault that passes. The result
// must be right in the end.
func TestEachCallSurvivesEachFault(t *testing.T) {
	plan := fault.New(1)
	x, r := open(t, startWithFaults(t, plan)), random(t)
	var docs []index.Document
	var states []index.State
	var ids []string
	for i := range 20 {
		docs = append(docs, document(r, fmt.Sprintf("d%02d", i), 0, int64(i)))
		s := state(r, fmt.Sprintf("q%02d", i), 1)
		s.Watch = []string{docs[i].ID}
		states, ids = append(states, s), append(ids, docs[i].ID)
	}
	write(t, x, 0, 20, docs...)
	if err := x.WriteStates(t.Context(), states, 1); err != nil {
		t.Fatal(err)
	}
	written := 0
	type made func(ctx context.Context) (any, error)
	for _, test := range []struct {
		name, call string
		make       made
	}{
		{"Documents", "Points/Get", func(ctx context.Context) (any, error) { return x.Documents(ctx, ids, index.WithVector) }},
		{"States", "Points/Get", func(ctx context.Context) (any, error) { return x.States(ctx, []string{"q03", "q07", "none"}) }},
		{"Search", "Points/QueryBatch", func(ctx context.Context) (any, error) { return x.Search(ctx, [][]float32{docs[0].Vector}, 5) }},
		{"Rank", "Points/QueryBatch", func(ctx context.Context) (any, error) { return x.Rank(ctx, [][]float32{docs[0].Vector}, 30) }},
		{"Watching", "Points/Scroll", func(ctx context.Context) (any, error) { return x.Watching(ctx, ids[:3]) }},
		{"Entering", "Points/QueryBatch", func(ctx context.Context) (any, error) { return x.Entering(ctx, [][]float32{docs[1].Vector}) }},
		{"Known", "Points/Scroll", func(ctx context.Context) (any, error) {
			known, next, err := x.Known(ctx, "", 100, "")
			return []any{known, next}, err
		}},
		{"Counts", "Points/Count", func(ctx context.Context) (any, error) {
			documents, queries, err := x.Counts(ctx)
			return []uint64{documents, queries}, err
		}},
		{"WriteDocuments", "Points/Upsert", func(ctx context.Context) (any, error) {
			written++
			d := document(r, "written", 1, int64(written))
			if err := x.WriteDocuments(ctx, []index.Document{d}, 1, d.Offset); err != nil {
				return nil, err
			}
			got, err := x.Documents(ctx, []string{d.ID}, 0)
			return got[d.ID].Hash == d.Hash, err
		}},
		{"WriteStates", "Points/Upsert", func(ctx context.Context) (any, error) {
			written++
			s := state(r, "written", int64(written))
			if err := x.WriteStates(ctx, []index.State{s}, s.Token); err != nil {
				return nil, err
			}
			got, err := x.States(ctx, []string{s.QueryID})
			return got[s.QueryID].Token == s.Token, err
		}},
	} {
		if test.name == "Counts" { // the writes of this test change the counts
			written = 0
		}
		want, err := test.make(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, way := range passing {
			t.Run(test.name+" "+way.name, func(t *testing.T) {
				before := plan.Hits()[test.call]
				plan.Set(fault.Rule{Calls: []string{test.call}, Times: 1, Fault: way.fault})
				defer plan.Set()
				if got, err := test.make(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%+v, %v, want %+v", got, err, want)
				}
				if hits := plan.Hits()[test.call] - before; hits == 0 {
					t.Errorf("the fault was not injected")
				}
			})
		}
	}
}

// TestOpenSurvivesEachFault creates collections, field indexes and aliases while each of those calls fails in
// each way.
func TestOpenSurvivesEachFault(t *testing.T) {
	for _, call := range []string{"Collections/Create", "Collections/Get", "Collections/UpdateAliases", "Collections/ListAliases", "Points/CreateFieldIndex"} {
		for _, way := range passing {
			t.Run(strings.ReplaceAll(call, "/", ".")+" "+way.name, func(t *testing.T) {
				plan := fault.New(1)
				config := startWithFaults(t, plan)
				plan.Set(fault.Rule{Calls: []string{call}, Times: 1, Fault: way.fault})
				x, r := open(t, config), random(t)
				if plan.Hits()[call] == 0 {
					t.Error("the fault was not injected")
				}
				d := document(r, "a", 0, 1)
				write(t, x, 0, 1, d)
				if hits, err := x.Search(t.Context(), [][]float32{d.Vector}, 1); err != nil || len(hits[0].Documents) != 1 {
					t.Errorf("%v, %v", hits, err)
				}
				checkIndexes(t, config)
			})
		}
	}
}

// TestRetryAfter: the server says how long to wait. The client waits that long, or gives up at once if that
// is too long.
func TestRetryAfter(t *testing.T) {
	plan := fault.New(1)
	config := startWithFaults(t, plan)
	x := open(t, config)
	var arrived []time.Time
	note := func(any) bool { arrived = append(arrived, time.Now()); return true }
	plan.Set(fault.Rule{Calls: []string{"Points/Get"}, When: note, Times: 1, Fault: fault.Fault{Err: embedded.Busy(time.Second)}},
		fault.Rule{Calls: []string{"Points/Get"}, When: note})
	if _, err := x.Documents(t.Context(), []string{"a"}, 0); err != nil {
		t.Fatal(err)
	}
	if len(arrived) != 2 || arrived[1].Sub(arrived[0]) < time.Second {
		t.Errorf("calls at %v, want two at least a second apart", arrived)
	}
	plan.Set(fault.Rule{Calls: []string{"Points/Get"}, Fault: fault.Fault{Err: embedded.Busy(time.Minute)}})
	calls := plan.Calls()["Points/Get"]
	if _, err := x.Documents(t.Context(), []string{"a"}, 0); !errors.Is(err, index.ErrUnavailable) || !strings.Contains(err.Error(), "retry after 60 seconds") {
		t.Errorf("a minute is longer than a call tries: %v", err)
	}
	if n := plan.Calls()["Points/Get"] - calls; n != 1 {
		t.Errorf("%d calls", n)
	}
}

// TestWaiting: before a call is repeated, Config.Waiting gets the context of the call.
func TestWaiting(t *testing.T) {
	plan := fault.New(1)
	config := startWithFaults(t, plan)
	type key struct{}
	var told []any
	config.Waiting = func(ctx context.Context) { told = append(told, ctx.Value(key{})) }
	x := open(t, config)
	plan.Set(fault.Rule{Calls: []string{"Points/Get"}, Times: 2, Fault: fault.Fault{Err: embedded.Busy(0)}})
	if _, err := x.Documents(context.WithValue(t.Context(), key{}, "mine"), []string{"a"}, 0); err != nil || !reflect.DeepEqual(told, []any{"mine", "mine"}) {
		t.Errorf("told %v, %v", told, err)
	}
}

// TestSearchesIgnoreQuantization: every search asks for the vectors themselves, for somebody may quantize a collection.
func TestSearchesIgnoreQuantization(t *testing.T) {
	plan := fault.New(1)
	x, r := open(t, startWithFaults(t, plan)), random(t)
	write(t, x, 0, 1, document(r, "d", 0, 0))
	searches := 0
	plan.Set(fault.Rule{When: func(request any) bool {
		if batch, ok := request.(*qdrant.QueryBatchPoints); ok {
			for _, q := range batch.GetQueryPoints() {
				if searches++; !q.GetParams().GetQuantization().GetIgnore() {
					t.Errorf("a search has the parameters %v", q.GetParams())
				}
			}
		}
		return false
	}})
	query := [][]float32{unit(r, dimensions)}
	for _, y := range []*index.Index{x, x.Exact()} {
		if _, err := y.Search(t.Context(), query, 3); err != nil {
			t.Fatal(err)
		}
		if _, err := y.Rank(t.Context(), query, 3); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.Entering(t.Context(), query); err != nil {
		t.Fatal(err)
	}
	if searches != 5 {
		t.Errorf("%d searches were seen, want 5", searches)
	}
}
