package qdrant

import (
	"math/rand/v2"
	"testing"

	pb "github.com/qdrant/go-client/qdrant"
	"google.golang.org/protobuf/proto"
)

// BenchmarkQueryBatch runs 64 queries with limit 128, vectors and a filter on 16,000 points of 512
// dimensions, without the network and without encoding answers.
func BenchmarkQueryBatch(b *testing.B) {
	const n, dimensions, queries = 16_000, 512, 64
	s, client := start(b, b.TempDir())
	create(b, client, "c", dimensions)
	kind := pb.FieldType_FieldTypeBool
	if _, err := client.CreateFieldIndex(b.Context(), &pb.CreateFieldIndexCollection{CollectionName: "c", FieldName: "deleted", FieldType: &kind}); err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	vector := func() []float32 {
		v := make([]float32, dimensions)
		for i := range v {
			v[i] = float32(r.NormFloat64())
		}
		return v
	}
	for from := 0; from < n; from += 250 {
		var points []*pb.PointStruct
		for i := range 250 {
			points = append(points, point(pb.NewIDNum(uint64(from+i)), map[string]any{"deleted": i%20 == 0, "doc_id": "a document"}, vector()...))
		}
		upsert(b, client, "c", points...)
	}
	in := &pb.QueryBatchPoints{CollectionName: "c"}
	for range queries {
		in.QueryPoints = append(in.QueryPoints, &pb.QueryPoints{
			CollectionName: "c", Query: pb.NewQueryDense(vector()), Limit: proto.Uint64(128), WithVectors: pb.NewWithVectors(true),
			WithPayload: pb.NewWithPayloadInclude("doc_id"), Filter: &pb.Filter{Must: []*pb.Condition{pb.NewMatchBool("deleted", false)}},
		})
	}
	for b.Loop() {
		if _, err := (pointsService{server: s}).QueryBatch(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}
