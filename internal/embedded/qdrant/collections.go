package qdrant

import (
	"context"
	"maps"
	"slices"
	"time"

	pb "github.com/qdrant/go-client/qdrant"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

type collectionsService struct {
	pb.UnimplementedCollectionsServer
	server *Server
}

// checkSettings refuses a new collection's settings if they would change answers. Settings that only tune speed
// are stored and shown, and have no effect.
func checkSettings(in *pb.CreateCollection) error {
	vectors := in.GetVectorsConfig().GetParams()
	switch {
	case in.GetCollectionName() == "" || len(in.GetCollectionName()) > 255:
		return wrongInput("a collection name has 1 to 255 bytes")
	case in.GetVectorsConfig().GetParamsMap() != nil:
		return unimplemented("named vectors")
	case len(in.GetSparseVectorsConfig().GetMap()) > 0:
		return unimplemented("sparse vectors")
	case vectors.GetSize() == 0 || vectors.GetSize() > 65536:
		return wrongInput("vectors of size %d: 1 to 65536", vectors.GetSize())
	case vectors.GetDistance() != pb.Distance_Dot:
		return unimplemented("distance %s: only Dot", vectors.GetDistance())
	case vectors.GetMultivectorConfig() != nil:
		return unimplemented("multi-vectors")
	case vectors.GetDatatype() != pb.Datatype_Default && vectors.GetDatatype() != pb.Datatype_Float32:
		return unimplemented("vectors of type %s: only Float32", vectors.GetDatatype())
	case in.GetQuantizationConfig() != nil || vectors.GetQuantizationConfig() != nil:
		return unimplemented("quantization")
	case in.GetShardNumber() > 1 || in.GetShardingMethod() == pb.ShardingMethod_Custom:
		return unimplemented("several shards")
	case in.GetReplicationFactor() > 1 || in.GetWriteConsistencyFactor() > 1:
		return unimplemented("replication")
	case in.GetStrictModeConfig().GetEnabled():
		return unimplemented("strict mode")
	}
	return nil
}

// newInfo returns the description of a new collection for clients. The numbers that tune HNSW are Qdrant's
// defaults, because some standard clients require them.
func newInfo(in *pb.CreateCollection) *pb.CollectionInfo {
	config := &pb.CollectionConfig{
		Params: &pb.CollectionParams{
			ShardNumber: 1, OnDiskPayload: true, VectorsConfig: in.GetVectorsConfig(),
			ReplicationFactor: proto.Uint32(1), WriteConsistencyFactor: proto.Uint32(1),
		},
		HnswConfig: &pb.HnswConfigDiff{
			M: proto.Uint64(16), EfConstruct: proto.Uint64(100), FullScanThreshold: proto.Uint64(10000), MaxIndexingThreads: proto.Uint64(0), OnDisk: proto.Bool(false),
		},
		OptimizerConfig: &pb.OptimizersConfigDiff{
			DeletedThreshold: proto.Float64(0.2), VacuumMinVectorNumber: proto.Uint64(1000), DefaultSegmentNumber: proto.Uint64(1), FlushIntervalSec: proto.Uint64(0),
		},
		WalConfig: &pb.WalConfigDiff{WalCapacityMb: proto.Uint64(0), WalSegmentsAhead: proto.Uint64(0)},
		Metadata:  in.GetMetadata(),
	}
	if in.GetHnswConfig() != nil {
		proto.Merge(config.HnswConfig, in.GetHnswConfig())
	}
	if in.GetOptimizersConfig() != nil {
		proto.Merge(config.OptimizerConfig, in.GetOptimizersConfig())
	}
	if in.GetWalConfig() != nil {
		proto.Merge(config.WalConfig, in.GetWalConfig())
	}
	return &pb.CollectionInfo{
		Status: pb.CollectionStatus_Green, OptimizerStatus: &pb.OptimizerStatus{Ok: true}, SegmentsCount: 1, Config: config,
		PayloadSchema: make(map[string]*pb.PayloadSchemaInfo), UpdateQueue: &pb.UpdateQueueInfo{},
	}
}

func storeInfo(tx *bolt.Tx, name string, info *pb.CollectionInfo) error {
	raw, err := proto.Marshal(info)
	if err != nil {
		return err
	}
	return tx.Bucket(collectionsBucket).Put([]byte(name), raw)
}

// change runs a write that does not concern points. It makes the write durable first and then applies it to
// memory.
func (s *Server) change(durable func(*bolt.Tx) error, apply func()) (*pb.CollectionOperationResponse, error) {
	start := time.Now()
	if err := s.db.Update(durable); err != nil {
		return nil, failed(err)
	}
	s.mu.Lock()
	apply()
	s.mu.Unlock()
	return &pb.CollectionOperationResponse{Result: true, Time: time.Since(start).Seconds()}, nil
}

func (c collectionsService) Create(_ context.Context, in *pb.CreateCollection) (*pb.CollectionOperationResponse, error) {
	if err := checkSettings(in); err != nil {
		return nil, err
	}
	name := in.GetCollectionName()
	c.server.writing.Lock()
	defer c.server.writing.Unlock()
	if _, err := c.server.find(name); err == nil {
		return nil, status.Errorf(codes.AlreadyExists, "Wrong input: Collection `%s` already exists!", name)
	}
	info := newInfo(in)
	created, err := newCollection(name, info)
	if err != nil {
		return nil, err
	}
	return c.server.change(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucket(pointsBucket(name)); err != nil {
			return err
		}
		return storeInfo(tx, name, info)
	}, func() { c.server.collections[name] = created })
}

func (c collectionsService) Delete(_ context.Context, in *pb.DeleteCollection) (*pb.CollectionOperationResponse, error) {
	c.server.writing.Lock()
	defer c.server.writing.Unlock()
	deleted, err := c.server.find(in.GetCollectionName())
	if err != nil {
		return &pb.CollectionOperationResponse{Result: false}, nil
	}
	return c.server.change(func(tx *bolt.Tx) error {
		for alias, target := range c.server.aliases {
			if target == deleted.name {
				if err := tx.Bucket(aliasesBucket).Delete([]byte(alias)); err != nil {
					return err
				}
			}
		}
		if err := tx.Bucket(collectionsBucket).Delete([]byte(deleted.name)); err != nil {
			return err
		}
		return tx.DeleteBucket(pointsBucket(deleted.name))
	}, func() {
		maps.DeleteFunc(c.server.aliases, func(_, target string) bool { return target == deleted.name })
		delete(c.server.collections, deleted.name)
	})
}

// Update accepts metadata, and settings that only tune speed, which have no effect.
func (c collectionsService) Update(_ context.Context, in *pb.UpdateCollection) (*pb.CollectionOperationResponse, error) {
	params := in.GetParams()
	switch {
	case in.GetVectorsConfig() != nil:
		return nil, unimplemented("changing vectors_config")
	case in.GetQuantizationConfig() != nil:
		return nil, unimplemented("quantization")
	case len(in.GetSparseVectorsConfig().GetMap()) > 0:
		return nil, unimplemented("sparse vectors")
	case in.GetStrictModeConfig().GetEnabled():
		return nil, unimplemented("strict mode")
	case params.GetReplicationFactor() > 1 || params.GetWriteConsistencyFactor() > 1 || params.GetReadFanOutFactor() > 0:
		return nil, unimplemented("replication")
	}
	c.server.writing.Lock()
	defer c.server.writing.Unlock()
	found, err := c.server.find(in.GetCollectionName())
	if err != nil {
		return nil, err
	}
	info := proto.CloneOf(found.info)
	if in.GetHnswConfig() != nil {
		proto.Merge(info.Config.HnswConfig, in.GetHnswConfig())
	}
	if in.GetOptimizersConfig() != nil {
		proto.Merge(info.Config.OptimizerConfig, in.GetOptimizersConfig())
	}
	if params != nil && params.OnDiskPayload != nil {
		info.Config.Params.OnDiskPayload = params.GetOnDiskPayload()
	}
	if info.Config.Metadata == nil {
		info.Config.Metadata = make(map[string]*pb.Value)
	}
	maps.Copy(info.Config.Metadata, in.GetMetadata())
	return c.server.change(func(tx *bolt.Tx) error { return storeInfo(tx, found.name, info) }, func() { found.replaceInfo(info) })
}

func (c *collection) replaceInfo(info *pb.CollectionInfo) {
	c.mu.Lock()
	c.info = info
	c.mu.Unlock()
}

func (c collectionsService) Get(_ context.Context, in *pb.GetCollectionInfoRequest) (*pb.GetCollectionInfoResponse, error) {
	start := time.Now()
	found, err := c.server.find(in.GetCollectionName())
	if err != nil {
		return nil, err
	}
	found.mu.RLock()
	info := proto.CloneOf(found.info)
	info.PointsCount = proto.Uint64(uint64(len(found.slots)))
	info.IndexedVectorsCount = proto.Uint64(0) // no HNSW: every search is exact
	for field, schema := range info.GetPayloadSchema() {
		schema.Points = proto.Uint64(uint64(found.indexes[field].points()))
	}
	found.mu.RUnlock()
	return &pb.GetCollectionInfoResponse{Result: info, Time: time.Since(start).Seconds()}, nil
}

func (c collectionsService) List(context.Context, *pb.ListCollectionsRequest) (*pb.ListCollectionsResponse, error) {
	c.server.mu.RLock()
	defer c.server.mu.RUnlock()
	answer := &pb.ListCollectionsResponse{}
	for _, name := range slices.Sorted(maps.Keys(c.server.collections)) {
		answer.Collections = append(answer.Collections, &pb.CollectionDescription{Name: name})
	}
	return answer, nil
}

func (c collectionsService) CollectionExists(_ context.Context, in *pb.CollectionExistsRequest) (*pb.CollectionExistsResponse, error) {
	_, err := c.server.find(in.GetCollectionName())
	return &pb.CollectionExistsResponse{Result: &pb.CollectionExists{Exists: err == nil}}, nil
}

func (c collectionsService) ListAliases(context.Context, *pb.ListAliasesRequest) (*pb.ListAliasesResponse, error) {
	return &pb.ListAliasesResponse{Aliases: c.server.listAliases("")}, nil
}

func (c collectionsService) ListCollectionAliases(_ context.Context, in *pb.ListCollectionAliasesRequest) (*pb.ListAliasesResponse, error) {
	found, err := c.server.find(in.GetCollectionName())
	if err != nil {
		return nil, err
	}
	return &pb.ListAliasesResponse{Aliases: c.server.listAliases(found.name)}, nil
}

// listAliases returns the aliases of a collection, or all aliases if name is "".
func (s *Server) listAliases(name string) []*pb.AliasDescription {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var found []*pb.AliasDescription
	for _, alias := range slices.Sorted(maps.Keys(s.aliases)) {
		if target := s.aliases[alias]; name == "" || target == name {
			found = append(found, &pb.AliasDescription{AliasName: alias, CollectionName: target})
		}
	}
	return found
}

// UpdateAliases makes all changes in one step, or none.
func (c collectionsService) UpdateAliases(_ context.Context, in *pb.ChangeAliases) (*pb.CollectionOperationResponse, error) {
	c.server.writing.Lock()
	defer c.server.writing.Unlock()
	aliases := maps.Clone(c.server.aliases) // only changed while writing is held
	for _, operation := range in.GetActions() {
		if err := c.server.alter(aliases, operation); err != nil {
			return nil, err
		}
	}
	return c.server.change(func(tx *bolt.Tx) error {
		if err := tx.DeleteBucket(aliasesBucket); err != nil {
			return err
		}
		bucket, err := tx.CreateBucket(aliasesBucket)
		for alias, target := range aliases {
			if err == nil {
				err = bucket.Put([]byte(alias), []byte(target))
			}
		}
		return err
	}, func() { c.server.aliases = aliases })
}

func (s *Server) alter(aliases map[string]string, operation *pb.AliasOperations) error {
	missing := func(alias string) error {
		return status.Errorf(codes.NotFound, "Not found: Alias %s does not exists!", alias)
	}
	switch action := operation.GetAction().(type) {
	case *pb.AliasOperations_CreateAlias:
		name, target := action.CreateAlias.GetAliasName(), action.CreateAlias.GetCollectionName()
		if _, ok := s.collections[target]; !ok {
			return status.Errorf(codes.NotFound, "Not found: Collection `%s` doesn't exist!", target)
		}
		if _, ok := s.collections[name]; ok || name == "" {
			return wrongInput("%q cannot be an alias: it is empty or the name of a collection", name)
		}
		aliases[name] = target
	case *pb.AliasOperations_RenameAlias:
		from, to := action.RenameAlias.GetOldAliasName(), action.RenameAlias.GetNewAliasName()
		target, ok := aliases[from]
		if !ok {
			return missing(from)
		}
		if _, ok := s.collections[to]; ok || to == "" {
			return wrongInput("%q cannot be an alias: it is empty or the name of a collection", to)
		}
		delete(aliases, from)
		aliases[to] = target
	case *pb.AliasOperations_DeleteAlias:
		name := action.DeleteAlias.GetAliasName()
		if _, ok := aliases[name]; !ok {
			return missing(name)
		}
		delete(aliases, name)
	default:
		return unimplemented("the alias operation %T", action)
	}
	return nil
}

// schemaTypes maps the type of an index in a request to its type in a description.
var schemaTypes = map[pb.FieldType]pb.PayloadSchemaType{
	pb.FieldType_FieldTypeKeyword: pb.PayloadSchemaType_Keyword,
	pb.FieldType_FieldTypeInteger: pb.PayloadSchemaType_Integer,
	pb.FieldType_FieldTypeBool:    pb.PayloadSchemaType_Bool,
}

func (p pointsService) CreateFieldIndex(_ context.Context, in *pb.CreateFieldIndexCollection) (*pb.PointsOperationResponse, error) {
	kind, ok := schemaTypes[in.GetFieldType()]
	if !ok {
		return nil, unimplemented("payload indexes of type %s", in.GetFieldType())
	}
	field := in.GetFieldName()
	if err := checkPath(field); err != nil {
		return nil, err
	}
	index, err := newFieldIndex(kind)
	if err != nil {
		return nil, err
	}
	return p.alterSchema(in.GetCollectionName(), in.GetWait(), func(v *view, info *pb.CollectionInfo) error {
		info.PayloadSchema[field] = &pb.PayloadSchemaInfo{DataType: kind, Params: in.GetFieldIndexParams()}
		for id, slot := range v.slots {
			r, err := v.recordOf(id)
			if err != nil {
				return err
			}
			values, err := r.payload(v.dimensions).values(field)
			if err != nil {
				return err
			}
			index.add(slot, values)
		}
		return nil
	}, func(c *collection) { c.indexes[field] = index })
}

func (p pointsService) DeleteFieldIndex(_ context.Context, in *pb.DeleteFieldIndexCollection) (*pb.PointsOperationResponse, error) {
	field := in.GetFieldName()
	return p.alterSchema(in.GetCollectionName(), in.GetWait(), func(_ *view, info *pb.CollectionInfo) error {
		delete(info.PayloadSchema, field)
		return nil
	}, func(c *collection) { delete(c.indexes, field) })
}

// alterSchema changes which fields have an index, on disk first and then in memory.
func (p pointsService) alterSchema(name string, wait bool, prepare func(*view, *pb.CollectionInfo) error, apply func(*collection)) (*pb.PointsOperationResponse, error) {
	return p.server.writeTo(name, wait, func(v *view, _ uint64, tx *bolt.Tx) error {
		info := proto.CloneOf(v.info)
		if info.PayloadSchema == nil {
			info.PayloadSchema = make(map[string]*pb.PayloadSchemaInfo)
		}
		if err := prepare(v, info); err != nil {
			return err
		}
		if err := storeInfo(tx, v.name, info); err != nil {
			return err
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		if err := tx.Commit(); err != nil {
			return err
		}
		v.collection.info = info
		apply(v.collection)
		return nil
	})
}
