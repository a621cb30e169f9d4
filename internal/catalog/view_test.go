package catalog

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"hardneg/internal/config"
	"hardneg/internal/testenv"
	"hardneg/stream"
)

// newConn returns a connection to embedded servers with the topics of a view, and no generation.
func newConn(t *testing.T) Conn {
	t.Helper()
	kafka, _ := testenv.Kafka(t, zerolog.Nop(), nil)
	c := Conn{Config: config.Default(), Kafka: kafka, Index: testenv.Qdrant(t, zerolog.Nop(), nil), Log: zerolog.Nop()}
	if err := EnsureTopics(t.Context(), kafka, c.Config, ""); err != nil {
		t.Fatal(err)
	}
	return c
}

// produce writes one record.
func produce(t *testing.T, kafka *stream.Client, topic string, partition int32, key, value string) {
	t.Helper()
	if err := kafka.Produce(t.Context(), []stream.Output{{Topic: topic, Partition: partition, Key: []byte(key), Value: []byte(value)}}); err != nil {
		t.Fatal(err)
	}
}

func TestNamesOf(t *testing.T) {
	cfg := config.Default()
	cfg.Name, cfg.Topics.Refresh = "shop", "shop.refresh"
	for generation, want := range map[string]struct{ group, refresh, model string }{
		"":                                {"shop-miner", "shop.refresh", ""},
		"0123456789abcdef":                {"shop-miner", "shop.refresh", "0123456789abcdef"},
		"0123456789abcdef-1700000000000":  {"shop-0123456789abcdef-1700000000000-miner", "shop.refresh-0123456789abcdef-1700000000000", "0123456789abcdef"},
		"0123456789abcdef-1700000000000x": {"shop-0123456789abcdef-1700000000000x-miner", "shop.refresh-0123456789abcdef-1700000000000x", "0123456789abcdef"},
	} {
		n := NamesOf(cfg, generation)
		if n.Group(StageMiner) != want.group || n.TransactionalPrefix(StageMiner) != want.group || n.Input(StageMiner) != want.refresh || ModelOf(generation) != want.model {
			t.Errorf("generation %q has group %s, input %s and model %s, want %v", generation, n.Group(StageMiner), n.Input(StageMiner), ModelOf(generation), want)
		}
		if n.Input(StageIndexer) != cfg.Topics.Documents || n.Input(StageIntake) != cfg.Topics.Queries {
			t.Errorf("generation %q reads %s and %s", generation, n.Input(StageIndexer), n.Input(StageIntake))
		}
	}
	if cfg.Topics.Refresh != "shop.refresh" {
		t.Errorf("NamesOf has changed the configuration: %s", cfg.Topics.Refresh)
	}
}

// TestBehind counts what a stage still has to read, for different ends and commits.
func TestBehind(t *testing.T) {
	c := newConn(t)
	names := NamesOf(c.Config, "")
	for i := range 5 {
		produce(t, c.Kafka, c.Config.Topics.Queries, 0, fmt.Sprint(i), "{}")
	}
	produce(t, c.Kafka, c.Config.Topics.Queries, 1, "5", "{}")
	if err := c.Kafka.DeleteRecords(t.Context(), c.Config.Topics.Queries, 0, 1); err != nil {
		t.Fatal(err)
	}
	offsets, err := c.Kafka.Offsets(t.Context(), c.Config.Topics.Queries)
	if err != nil {
		t.Fatal(err)
	}
	behind := func(what string, ends []End, want int64) {
		t.Helper()
		if got, err := names.Behind(t.Context(), c.Kafka, StageIntake, ends); err != nil || got != want {
			t.Errorf("%s: %d behind, %v, want %d", what, got, err, want)
		}
	}
	behind("nothing committed, one record deleted", StableEnds(offsets), 5)
	behind("nothing committed, ends without a start", EndsAt(map[int32]int64{0: 5, 1: 1}), 6)
	behind("no ends", EndsAt(nil), 0)
	if err := c.Kafka.CommitOffsets(t.Context(), names.Group(StageIntake), c.Config.Topics.Queries, map[int32]int64{0: 3}); err != nil {
		t.Fatal(err)
	}
	behind("one partition committed", WrittenEnds(offsets), 3)
	behind("ends before what is committed", EndsAt(map[int32]int64{0: 2}), 0)

	stop := errors.New("stop")
	var reported int64
	err = names.Await(t.Context(), c.Kafka, StageIntake, StableEnds(offsets), 0, func(behind int64) error {
		reported = behind
		return stop
	})
	if !errors.Is(err, stop) || reported != 3 {
		t.Errorf("the wait ended with %v, after a report of %d", err, reported)
	}
	if err := names.Await(t.Context(), c.Kafka, StageIntake, EndsAt(map[int32]int64{0: 3}), 0, nil); err != nil {
		t.Errorf("the wait for a stage that is not behind: %v", err)
	}
}

// TestKeepPartitions checks that a view keeps the numbers of partitions that it began with.
func TestKeepPartitions(t *testing.T) {
	c := newConn(t)
	stored := func() (values []string) {
		t.Helper()
		err := c.Kafka.ReadToEnd(t.Context(), c.Config.Topics.Models, func(r stream.Record) error {
			values = append(values, string(r.Key)+" "+string(r.Value))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return values
	}
	keep := func(live Live) error { return KeepPartitions(t.Context(), c.Kafka, c.Config, live) }
	n := c.Config.Topics.Partitions
	for range 2 { // the second time it stores nothing
		if err := keep(Live{}); err != nil {
			t.Fatal(err)
		}
		if got, want := stored(), []string{fmt.Sprintf(`partitions {"hardneg.refresh":%d,"triplets":%d}`, n, n)}; !slices.Equal(got, want) {
			t.Fatalf("the models topic holds %q, want %q", got, want)
		}
	}
	produce(t, c.Kafka, c.Config.Topics.Models, 0, "partitions", `{"hardneg.refresh":99}`)
	if err := keep(Live{}); err != nil {
		t.Errorf("a later record counts: %v", err)
	}
	const rebuilt = "0123456789abcdef-17"
	if err := EnsureTopics(t.Context(), c.Kafka, c.Config, rebuilt); err != nil {
		t.Fatal(err)
	}
	if err := keep(Live{rebuilt, &Generation{ID: rebuilt, Partitions: n}}); err != nil {
		t.Errorf("a generation that rebuild made: %v", err)
	}
	err := keep(Live{rebuilt, &Generation{ID: rebuilt, Partitions: n + 1}})
	if want := fmt.Sprintf("topic hardneg.refresh-%s has %d partitions, but the view began with %d: ", rebuilt, n, n+1); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("a generation that began with other partitions: %v, want %s", err, want)
	}
	c.Config.Topics.Triplets = "other-triplets"
	if err := c.Kafka.EnsureTopics(t.Context(), stream.Topic{Name: "other-triplets", Partitions: 1, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	if err := keep(Live{}); err != nil {
		t.Errorf("a triplets topic that the view did not begin with: %v", err)
	}
}

func TestSample(t *testing.T) {
	var ids []string
	for i := range 100 {
		ids = append(ids, fmt.Sprintf("q%02d", i))
	}
	for _, n := range []int{0, 100, 1000} {
		if got := Sample(ids, n, 1); !slices.Equal(got, ids) {
			t.Errorf("a sample of %d queries out of 100 has %d: %q", n, len(got), got)
		}
	}
	a := Sample(ids, 30, 1)
	if len(slices.Compact(slices.Clone(a))) != 30 || !slices.IsSorted(a) {
		t.Errorf("a sample of 30 is %q", a)
	}
	if !slices.Equal(a, Sample(ids, 30, 1)) || slices.Equal(a, Sample(ids, 30, 2)) {
		t.Error("the sample does not follow from the seed")
	}
	if got := Sample(nil, 5, 1); len(got) != 0 {
		t.Errorf("a sample of nothing is %q", got)
	}
}

// TestOpen opens a view before it has a generation, with rules in every form that the models topic may hold,
// and after another generation was promoted.
func TestOpen(t *testing.T) {
	c := newConn(t)
	c.Config.Qdrant.Address, c.Config.Qdrant.Prefix = "10.0.0.1:6334", "shop-"
	const noViewText = `qdrant at 10.0.0.1:6334 has no collections with the prefix "shop-": is the service still waiting for documents or fitting its model (its log says so), or is qdrant.prefix another?`
	if v, err := c.Open(t.Context()); v != nil || !errors.Is(err, ErrNoView) || err.Error() != noViewText {
		t.Errorf("without a generation: %v, %v, want\n%s", v, err, noViewText)
	}
	const first = "0123456789abcdef"
	if _, err := c.Index.Open(t.Context(), first, 4); err != nil {
		t.Fatal(err)
	}
	open := func() *View {
		t.Helper()
		v, err := c.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if v.Generation != first || v.Record != nil || v.Publishing() || v.Collections.Generation() != first || v.Names != NamesOf(c.Config, first) {
			t.Errorf("opened %+v", v)
		}
		return v
	}
	own := RulesOf(c.Config)
	if got := open().Rules; string(got.Encode()) != string(own.Encode()) {
		t.Errorf("without published rules: %s, want the configured ones", got.Encode())
	}
	produce(t, c.Kafka, c.Config.Topics.Models, 0, "rules", `{"fingerprint":"f","min_weight":7,"mining":{}}`)
	v := open()
	if r := v.Rules; r.Fingerprint != "f" || r.MinWeight != 7 || len(r.Mining.Tiers) != 0 || r.MaxText != own.MaxText || *r.Evidence != *own.Evidence {
		t.Errorf("rules of an earlier version are completed to %s", r.Encode())
	}
	published := own
	published.MaxText, published.Evidence = own.MaxText+1, &Weights{PositiveWeight: 9}
	if err := published.Publish(t.Context(), c.Kafka, c.Config.Topics.Models); err != nil {
		t.Fatal(err)
	}
	if r := open().Rules; string(r.Encode()) != string(published.Encode()) {
		t.Errorf("rules %s, want those that were published last", r.Encode())
	}

	if err := v.StillLive(t.Context(), "audit"); err != nil {
		t.Error(err)
	}
	const second = first + "-17"
	next, err := c.Index.Create(t.Context(), second, 4)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Index.Promote(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	want := "generation " + second + " was promoted during the audit of " + first + ": begin again"
	if err := v.StillLive(t.Context(), "audit"); err == nil || err.Error() != want {
		t.Errorf("after a promotion: %v, want %s", err, want)
	}
}

// TestUnfinished checks which generation a rebuild goes on with.
func TestUnfinished(t *testing.T) {
	known := map[string]*Generation{
		"live": {ID: "live", Phase: PhaseBuilding}, "before": {ID: "before", Phase: PhaseLive},
	}
	if got := Unfinished(known, "live"); got != nil {
		t.Errorf("%+v is unfinished", got)
	}
	known["second"] = &Generation{ID: "second", Phase: PhaseSeeding}
	known["first"] = &Generation{ID: "first", Phase: PhaseStarting}
	known["second"].StartedAt = known["first"].StartedAt.Add(1)
	for range 10 { // in any order of the map
		if got := Unfinished(maps.Clone(known), "live"); got == nil || got.ID != "first" {
			t.Errorf("%+v is unfinished, want the first", got)
		}
	}
}
