package pipeline_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"

	"hardneg/internal/pipeline"
	"hardneg/internal/pipelinetest"
	"hardneg/internal/telemetry"
	"hardneg/stream"
)

// TestTripletsGrow adds partitions to the triplets topic under a running instance. The instance must end with the
// remedy, and must not write any slot into a second partition.
func TestTripletsGrow(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 23, 12)
	ended := make(chan error, 1)
	go func() {
		ended <- pipeline.Run(t.Context(), w.Options(telemetry.NewMetrics(prometheus.NewRegistry())))
	}()
	w.Settle()
	w.Compare("after the load")
	client := &kafka.Client{Addr: kafka.TCP(w.Broker)}
	grown, err := client.CreatePartitions(t.Context(), &kafka.CreatePartitionsRequest{
		Topics: []kafka.TopicPartitionsConfig{{Name: w.Config.Topics.Triplets, Count: 7}},
	})
	if err != nil || grown.Errors[w.Config.Topics.Triplets] != nil {
		t.Fatal(err, grown)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for running := true; running; {
		w.Step()
		select {
		case err := <-ended:
			running = false
			if !errors.Is(err, stream.ErrRepartitioned) {
				t.Errorf("the instance ended with %v, want ErrRepartitioned", err)
			}
		case <-ctx.Done():
			t.Fatal("the instance did not end")
		case <-time.After(20 * time.Millisecond):
		}
	}
	at := map[string]int32{}
	err = w.Kafka.ReadToEnd(t.Context(), w.Config.Topics.Triplets, func(r stream.Record) error {
		if before, ok := at[string(r.Key)]; ok && before != r.Partition {
			t.Errorf("%s lies in partitions %d and %d", r.Key, before, r.Partition)
		}
		at[string(r.Key)] = r.Partition
		return nil
	})
	if err != nil || len(at) < 12 {
		t.Errorf("%d keys, %v", len(at), err)
	}
	if err := pipeline.Run(t.Context(), w.Options(telemetry.NewMetrics(prometheus.NewRegistry()))); err == nil {
		t.Error("an instance starts on the topic that has grown")
	}
}
