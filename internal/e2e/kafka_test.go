package e2e

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// topics are the names that a service uses.
type topics struct {
	documents, queries, triplets, refresh, deadLetters string
	groups                                             map[string]string // input topic by consumer group
}

func namedTopics(name, prefix string) topics {
	t := topics{prefix + "documents", prefix + "queries", prefix + "triplets", prefix + "hardneg.refresh", prefix + "hardneg.dead-letters", nil}
	t.groups = map[string]string{name + "-indexer": t.documents, name + "-intake": t.queries, name + "-miner": t.refresh}
	return t
}

// kafka is a Kafka client that is independent of the program.
type kafka struct {
	t      testing.TB
	client *kgo.Client
	raw    *kgo.Client // speaks fetch versions that name topics
	topics
}

func newKafka(t testing.TB, address string, names topics) *kafka {
	t.Helper()
	options := []kgo.Opt{kgo.SeedBrokers(address), kgo.ProducerBatchMaxBytes(2 << 20), kgo.RetryTimeout(time.Minute), kgo.MetadataMinAge(100 * time.Millisecond)}
	client, err := kgo.NewClient(options...)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := kgo.NewClient(append(options, kgo.MaxVersions(kversion.V2_8_0()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	t.Cleanup(raw.Close)
	return &kafka{t, client, raw, names}
}

// produce writes records and waits for their acknowledgement. It sets their partitions and offsets.
func (k *kafka) produce(records ...*kgo.Record) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), patience)
	defer cancel()
	if err := k.client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		k.t.Fatal("produce:", err)
	}
}

// partitions lists the partitions of a topic.
func (k *kafka) partitions(ctx context.Context, topic string) ([]int32, error) {
	request := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = kmsg.StringPtr(topic)
	request.Topics = append(request.Topics, rt)
	answer, err := request.RequestWith(ctx, k.client)
	if err != nil {
		return nil, err
	}
	if err := kerr.ErrorForCode(answer.Topics[0].ErrorCode); err != nil {
		return nil, fmt.Errorf("topic %s: %w", topic, err)
	}
	var partitions []int32
	for _, p := range answer.Topics[0].Partitions {
		partitions = append(partitions, p.Partition)
	}
	return partitions, nil
}

// ends returns the end of each partition: the last stable offset, or with isolation 0 the high watermark.
func (k *kafka) ends(ctx context.Context, topic string, isolation int8) (map[int32]int64, error) {
	partitions, err := k.partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	request := kmsg.NewPtrListOffsetsRequest()
	request.ReplicaID, request.IsolationLevel = -1, isolation
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	for _, p := range partitions {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = p, -1, -1
		rt.Partitions = append(rt.Partitions, rp)
	}
	request.Topics = append(request.Topics, rt)
	answer, err := request.RequestWith(ctx, k.client)
	if err != nil {
		return nil, err
	}
	ends := map[int32]int64{}
	for _, at := range answer.Topics {
		for _, p := range at.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return nil, fmt.Errorf("end of %s/%d: %w", topic, p.Partition, err)
			}
			ends[p.Partition] = p.Offset
		}
	}
	return ends, nil
}

// committed returns a group's offsets, without partitions that have none.
func (k *kafka) committed(ctx context.Context, group, topic string) (map[int32]int64, error) {
	partitions, err := k.groupOffsets(ctx, group, topic, true)
	offsets := map[int32]int64{}
	for _, p := range partitions {
		if p.Offset >= 0 {
			offsets[p.Partition] = p.Offset
		}
	}
	return offsets, err
}

// groupOffsets returns a group's committed offsets for the partitions of a topic, with their metadata. With
// stable it returns an error if a transaction that commits an offset is open.
func (k *kafka) groupOffsets(ctx context.Context, group, topic string, stable bool) ([]kmsg.OffsetFetchResponseTopicPartition, error) {
	request := kmsg.NewPtrOffsetFetchRequest()
	request.Group, request.RequireStable = group, stable
	rt := kmsg.NewOffsetFetchRequestTopic()
	rt.Topic = topic
	var err error
	if rt.Partitions, err = k.partitions(ctx, topic); err != nil {
		return nil, err
	}
	request.Topics = append(request.Topics, rt)
	answer, err := request.RequestWith(ctx, k.raw)
	if err != nil {
		return nil, err
	}
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		return nil, fmt.Errorf("offsets of group %s: %w", group, err)
	}
	var partitions []kmsg.OffsetFetchResponseTopicPartition
	for _, at := range answer.Topics {
		for _, p := range at.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return nil, fmt.Errorf("offset of group %s in %s/%d: %w", group, topic, p.Partition, err)
			}
			partitions = append(partitions, p)
		}
	}
	return partitions, nil
}

// lag counts the records of a topic that a group has not committed. Offsets after the committed one do not
// count if they hold only transaction markers or records of aborted transactions.
func (k *kafka) lag(ctx context.Context, group, topic string) (int, error) {
	ends, err := k.ends(ctx, topic, 0)
	if err != nil {
		return 0, err
	}
	offsets, err := k.committed(ctx, group, topic)
	if err != nil {
		return 0, err
	}
	lag := 0
	for partition, end := range ends {
		if offsets[partition] >= end {
			continue
		}
		batches, err := k.rawLog(ctx, topic, partition, offsets[partition])
		if err != nil {
			return 0, err
		}
		unread, _, open := visible(batches)
		for _, records := range []map[int64]bool{unread, open} {
			for offset := range records {
				if offset >= offsets[partition] {
					lag++
				}
			}
		}
	}
	return lag, nil
}

// quiet waits until every stage has committed everything, twice in a row with nothing new in between, and
// returns how long that took. It fails if nothing moves for as long as most.
func (k *kafka) quiet(most time.Duration) time.Duration {
	k.t.Helper()
	start := time.Now()
	moved, last := start, error(fmt.Errorf("nothing was looked at"))
	var before map[int32]int64
	for time.Since(moved) < most {
		ctx, cancel := context.WithTimeout(k.t.Context(), most)
		now, err := k.settled(ctx)
		cancel()
		switch {
		case err != nil:
			if err.Error() != last.Error() {
				moved = time.Now()
			}
			last, before = err, nil
		case before != nil && maps.Equal(before, now):
			return time.Since(start)
		default:
			before, moved = now, time.Now()
		}
		time.Sleep(200 * time.Millisecond)
	}
	k.t.Fatalf("nothing has moved for %v, and it is not quiet: %v", most, last)
	return 0
}

// settled returns the ends of the refresh topic if no stage lags. Otherwise its error names the stage that
// lags.
func (k *kafka) settled(ctx context.Context) (map[int32]int64, error) {
	for group, topic := range k.groups {
		lag, err := k.lag(ctx, group, topic)
		if err != nil {
			return nil, err
		}
		if lag > 0 {
			return nil, fmt.Errorf("group %s lags %d records behind %s", group, lag, topic)
		}
	}
	return k.ends(ctx, k.refresh, 0)
}

// readCommitted reads a topic from its start to its last stable offset, with a read_committed consumer.
func (k *kafka) readCommitted(topic string) []*kgo.Record {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), patience)
	defer cancel()
	awaited := map[int32]int64{} // the last committed record of each partition
	partitions, err := k.partitions(ctx, topic)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, partition := range partitions {
		batches, err := k.rawLog(ctx, topic, partition, 0)
		if err != nil {
			k.t.Fatal(err)
		}
		committed, _, _ := visible(batches)
		for offset := range committed {
			awaited[partition] = max(awaited[partition], offset+1)
		}
	}
	reader, err := kgo.NewClient(append(k.client.Opts(), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		k.t.Fatal(err)
	}
	defer reader.Close()
	var records []*kgo.Record
	for len(awaited) > 0 {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			k.t.Fatalf("read %s, %v still awaited: %v", topic, awaited, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			records = append(records, r)
			if r.Offset+1 >= awaited[r.Partition] {
				delete(awaited, r.Partition)
			}
		})
	}
	return records
}
