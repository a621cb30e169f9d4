package mining_test

import (
	"context"
	"fmt"
	"log"

	"hardneg/mining"
)

// text is a document or a query of the examples. A real program gets its vectors from an embedder; here the three
// numbers say how much a text is about passwords, about routers and about printers.
type text struct {
	id, body string
	about    []float32
}

var manual = []text{
	{"router-reset", "Hold the reset button of the router for ten seconds.", []float32{5, 9, 0}},
	{"router-reset-copy", "Hold the reset button of the router for ten seconds.", []float32{5, 9, 1}},
	{"router-setup", "Plug the router in and open the setup page.", []float32{1, 9, 2}},
	{"router-password", "The first password of a router is on its label.", []float32{9, 8, 0}},
	{"mail-password", "Choose a new password for your mailbox.", []float32{9, 1, 1}},
	{"printer-reset", "Hold the stop button of the printer.", []float32{4, 1, 9}},
	{"printer-paper", "Put paper into the lower tray.", []float32{0, 0, 9}},
}

// corpusOf makes a corpus of texts.
func corpusOf(texts []text) *mining.Corpus {
	var documents []mining.Document
	for _, t := range texts {
		vector := append([]float32(nil), t.about...)
		if err := mining.Normalize(vector); err != nil {
			log.Fatal(err)
		}
		documents = append(documents, mining.Document{
			ID: t.id, Hash: mining.ContentHash("", t.body), MinHash: mining.NewMinHash(t.body), Vector: vector,
		})
	}
	corpus, err := mining.NewCorpus(documents)
	if err != nil {
		log.Fatal(err)
	}
	return corpus
}

// query makes a query vector.
func query(about ...float32) []float32 {
	if err := mining.Normalize(about); err != nil {
		log.Fatal(err)
	}
	return about
}

// A batch job mines all its queries against documents in memory.
func Example() {
	corpus := corpusOf(manual)
	miner, err := mining.New(mining.DefaultConfig())
	if err != nil {
		log.Fatal(err)
	}
	inputs := []mining.Input{
		corpus.Input("reset my router", query(6, 9, 0), "router-reset"),
		corpus.Input("new mail password", query(9, 2, 0), "mail-password"),
		corpus.Input("feed paper", query(0, 1, 9), "printer-manual"),
	}
	batch := mining.Batch{Mine: miner.Mine, Search: corpus.Search}
	outcomes := make([]mining.Outcome, len(inputs))
	err = batch.Run(context.Background(), inputs, func(i int, out mining.Outcome) { outcomes[i] = out })
	if err != nil {
		log.Fatal(err)
	}
	for i, out := range outcomes {
		for _, pair := range out.Pairs {
			fmt.Printf("%s, positive %s:\n", inputs[i].QueryID, pair.Positive)
			for rank, slot := range pair.Slots {
				fmt.Printf("  %d %-15s %.2f %s\n", rank+1, slot.Document, slot.QueryNegative, slot.Policy)
			}
			if pair.Reason != "" {
				fmt.Println("  the list is short:", pair.Reason)
			}
		}
	}
	// Output:
	// reset my router, positive router-reset:
	//   1 router-setup    0.87 positive-aware
	//   2 mail-password   0.64 positive-aware
	//   3 printer-reset   0.31 positive-aware
	//   4 printer-paper   0.00 positive-aware
	// new mail password, positive mail-password:
	//   1 router-password 0.87 positive-aware
	//   2 router-reset    0.66 positive-aware
	//   3 printer-reset   0.42 positive-aware
	//   4 router-setup    0.32 positive-aware
	// feed paper, positive printer-manual:
	//   the list is short: positive_missing
}

// The tiers fill a list one after the other.
func ExampleConfig() {
	corpus := corpusOf(manual)
	margin, lowest := 0.1, 0.3
	miner, err := mining.New(mining.Config{
		Negatives:     3,
		NearDuplicate: 0.999,
		NearText:      0.5,
		Tiers: []mining.Tier{
			// One slot for a document that the embedder takes for better than the positive.
			{Policy: mining.PolicySemantic, UpTo: 1},
			// The others for documents that are less similar by 0.1, but not below 0.3.
			{Policy: mining.PolicyPositiveAware, AbsoluteMargin: &margin, MinScore: &lowest},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	inputs := []mining.Input{corpus.Input("router", query(2, 9, 1), "router-reset")}
	batch := mining.Batch{Mine: miner.Mine, Search: corpus.Search}
	err = batch.Run(context.Background(), inputs, func(_ int, out mining.Outcome) {
		for _, slot := range out.Pairs[0].Slots {
			fmt.Printf("%-15s %s\n", slot.Document, slot.Policy)
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// router-setup    semantic
	// router-password positive-aware
	// mail-password   positive-aware
}

// Explain says why each document was chosen or left out.
func ExampleMiner_Explain() {
	corpus := corpusOf(manual)
	miner, err := mining.New(mining.DefaultConfig())
	if err != nil {
		log.Fatal(err)
	}
	var explanation []mining.PairLog
	batch := mining.Batch{
		Search: corpus.Search,
		Mine: func(in mining.Input) (out mining.Outcome) {
			out, explanation = miner.Explain(in)
			return out
		},
	}
	inputs := []mining.Input{corpus.Input("reset my router", query(5, 9, 2), "router-reset")}
	if err := batch.Run(context.Background(), inputs, func(int, mining.Outcome) {}); err != nil {
		log.Fatal(err)
	}
	for _, tier := range explanation[0].Tiers {
		fmt.Printf("%s: %s\n", tier.Policy, tier.End)
		for _, d := range tier.Decisions {
			fmt.Printf("  %-17s %.2f %v", d.Document, d.QueryDocument, d.Verdict)
			if d.Of != "" {
				fmt.Printf(": %s", d.Of)
			}
			fmt.Println()
		}
	}
	// Output:
	// semantic: exhausted
	//   router-reset-copy 1.00 copy_of_evidence: router-reset
	// positive-aware: full
	//   router-password   0.93 chosen
	//   router-setup      0.93 chosen
	//   mail-password     0.59 chosen
	//   printer-reset     0.45 chosen
}

// Nearest finds the candidates in one pass over documents that are too many for memory.
func ExampleMiner_Nearest() {
	corpus := corpusOf(manual)
	miner, err := mining.New(mining.DefaultConfig())
	if err != nil {
		log.Fatal(err)
	}
	in := corpus.Input("reset my router", query(6, 9, 0), "router-reset")
	nearest := miner.Nearest(in)
	for _, t := range manual { // or the lines of a file
		nearest.Add(*corpus.Document(t.id))
	}
	nearest.Fill(&in)
	fmt.Println(miner.Mine(in).Pairs[0].Slots[0].Document)
	// Output:
	// router-setup
}

// NDCG compares two rankings of the same query.
func ExampleNDCG() {
	relevant := map[string]float64{"router-reset": 2, "router-setup": 1}
	before := []string{"router-password", "router-setup", "router-reset"}
	after := []string{"router-reset", "router-password", "router-setup"}
	fmt.Printf("NDCG@10 %.3f, then %.3f\n", mining.NDCG(before, relevant, 10), mining.NDCG(after, relevant, 10))
	fmt.Printf("RR@10 %.3f, then %.3f\n", mining.ReciprocalRank(before, relevant, 10), mining.ReciprocalRank(after, relevant, 10))
	fmt.Printf("recall@2 %.3f, then %.3f\n", mining.Recall(before, relevant, 2), mining.Recall(after, relevant, 2))
	// Output:
	// NDCG@10 0.620, then 0.950
	// RR@10 0.500, then 1.000
	// recall@2 0.500, then 0.500
}

// Concat joins the vectors of two embedders. The second has half the weight of the first.
func ExampleConcat() {
	words, meaning := []float32{3, 4}, []float32{0, 0, 2}
	joined := make([]float32, len(words)+len(meaning))
	if err := mining.Concat([][]float32{words, meaning}, []float64{1, 0.5}, joined); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.3f\n", joined)
	// Output:
	// [0.537 0.716 0.000 0.000 0.447]
}
