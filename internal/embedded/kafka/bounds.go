package kafka

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// bounds remembers where the logs of partitions begin and end. kfake learns that from the segments at its
// start. If the last segment was deleted, by DeleteRecords or by retention, kfake begins at offset 0 again, and
// no group that had committed an offset could go on.
//
// The bounds are written before anything is deleted, while kfake handles no other request. So after a kill
// between any two writes the file names an end that the log had.
type bounds struct {
	path    string
	cluster *kfake.Cluster
	known   map[partition]bound
}

type partition struct {
	topic  string
	number int32
}

// bound is where the log of a partition begins and ends. The end is the offset of the next record.
type bound struct {
	Topic     string   `json:"topic"`
	ID        [16]byte `json:"id"` // a topic that was deleted and made anew has another one
	Partition int32    `json:"partition"`
	Start     int64    `json:"start"`
	End       int64    `json:"end"`
}

// readBounds reads the file, which need not exist.
func readBounds(path string) (*bounds, error) {
	b := &bounds{path: path, known: map[partition]bound{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	var all []bound
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	for _, at := range all {
		b.known[partition{at.Topic, at.Partition}] = at
	}
	return b, nil
}

// remember notes the present bounds of partitions, and that their logs will begin at start at least. It must be
// called by a control function of kfake: then nothing is appended before the request of that function is done.
func (b *bounds) remember(starts map[partition]int64) error {
	changed := false
	for p, start := range starts {
		topic, now := b.cluster.TopicInfo(p.topic), b.cluster.PartitionInfo(p.topic, p.number)
		if topic == nil || now == nil || now.HighWatermark == 0 {
			continue
		}
		if start == -1 { // in DeleteRecords: all
			start = now.HighWatermark
		}
		if start > now.HighWatermark {
			continue // kfake refuses to delete
		}
		at := bound{
			Topic: p.topic, ID: topic.TopicID, Partition: p.number,
			Start: max(start, now.LogStartOffset), End: now.HighWatermark,
		}
		if b.known[p] != at {
			b.known[p], changed = at, true
		}
	}
	if !changed {
		return nil
	}
	for p, at := range b.known {
		if topic := b.cluster.TopicInfo(p.topic); topic == nil || topic.TopicID != at.ID {
			delete(b.known, p)
		}
	}
	return b.write()
}

func (b *bounds) write() error {
	all := make([]bound, 0, len(b.known))
	for _, at := range b.known {
		all = append(all, at)
	}
	slices.SortFunc(all, func(a, b bound) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return replaceFile(b.path, append(text, '\n'))
}

// replaceFile writes a file in one step: after a kill it is the old one or the new one.
func replaceFile(path string, content []byte) error {
	next, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = next.Write(content)
	if err := errors.Join(err, next.Sync(), next.Close()); err != nil {
		return err
	}
	return os.Rename(next.Name(), path)
}

// restore adds a segment to each partition whose segments end before the end of its log. The segment holds one
// transaction marker, at the offset before the end, which no reader gets to see. It must be called before kfake
// starts. log is kfake's folder.
func (b *bounds) restore(log string) error {
	ids, err := topicIDs(log)
	if err != nil {
		return err
	}
	missing := map[string]int64{} // by folder: the end
	for p, at := range b.known {
		if id, ok := ids[p.topic]; !ok || id != at.ID {
			delete(b.known, p)
			continue
		}
		folder := partitionFolder(log, p)
		end, err := segmentsEnd(folder)
		if err != nil {
			return fmt.Errorf("%s/%d: %w", p.topic, p.number, err)
		}
		if end >= at.End {
			continue
		}
		missing[folder] = at.End
		if end == 0 { // the marker will be all there is
			at.Start = at.End
			b.known[p] = at
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := b.write(); err != nil {
		return err
	}
	for folder, end := range missing {
		if err := writeMarker(folder, end-1); err != nil {
			return fmt.Errorf("%s: %w", folder, err)
		}
	}
	return nil
}

// deletions returns the request that moves the start of each log to where it was. kfake begins a log with the
// first batch that is there: that can be one of which records were deleted, or the marker of restore.
func (b *bounds) deletions() *kmsg.DeleteRecordsRequest {
	req := kmsg.NewPtrDeleteRecordsRequest()
	for p, at := range b.known {
		now := b.cluster.PartitionInfo(p.topic, p.number)
		if now == nil || at.Start <= now.LogStartOffset || at.Start > now.HighWatermark {
			continue
		}
		t := kmsg.NewDeleteRecordsRequestTopic()
		t.Topic = p.topic
		deletion := kmsg.NewDeleteRecordsRequestTopicPartition()
		deletion.Partition, deletion.Offset = p.number, at.Start
		t.Partitions = append(t.Partitions, deletion)
		req.Topics = append(req.Topics, t)
	}
	return req
}

// partitionFolder returns the folder in which kfake keeps a partition's segments.
func partitionFolder(log string, p partition) string {
	return filepath.Join(log, "partitions", url.PathEscape(p.topic)+"-"+strconv.Itoa(int(p.number)))
}

// topicIDs reads the ids of the topics that kfake has stored.
func topicIDs(log string) (map[string][16]byte, error) {
	text, err := os.ReadFile(filepath.Join(log, "topics.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var stored struct {
		Topics []struct {
			Name string `json:"name"`
			ID   []byte `json:"id"` // in base64
		} `json:"topics"`
	}
	if err := json.Unmarshal(text, &stored); err != nil {
		return nil, fmt.Errorf("topics.json: %w", err)
	}
	ids := make(map[string][16]byte, len(stored.Topics))
	for _, t := range stored.Topics {
		if len(t.ID) != 16 {
			return nil, fmt.Errorf("topics.json: the id of %s has %d bytes, where 16 are expected", t.Name, len(t.ID))
		}
		ids[t.Name] = [16]byte(t.ID)
	}
	return ids, nil
}

// segmentsEnd returns the offset behind the last whole batch in a partition's segments, or 0 if there is none.
// A segment ends at the first batch that is not whole, as it does for kfake.
func segmentsEnd(folder string) (int64, error) {
	files, err := filepath.Glob(filepath.Join(globEscape(folder), "*.dat"))
	if err != nil {
		return 0, err
	}
	end := int64(0)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		for len(raw) >= batchHeader {
			size := 12 + int64(binary.BigEndian.Uint32(raw[8:]))
			if size < batchHeader || size > int64(len(raw)) ||
				binary.BigEndian.Uint32(raw[17:]) != crc32.Checksum(raw[21:size], castagnoli) {
				break
			}
			end = max(end, int64(binary.BigEndian.Uint64(raw))+int64(binary.BigEndian.Uint32(raw[23:]))+1)
			raw = raw[size:]
		}
	}
	return end, nil
}

// globEscape makes a folder's name match itself alone.
func globEscape(folder string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(folder)
}

const batchHeader = 61 // bytes before the records of a batch

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// writeMarker writes a segment that holds one transaction marker at an offset. It is an abort of no producer.
func writeMarker(folder string, offset int64) error {
	r := kmsg.Record{Key: []byte{0, 0, 0, 0}, Value: make([]byte, 6)} // version 0, abort; version 0, coordinator 0
	r.Length = int32(len(r.AppendTo(nil)) - 1)                        // the length itself takes one byte
	now := time.Now().UnixMilli()
	batch := kmsg.NewRecordBatch()
	batch.FirstOffset, batch.Magic, batch.Attributes = offset, 2, isControl|isTransactional
	batch.FirstTimestamp, batch.MaxTimestamp = now, now
	batch.ProducerID, batch.ProducerEpoch, batch.FirstSequence = -1, -1, -1
	batch.NumRecords, batch.Records = 1, r.AppendTo(nil)
	raw := batch.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], castagnoli))
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	segment := filepath.Join(folder, strconv.FormatInt(offset, 10))
	// A segment that began at the same offset may have left its index, which kfake would take for the marker's.
	if err := os.Remove(segment + ".idx"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return replaceFile(segment+".dat", raw)
}
