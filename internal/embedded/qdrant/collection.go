package qdrant

import (
	"fmt"
	"sync"

	pb "github.com/qdrant/go-client/qdrant"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
)

// chunkRows is the number of vectors in one block of memory. So growing copies nothing, and each block is a
// matrix for products.
const chunkRows = 1024

// collection is the part of a collection in memory: the vectors and the payload indexes. Payloads stay on
// disk. Each point has a slot, which is reused after the point is deleted.
type collection struct {
	name       string
	dimensions int

	mu      sync.RWMutex // guards the fields below
	info    *pb.CollectionInfo
	slots   map[pointID]uint32
	ids     []pointID // by slot
	live    bitset    // slots in use
	free    []uint32
	chunks  [][]float32
	indexes map[string]fieldIndex

	version  uint64   // of the last write
	versions []uint64 // by slot
}

func newCollection(name string, info *pb.CollectionInfo) (*collection, error) {
	c := &collection{
		name: name, info: info, dimensions: int(info.GetConfig().GetParams().GetVectorsConfig().GetParams().GetSize()),
		slots: make(map[pointID]uint32), indexes: make(map[string]fieldIndex),
	}
	for field, schema := range info.GetPayloadSchema() {
		index, err := newFieldIndex(schema.GetDataType())
		if err != nil {
			return nil, err
		}
		c.indexes[field] = index
	}
	return c, nil
}

// row returns the memory of a slot's vector.
func (c *collection) row(slot uint32) []float32 {
	start := int(slot%chunkRows) * c.dimensions
	return c.chunks[slot/chunkRows][start : start+c.dimensions : start+c.dimensions]
}

// put makes a record visible. old is the record that it replaces, nil for a new point. The caller holds mu.
func (c *collection) put(id pointID, r, old record) error {
	slot, ok := c.slots[id]
	if ok {
		if err := c.unindex(slot, old); err != nil {
			return err
		}
	} else {
		slot = c.allocate(id)
	}
	r.copyVector(c.row(slot))
	c.versions[slot] = r.version()
	c.version = max(c.version, c.versions[slot])
	return c.index(slot, r)
}

// drop makes a point invisible. The caller holds mu.
func (c *collection) drop(id pointID, old record) error {
	slot, ok := c.slots[id]
	if !ok {
		return nil
	}
	delete(c.slots, id)
	c.live.clear(slot)
	c.free = append(c.free, slot)
	return c.unindex(slot, old)
}

func (c *collection) allocate(id pointID) uint32 {
	var slot uint32
	if n := len(c.free); n > 0 {
		slot, c.free = c.free[n-1], c.free[:n-1]
		c.ids[slot] = id
	} else {
		slot = uint32(len(c.ids))
		c.ids, c.versions = append(c.ids, id), append(c.versions, 0)
		if int(slot/64) >= len(c.live) {
			c.live = append(c.live, 0)
		}
		if int(slot/chunkRows) >= len(c.chunks) {
			c.chunks = append(c.chunks, make([]float32, chunkRows*c.dimensions))
		}
	}
	c.slots[id] = slot
	c.live.set(slot)
	return slot
}

func (c *collection) index(slot uint32, r record) error {
	return c.eachIndex(r, func(index fieldIndex, values []*pb.Value) { index.add(slot, values) })
}

func (c *collection) unindex(slot uint32, old record) error {
	return c.eachIndex(old, func(index fieldIndex, values []*pb.Value) { index.remove(slot, values) })
}

// eachIndex calls f for each payload index, with the record's values of its field.
func (c *collection) eachIndex(r record, f func(index fieldIndex, values []*pb.Value)) error {
	for field, index := range c.indexes {
		values, err := r.payload(c.dimensions).values(field)
		if err != nil {
			return err
		}
		f(index, values)
	}
	return nil
}

// The file has one bucket for the descriptions of collections, one for aliases, and one for the points of
// each collection.
var (
	collectionsBucket = []byte("collections")
	aliasesBucket     = []byte("aliases")
)

func pointsBucket(name string) []byte { return []byte("points/" + name) }

// load reads the file into memory.
func (s *Server) load() error {
	return s.db.Update(func(tx *bolt.Tx) error {
		descriptions, err := tx.CreateBucketIfNotExists(collectionsBucket)
		if err != nil {
			return err
		}
		aliases, err := tx.CreateBucketIfNotExists(aliasesBucket)
		if err != nil {
			return err
		}
		err = aliases.ForEach(func(alias, name []byte) error {
			s.aliases[string(alias)] = string(name)
			return nil
		})
		if err != nil {
			return err
		}
		return descriptions.ForEach(func(name, encoded []byte) error {
			info := new(pb.CollectionInfo)
			if err := proto.Unmarshal(encoded, info); err != nil {
				return fmt.Errorf("collection %q: %w", name, err)
			}
			c, err := newCollection(string(name), info)
			if err != nil {
				return fmt.Errorf("collection %q: %w", name, err)
			}
			if err := c.load(tx.Bucket(pointsBucket(c.name))); err != nil {
				return fmt.Errorf("collection %q: %w", name, err)
			}
			s.collections[c.name] = c
			return nil
		})
	})
}

func (c *collection) load(points *bolt.Bucket) error {
	if points == nil {
		return fmt.Errorf("its points are missing")
	}
	return points.ForEach(func(key, value []byte) error {
		if len(key) != len(pointID{}) {
			return fmt.Errorf("a key of %d bytes", len(key))
		}
		r := record(value)
		if err := r.check(c.dimensions); err != nil {
			return fmt.Errorf("point %s: %w", pointID(key).proto(), err)
		}
		return c.put(pointID(key), r, nil)
	})
}

// view is a consistent view of a collection: its memory, and the bbolt transaction with its payloads.
type view struct {
	*collection
	points *bolt.Bucket
	err    error // the first damaged record that a filter met
}

// read calls look with a view that no write changes meanwhile. look returns a function that reads the hits
// from the transaction's snapshot on disk; read calls it after it has let writers go on.
func (s *Server) read(c *collection, look func(*view) (func() error, error)) error {
	c.mu.RLock()
	tx, err := s.db.Begin(false)
	if err != nil {
		c.mu.RUnlock()
		return failed(err)
	}
	defer func() { _ = tx.Rollback() }()
	v := &view{collection: c, points: tx.Bucket(pointsBucket(c.name))}
	if v.points == nil {
		c.mu.RUnlock()
		return wrongInput("collection %s was deleted meanwhile", c.name)
	}
	finish, err := look(v)
	c.mu.RUnlock()
	if err == nil && v.err != nil {
		err = v.err
	}
	if err == nil {
		err = finish()
	}
	if err != nil {
		return failed(err)
	}
	return nil
}

// record returns the record of the point in a slot.
func (v *view) record(slot uint32) (record, error) { return v.recordOf(v.ids[slot]) }

func (v *view) recordOf(id pointID) (record, error) {
	r := record(v.points.Get(id[:]))
	if r == nil {
		return nil, fmt.Errorf("collection %s: point %s is not on disk", v.name, id.proto())
	}
	return r, nil
}
