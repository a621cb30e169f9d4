package qdrant

import (
	"context"
	"maps"
	"time"

	pb "github.com/qdrant/go-client/qdrant"
	bolt "go.etcd.io/bbolt"
)

type pointsService struct {
	pb.UnimplementedPointsServer
	server *Server
}

// change is the effect of a write on one point: new replaces its record, or nil removes the point.
type change struct {
	id  pointID
	new record
}

// write changes points of a collection. decide gets a view of the stored points and the version of this
// write.
func (s *Server) write(name string, wait bool, decide func(v *view, version uint64) ([]change, error)) (*pb.PointsOperationResponse, error) {
	return s.writeTo(name, wait, func(v *view, version uint64, tx *bolt.Tx) error {
		changes, err := decide(v, version)
		if err == nil {
			err = v.err
		}
		if err != nil {
			return err
		}
		return v.commit(tx, v.points, changes)
	})
}

// writeTo runs one write of a collection, with no other write at the same time, from its first read until it
// is durable and visible.
func (s *Server) writeTo(name string, wait bool, perform func(v *view, version uint64, tx *bolt.Tx) error) (*pb.PointsOperationResponse, error) {
	start := time.Now()
	s.writing.Lock()
	defer s.writing.Unlock()
	c, err := s.find(name)
	if err != nil {
		return nil, err
	}
	version := c.version + 1 // only changed while writing is held
	tx, err := s.db.Begin(true)
	if err != nil {
		return nil, failed(err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	if err := perform(&view{collection: c, points: tx.Bucket(pointsBucket(c.name))}, version, tx); err != nil {
		return nil, failed(err)
	}
	updated := pb.UpdateStatus_Acknowledged
	if wait {
		updated = pb.UpdateStatus_Completed
	}
	return &pb.PointsOperationResponse{Result: &pb.UpdateResult{OperationId: &version, Status: updated}, Time: time.Since(start).Seconds()}, nil
}

// commit makes changes durable and then visible.
func (c *collection) commit(tx *bolt.Tx, points *bolt.Bucket, changes []change) error {
	olds := make([]record, len(changes))
	for i, change := range changes {
		// Copied, because writing to the bucket moves the memory that old points at.
		if old := points.Get(change.id[:]); old != nil {
			olds[i] = append(record(nil), old...)
		}
		var err error
		if change.new == nil {
			err = points.Delete(change.id[:])
		} else {
			err = points.Put(change.id[:], change.new)
		}
		if err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := tx.Commit(); err != nil {
		return err
	}
	for i, change := range changes {
		var err error
		if change.new == nil {
			err = c.drop(change.id, olds[i])
		} else {
			err = c.put(change.id, change.new, olds[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p pointsService) Upsert(_ context.Context, in *pb.UpsertPoints) (*pb.PointsOperationResponse, error) {
	return p.server.write(in.GetCollectionName(), in.GetWait(), func(v *view, version uint64) ([]change, error) {
		guard, err := v.compile(in.GetUpdateFilter())
		if err != nil {
			return nil, err
		}
		changes := make([]change, 0, len(in.GetPoints()))
		indexByID := make(map[pointID]int, len(in.GetPoints())) // index in changes by id: of equal ids the last stays
		for _, point := range in.GetPoints() {
			id, err := parseID(point.GetId())
			if err != nil {
				return nil, err
			}
			vector, err := v.vectorOf(point.GetVectors())
			if err != nil {
				return nil, err
			}
			slot, exists := v.slots[id]
			if exists && (in.GetUpdateMode() == pb.UpdateMode_InsertOnly || guard.match != nil && !guard.match(slot)) {
				continue
			}
			if !exists && in.GetUpdateMode() == pb.UpdateMode_UpdateOnly {
				continue
			}
			payload, err := encodePayload(point.GetPayload())
			if err != nil {
				return nil, wrongInput("payload of point %s: %v", id.proto(), err)
			}
			next := change{id, newRecord(version, vector, payload)}
			if at, ok := indexByID[id]; ok {
				changes[at] = next
				continue
			}
			indexByID[id] = len(changes)
			changes = append(changes, next)
		}
		return changes, nil
	})
}

// vectorOf returns the one unnamed dense vector of a point.
func (c *collection) vectorOf(vectors *pb.Vectors) ([]float32, error) {
	switch option := vectors.GetVectorsOptions().(type) {
	case nil:
		return nil, wrongInput("a point without vector")
	case *pb.Vectors_Vector:
		return c.denseOf(option.Vector)
	}
	return nil, unimplemented("named vectors")
}

func (c *collection) denseOf(vector *pb.Vector) ([]float32, error) {
	//lint:ignore SA1019 older clients use these fields
	data, sparse, multi := vector.GetData(), vector.Indices, vector.VectorsCount
	switch option := vector.GetVector().(type) {
	case nil:
		if sparse != nil || multi != nil {
			return nil, unimplemented("sparse and multi-vectors")
		}
	case *pb.Vector_Dense:
		data = option.Dense.GetData()
	default:
		return nil, unimplemented("vectors of type %T", option)
	}
	return data, c.checkVector(data)
}

func (c *collection) checkVector(vector []float32) error {
	if len(vector) != c.dimensions {
		return wrongInput("Vector dimension error: expected dim: %d, got %d", c.dimensions, len(vector))
	}
	for i, f := range vector {
		if f-f != 0 {
			return wrongInput("element %d of a vector is %g, not a finite number", i, f)
		}
	}
	return nil
}

// selectedIDs returns the ids of the points that a selector selects.
func (v *view) selectedIDs(points *pb.PointsSelector) ([]pointID, error) {
	var ids []pointID
	switch option := points.GetPointsSelectorOneOf().(type) {
	case *pb.PointsSelector_Points:
		for _, id := range option.Points.GetIds() {
			key, err := parseID(id)
			if err != nil {
				return nil, err
			}
			if _, ok := v.slots[key]; ok {
				ids = append(ids, key)
			}
		}
	case *pb.PointsSelector_Filter:
		f, err := v.compile(option.Filter)
		if err != nil {
			return nil, err
		}
		v.selected(f).each(func(slot uint32) { ids = append(ids, v.ids[slot]) })
	default:
		return nil, wrongInput("no points are selected")
	}
	return ids, nil
}

func (p pointsService) Delete(_ context.Context, in *pb.DeletePoints) (*pb.PointsOperationResponse, error) {
	return p.server.write(in.GetCollectionName(), in.GetWait(), func(v *view, _ uint64) ([]change, error) {
		ids, err := v.selectedIDs(in.GetPoints())
		changes := make([]change, len(ids))
		for i, id := range ids {
			changes[i].id = id
		}
		return changes, err
	})
}

// edit rewrites the payloads of the selected points.
func (p pointsService) edit(name string, wait bool, points *pb.PointsSelector, f func(map[string]*pb.Value) map[string]*pb.Value) (*pb.PointsOperationResponse, error) {
	return p.server.write(name, wait, func(v *view, version uint64) ([]change, error) {
		ids, err := v.selectedIDs(points)
		if err != nil {
			return nil, err
		}
		changes := make([]change, len(ids))
		for i, id := range ids {
			old, err := v.recordOf(id)
			if err != nil {
				return nil, err
			}
			fields, err := old.payload(v.dimensions).decode()
			if err != nil {
				return nil, err
			}
			if fields == nil {
				fields = make(map[string]*pb.Value)
			}
			payload, err := encodePayload(f(fields))
			if err != nil {
				return nil, wrongInput("payload: %v", err)
			}
			changes[i] = change{id, newRecord(version, old.vector(v.dimensions), payload)}
		}
		return changes, nil
	})
}

func (p pointsService) SetPayload(_ context.Context, in *pb.SetPayloadPoints) (*pb.PointsOperationResponse, error) {
	if in.GetKey() != "" {
		return nil, unimplemented("setting a payload under a key")
	}
	return p.edit(in.GetCollectionName(), in.GetWait(), in.GetPointsSelector(), func(fields map[string]*pb.Value) map[string]*pb.Value {
		maps.Copy(fields, in.GetPayload())
		return fields
	})
}

func (p pointsService) OverwritePayload(_ context.Context, in *pb.SetPayloadPoints) (*pb.PointsOperationResponse, error) {
	if in.GetKey() != "" {
		return nil, unimplemented("overwriting a payload under a key")
	}
	return p.edit(in.GetCollectionName(), in.GetWait(), in.GetPointsSelector(), func(map[string]*pb.Value) map[string]*pb.Value {
		return in.GetPayload()
	})
}

func (p pointsService) DeletePayload(_ context.Context, in *pb.DeletePayloadPoints) (*pb.PointsOperationResponse, error) {
	return p.edit(in.GetCollectionName(), in.GetWait(), in.GetPointsSelector(), func(fields map[string]*pb.Value) map[string]*pb.Value {
		for _, key := range in.GetKeys() {
			delete(fields, key)
		}
		return fields
	})
}

func (p pointsService) ClearPayload(_ context.Context, in *pb.ClearPayloadPoints) (*pb.PointsOperationResponse, error) {
	return p.edit(in.GetCollectionName(), in.GetWait(), in.GetPoints(), func(map[string]*pb.Value) map[string]*pb.Value {
		return nil
	})
}
