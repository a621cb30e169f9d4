package vectorcache

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hardneg/internal/filelock"
)

const (
	segmentSuffix = ".vectors"
	asideSuffix   = ".damaged"
	lockName      = "lock"
)

// lockPatience is how long to wait until another process has finished writing. A process that is suspended
// during a write must not hold up embedding. Vectors embedded meanwhile are not kept.
const lockPatience = 500 * time.Millisecond

// lock locks the directory for writing until the file is closed.
func (c *Cache) lock() (*os.File, error) {
	for deadline := time.Now().Add(c.patience); ; time.Sleep(time.Millisecond) {
		file, err := filelock.Open(filepath.Join(c.Path, lockName))
		switch {
		case errors.Is(err, fs.ErrNotExist): // somebody has removed the whole cache
			if err := os.MkdirAll(c.Path, 0o700); err != nil {
				return nil, err
			}
		case !errors.Is(err, filelock.ErrLocked):
			return file, err
		}
		if time.Now().After(deadline) {
			return nil, err
		}
	}
}

// refresh reads changes in the directory into memory. With the lock (locked) it also sets damaged segments
// aside.
func (c *Cache) refresh(locked bool) error {
	entries, err := os.ReadDir(c.Path) // in order of names, which is the order of age
	if err != nil {
		return err
	}
	known := map[string]*segment{}
	for _, s := range c.segments {
		known[s.name] = s
	}
	c.segments, c.aside, c.bytes = nil, nil, 0
	var failures []error
	for _, entry := range entries {
		switch name := entry.Name(); filepath.Ext(name) {
		case asideSuffix:
			if info, err := entry.Info(); err == nil {
				c.aside = append(c.aside, unused{name, info.Size()})
				c.bytes += info.Size()
			}
		case segmentSuffix:
			s := known[name]
			delete(known, name)
			if s == nil {
				file, err := os.OpenFile(filepath.Join(c.Path, name), os.O_RDWR, 0)
				if errors.Is(err, fs.ErrNotExist) {
					continue // evicted meanwhile
				}
				if err != nil {
					failures = append(failures, err)
					continue
				}
				s = &segment{name: name, file: file}
			}
			c.segments = append(c.segments, s)
		}
	}
	for _, gone := range known {
		c.dropSegment(gone)
	}
	for _, s := range c.segments {
		if err := s.walk(locked, func(record []byte, offset int64) { c.addToIndex(s, record, offset) }); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", s.name, err))
		}
		c.bytes += s.size
	}
	if locked {
		for _, s := range slices.Clone(c.segments) {
			if s.damaged {
				failures = append(failures, c.setAside(s))
			}
		}
	}
	return errors.Join(failures...)
}

// addToIndex writes a record's position into the index.
func (c *Cache) addToIndex(s *segment, record []byte, offset int64) {
	c.index[recordKey(record).short()] = position{segment: s, offset: uint32(offset), values: uint32(recordValues(record))}
}

// dropSegment closes a segment that was removed, and deletes its records from the index.
func (c *Cache) dropSegment(s *segment) {
	maps.DeleteFunc(c.index, func(_ uint64, at position) bool { return at.segment == s })
	_ = s.file.Close()
}

// remove deletes a file of the cache.
func (c *Cache) remove(name string, size int64) error {
	if err := os.Remove(filepath.Join(c.Path, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c.bytes -= size
	return nil
}

// makeRoom removes the oldest segments until there is room for the given number of bytes.
func (c *Cache) makeRoom(bytes int64) error {
	for c.bytes+bytes > c.MaxBytes {
		switch {
		case len(c.aside) > 0:
			if err := c.remove(c.aside[0].name, c.aside[0].size); err != nil {
				return err
			}
			c.aside = c.aside[1:]
		case len(c.segments) > 0:
			if err := c.evict(c.segments[0]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%d bytes do not fit into %d", bytes, c.MaxBytes)
		}
	}
	return nil
}

// evict removes a segment. Records that were used since they were written get a second chance: they are
// written again, among the newest. This is the CLOCK algorithm. It approximates "least recently used" with
// one bit in memory for each use, and only writes records that survive. At most half of a segment survives,
// so every eviction makes room, however much is in use.
func (c *Cache) evict(s *segment) error {
	if err := c.remove(s.name, s.size); err != nil {
		return err
	}
	c.removeSegment(s)
	before := len(c.index)
	left := s.size / 2
	err := c.rescue(s, false, func(at position) bool {
		length := int64(recordLength(int(at.values)))
		if !at.used || length > left {
			return false
		}
		left -= length
		return true
	})
	c.dropSegment(s)
	c.Metrics.CacheEvictions.Add(float64(before - len(c.index)))
	return err
}

// setAside stops using a damaged segment, and writes its intact records again. The damaged file stays for
// inspection until there is another one, or until its room is needed.
func (c *Cache) setAside(s *segment) error {
	aside := unused{strings.TrimSuffix(s.name, segmentSuffix) + asideSuffix, s.size}
	if err := os.Rename(filepath.Join(c.Path, s.name), filepath.Join(c.Path, aside.name)); err != nil {
		return err
	}
	c.removeSegment(s)
	for _, older := range c.aside {
		if err := c.remove(older.name, older.size); err != nil {
			return err
		}
	}
	c.aside = []unused{aside}
	kept := 0
	err := c.rescue(s, true, func(position) bool { kept++; return true })
	c.dropSegment(s)
	c.Log.Warn().Str("file", filepath.Join(c.Path, aside.name)).Int("kept", kept).
		Msg("a file of the cache of vectors was damaged and is set aside; what was whole in it is kept")
	return err
}

func (c *Cache) removeSegment(s *segment) {
	c.segments = slices.DeleteFunc(c.segments, func(other *segment) bool { return other == s })
}

// rescue writes the chosen records of a segment again. The file may already be deleted, but it is still open.
func (c *Cache) rescue(s *segment, makeRoom bool, chosen func(position) bool) error {
	var positions []position
	for _, at := range c.index {
		if at.segment == s {
			positions = append(positions, at)
		}
	}
	slices.SortFunc(positions, func(a, b position) int { return int(a.offset) - int(b.offset) })
	b := batch{cache: c, makeRoom: makeRoom}
	var buffer []byte
	for _, at := range positions {
		if !chosen(at) {
			continue
		}
		record, ok, _ := s.record(at, buffer)
		buffer = record
		if !ok {
			continue
		}
		if err := b.room(len(record)); err != nil {
			return err
		}
		b.records = append(b.records, record...)
	}
	return b.flush()
}
