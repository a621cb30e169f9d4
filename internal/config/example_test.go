package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"hardneg/internal/config"
)

// The command line wins over the environment, the environment over the file, and the file over the defaults.
func ExampleLoad() {
	dir, err := os.MkdirTemp("", "config-example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "hardneg.yaml")
	text := `
kafka:  {brokers: ["kafka:9092"]}
qdrant: {address: "qdrant:6334", api_key: "${QDRANT_KEY}"}
mining: {negatives: 4}
sweep:  {rate: 20}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		fmt.Println(err)
		return
	}

	c, err := config.Load(config.Options{
		File: file,
		Env:  []string{"QDRANT_KEY=secret", "HARDNEG_MINING_NEGATIVES=6", "HARDNEG_SWEEP_RATE=50"}, // a program passes os.Environ()
		Set:  []string{"mining.negatives=8"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("mining.negatives, from the command line:", c.Mining.Negatives)
	fmt.Println("sweep.rate, from the environment:", c.Sweep.Rate)
	fmt.Println("qdrant.address, from the file:", c.Qdrant.Address)
	fmt.Println("kafka.max_batch, the default:", c.Kafka.MaxBatch)
	fmt.Println("a secret is never printed:", c.Qdrant.APIKey)
	// Output:
	// mining.negatives, from the command line: 8
	// sweep.rate, from the environment: 50
	// qdrant.address, from the file: qdrant:6334
	// kafka.max_batch, the default: 500
	// a secret is never printed: ********
}

// Load reports all problems at once, each with the source and the key.
func ExampleLoad_problems() {
	_, err := config.Load(config.Options{
		Env: []string{"HARDNEG_KAFKA_MAX_BATCH=0"},
		Set: []string{"mining.negative=8", "kafka.session_timeout=30"},
	})
	var problems *config.Error
	if errors.As(err, &problems) {
		for _, p := range problems.Problems {
			fmt.Println(p)
		}
	}
	// Output:
	// command line: mining.negative: unknown key; did you mean mining.negatives?
	// command line: kafka.session_timeout: "30" is not a duration, such as 500ms, 30s or 1h30m
	// HARDNEG_KAFKA_MAX_BATCH: kafka.max_batch: must be at least 1, is 0
}
