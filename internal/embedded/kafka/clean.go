package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The server itself says when kfake compacts and applies retention, since before that the bounds of the logs must
// be written, and the segments must be kept until compaction is done.
const (
	cleanEvery = time.Hour
	never      = "3153600000000" // in ms: 100 years, for log.cleaner.backoff.ms, kfake's own interval
)

// cleanUntil cleans at each interval until the context ends.
func (s *Server) cleanUntil(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.clean(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn().Err(err).Msg("embedded Kafka: topics are not compacted, and retention is not applied, for now")
		}
	}
}

// clean compacts the compacted topics and applies the retention of all topics. kfake must handle no other
// request meanwhile, so a request that deletes nothing calls beforeDeleteRecords, which does the work.
func (s *Server) clean(ctx context.Context) error {
	s.cleaning <- struct{}{}
	defer func() { // the request may not have come so far
		select {
		case <-s.cleaning:
		default:
		}
	}()
	return s.deleteRecords(ctx, kmsg.NewPtrDeleteRecordsRequest())
}

// beforeDeleteRecords remembers the bounds of the partitions whose records a client wants to delete. kfake calls
// it with each DeleteRecords request.
func (s *Server) beforeDeleteRecords(request kmsg.Request) (kmsg.Response, error, bool) { //nolint:revive // kfake's order
	deletion := request.(*kmsg.DeleteRecordsRequest)
	select {
	case <-s.cleaning:
		if err := s.cleanNow(); err != nil {
			s.log.Error().Err(err).Msg("embedded Kafka: topics are not compacted, and retention is not applied, for now")
		}
	default:
	}
	starts := map[partition]int64{}
	for _, t := range deletion.Topics {
		for _, p := range t.Partitions {
			starts[partition{t.Topic, p.Partition}] = p.Offset
		}
	}
	if err := s.bounds.remember(starts); err != nil {
		s.log.Error().Err(err).Msg("embedded Kafka: records are not deleted, as the bounds of their log cannot be written")
		s.cluster.KeepControl()
		return refuseDeletion(deletion), nil, true
	}
	return nil, nil, false
}

// refuseDeletion returns the answer that nothing was deleted, because of the disk.
func refuseDeletion(request *kmsg.DeleteRecordsRequest) kmsg.Response {
	res := request.ResponseKind().(*kmsg.DeleteRecordsResponse)
	for _, t := range request.Topics {
		topic := kmsg.NewDeleteRecordsResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			refused := kmsg.NewDeleteRecordsResponseTopicPartition()
			refused.Partition, refused.ErrorCode = p.Partition, kerr.KafkaStorageError.Code
			topic.Partitions = append(topic.Partitions, refused)
		}
		res.Topics = append(res.Topics, topic)
	}
	return res
}

// deleteRecords sends a request in-process.
func (s *Server) deleteRecords(ctx context.Context, deletion *kmsg.DeleteRecordsRequest) error {
	res, err := request[*kmsg.DeleteRecordsResponse](ctx, s.client.Broker(node), deletion)
	if err != nil {
		return err
	}
	var errs []error
	for _, t := range res.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				errs = append(errs, fmt.Errorf("%s/%d: %w", t.Topic, p.Partition, err))
			}
		}
	}
	return errors.Join(errs...)
}

// cleanNow must be called by a control function of kfake, as bounds.remember.
func (s *Server) cleanNow() error {
	ids, err := topicIDs(s.logDir)
	if err != nil {
		return err
	}
	all, compacted := map[partition]int64{}, []partition(nil)
	for topic := range ids {
		compact := s.compacted(topic)
		for _, info := range s.cluster.PartitionInfos(topic) {
			p := partition{topic, info.Partition}
			all[p] = 0
			if compact {
				compacted = append(compacted, p)
			}
		}
	}
	if err := s.bounds.remember(all); err != nil {
		return err
	}
	if err := s.kept.keep(s.logDir, compacted); err != nil {
		return err
	}
	s.cluster.Compact() // and applies retention
	return errors.Join(s.kept.drop(), s.bounds.remember(all))
}

// compacted reports whether a topic exists and is compacted.
func (s *Server) compacted(topic string) bool {
	info := s.cluster.TopicInfo(topic)
	if info == nil {
		return false
	}
	policy := info.Configs["cleanup.policy"]
	return policy != nil && strings.Contains(*policy, "compact")
}

// keptSegments is the folder that holds the segments of compacted topics while kfake compacts. kfake deletes a
// partition's segments first and writes the compacted ones then: a kill between the two would lose them all.
type keptSegments string

// keep links the segments of partitions into the folder, which is there as a whole or not at all.
func (k keptSegments) keep(log string, partitions []partition) error {
	if err := k.drop(); err != nil {
		return err
	}
	for _, p := range partitions {
		from := partitionFolder(log, p)
		to := filepath.Join(k.unfinished(), filepath.Base(from))
		if err := os.MkdirAll(to, 0o700); err != nil {
			return err
		}
		if err := linkSegments(from, to); err != nil {
			return err
		}
	}
	if len(partitions) == 0 {
		return nil
	}
	return os.Rename(k.unfinished(), string(k))
}

func (k keptSegments) unfinished() string { return string(k) + ".tmp" }

// drop removes the folder. Nothing is left of it, or all of it.
func (k keptSegments) drop() error {
	if err := os.RemoveAll(k.unfinished()); err != nil {
		return err
	}
	if err := os.Rename(string(k), k.unfinished()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(k.unfinished())
}

// restore puts the segments back if the process was killed while kfake compacted. It must be called before kfake
// starts. A kill while it works does no harm: the next start does it again.
func (k keptSegments) restore(log string) error {
	folders, err := os.ReadDir(string(k))
	if errors.Is(err, fs.ErrNotExist) {
		return k.drop()
	}
	if err != nil {
		return err
	}
	for _, f := range folders {
		to := filepath.Join(log, "partitions", f.Name())
		if err := os.MkdirAll(to, 0o700); err != nil {
			return err
		}
		files, err := os.ReadDir(to)
		if err != nil {
			return err
		}
		for _, file := range files {
			if isSegment(file) {
				if err := os.Remove(filepath.Join(to, file.Name())); err != nil {
					return err
				}
			}
		}
		if err := linkSegments(filepath.Join(string(k), f.Name()), to); err != nil {
			return err
		}
	}
	return k.drop()
}

func isSegment(file fs.DirEntry) bool {
	return strings.HasSuffix(file.Name(), ".dat") || strings.HasSuffix(file.Name(), ".idx")
}

// linkSegments links the segments of a folder into another one. kfake appends to a segment, but never while the
// server keeps the links, and it removes segments in place of writing over them.
func linkSegments(from, to string) error {
	files, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was ever written to the partition
	}
	if err != nil {
		return err
	}
	for _, file := range files {
		if !isSegment(file) {
			continue
		}
		source, target := filepath.Join(from, file.Name()), filepath.Join(to, file.Name())
		if os.Link(source, target) == nil {
			continue
		}
		if err := copyFile(source, target); err != nil { // not every file system has links
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
