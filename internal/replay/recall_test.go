package replay

import (
	"fmt"
	"reflect"
	"strconv"
	"testing"

	"hardneg/index"
	"hardneg/internal/pipelinetest"
	"hardneg/mining"
)

// TestRecall searches through the cache and directly, while documents are written in between. Both must find
// the same. It runs once with room for all documents and once with room for a few.
func TestRecall(t *testing.T) {
	t.Parallel()
	for _, most := range []int{mostRecalled, 7} {
		t.Run(strconv.Itoa(most), func(t *testing.T) { testRecall(t, most) })
	}
}

func testRecall(t *testing.T, most int) {
	w := pipelinetest.New(t, 19)
	x, err := w.Index.Create(t.Context(), "0000000000000001", pipelinetest.Dimensions)
	if err != nil {
		t.Fatal(err)
	}
	offset := int64(0)
	write := func(i int, deleted bool) {
		offset++
		d := index.Document{Document: mining.Document{ID: "d" + strconv.Itoa(i), Hash: fmt.Sprint("h", offset), Vector: w.Random()}, Offset: offset}
		if deleted {
			d = index.Document{Document: mining.Document{ID: d.ID}, Offset: offset, Deleted: true}
		}
		if err := x.WriteDocuments(t.Context(), []index.Document{d}, 0, offset); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 40 {
		write(i, false)
	}
	r := newRecall(x)
	r.most = most
	for round := range 30 {
		queries := [][]float32{w.Random(), w.Random(), w.Random()}
		limit := 1 + w.Rng.IntN(50)
		got, err := r.Search(t.Context(), queries, limit)
		if err != nil {
			t.Fatal(err)
		}
		want, err := x.Search(t.Context(), queries, limit)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("round %d, limit %d: got %v, want %v", round, limit, got, want)
		}
		for range 3 {
			write(w.Rng.IntN(45), w.Rng.IntN(4) == 0)
		}
	}
	if len(r.kept) > most || len(r.kept) < min(most, 40) {
		t.Errorf("%d documents are kept", len(r.kept))
	}
}
