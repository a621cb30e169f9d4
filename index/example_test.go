package index_test

import (
	"context"
	"fmt"
	"os"

	"hardneg/index"
	embedded "hardneg/internal/embedded/qdrant"
	"hardneg/mining"

	"github.com/rs/zerolog"
)

// Which queries must be mined again because a new document has come? Each state says with which cosines a
// document may enter the lists of its query. One search per document finds the queries, however many there
// are.
func ExampleIndex_Entering() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "index-example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	server, err := embedded.Start(embedded.Config{Address: "127.0.0.1:0", Dir: dir, Log: zerolog.Nop()}) // or your own Qdrant
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	client, err := index.Dial(ctx, index.Config{Address: server.Addr(), ExactBelow: 100_000, Log: zerolog.Nop()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	x, err := client.Open(ctx, "example", 3) // vectors of 3 dimensions, of length 1
	if err != nil {
		fmt.Println(err)
		return
	}
	const token = 1 // the miner's fencing token
	states := []index.State{
		{QueryID: "go-maps", Text: "iterate over a map", Vector: []float32{1, 0, 0}, Entry: []mining.Interval{{Low: 0.5, High: 1}}},
		// Its list is full of harder documents: only one with a cosine above 0.9 gets in.
		{QueryID: "go-slices", Text: "append to a slice", Vector: []float32{0, 1, 0}, Entry: []mining.Interval{{Low: 0.9, High: 1}}},
		// A margin ends below the positive: a document with a cosine above 0.7 may be a positive that nobody
		// has judged.
		{QueryID: "go-channels", Text: "close a channel", Vector: []float32{0.8, 0.6, 0}, Entry: []mining.Interval{{Low: 0.5, High: 0.7}}},
	}
	for i := range states {
		states[i].Token = token
	}
	if err := x.WriteStates(ctx, states, token); err != nil {
		fmt.Println(err)
		return
	}

	documents := [][]float32{{0.8, 0.6, 0}, {0, 1, 0}, {0, 0, 1}}
	affected, err := x.Entering(ctx, documents)
	if err != nil {
		fmt.Println(err)
		return
	}
	for i, queries := range affected {
		fmt.Println(documents[i], "may enter the lists of", queries)
	}
	// Output:
	// [0.8 0.6 0] may enter the lists of [go-maps]
	// [0 1 0] may enter the lists of [go-slices go-channels]
	// [0 0 1] may enter the lists of []
}
