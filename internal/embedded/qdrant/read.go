package qdrant

import (
	"context"
	"math"
	"slices"
	"time"

	pb "github.com/qdrant/go-client/qdrant"
)

const defaultLimit = 10 // of a query or scroll without a limit

// wantsVectors reads a vector selector.
func wantsVectors(with *pb.WithVectorsSelector) (bool, error) {
	switch option := with.GetSelectorOptions().(type) {
	case nil:
		return false, nil
	case *pb.WithVectorsSelector_Enable:
		return option.Enable, nil
	}
	return false, unimplemented("named vectors")
}

func vectorsOutput(vector []float32) *pb.VectorsOutput {
	return &pb.VectorsOutput{VectorsOptions: &pb.VectorsOutput_Vector{Vector: &pb.VectorOutput{
		Vector: &pb.VectorOutput_Dense{Dense: &pb.DenseVector{Data: vector}},
	}}}
}

// projection says which parts of points a request wants.
type projection struct {
	payload selector
	vector  bool
	seen    map[pointID]output // points often appear in several queries of a batch
}

func newProjection(withPayload *pb.WithPayloadSelector, withVectors *pb.WithVectorsSelector) (*projection, error) {
	payload, err := newSelector(withPayload)
	if err != nil {
		return nil, err
	}
	vector, err := wantsVectors(withVectors)
	return &projection{payload: payload, vector: vector, seen: make(map[pointID]output)}, err
}

// idsOnly reports whether a request wants only the ids of points.
func (p *projection) idsOnly() bool {
	return !p.vector && p.payload.none()
}

// output holds the parts of a point for an answer.
type output struct {
	version uint64
	payload rawPayload
	vectors *pb.VectorsOutput
}

// output reads a point from disk.
func (v *view) output(id pointID, want *projection) (output, error) {
	if out, ok := want.seen[id]; ok {
		return out, nil
	}
	r, err := v.recordOf(id)
	if err != nil {
		return output{}, err
	}
	out := output{version: r.version()}
	if want.vector {
		out.vectors = vectorsOutput(r.vector(v.dimensions))
	}
	out.payload, err = want.payload.copySelected(r.payload(v.dimensions))
	want.seen[id] = out
	return out, err
}

// retrieved returns the answer for a point. The payload is already encoded, so it is sent as unknown fields.
// On the wire there is no difference.
func (o output) retrieved(at ordered) *pb.RetrievedPoint {
	point := &pb.RetrievedPoint{Id: at.id.proto(), Vectors: o.vectors, OrderValue: at.value}
	point.ProtoReflect().SetUnknown([]byte(o.payload))
	return point
}

func (o output) scored(at ordered) *pb.ScoredPoint {
	point := &pb.ScoredPoint{Id: at.id.proto(), Version: o.version, Vectors: o.vectors, OrderValue: at.value}
	point.ProtoReflect().SetUnknown([]byte(o.payload))
	return point
}

func (p pointsService) Get(_ context.Context, in *pb.GetPoints) (*pb.GetResponse, error) {
	start := time.Now()
	want, err := newProjection(in.GetWithPayload(), in.GetWithVectors())
	if err != nil {
		return nil, err
	}
	c, err := p.server.find(in.GetCollectionName())
	if err != nil {
		return nil, err
	}
	answer := &pb.GetResponse{}
	err = p.server.read(c, func(v *view) (func() error, error) {
		var ids []pointID
		for _, id := range in.GetIds() {
			key, err := parseID(id)
			if err != nil {
				return nil, err
			}
			if _, ok := v.slots[key]; ok {
				ids = append(ids, key)
			}
		}
		return func() error {
			for _, id := range ids {
				out, err := v.output(id, want)
				if err != nil {
					return err
				}
				answer.Result = append(answer.Result, out.retrieved(ordered{id: id}))
			}
			return nil
		}, nil
	})
	answer.Time = time.Since(start).Seconds()
	return answer, err
}

func (p pointsService) Count(_ context.Context, in *pb.CountPoints) (*pb.CountResponse, error) {
	start := time.Now()
	c, err := p.server.find(in.GetCollectionName())
	if err != nil {
		return nil, err
	}
	var n int
	err = p.server.read(c, func(v *view) (func() error, error) {
		f, err := v.compile(in.GetFilter())
		n = v.selected(f).count()
		return func() error { return nil }, err
	})
	return &pb.CountResponse{Result: &pb.CountResult{Count: uint64(n)}, Time: time.Since(start).Seconds()}, err
}

func (p pointsService) Scroll(_ context.Context, in *pb.ScrollPoints) (*pb.ScrollResponse, error) {
	start := time.Now()
	want, err := newProjection(in.GetWithPayload(), in.GetWithVectors())
	if err != nil {
		return nil, err
	}
	limit := defaultLimit
	if in.Limit != nil {
		limit = int(in.GetLimit())
	}
	if limit == 0 {
		return nil, wrongInput("limit 0: must be at least 1")
	}
	if in.GetOrderBy() != nil && in.GetOffset() != nil {
		return nil, wrongInput("Cannot use an `offset` when using `order_by`")
	}
	c, err := p.server.find(in.GetCollectionName())
	if err != nil {
		return nil, err
	}
	answer := &pb.ScrollResponse{}
	err = p.server.read(c, func(v *view) (func() error, error) {
		f, err := v.compile(in.GetFilter())
		if err != nil {
			return nil, err
		}
		var page []ordered
		if in.GetOrderBy() != nil {
			page, err = v.sorted(f, in.GetOrderBy(), limit)
		} else {
			page, answer.NextPageOffset, err = v.page(f, in.GetOffset(), limit)
		}
		return func() error {
			for _, at := range page {
				out, err := v.output(at.id, want)
				if err != nil {
					return err
				}
				answer.Result = append(answer.Result, out.retrieved(at))
			}
			return nil
		}, err
	})
	answer.Time = time.Since(start).Seconds()
	return answer, err
}

// ordered is a point of a page. The page is ordered by value; value is nil if it is ordered by id.
type ordered struct {
	id    pointID
	value *pb.OrderValue
}

// page returns matching points from offset on, in the order of their ids, and the id of the next point.
func (v *view) page(f filter, offset *pb.PointId, limit int) (page []ordered, next *pb.PointId, err error) {
	var from pointID
	if offset != nil {
		if from, err = parseID(offset); err != nil {
			return nil, nil, err
		}
	}
	if f.within != nil {
		// An index gave the few possible matches, so sort them instead of reading all points.
		v.selected(f).each(func(slot uint32) {
			if v.ids[slot].compare(from) >= 0 {
				page = append(page, ordered{id: v.ids[slot]})
			}
		})
		slices.SortFunc(page, func(a, b ordered) int { return a.id.compare(b.id) })
		if len(page) > limit {
			page, next = page[:limit], page[limit].id.proto()
		}
		return page, next, nil
	}
	cursor := v.points.Cursor()
	for key, _ := cursor.Seek(from[:]); key != nil; key, _ = cursor.Next() {
		id := pointID(key)
		slot, ok := v.slots[id]
		if !ok || f.match != nil && !f.match(slot) {
			continue
		}
		if len(page) == limit {
			return page, id.proto(), nil
		}
		page = append(page, ordered{id: id})
	}
	return page, nil, nil
}

// sorted returns matching points in the order of an indexed integer field. Equal values are ordered by id.
func (v *view) sorted(f filter, by *pb.OrderBy, limit int) ([]ordered, error) {
	index, ok := v.indexes[by.GetKey()].(*column)
	if !ok || v.info.GetPayloadSchema()[by.GetKey()].GetDataType() != pb.PayloadSchemaType_Integer {
		return nil, unimplemented("order_by on %q: it needs an integer payload index", by.GetKey())
	}
	descending := by.GetDirection() == pb.Direction_Desc
	begin := math.Inf(-1)
	if descending {
		begin = math.Inf(1)
	}
	switch from := by.GetStartFrom().GetValue().(type) {
	case nil:
	case *pb.StartFrom_Integer:
		begin = float64(from.Integer)
	case *pb.StartFrom_Float:
		begin = from.Float
	default:
		return nil, unimplemented("order_by that starts from %T", from)
	}
	type entry struct {
		id    pointID
		value int64
	}
	var entries []entry
	v.selected(f).each(func(slot uint32) {
		index.any(slot, func(i int64) bool {
			if descending && float64(i) <= begin || !descending && float64(i) >= begin {
				entries = append(entries, entry{v.ids[slot], i})
			}
			return false
		})
	})
	slices.SortFunc(entries, func(a, b entry) int {
		if a.value != b.value {
			if (a.value < b.value) != descending {
				return -1
			}
			return 1
		}
		return a.id.compare(b.id)
	})
	page := make([]ordered, min(limit, len(entries)))
	for i := range page {
		page[i] = ordered{entries[i].id, pb.NewOrderValueInt(entries[i].value)}
	}
	return page, nil
}
