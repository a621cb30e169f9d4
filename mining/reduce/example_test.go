package reduce_test

import (
	"context"
	"fmt"
	"log"
	"math/rand/v2"

	"hardneg/mining"
	"hardneg/mining/reduce"
)

// Fit finds the axes of a sample of vectors, and Project makes vectors shorter.
func ExampleFit() {
	// A sample of 500 vectors of 16 dimensions. They lie close to a plane: two directions hold nearly all variance.
	random := rand.New(rand.NewPCG(1, 2))
	sample := reduce.NewMatrix(500, 16)
	for i := range sample.Rows {
		a, b := random.NormFloat64(), random.NormFloat64()
		for j, row := 0, sample.Row(i); j < len(row); j++ {
			row[j] = float32(a*float64(j%2) + b*float64(j%3) + 0.05*random.NormFloat64())
		}
	}

	reducer, err := reduce.Fit(context.Background(), sample, reduce.Options{Variance: 0.95, Normalize: true, Seed: 1})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d of %d dimensions capture %.2f of the variance\n", reducer.Out(), reducer.Dimensions, reducer.Share[reducer.Out()-1])

	short := reduce.NewMatrix(sample.Rows, reducer.Out())
	zero, err := reducer.Project(sample, short)
	if err != nil {
		log.Fatal(err)
	}
	v := short.Row(0)
	fmt.Printf("%d rows without a direction; the first has length %.2f\n", len(zero), mining.Cosine(v, v))

	// The reducer is saved with the vectors: vectors of different reducers cannot be compared.
	saved, err := reducer.MarshalBinary()
	if err != nil {
		log.Fatal(err)
	}
	var again reduce.Reducer
	if err := again.UnmarshalBinary(saved); err != nil {
		log.Fatal(err)
	}
	fmt.Println(again.Out(), "dimensions again")
	// Output:
	// 2 of 16 dimensions capture 1.00 of the variance
	// 0 rows without a direction; the first has length 1.00
	// 2 dimensions again
}

// A Sample takes rows block by block, so that they need not be in memory together.
func ExampleSample() {
	random := rand.New(rand.NewPCG(3, 4))
	sample := reduce.NewSample(1000, 8)
	block := reduce.NewMatrix(100, 8)
	for range 10 {
		for i := range block.Data {
			block.Data[i] = float32(random.NormFloat64() / float64(1+i%8))
		}
		if err := sample.Add(block); err != nil {
			log.Fatal(err)
		}
	}
	reducer, err := sample.Fit(context.Background(), reduce.Options{Variance: 1, MaxDimensions: 3})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d rows; 1, 2 and 3 axes capture %.2f of the variance\n", sample.Rows(), reducer.Share)
	// Output:
	// 1000 rows; 1, 2 and 3 axes capture [0.65 0.83 0.89] of the variance
}
