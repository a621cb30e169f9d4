package stages

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/records"
	"hardneg/stream"
)

// simBroker is Kafka as read_committed readers see it. The outputs of a batch and the offset behind it become
// visible at once, or never, and only the rightful owner of a partition can write them.
type simBroker struct {
	topics config.Topics
	gaps   bool
	logs   [len(simStages)][]simLog // inputs, by stage and partition
	owners [len(simStages)][]simOwner
	view   map[string]records.Triplet // content of the compacted triplets topic, by key
	dead   []stream.Output            // all dead letters
	last   map[[2]string]int64        // highest revision of each query and positive
}

// simLog is one partition of an input.
type simLog struct {
	records []stream.Record
	end     int64 // the next offset
}

// simOwner holds what the group coordinator knows about a partition.
type simOwner struct {
	task   *simTask
	offset int64
	token  int64
	seen   int64 // highest token of another owner that an owner has met in a state
}

func newSimBroker(setup simSetup) *simBroker {
	b := &simBroker{topics: simDefaults.Topics, gaps: setup.Gaps, view: map[string]records.Triplet{}, last: map[[2]string]int64{}}
	for i, stage := range simStages {
		n := setup.Partitions[stage]
		b.logs[i], b.owners[i] = make([]simLog, n), make([]simOwner, n)
	}
	return b
}

func simStageIndex(stage string) int { return slices.Index(simStages[:], stage) }

func (b *simBroker) owner(stage string, partition int32) *simOwner {
	return &b.owners[simStageIndex(stage)][partition]
}

// append adds a record to the input of a stage and returns its offset.
func (b *simBroker) append(stage string, partition int32, r stream.Record) (offset int64) {
	log := &b.logs[simStageIndex(stage)][partition]
	r.Topic, r.Partition, r.Offset = b.input(stage), partition, log.end
	log.records = append(log.records, r)
	log.end++
	return r.Offset
}

func (b *simBroker) input(stage string) string {
	return [...]string{b.topics.Documents, b.topics.Queries, b.topics.Refresh}[simStageIndex(stage)]
}

// marker leaves a gap in the offsets at the end of a partition, as a transaction marker does.
func (b *simBroker) marker(stage string, partition int32) {
	if b.gaps {
		b.logs[simStageIndex(stage)][partition].end++
	}
}

// fetch returns the records from an offset on.
func (b *simBroker) fetch(stage string, partition int32, offset int64) []stream.Record {
	all := b.logs[simStageIndex(stage)][partition].records
	at, _ := slices.BinarySearchFunc(all, offset, func(r stream.Record, offset int64) int { return int(r.Offset - offset) })
	return all[at:]
}

func (b *simBroker) pending(stage string, partition int32, offset int64) bool {
	all := b.logs[simStageIndex(stage)][partition].records
	return len(all) > 0 && all[len(all)-1].Offset >= offset
}

// commit ends a transaction. All of it takes effect, or nothing if the task is no longer the owner.
func (w *simWorld) commit(t *simTask, outputs []stream.Output, next int64) error {
	b, owner := w.broker, w.broker.owner(t.stage, t.partition)
	if owner.task != t || owner.token != t.token {
		return fmt.Errorf("the commit is refused: %w", stream.ErrFenced)
	}
	w.publish(t, outputs)
	touched := map[int32]bool{}
	for _, o := range outputs {
		switch o.Topic {
		case b.topics.Triplets:
		case b.topics.DeadLetters:
			b.dead = append(b.dead, o)
		case b.topics.Refresh:
			p := simPartition(o.Key, w.setup.Partitions[catalog.StageMiner])
			b.append(catalog.StageMiner, p, stream.Record{Time: time.UnixMilli(w.clock), Key: o.Key, Value: o.Value, Headers: o.Headers})
			touched[p] = true
		default:
			w.problem("%s wrote to %s", t.name, o.Topic)
		}
	}
	for p := range int32(w.setup.Partitions[catalog.StageMiner]) {
		if touched[p] {
			b.marker(catalog.StageMiner, p)
		}
	}
	owner.offset = next
	t.say("has committed offset %d with %d outputs", next, len(outputs))
	return nil
}

// publish adds the triplets of a transaction to the view. It checks that all slots of a pair go out together,
// in the query's partition, and that revisions do not go back.
func (w *simWorld) publish(t *simTask, outputs []stream.Output) {
	ranks := map[[2]string][]int{}
	for _, o := range outputs {
		if o.Topic != w.broker.topics.Triplets {
			continue
		}
		query, positive, rank := simTripletKey(o.Key)
		pair := [2]string{query, positive}
		ranks[pair] = append(ranks[pair], rank)
		if string(o.Hash) != query || o.Partition != stream.ByKey {
			w.problem("%s: triplet %s goes by the hash of %q, partition %d", t.name, o.Key, o.Hash, o.Partition)
		}
		if o.Value == nil {
			delete(w.broker.view, string(o.Key))
			continue
		}
		var triplet records.Triplet
		if err := json.Unmarshal(o.Value, &triplet); err != nil {
			w.problem("%s: triplet %s: %v", t.name, o.Key, err)
			continue
		}
		if last := w.broker.last[pair]; triplet.Revision < last {
			w.problem("%s: triplet %s has revision %d after %d", t.name, o.Key, triplet.Revision-simEpoch, last-simEpoch)
		}
		w.broker.last[pair] = triplet.Revision
		w.broker.view[string(o.Key)] = triplet
	}
	for pair, got := range ranks {
		for i, rank := range got {
			if rank != i+1 || len(got) < t.config.Mining.Negatives {
				w.problem("%s: ranks %v of %v in one transaction, of %d", t.name, got, pair, t.config.Mining.Negatives)
				break
			}
		}
	}
}

func simTripletKey(key []byte) (query, positive string, rank int) {
	var parts []any
	if err := json.Unmarshal(key, &parts); err != nil || len(parts) != 3 {
		panic(fmt.Sprintf("triplet key %s", key))
	}
	return parts[0].(string), parts[1].(string), int(parts[2].(float64))
}

// Offsets makes a simStore a Broker.
func (s *simStore) Offsets(_ context.Context, topic string) ([]stream.Offsets, error) {
	lost, err := s.t.begin("Offsets", topic)
	if err != nil {
		return nil, err
	}
	var offsets []stream.Offsets
	for i := range simStages {
		if s.w.broker.input(simStages[i]) != topic {
			continue
		}
		for p, log := range s.w.broker.logs[i] {
			offsets = append(offsets, stream.Offsets{Partition: int32(p), HighWatermark: log.end, LastStable: log.end})
		}
	}
	return offsets, lost
}

// deadLetters returns, sorted, the records that became dead letters, as topic/partition/offset. For a refused
// refresh record it names the record of the query log that caused it.
func (b *simBroker) deadLetters() []string {
	var places []string
	for _, o := range b.dead {
		at := map[string]string{}
		for _, h := range o.Headers {
			at[h.Key] = string(h.Value)
		}
		place := at[stream.HeaderTopic] + "/" + at[stream.HeaderPartition] + "/" + at[stream.HeaderOffset]
		if at[stream.HeaderTopic] == b.topics.Refresh {
			r, err := records.ParseRefresh(o.Key, o.Value)
			if err != nil {
				place += ": " + err.Error()
			} else {
				place = r.Source.Topic + "/" + strconv.Itoa(int(r.Source.Partition)) + "/" + strconv.FormatInt(r.Source.Offset, 10)
			}
		}
		places = append(places, place)
	}
	slices.Sort(places)
	return places
}
