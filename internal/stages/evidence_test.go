package stages

import (
	"fmt"
	"maps"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hardneg/index"
	"hardneg/internal/catalog"
	"hardneg/internal/records"
	"hardneg/stream"
)

// history draws the log of one query in three partitions: evidence and forgets. Timestamps are random, so
// they need not ascend with the offsets.
func history(t *rapid.T) [][]records.Refresh {
	log := make([][]records.Refresh, 3)
	for range rapid.IntRange(0, 25).Draw(t, "records") {
		partition := rapid.IntRange(0, 2).Draw(t, "partition")
		r := records.Refresh{
			Kind: records.KindEvidence, QueryID: "q", Text: rapid.SampledFrom([]string{"Q", "q", "q "}).Draw(t, "text"),
			Source: records.Source{
				Topic: "queries", Partition: int32(partition), Offset: int64(len(log[partition])),
				Timestamp: int64(rapid.IntRange(0, 12).Draw(t, "timestamp")),
			},
		}
		if rapid.IntRange(0, 5).Draw(t, "forget") == 0 {
			r.Kind, r.Text = records.KindForget, ""
		} else {
			for range rapid.IntRange(0, 3).Draw(t, "mentions") {
				r.Evidence = append(r.Evidence, records.Evidence{
					Document: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "document"),
					Weight:   rapid.OneOf(rapid.Int64Range(1, 3), rapid.Int64Range(math.MaxInt64/3, math.MaxInt64)).Draw(t, "weight"),
				})
			}
		}
		log[partition] = append(log[partition], r)
	}
	return log
}

// shuffled returns the records of all partitions in a random order that keeps the order within each
// partition.
func shuffled(log [][]records.Refresh, rng *rand.Rand) []records.Refresh {
	var arrival []records.Refresh
	at := make([]int, len(log))
	for {
		var open []int
		for p := range log {
			if at[p] < len(log[p]) {
				open = append(open, p)
			}
		}
		if len(open) == 0 {
			return arrival
		}
		p := open[rng.IntN(len(open))]
		arrival = append(arrival, log[p][at[p]])
		at[p]++
	}
}

// batchWeights returns the weights and the text that a batch job finds: it sees the whole log at once, and
// looks for the newest forget first.
func batchWeights(log [][]records.Refresh) (weights map[string]int64, text string) {
	var all []records.Refresh
	for _, p := range log {
		all = append(all, p...)
	}
	newer := func(a, b records.Source) bool { // whether a comes after b
		return a.Timestamp > b.Timestamp || a.Timestamp == b.Timestamp &&
			(a.Partition > b.Partition || a.Partition == b.Partition && a.Offset > b.Offset)
	}
	var forget, newest *records.Source
	for i, r := range all {
		if r.Kind == records.KindForget && (forget == nil || newer(r.Source, *forget)) {
			forget = &all[i].Source
		}
	}
	sums := map[string]*big.Int{}
	for i, r := range all {
		gone := forget != nil && (r.Source.Timestamp < forget.Timestamp || r.Source.Timestamp == forget.Timestamp &&
			(r.Source.Partition != forget.Partition || r.Source.Offset < forget.Offset))
		if r.Kind == records.KindForget || gone {
			continue
		}
		if newest == nil || newer(r.Source, *newest) {
			newest, text = &all[i].Source, r.Text
		}
		for _, e := range r.Evidence {
			if sums[e.Document] == nil {
				sums[e.Document] = new(big.Int)
			}
			sums[e.Document].Add(sums[e.Document], big.NewInt(e.Weight))
		}
	}
	weights = map[string]int64{}
	for document, sum := range sums {
		weights[document] = bounded(sum)
	}
	return weights, text
}

// bounded returns the largest weight for every sum above it.
func bounded(sum *big.Int) int64 {
	if !sum.IsInt64() {
		return math.MaxInt64
	}
	return sum.Int64()
}

func TestEvidenceIsTheBatchResultInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := history(t)
		wantWeights, wantText := batchWeights(log)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		arrival := shuffled(log, rng)
		var state index.State
		for done := 0; done < len(arrival); {
			// Batches have any size. Some are processed again, as after a crash that came after the write.
			upto := done + 1 + rng.IntN(len(arrival)-done)
			state = Advance(state, arrival[done:upto])
			if rng.IntN(3) > 0 {
				done = upto
			} else {
				done += rng.IntN(upto - done)
			}
		}
		weights := map[string]int64{}
		for _, p := range state.Positives {
			weights[p.Document] = p.Weight
			sum := new(big.Int)
			for _, l := range p.Log {
				sum.Add(sum, big.NewInt(l.Weight))
			}
			if bounded(sum) != p.Weight {
				t.Fatalf("%s weighs %d, its log %d", p.Document, p.Weight, sum)
			}
		}
		if !maps.Equal(weights, wantWeights) {
			t.Fatalf("weights %v, want %v, after %v", weights, wantWeights, arrival)
		}
		if state.Text != wantText {
			t.Fatalf("text %q, want %q", state.Text, wantText)
		}
		if !slices.IsSortedFunc(state.Positives, func(a, b index.Positive) int {
			if a.Document < b.Document {
				return -1
			}
			return 1
		}) {
			t.Fatal("positives are not in order of document id")
		}
	})
}

func TestAdvanceLeavesItsInputAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := history(t)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		arrival := shuffled(log, rng)
		half := len(arrival) / 2
		before := Advance(index.State{}, arrival[:half])
		again := Advance(index.State{}, arrival[:half])
		Advance(before, arrival[half:])
		if !sameState(before, again) {
			t.Fatal("the state that was advanced from has changed")
		}
	})
}

func TestManyClicksKeepTheirWeight(t *testing.T) {
	var state index.State
	for i := range int64(5 * mergeEvidenceAfter) {
		state = Advance(state, []records.Refresh{{
			Kind: records.KindEvidence, QueryID: "q", Text: "q", Evidence: []records.Evidence{{Document: "d", Weight: 2}},
			Source: records.Source{Offset: i, Timestamp: i},
		}})
	}
	p := state.Positives[0]
	if p.Weight != 10*mergeEvidenceAfter || len(p.Log) != mergeEvidenceAfter {
		t.Fatalf("weight %d in %d pieces", p.Weight, len(p.Log))
	}
}

// TestHugeWeightsDoNotOverflow: 10,000 clicks of the largest weight make 1e16 millionths, and 923 such records more
// than an int64 holds. A sum that became negative would end the pair.
func TestHugeWeightsDoNotOverflow(t *testing.T) {
	click := fmt.Sprintf(`{"doc_id":"d","weight":%d}`, int(records.MaxWeight))
	value := []byte(`{"query":"q","query_id":"q","clicks":[` + click + strings.Repeat(","+click, records.MaxNamed-1) + `]}`)
	reader := QueryReader{Weights: catalog.Weights{PositiveWeight: 1}}
	refresh, err := reader.Read(stream.Record{Topic: "queries", Key: []byte("q"), Value: value})
	if err != nil {
		t.Fatal(err)
	}
	const each = 10_000 * 1_000_000_000_000
	if len(refresh.Evidence) != 1 || refresh.Evidence[0].Weight != each {
		t.Fatalf("evidence %+v", refresh.Evidence)
	}
	var state index.State
	for i := range int64(1000) {
		refresh.Source.Offset, refresh.Source.Timestamp = i, i
		state = Advance(state, []records.Refresh{refresh})
		want := int64(math.MaxInt64)
		if i < math.MaxInt64/each {
			want = (i + 1) * each
		}
		if got := state.Positives[0].Weight; got != want {
			t.Fatalf("weight %d after %d records, want %d", got, i+1, want)
		}
	}
	for _, l := range state.Positives[0].Log {
		if l.Weight < each {
			t.Fatalf("a piece of %d", l.Weight)
		}
	}
	// A forget counts the rest anew: here the last 9 records.
	state = Advance(state, []records.Refresh{{Kind: records.KindForget, QueryID: "q", Source: records.Source{Topic: "queries", Partition: 1, Timestamp: 990}}})
	if got := state.Positives[0].Weight; got != 9*each {
		t.Fatalf("weight %d after a forget", got)
	}
}
