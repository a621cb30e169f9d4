package pipeline_test

import (
	"slices"
	"strings"
	"testing"

	"hardneg/internal/catalog"
	"hardneg/internal/pipelinetest"
	"hardneg/stream"
)

// TestNoRecordBlocks writes records that are legal JSON but cannot be used. They must become dead letters,
// byte for byte, and the records behind them must be processed.
func TestNoRecordBlocks(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 11, 12)
	stop := w.Instance()
	defer func() { stop() }()
	w.Settle()

	var refused []string
	var bad []stream.Output
	document := func(id, value string) {
		delete(w.Docs, id) // the refused record counts as a delete
		refused = append(refused, value)
		bad = append(bad, stream.Output{Topic: w.Config.Topics.Documents, Partition: stream.ByKey, Key: []byte(id), Value: []byte(value)})
	}
	query := func(value string) {
		refused = append(refused, value)
		bad = append(bad, stream.Output{Topic: w.Config.Topics.Queries, Partition: stream.ByKey, Key: []byte("any"), Value: []byte(value)})
	}
	vector := `"embeddings":{"v":[1` + strings.Repeat(",0", pipelinetest.Dimensions-1) + `]}`
	document("d0", `{"id":"d0","text":"x","metadata":{"x":1e400},`+vector+`}`)
	document("d1", `{"id":"d1","text":"x","metadata":`+strings.Repeat(`{"a":`, 5100)+"1"+strings.Repeat("}", 5100)+`,`+vector+`}`)
	document("new", `{"id":"new","text":7,"more":"`+pipelinetest.Noise(catalog.DefaultLimit-300)+`"}`) // as a dead letter, with headers, it is larger than Kafka's default limit
	query(`{"query":"q",` + vector + `,"positives":["a"` + pipelinetest.ManyIDs(94_539, "") + `]}`)
	query(`{"query":"q","query_id":"q","embeddings":{"v":[0` + strings.Repeat(",1", 520_000) + `]},"positives":["d2"]}`) // the miner refuses this one
	if err := w.Kafka.Produce(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		w.Step()
	}
	w.Settle()
	w.Compare("after records that cannot be used")

	var letters []string
	var ofMiner int
	err := w.Kafka.ReadToEnd(t.Context(), w.Config.Topics.DeadLetters, func(r stream.Record) error {
		value := string(r.Value)
		for _, h := range r.Headers {
			if h.Key == stream.HeaderStage && string(h.Value) == catalog.StageMiner {
				ofMiner++
				value = refused[len(refused)-1]
			}
		}
		letters = append(letters, value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(letters)
	slices.Sort(refused)
	if !slices.Equal(letters, refused) || ofMiner != 1 {
		t.Errorf("%d dead letters, %d of them the miner's, are not the %d records that cannot be used", len(letters), ofMiner, len(refused))
	}
}
