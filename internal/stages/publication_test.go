package stages

import (
	"reflect"
	"testing"

	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/testenv"
	"hardneg/stream"
)

// TestReportsMalformed checks which generation sends the dead letter of a malformed record.
func TestReportsMalformed(t *testing.T) {
	s := NewSuccessor(map[string]map[int32]int64{catalog.StageIndexer: {0: 5, 1: 0}}, nil)
	for _, test := range []struct {
		stage     string
		partition int32
		offset    int64
		want      bool
	}{
		{catalog.StageIndexer, 0, 4, false}, // the previous generation has read it
		{catalog.StageIndexer, 0, 5, true},
		{catalog.StageIndexer, 1, 0, true},
		{catalog.StageIndexer, 2, 0, true}, // a new partition
		{catalog.StageIntake, 0, 4, true},  // a stage that had not begun
	} {
		r := stream.Record{Partition: test.partition, Offset: test.offset}
		if got := s.ReportsMalformed(test.stage, r); got != test.want {
			t.Errorf("%+v: the successor reports it: %v", test, got)
		}
		if !(Live{}).ReportsMalformed(test.stage, r) || (Shadow{}).ReportsMalformed(test.stage, r) {
			t.Errorf("%+v: the live generation must report it, and a shadow must not", test)
		}
	}
	if !s.Publishes() || !(Live{}).Publishes() || (Shadow{}).Publishes() {
		t.Error("all but a shadow publish")
	}
}

// TestInherited asks a successor for the triplets of the previous generation: while that generation exists,
// after it was erased, and after everything was published.
func TestInherited(t *testing.T) {
	client := testenv.Qdrant(t, zerolog.Nop(), nil)
	create := func(generation string) *index.Index {
		t.Helper()
		x, err := client.Create(t.Context(), generation, 2)
		if err != nil {
			t.Fatal(err)
		}
		state := index.State{QueryID: "q", Text: "t", Vector: []float32{1, 0}, Token: 1, Revision: 3, Published: map[string]int{"d": 2}}
		if err := x.WriteStates(t.Context(), []index.State{state}, 1); err != nil {
			t.Fatal(err)
		}
		return x
	}
	inherited := func(p Publication, want map[string]index.Published) {
		t.Helper()
		got, err := p.Inherited(t.Context(), []string{"q", "unknown"})
		if err != nil || len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
	}
	inherited(Live{}, nil)
	inherited(Shadow{}, nil)
	inherited(NewSuccessor(nil, nil), nil)

	const first, second = "0000000000000001", "0000000000000002"
	want := map[string]index.Published{"q": {QueryID: "q", Ranks: map[string]int{"d": 2}, Revision: 3}}
	erased := NewSuccessor(nil, create(first))
	inherited(erased, want)
	if err := client.Drop(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	inherited(erased, nil)
	if erased.Previous() != nil {
		t.Error("the successor still wants to retract triplets of a generation that was erased")
	}

	complete := NewSuccessor(nil, create(second))
	inherited(complete, want)
	complete.DropPrevious()
	inherited(complete, nil)
}
