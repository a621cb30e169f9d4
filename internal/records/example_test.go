package records_test

import (
	"fmt"
	"maps"
	"slices"

	"hardneg/internal/records"
)

// A consumer of the triplets topic keeps a map from keys to triplets. A key names one slot: query, positive
// and rank. A value fills the slot or replaces what was in it, and a null value retracts it. Read the topic
// with read_committed, from its beginning, and this map is the current training data at any time.
func ExampleParseTriplet() {
	triplet := func(negative string, rank int, revision int64) []byte {
		return records.Triplet{
			Query:    records.TripletQuery{ID: "q1", Text: "close a channel"},
			Positive: records.TripletDocument{ID: "d1", Text: "Only the sender closes a channel."},
			Negative: records.TripletDocument{ID: negative, Text: "…"},
			Rank:     rank, Policy: "semantic", Revision: revision,
		}.Encode(1 << 16)
	}
	messages := []struct{ key, value []byte }{ // as a Kafka client returns them
		{records.TripletKey("q1", "d1", 1), triplet("d7", 1, 100)},
		{records.TripletKey("q1", "d1", 2), triplet("d9", 2, 100)},
		// A new document, d8, is harder than d9. It takes rank 1, d7 moves to rank 2.
		{records.TripletKey("q1", "d1", 1), triplet("d8", 1, 200)},
		{records.TripletKey("q1", "d1", 2), triplet("d7", 2, 200)},
		// d8 is deleted: d7 moves up again, and nothing is left for rank 2.
		{records.TripletKey("q1", "d1", 1), triplet("d7", 1, 300)},
		{records.TripletKey("q1", "d1", 2), nil},
	}

	current := map[string]records.Triplet{}
	show := func() {
		for _, key := range slices.Sorted(maps.Keys(current)) {
			t := current[key]
			fmt.Printf("  %s: %q, positive %s, negative %s\n", key, t.Query.Text, t.Positive.ID, t.Negative.ID)
		}
	}
	for i, m := range messages {
		if m.value == nil {
			delete(current, string(m.key))
		} else {
			t, err := records.ParseTriplet(m.value)
			if err != nil {
				fmt.Println(err)
				return
			}
			current[string(m.key)] = t
		}
		if i%2 == 1 { // all ranks of a pair come in one transaction
			fmt.Printf("after %d messages\n", i+1)
			show()
		}
	}
	// Output:
	// after 2 messages
	//   ["q1","d1",1]: "close a channel", positive d1, negative d7
	//   ["q1","d1",2]: "close a channel", positive d1, negative d9
	// after 4 messages
	//   ["q1","d1",1]: "close a channel", positive d1, negative d8
	//   ["q1","d1",2]: "close a channel", positive d1, negative d7
	// after 6 messages
	//   ["q1","d1",1]: "close a channel", positive d1, negative d7
}
