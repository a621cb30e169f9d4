// Package vectorcache keeps vectors on disk, so that no vector is computed twice. A vector's key is the hash
// of everything that determines it. The cache has a limited size, and several processes may share a
// directory. Whatever happens to the files, the cache returns the vector that was put in, or nothing.
// internal/embed and internal/service use it.
//
// The directory contains segments. A segment is a file of records; it only grows, and is only removed as a
// whole. A process that writes appends records to the newest segment, and holds the directory's lock while it
// does. Reading needs no lock. Each process has an index of all records in memory, 50 to 85 bytes for each
// record. It builds the index from all segments when it opens the directory. Before it reports a missing
// vector, it reads what other processes have appended since.
//
// Nothing is synced to disk. A killed process loses nothing that it has written. If the machine fails,
// checksums reveal damaged records.
//
// Why not a database: those at hand (bbolt, Badger, Pebble) allow only one process at a time, do not limit
// their size, and need a write for each use to know what was used least recently.
package vectorcache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"hardneg/internal/telemetry"
)

// Key names a vector: a cryptographic hash of everything that determines it.
type Key [32]byte

// Options say where a cache is and how large it may become.
type Options struct {
	Path     string // a directory, created if missing
	MaxBytes int64  // of all files in it
	Log      zerolog.Logger
	Metrics  *telemetry.Metrics
}

// Cache is safe for concurrent use.
type Cache struct {
	Options
	segmentBytes int64         // beyond this size a new segment begins
	patience     time.Duration // lockPatience, except in tests

	writing sync.Mutex // protects against writers in this process, as the directory's lock protects against other processes

	hits, misses atomic.Int64

	mu       sync.Mutex
	index    map[uint64]position
	segments []*segment // oldest first
	aside    []unused
	bytes    int64 // of all files
	failing  bool  // the last attempt to write failed
}

// position says where a record is.
type position struct {
	segment *segment
	offset  uint32
	values  uint32
	used    bool // used since it was written
}

// unused is a damaged file that was set aside.
type unused struct {
	name string
	size int64
}

// A segment is at most a sixteenth of the cache, so making room removes no more than that. Offsets have 32
// bits.
const (
	segments        = 16
	maxSegmentBytes = 256 << 20
)

// Open reads the directory.
func Open(o Options) (*Cache, error) {
	c := &Cache{Options: o, segmentBytes: min(o.MaxBytes/segments, maxSegmentBytes), patience: lockPatience, index: map[uint64]position{}}
	if err := os.MkdirAll(o.Path, 0o700); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if _, err := os.ReadDir(o.Path); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	c.write(func() error { return nil })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Log.Debug().Str("path", o.Path).Int("vectors", len(c.index)).Int64("bytes", c.bytes).Msg("cache of vectors open")
	return c, nil
}

// Close closes the files and logs the hits and misses. After Close the cache finds and keeps nothing.
func (c *Cache) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var failures []error
	for _, s := range c.segments {
		failures = append(failures, s.file.Close())
	}
	c.segments, c.index = nil, nil
	if hits, misses := c.hits.Load(), c.misses.Load(); hits+misses > 0 {
		c.Log.Info().Str("path", c.Path).Int64("found", hits).Int64("not_found", misses).Msg("cache of vectors closed")
	}
	return errors.Join(failures...)
}

func (k Key) short() uint64 { return binary.LittleEndian.Uint64(k[:]) }

// Get returns the vectors of the keys, in order, with nil for each missing one.
func (c *Cache) Get(keys []Key) [][]float32 {
	vectors := make([][]float32, len(keys))
	hits := 0
	var buffer []byte
	for i, at := range c.locate(keys) {
		if at.segment == nil {
			continue
		}
		record, ok, err := at.segment.record(at, buffer)
		buffer = record
		switch {
		case errors.Is(err, fs.ErrClosed): // evicted meanwhile
		case !ok:
			c.dropDamaged(keys[i], at, err)
		case hasKey(record, keys[i]):
			vectors[i] = recordVector(record)
			hits++
		}
	}
	misses := len(keys) - hits
	c.hits.Add(int64(hits))
	c.misses.Add(int64(misses))
	c.Metrics.CacheLookups.WithLabelValues("hit").Add(float64(hits))
	c.Metrics.CacheLookups.WithLabelValues("miss").Add(float64(misses))
	return vectors
}

// locate finds the records of the keys. If any is missing, it first reads what other processes have written.
func (c *Cache) locate(keys []Key) []position {
	positions := make([]position, len(keys))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.index == nil {
		return positions
	}
	find := func() (all bool) {
		all = true
		for i, key := range keys {
			at, ok := c.index[key.short()]
			if ok && !at.used {
				at.used = true
				c.index[key.short()] = at
			}
			positions[i], all = at, all && ok
		}
		return all
	}
	if !find() {
		if err := c.refresh(false); err != nil {
			c.report(err)
		}
		find()
	}
	return positions
}

// dropDamaged removes a record whose bytes have changed from the index. The next writer sets its segment
// aside.
func (c *Cache) dropDamaged(key Key, at position, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at.segment.damaged = true
	if now, ok := c.index[key.short()]; ok && now.segment == at.segment && now.offset == at.offset {
		delete(c.index, key.short())
	}
	if err != nil {
		c.report(err)
	}
}

// Put keeps vectors. Vectors that any process has already put stay as they are. If a vector cannot be
// written, it is not kept, and this is logged.
func (c *Cache) Put(keys []Key, vectors [][]float32) {
	c.write(func() error {
		b := batch{cache: c, makeRoom: true}
		for i, key := range keys {
			length := recordLength(len(vectors[i]))
			if _, ok := c.index[key.short()]; ok || len(vectors[i]) == 0 || len(vectors[i]) > maxValues || int64(length) > c.MaxBytes {
				continue
			}
			if err := b.room(length); err != nil {
				return err
			}
			b.records = appendRecord(b.records, key, vectors[i])
		}
		return b.flush()
	})
}

// write calls f while nobody else writes, in this process or another. The index is then complete.
func (c *Cache) write(f func() error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	lock, err := c.lock()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.index == nil: // closed
	case err != nil:
		err = errors.Join(err, c.refresh(false))
	default:
		if err = c.refresh(true); err == nil {
			err = c.makeRoom(0) // another process may allow a larger cache
		}
		if err == nil {
			err = f()
		}
	}
	if lock != nil {
		err = errors.Join(err, lock.Close())
	}
	c.Metrics.CacheBytes.Set(float64(c.bytes))
	if err == nil {
		c.failing = false
		return
	}
	c.report(err)
}

// report logs an error, and then no more until something succeeds. The caller holds mu.
func (c *Cache) report(err error) {
	if !c.failing {
		c.Log.Warn().Err(err).Str("path", c.Path).Msg("the cache of vectors cannot keep what is embedded, which goes on without")
	}
	c.failing = true
}
