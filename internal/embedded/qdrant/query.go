package qdrant

import (
	"context"
	"math"
	"slices"
	"time"

	pb "github.com/qdrant/go-client/qdrant"
	"google.golang.org/protobuf/proto"
)

func (p pointsService) Query(_ context.Context, in *pb.QueryPoints) (*pb.QueryResponse, error) {
	start := time.Now()
	results, err := p.query(in.GetCollectionName(), []*pb.QueryPoints{in})
	if err != nil {
		return nil, err
	}
	return &pb.QueryResponse{Result: results[0].GetResult(), Time: time.Since(start).Seconds()}, nil
}

func (p pointsService) QueryBatch(_ context.Context, in *pb.QueryBatchPoints) (*pb.QueryBatchResponse, error) {
	start := time.Now()
	for _, q := range in.GetQueryPoints() {
		if q.GetCollectionName() != "" && q.GetCollectionName() != in.GetCollectionName() {
			return nil, wrongInput("a query of collection %s in a batch of collection %s", q.GetCollectionName(), in.GetCollectionName())
		}
	}
	results, err := p.query(in.GetCollectionName(), in.GetQueryPoints())
	if err != nil {
		return nil, err
	}
	return &pb.QueryBatchResponse{Result: results, Time: time.Since(start).Seconds()}, nil
}

// query answers a batch. Its nearest-neighbour searches share one pass over the vectors.
func (p pointsService) query(name string, queries []*pb.QueryPoints) ([]*pb.BatchResult, error) {
	c, err := p.server.find(name)
	if err != nil {
		return nil, err
	}
	results := make([]*pb.BatchResult, len(queries))
	err = p.server.read(c, func(v *view) (func() error, error) {
		planner := planner{view: v, selections: make(map[string]bitset), projections: make(map[string]*projection)}
		plans := make([]*plan, len(queries))
		var batch []*search
		for i, q := range queries {
			plan, err := planner.plan(q)
			if err != nil {
				return nil, err
			}
			plans[i] = plan
			if plan.search != nil {
				batch = append(batch, plan.search)
			}
		}
		v.run(batch)
		for _, plan := range plans {
			plan.resolve(v)
		}
		return func() (err error) {
			for i, plan := range plans {
				if results[i], err = plan.answer(v); err != nil {
					return err
				}
			}
			return nil
		}, nil
	})
	return results, err
}

// planner prepares the queries of a batch. They usually have the same filter and selectors, so each is
// compiled once.
type planner struct {
	*view
	selections  map[string]bitset
	projections map[string]*projection
}

// plan is one query of a batch.
type plan struct {
	search  *search // nil if the query is no search but a page of points
	page    []ordered
	scores  []float32 // of the page, if it came from a search
	idsOnly []output  // likewise, if nothing of the points has to be read
	offset  int
	want    *projection
}

// checkSupported refuses everything that plan cannot do.
func checkSupported(q *pb.QueryPoints) error {
	switch {
	case len(q.ProtoReflect().GetUnknown()) > 0:
		return unimplemented("fields of a query that came after version %s", version)
	case len(q.GetPrefetch()) > 0:
		return unimplemented("prefetch")
	case q.GetUsing() != "":
		return unimplemented("named vectors (using %q)", q.GetUsing())
	case q.GetLookupFrom() != nil:
		return unimplemented("lookup_from")
	case q.GetShardKeySelector() != nil:
		return unimplemented("shard keys")
	}
	return nil
}

func (l *planner) plan(q *pb.QueryPoints) (*plan, error) {
	if err := checkSupported(q); err != nil {
		return nil, err
	}
	want, err := l.projection(q)
	if err != nil {
		return nil, err
	}
	limit := uint64(defaultLimit)
	if q.Limit != nil {
		limit = q.GetLimit()
	}
	p := &plan{want: want, offset: int(min(q.GetOffset(), math.MaxInt32))}
	fetch := int(min(limit, math.MaxInt32)) + p.offset
	switch option := q.GetQuery().GetVariant().(type) {
	case *pb.Query_Nearest:
		p.search, err = l.nearest(q, option.Nearest, fetch)
		return p, err
	case nil, *pb.Query_OrderBy:
		f, err := l.compile(q.GetFilter())
		if err != nil {
			return nil, err
		}
		if by := q.GetQuery().GetOrderBy(); by != nil {
			p.page, err = l.sorted(f, by, fetch)
		} else {
			p.page, _, err = l.page(f, nil, fetch)
		}
		return p, err
	default:
		return nil, unimplemented("the query variant %T: only nearest, order_by and none", option)
	}
}

func (l *planner) nearest(q *pb.QueryPoints, input *pb.VectorInput, limit int) (*search, error) {
	candidates, err := l.selection(q.GetFilter())
	if err != nil {
		return nil, err
	}
	s := &search{candidates: candidates, limit: limit, threshold: q.ScoreThreshold}
	switch option := input.GetVariant().(type) {
	case *pb.VectorInput_Dense:
		s.vector = option.Dense.GetData()
		return s, l.checkVector(s.vector)
	case *pb.VectorInput_Id:
		id, err := parseID(option.Id)
		if err != nil {
			return nil, err
		}
		slot, ok := l.slots[id]
		if !ok {
			return nil, wrongInput("No point with id %s found", id.proto())
		}
		// A point is not its own neighbour.
		s.vector, s.candidates = l.row(slot), slices.Clone(candidates)
		s.candidates.clear(slot)
		return s, nil
	case nil:
		return nil, wrongInput("a nearest query without vector")
	default:
		return nil, unimplemented("query vectors of type %T", option)
	}
}

func (l *planner) selection(f *pb.Filter) (bitset, error) {
	key, err := encoded(f)
	if err != nil {
		return nil, err
	}
	if set, ok := l.selections[key]; ok {
		return set, nil
	}
	compiled, err := l.compile(f)
	if err != nil {
		return nil, err
	}
	set := l.selected(compiled)
	l.selections[key] = set
	return set, nil
}

func (l *planner) projection(q *pb.QueryPoints) (*projection, error) {
	key, err := encoded(&pb.QueryPoints{WithPayload: q.GetWithPayload(), WithVectors: q.GetWithVectors()})
	if err != nil {
		return nil, err
	}
	if want, ok := l.projections[key]; ok {
		return want, nil
	}
	want, err := newProjection(q.GetWithPayload(), q.GetWithVectors())
	l.projections[key] = want
	return want, err
}

func encoded(message proto.Message) (string, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	return string(raw), err
}

// resolve turns slots into ids while no write can give the slots to other points.
func (p *plan) resolve(v *view) {
	if p.search != nil {
		for _, hit := range p.search.hits {
			p.page = append(p.page, ordered{id: v.ids[hit.slot]})
			p.scores = append(p.scores, hit.score)
			if p.want.idsOnly() {
				p.idsOnly = append(p.idsOnly, output{version: v.versions[hit.slot]})
			}
		}
	}
}

// answer reads the points from disk.
func (p *plan) answer(v *view) (*pb.BatchResult, error) {
	result := &pb.BatchResult{}
	for i := min(p.offset, len(p.page)); i < len(p.page); i++ {
		var out output
		if p.idsOnly != nil {
			out = p.idsOnly[i]
		} else {
			var err error
			if out, err = v.output(p.page[i].id, p.want); err != nil {
				return nil, err
			}
		}
		point := out.scored(p.page[i])
		if p.scores != nil {
			point.Score = p.scores[i]
		}
		result.Result = append(result.Result, point)
	}
	return result, nil
}
