package qdrant

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	pb "github.com/qdrant/go-client/qdrant"
	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func start(t testing.TB, dir string) (*Server, *pb.Client) {
	t.Helper()
	s, err := Start(Config{Address: "127.0.0.1:0", Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, connect(t, s.Addr())
}

func connect(t testing.TB, address string) *pb.Client {
	t.Helper()
	host, name, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, _ := strconv.Atoi(name)
	client, err := pb.NewClient(&pb.Config{Host: host, Port: port, PoolSize: 1, SkipCompatibilityCheck: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func random(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func create(t testing.TB, client *pb.Client, name string, dimensions int) {
	t.Helper()
	err := client.CreateCollection(t.Context(), &pb.CreateCollection{
		CollectionName: name, VectorsConfig: pb.NewVectorsConfig(&pb.VectorParams{Size: uint64(dimensions), Distance: pb.Distance_Dot}),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func upsert(t testing.TB, client *pb.Client, name string, points ...*pb.PointStruct) {
	t.Helper()
	result, err := client.Upsert(t.Context(), &pb.UpsertPoints{CollectionName: name, Points: points, Wait: proto.Bool(true)})
	if err != nil || result.GetStatus() != pb.UpdateStatus_Completed {
		t.Fatal(result, err)
	}
}

func point(id *pb.PointId, payload map[string]any, vector ...float32) *pb.PointStruct {
	return &pb.PointStruct{Id: id, Vectors: pb.NewVectorsDense(vector), Payload: pb.NewValueMap(payload)}
}

func TestRefusals(t *testing.T) {
	_, client := start(t, t.TempDir())
	create(t, client, "c", 2)
	upsert(t, client, "c", point(pb.NewIDNum(1), map[string]any{"a": "x"}, 1, 0))
	ctx := t.Context()
	collection := func(change func(*pb.CreateCollection)) error {
		in := &pb.CreateCollection{CollectionName: "d", VectorsConfig: pb.NewVectorsConfig(&pb.VectorParams{Size: 2, Distance: pb.Distance_Dot})}
		change(in)
		return client.CreateCollection(ctx, in)
	}
	query := func(change func(*pb.QueryPoints)) error {
		in := &pb.QueryPoints{CollectionName: "c", Query: pb.NewQuery(1, 0)}
		change(in)
		_, err := client.Query(ctx, in)
		return err
	}
	filter := func(condition *pb.Condition) error {
		_, err := client.Count(ctx, &pb.CountPoints{CollectionName: "c", Filter: &pb.Filter{Must: []*pb.Condition{condition}}})
		return err
	}
	write := func(p *pb.PointStruct) error {
		_, err := client.Upsert(ctx, &pb.UpsertPoints{CollectionName: "c", Points: []*pb.PointStruct{p}})
		return err
	}
	fieldIndex := func(kind pb.FieldType) error {
		_, err := client.CreateFieldIndex(ctx, &pb.CreateFieldIndexCollection{CollectionName: "c", FieldName: "a", FieldType: &kind})
		return err
	}
	params := func(in *pb.CreateCollection) *pb.VectorParams { return in.VectorsConfig.GetParams() }
	for _, refusal := range []struct {
		code codes.Code
		want string
		err  error
	}{
		{codes.Unimplemented, "distance Cosine", collection(func(in *pb.CreateCollection) { params(in).Distance = pb.Distance_Cosine })},
		{codes.Unimplemented, "named vectors", collection(func(in *pb.CreateCollection) {
			in.VectorsConfig = pb.NewVectorsConfigMap(map[string]*pb.VectorParams{"a": {Size: 2}})
		})},
		{codes.Unimplemented, "sparse vectors", collection(func(in *pb.CreateCollection) {
			in.SparseVectorsConfig = pb.NewSparseVectorsConfig(map[string]*pb.SparseVectorParams{"a": {}})
		})},
		{codes.Unimplemented, "multi-vectors", collection(func(in *pb.CreateCollection) { params(in).MultivectorConfig = &pb.MultiVectorConfig{} })},
		{codes.Unimplemented, "type Uint8", collection(func(in *pb.CreateCollection) { params(in).Datatype = pb.Datatype_Uint8.Enum() })},
		{codes.Unimplemented, "quantization", collection(func(in *pb.CreateCollection) {
			in.QuantizationConfig = pb.NewQuantizationScalar(&pb.ScalarQuantization{})
		})},
		{codes.Unimplemented, "several shards", collection(func(in *pb.CreateCollection) { in.ShardNumber = proto.Uint32(2) })},
		{codes.Unimplemented, "replication", collection(func(in *pb.CreateCollection) { in.ReplicationFactor = proto.Uint32(2) })},
		{codes.Unimplemented, "strict mode", collection(func(in *pb.CreateCollection) { in.StrictModeConfig = &pb.StrictModeConfig{Enabled: proto.Bool(true)} })},
		{codes.InvalidArgument, "size 0", collection(func(in *pb.CreateCollection) { params(in).Size = 0 })},
		{codes.AlreadyExists, "Collection `c` already exists", collection(func(in *pb.CreateCollection) { in.CollectionName = "c" })},

		{codes.Unimplemented, "Query_Recommend", query(func(in *pb.QueryPoints) { in.Query = pb.NewQueryRecommend(&pb.RecommendInput{}) })},
		{codes.Unimplemented, "Query_Fusion", query(func(in *pb.QueryPoints) { in.Query = pb.NewQueryFusion(pb.Fusion_RRF) })},
		{codes.Unimplemented, "VectorInput_Sparse", query(func(in *pb.QueryPoints) { in.Query = pb.NewQuerySparse([]uint32{1}, []float32{1}) })},
		{codes.Unimplemented, "prefetch", query(func(in *pb.QueryPoints) { in.Prefetch = []*pb.PrefetchQuery{{}} })},
		{codes.Unimplemented, `using "v"`, query(func(in *pb.QueryPoints) { in.Using = proto.String("v") })},
		{codes.Unimplemented, "lookup_from", query(func(in *pb.QueryPoints) { in.LookupFrom = &pb.LookupLocation{} })},
		{codes.Unimplemented, "shard keys", query(func(in *pb.QueryPoints) { in.ShardKeySelector = &pb.ShardKeySelector{} })},
		{codes.Unimplemented, `nested payload field "a.b"`, query(func(in *pb.QueryPoints) { in.WithPayload = pb.NewWithPayloadInclude("a.b") })},
		{codes.Unimplemented, "named vectors", query(func(in *pb.QueryPoints) { in.WithVectors = pb.NewWithVectorsInclude("v") })},
		{codes.Unimplemented, "order_by", query(func(in *pb.QueryPoints) { in.Query = pb.NewQueryOrderBy(&pb.OrderBy{Key: "a"}) })},
		{codes.Unimplemented, "fields of QueryPoints that came after", query(func(in *pb.QueryPoints) { in.ProtoReflect().SetUnknown([]byte{0xf8, 0x7f, 1}) })},
		{codes.InvalidArgument, "expected dim: 2, got 3", query(func(in *pb.QueryPoints) { in.Query = pb.NewQuery(1, 2, 3) })},
		{codes.InvalidArgument, "No point with id", query(func(in *pb.QueryPoints) { in.Query = pb.NewQueryID(pb.NewIDNum(9)) })},
		{codes.NotFound, "Collection `none` doesn't exist", query(func(in *pb.QueryPoints) { in.CollectionName = "none" })},

		{codes.Unimplemented, "Match_Text", filter(pb.NewMatchText("a", "x"))},
		{codes.Unimplemented, "geographic", filter(pb.NewGeoRadius("a", 1, 1, 1))},
		{codes.Unimplemented, "values_count", filter(pb.NewValuesCount("a", &pb.ValuesCount{}))},
		{codes.Unimplemented, "datetime_range", filter(pb.NewDatetimeRange("a", &pb.DatetimeRange{}))},
		{codes.Unimplemented, "Condition_Nested", filter(pb.NewNestedFilter("a", &pb.Filter{}))},
		{codes.Unimplemented, "Condition_HasVector", filter(pb.NewHasVector("a"))},
		{codes.Unimplemented, `payload key "a[0]"`, filter(pb.NewMatch("a[0]", "x"))},
		{codes.InvalidArgument, "without content", filter(&pb.Condition{})},
		{codes.InvalidArgument, "has no content", filter(&pb.Condition{ConditionOneOf: &pb.Condition_Field{Field: &pb.FieldCondition{Key: "a"}}})},

		{codes.Unimplemented, "named vectors", write(&pb.PointStruct{Id: pb.NewIDNum(1), Vectors: pb.NewVectorsMap(map[string]*pb.Vector{"a": pb.NewVector(1, 2)})})},
		{codes.Unimplemented, "Vector_Sparse", write(&pb.PointStruct{Id: pb.NewIDNum(1), Vectors: pb.NewVectorsSparse([]uint32{1}, []float32{1})})},
		{codes.InvalidArgument, "expected dim: 2, got 1", write(point(pb.NewIDNum(1), nil, 1))},
		{codes.InvalidArgument, "without vector", write(&pb.PointStruct{Id: pb.NewIDNum(1)})},
		{codes.InvalidArgument, "Unable to parse UUID: x", write(point(pb.NewID("x"), nil, 1, 2))},
		{codes.InvalidArgument, "without id", write(point(nil, nil, 1, 2))},

		{codes.Unimplemented, "FieldTypeGeo", fieldIndex(pb.FieldType_FieldTypeGeo)},
		{codes.Unimplemented, "FieldTypeText", fieldIndex(pb.FieldType_FieldTypeText)},
	} {
		if status.Code(refusal.err) != refusal.code || !strings.Contains(fmt.Sprint(refusal.err), refusal.want) {
			t.Errorf("%v, want %s: %s", refusal.err, refusal.code, refusal.want)
		}
	}
	if n, err := client.Count(ctx, &pb.CountPoints{CollectionName: "c"}); n != 1 || err != nil {
		t.Errorf("%d points after refused writes, %v", n, err)
	}
}

// anyID returns an id, and mixes both kinds of ids.
func anyID(i int) *pb.PointId {
	if i%2 == 0 {
		return pb.NewIDNum(uint64(i) * 7919 % 1000)
	}
	return pb.NewIDUUID(uuid.NewSHA1(uuid.NameSpaceURL, []byte{byte(i), byte(i >> 8)}).String())
}

// idLess compares two ids in Qdrant's order, from their values: numbers first, by size, then UUIDs.
func idLess(a, b *pb.PointId) bool {
	if a.GetUuid() == "" != (b.GetUuid() == "") {
		return a.GetUuid() == ""
	}
	return a.GetNum() < b.GetNum() || a.GetUuid() < b.GetUuid()
}

func TestScrollOrder(t *testing.T) {
	_, client := start(t, t.TempDir())
	create(t, client, "c", 2)
	kind := pb.FieldType_FieldTypeInteger
	keyword := pb.FieldType_FieldTypeKeyword
	for field, kind := range map[string]*pb.FieldType{"n": &kind, "word": &keyword} {
		if _, err := client.CreateFieldIndex(t.Context(), &pb.CreateFieldIndexCollection{CollectionName: "c", FieldName: field, FieldType: kind}); err != nil {
			t.Fatal(err)
		}
	}
	r := random(t)
	const n = 200
	var points []*pb.PointStruct
	for _, i := range r.Perm(n) {
		points = append(points, point(anyID(i), map[string]any{"n": i / 3, "word": fmt.Sprint("w", i%2)}, 1, 0))
	}
	upsert(t, client, "c", points...)
	slices.SortFunc(points, func(a, b *pb.PointStruct) int {
		if idLess(a.GetId(), b.GetId()) {
			return -1
		}
		return 1
	})
	for name, filter := range map[string]*pb.Filter{
		"all": nil, "range": {Must: []*pb.Condition{pb.NewRange("n", &pb.Range{Lt: proto.Float64(30)})}}, "keyword": {Must: []*pb.Condition{pb.NewMatch("word", "w1")}},
	} {
		var want, got []string
		for _, p := range points {
			if name == "all" || name == "range" && p.Payload["n"].GetIntegerValue() < 30 || name == "keyword" && p.Payload["word"].GetStringValue() == "w1" {
				want = append(want, p.GetId().String())
			}
		}
		for offset := (*pb.PointId)(nil); ; {
			page, next, err := client.ScrollAndOffset(t.Context(), &pb.ScrollPoints{CollectionName: "c", Filter: filter, Offset: offset, Limit: proto.Uint32(7)})
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range page {
				got = append(got, p.GetId().String())
			}
			if offset = next; next == nil {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: pages give %d points, want %d in order", name, len(got), len(want))
		}
	}
	for _, direction := range []pb.Direction{pb.Direction_Asc, pb.Direction_Desc} {
		page, err := client.Scroll(t.Context(), &pb.ScrollPoints{CollectionName: "c", Limit: proto.Uint32(50), WithPayload: pb.NewWithPayload(true),
			OrderBy: &pb.OrderBy{Key: "n", Direction: &direction, StartFrom: pb.NewStartFromInt(33)}})
		if err != nil || len(page) != 50 {
			t.Fatal(len(page), err)
		}
		sorted := slices.IsSortedFunc(page, func(a, b *pb.RetrievedPoint) int {
			c := cmp.Compare(a.GetOrderValue().GetInt(), b.GetOrderValue().GetInt())
			if direction == pb.Direction_Desc {
				c = -c
			}
			if c == 0 && idLess(a.GetId(), b.GetId()) {
				c = -1
			}
			return c
		})
		if !sorted || page[0].GetOrderValue().GetInt() != 33 || page[0].GetPayload()["n"].GetIntegerValue() != 33 {
			t.Errorf("order_by %s starts at %v", direction, page[0])
		}
	}
}

// TestSearch compares searches with a sort of all points, after deletes, so that slots are reused. The
// vectors hold small whole numbers, so scores are exact and ties are common.
func TestSearch(t *testing.T) {
	_, client := start(t, t.TempDir())
	create(t, client, "c", 3)
	r := random(t)
	stored := make(map[string]*pb.PointStruct)
	put := func(i int) {
		p := point(anyID(i), map[string]any{"even": i%2 == 0, "n": i}, float32(r.IntN(5)-2), float32(r.IntN(5)-2), float32(r.IntN(5)-2))
		upsert(t, client, "c", p)
		stored[p.GetId().String()] = p
	}
	var all []*pb.PointStruct
	for i := range 500 {
		put(i)
	}
	for i := 0; i < 500; i += 3 {
		if _, err := client.Delete(t.Context(), &pb.DeletePoints{CollectionName: "c", Wait: proto.Bool(true), Points: pb.NewPointsSelector(anyID(i))}); err != nil {
			t.Fatal(err)
		}
		delete(stored, anyID(i).String())
	}
	for i := 480; i < 620; i++ {
		put(i)
	}
	for _, p := range stored {
		all = append(all, p)
	}
	score := func(p *pb.PointStruct, q []float32) float32 {
		v := p.GetVectors().GetVector().GetDense().GetData()
		return v[0]*q[0] + v[1]*q[1] + v[2]*q[2]
	}
	for range 60 {
		q := []float32{float32(r.IntN(7) - 3), float32(r.IntN(7) - 3), float32(r.IntN(7) - 3)}
		limit, offset, threshold := uint64(r.IntN(80)+1), uint64(r.IntN(20)), float32(r.IntN(10)-8)
		below := int64(r.IntN(620))
		from := max(0, below-int64(r.IntN(300))) // some points of some blocks, all points of others
		want := slices.Clone(all)
		want = slices.DeleteFunc(want, func(p *pb.PointStruct) bool {
			return score(p, q) < threshold || p.Payload["n"].GetIntegerValue() >= below || p.Payload["n"].GetIntegerValue() < from
		})
		slices.SortFunc(want, func(a, b *pb.PointStruct) int {
			if c := cmp.Compare(score(b, q), score(a, q)); c != 0 {
				return c
			}
			if idLess(a.GetId(), b.GetId()) {
				return -1
			}
			return 1
		})
		want = want[min(int(offset), len(want)):min(int(offset+limit), len(want))]
		query := &pb.QueryPoints{CollectionName: "c", Query: pb.NewQueryDense(q), Limit: &limit, Offset: &offset, ScoreThreshold: &threshold,
			Filter: &pb.Filter{Must: []*pb.Condition{pb.NewRange("n", &pb.Range{Lt: proto.Float64(float64(below)), Gte: proto.Float64(float64(from))})}}, WithPayload: pb.NewWithPayloadExclude("even"), WithVectors: pb.NewWithVectors(true)}
		got, err := client.Query(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		query.WithPayload, query.WithVectors = pb.NewWithPayload(false), pb.NewWithVectors(false)
		bare, err := client.Query(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) || len(bare) != len(want) {
			t.Fatalf("%d hits, %d bare ones, want %d", len(got), len(bare), len(want))
		}
		for i, hit := range bare {
			if w := (&pb.ScoredPoint{Id: got[i].GetId(), Score: got[i].GetScore(), Version: got[i].GetVersion()}); !proto.Equal(hit, w) || w.GetVersion() == 0 {
				t.Fatalf("bare hit %d is %v, want %v", i, hit, w)
			}
		}
		for i, hit := range got {
			p := want[i]
			if !proto.Equal(hit.GetId(), p.GetId()) || hit.GetScore() != score(p, q) || len(hit.GetPayload()) != 1 || hit.GetPayload()["n"].GetIntegerValue() != p.Payload["n"].GetIntegerValue() ||
				!slices.Equal(hit.GetVectors().GetVector().GetDense().GetData(), p.GetVectors().GetVector().GetDense().GetData()) {
				t.Fatalf("hit %d is %v, want %v with score %g", i, hit, p, score(p, q))
			}
		}
	}
}

// TestNoTornReads rewrites a point while readers check that its vector, payload and indexes belong together.
func TestNoTornReads(t *testing.T) {
	_, client := start(t, t.TempDir())
	create(t, client, "c", 2)
	kind := pb.FieldType_FieldTypeInteger
	if _, err := client.CreateFieldIndex(t.Context(), &pb.CreateFieldIndexCollection{CollectionName: "c", FieldName: "n", FieldType: &kind}); err != nil {
		t.Fatal(err)
	}
	versionOf := func(n int) []*pb.PointStruct {
		var points []*pb.PointStruct
		for i := range 20 {
			points = append(points, point(pb.NewIDNum(uint64(i)), map[string]any{"n": n}, 1, float32(n)))
		}
		return points
	}
	upsert(t, client, "c", versionOf(0)...)
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				hits, err := client.Query(t.Context(), &pb.QueryPoints{CollectionName: "c", Query: pb.NewQuery(0, 1), Limit: proto.Uint64(20), WithPayload: pb.NewWithPayload(true), WithVectors: pb.NewWithVectors(true)})
				if err != nil || len(hits) != 20 {
					t.Error(len(hits), err)
					return
				}
				for _, hit := range hits {
					n := float32(hit.GetPayload()["n"].GetIntegerValue())
					if v := hit.GetVectors().GetVector().GetDense().GetData(); v[1] != n || hit.GetScore() != n || hit.GetScore() != hits[0].GetScore() {
						t.Errorf("torn: score %g, vector %v, payload %g, first hit %g", hit.GetScore(), v, n, hits[0].GetScore())
						return
					}
				}
			}
		})
	}
	for n := 1; n <= 150; n++ {
		upsert(t, client, "c", versionOf(n)...)
		count, err := client.Count(t.Context(), &pb.CountPoints{CollectionName: "c", Filter: &pb.Filter{Must: []*pb.Condition{pb.NewMatchInt("n", int64(n))}}})
		if err != nil || count != 20 {
			t.Fatalf("%d points of version %d right after its write, %v", count, n, err)
		}
	}
	close(stop)
	group.Wait()
}

func TestAliases(t *testing.T) {
	dir := t.TempDir()
	s, client := start(t, dir)
	create(t, client, "c1", 2)
	create(t, client, "c2", 2)
	ctx := t.Context()
	list := func(client *pb.Client) map[string]string {
		t.Helper()
		aliases, err := client.ListAliases(ctx)
		if err != nil {
			t.Fatal(err)
		}
		found := make(map[string]string)
		for _, alias := range aliases {
			found[alias.GetAliasName()] = alias.GetCollectionName()
		}
		return found
	}
	check := func(client *pb.Client, want string) {
		t.Helper()
		if got := fmt.Sprint(list(client)); got != want {
			t.Errorf("aliases %s, want %s", got, want)
		}
	}
	update := func(actions ...*pb.AliasOperations) error { return client.UpdateAliases(ctx, actions) }
	if err := update(pb.NewAliasCreate("a", "c1"), pb.NewAliasCreate("b", "c1")); err != nil {
		t.Fatal(err)
	}
	check(client, "map[a:c1 b:c1]")
	if err := update(pb.NewAliasCreate("a", "c2"), pb.NewAliasCreate("b", "none")); status.Code(err) != codes.NotFound {
		t.Errorf("alias of a missing collection: %v", err)
	}
	check(client, "map[a:c1 b:c1]") // all or nothing
	if err := update(pb.NewAliasCreate("c1", "c2")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("alias with the name of a collection: %v", err)
	}
	if err := update(pb.NewAliasCreate("a", "c2"), pb.NewAliasRename("b", "x"), pb.NewAliasDelete("none")); status.Code(err) != codes.NotFound {
		t.Errorf("delete of a missing alias: %v", err)
	}
	if err := update(pb.NewAliasCreate("a", "c2"), pb.NewAliasRename("b", "x")); err != nil {
		t.Fatal(err)
	}
	check(client, "map[a:c2 x:c1]")
	upsert(t, client, "a", point(pb.NewIDNum(1), nil, 1, 2))
	if n, err := client.Count(ctx, &pb.CountPoints{CollectionName: "c2"}); n != 1 || err != nil {
		t.Errorf("%d points written by alias, %v", n, err)
	}
	if err := client.DeleteCollection(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	check(client, "map[a:c2]")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, again := start(t, dir)
	check(again, "map[a:c2]")
	if names, err := again.ListCollections(ctx); err != nil || !slices.Equal(names, []string{"c2"}) {
		t.Errorf("collections %v after a restart, %v", names, err)
	}
}

func TestEditPayload(t *testing.T) {
	_, client := start(t, t.TempDir())
	create(t, client, "c", 2)
	keyword := pb.FieldType_FieldTypeKeyword
	for i := range 4 {
		upsert(t, client, "c", point(pb.NewIDNum(uint64(i)), map[string]any{"w": "old", "i": i}, 1, 2))
	}
	ctx, wait := t.Context(), proto.Bool(true)
	if _, err := client.CreateFieldIndex(ctx, &pb.CreateFieldIndexCollection{CollectionName: "c", FieldName: "w", FieldType: &keyword}); err != nil {
		t.Fatal(err)
	}
	count := func(word string) uint64 {
		n, err := client.Count(ctx, &pb.CountPoints{CollectionName: "c", Filter: &pb.Filter{Must: []*pb.Condition{pb.NewMatch("w", word)}}})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	low := pb.NewPointsSelectorFilter(&pb.Filter{Must: []*pb.Condition{pb.NewRange("i", &pb.Range{Lt: proto.Float64(2)})}})
	if _, err := client.SetPayload(ctx, &pb.SetPayloadPoints{CollectionName: "c", Wait: wait, PointsSelector: low, Payload: pb.NewValueMap(map[string]any{"w": "new"})}); err != nil {
		t.Fatal(err)
	}
	if count("old") != 2 || count("new") != 2 {
		t.Errorf("after set_payload: %d old, %d new; want 2 and 2", count("old"), count("new"))
	}
	if _, err := client.OverwritePayload(ctx, &pb.SetPayloadPoints{CollectionName: "c", Wait: wait, PointsSelector: pb.NewPointsSelector(pb.NewIDNum(3)), Payload: pb.NewValueMap(map[string]any{"w": "over"})}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.DeletePayload(ctx, &pb.DeletePayloadPoints{CollectionName: "c", Wait: wait, PointsSelector: low, Keys: []string{"w"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.ClearPayload(ctx, &pb.ClearPayloadPoints{CollectionName: "c", Wait: wait, Points: pb.NewPointsSelector(pb.NewIDNum(2))}); err != nil {
		t.Fatal(err)
	}
	points, err := client.Get(ctx, &pb.GetPoints{CollectionName: "c", Ids: []*pb.PointId{pb.NewIDNum(0), pb.NewIDNum(2), pb.NewIDNum(3)}, WithPayload: pb.NewWithPayload(true), WithVectors: pb.NewWithVectors(true)})
	if err != nil || len(points) != 3 || len(points[0].GetPayload()) != 1 || len(points[1].GetPayload()) != 0 || len(points[2].GetPayload()) != 1 ||
		count("old")+count("new") != 0 || count("over") != 1 || !slices.Equal(points[1].GetVectors().GetVector().GetDense().GetData(), []float32{1, 2}) {
		t.Errorf("points %v, %v", points, err)
	}
}

func TestFolderInUse(t *testing.T) {
	dir := t.TempDir()
	start(t, dir)
	_, err := Start(Config{Address: "127.0.0.1:0", Dir: dir, Log: zerolog.Nop()})
	if want := "embedded index: " + filepath.Join(dir, databaseName) + " is in use by another process"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
