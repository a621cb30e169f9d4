// Package vectorcache keeps vectors on disk by the hash of what they were made from, so that nobody pays for the same
// one twice. It is bounded, several processes share a directory, and whatever happens to the files, what comes out is
// the vector that was put in, or nothing.
//
// The directory holds segments: files of records that only grow, and go as a whole. Records are appended to the newest
// one by whoever holds the lock of the directory, for as long as that takes; reading needs no lock. Each process has an
// index of all records in memory, 50 to 85 bytes for each, from reading all segments when it opens the directory; before
// it says that a vector is not there it reads what others have appended since.
//
// Nothing is synced: a killed process loses nothing that it has written, and what a failing machine tears is found by
// the records' checksums.
//
// Why not a database: those that are at hand (bbolt, Badger, Pebble) let one process in at a time, bound nothing, and take
// a write for each use to know what was used least lately.
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

// Key names a vector: a cryptographic hash of all that determines it.
type Key [32]byte

// Options say where a cache is, and how large it may become.
type Options struct {
	Path     string // a directory, which is made where it is missing
	MaxBytes int64  // of all files in it
	Log      zerolog.Logger
	Metrics  *telemetry.Metrics
}

// Cache is safe for concurrent use.
type Cache struct {
	Options
	segmentBytes int64         // beyond, a new segment is begun
	patience     time.Duration // lockPatience, but in tests

	writing sync.Mutex // within the process what the lock of the directory is between processes

	hits, misses atomic.Int64

	mu       sync.Mutex
	index    map[uint64]place
	segments []*segment // by age
	aside    []unused
	bytes    int64 // of all files
	failing  bool  // the last attempt to write did not succeed
}

// place is where a record lies.
type place struct {
	segment *segment
	offset  uint32
	values  uint32
	used    bool // since it was written
}

// unused is a file that was set aside.
type unused struct {
	name string
	size int64
}

// A segment is a sixteenth of the cache, so that making room costs no more than that. Offsets have 32 bits.
const (
	segments        = 16
	maxSegmentBytes = 256 << 20
)

// Open reads what is there.
func Open(o Options) (*Cache, error) {
	c := &Cache{Options: o, segmentBytes: min(o.MaxBytes/segments, maxSegmentBytes), patience: lockPatience, index: map[uint64]place{}}
	if err := os.MkdirAll(o.Path, 0o755); err != nil {
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

// Close lets go of the files, and logs what the cache was good for. Nothing is found afterwards, and nothing kept.
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

// Get returns the vectors of the keys, in order; nil for each that is not there.
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
			c.lost(keys[i], at, err)
		case isOf(record, keys[i]):
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

// locate finds the records of the keys. The last places that are missing are looked for among what other processes have
// written.
func (c *Cache) locate(keys []Key) []place {
	places := make([]place, len(keys))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.index == nil {
		return places
	}
	find := func() (all bool) {
		all = true
		for i, key := range keys {
			at, ok := c.index[key.short()]
			if ok && !at.used {
				at.used = true
				c.index[key.short()] = at
			}
			places[i], all = at, all && ok
		}
		return all
	}
	if !find() {
		if err := c.refresh(false); err != nil {
			c.report(err)
		}
		find()
	}
	return places
}

// lost takes a record out of the index whose bytes have changed. The next one that writes sets its segment aside.
func (c *Cache) lost(key Key, at place, err error) {
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

// Put keeps vectors. Those that are there already, by whoever put them, stay as they are. What cannot be written is not
// kept, which is logged.
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

// write calls f while nobody else writes, neither in this process nor in another, and with an index that is complete.
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
			err = c.makeRoom(0) // another process may allow for more
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

// report logs what goes wrong, once until something succeeds. mu is held.
func (c *Cache) report(err error) {
	if !c.failing {
		c.Log.Warn().Err(err).Str("path", c.Path).Msg("the cache of vectors cannot keep what is embedded, which goes on without")
	}
	c.failing = true
}
