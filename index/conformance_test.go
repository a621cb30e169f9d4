package index_test

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hardneg/index"
	embedded "hardneg/internal/embedded/qdrant"
	"hardneg/mining"

	"github.com/google/uuid"
	"github.com/qdrant/go-client/qdrant"
	"github.com/rs/zerolog"
)

// The conformance suite runs on the embedded server. If HARDNEG_TEST_QDRANT is set to the host:port of a
// Qdrant's gRPC service, it runs there, too, under a prefix of its own, and deletes its collections in the
// end.

const dimensions = 16

// each runs a test on the embedded server, and on the Qdrant at HARDNEG_TEST_QDRANT.
func each(t *testing.T, test func(t *testing.T, config index.Config)) {
	t.Run("embedded", func(t *testing.T) {
		server := startEmbedded(t, t.TempDir(), "127.0.0.1:0")
		test(t, index.Config{Address: server.Addr(), ExactBelow: 500_000, Log: zerolog.New(zerolog.NewTestWriter(t))})
	})
	t.Run("qdrant", func(t *testing.T) {
		address := os.Getenv("HARDNEG_TEST_QDRANT")
		if address == "" {
			t.Skip("HARDNEG_TEST_QDRANT is not set")
		}
		prefix := "hardneg-test-" + uuid.NewString()[:8] + "-"
		config := index.Config{Address: address, Prefix: prefix, ExactBelow: 500_000, Log: zerolog.New(zerolog.NewTestWriter(t))}
		t.Cleanup(func() { dropAll(t, address, prefix) })
		test(t, config)
	})
}

func startEmbedded(t testing.TB, dir, address string) *embedded.Server {
	t.Helper()
	server, err := embedded.Start(embedded.Config{Address: address, Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return server
}

// raw returns a client of qdrant/go-client, which shares no code with package index.
func raw(t testing.TB, address string) *qdrant.Client {
	t.Helper()
	host, port, _ := strings.Cut(address, ":")
	var number int
	if _, err := fmt.Sscan(port, &number); err != nil {
		t.Fatal(err)
	}
	client, err := qdrant.NewClient(&qdrant.Config{Host: host, Port: number, PoolSize: 1, SkipCompatibilityCheck: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func dropAll(t *testing.T, address, prefix string) {
	client := raw(t, address)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	names, err := client.ListCollections(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, prefix) {
			if err := client.DeleteCollection(ctx, name); err != nil {
				t.Error(err)
			}
		}
	}
}

func dial(t testing.TB, config index.Config) *index.Client {
	t.Helper()
	client, err := index.Dial(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func open(t testing.TB, config index.Config) *index.Index {
	t.Helper()
	x, err := dial(t, config).Open(t.Context(), "g1", dimensions)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// random returns a generator with a new seed for each run, and logs the seed.
func random(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func unit(r *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	var sum float64
	for i := range v {
		v[i] = float32(r.NormFloat64())
		sum += float64(v[i]) * float64(v[i])
	}
	for i := range v {
		v[i] /= float32(math.Sqrt(sum))
	}
	return v
}

func dot(a, b []float32) float64 {
	var sum float64
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}

func document(r *rand.Rand, id string, partition int32, offset int64) index.Document {
	return index.Document{
		Document: mining.Document{ID: id, Hash: fmt.Sprintf("hash of %s at %d", id, offset), Vector: unit(r, dimensions)},
		Title:    "title of " + id, Text: fmt.Sprintf("text of %s at %d", id, offset), Partition: partition, Offset: offset,
	}
}

func marker(id string, partition int32, offset int64) index.Document {
	return index.Document{Document: mining.Document{ID: id}, Deleted: true, Partition: partition, Offset: offset}
}

func write(t testing.TB, x *index.Index, partition int32, highest int64, docs ...index.Document) {
	t.Helper()
	if err := x.WriteDocuments(t.Context(), docs, partition, highest); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, x *index.Index, id string) (index.Document, bool) {
	t.Helper()
	docs, err := x.Documents(t.Context(), []string{id}, index.WithVector|index.WithText|index.WithMinHash|index.WithMetadata)
	if err != nil {
		t.Fatal(err)
	}
	d, ok := docs[id]
	return d, ok
}

func TestDocumentGuard(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, r := open(t, config), random(t)
		offsetOf := func() int64 { d, _ := read(t, x, "a"); return d.Offset }

		write(t, x, 0, 10, document(r, "a", 0, 10)) // a new id is inserted
		if got := offsetOf(); got != 10 {
			t.Fatalf("offset %d after the insert, want 10", got)
		}
		write(t, x, 0, 12, document(r, "a", 0, 12))
		write(t, x, 0, 11, document(r, "a", 0, 11)) // a late writer
		if got := offsetOf(); got != 12 {
			t.Errorf("offset %d after a late write of 11, want 12 to stay", got)
		}
		write(t, x, 0, 11, marker("a", 0, 11)) // a late delete
		if d, _ := read(t, x, "a"); d.Deleted || d.Offset != 12 {
			t.Errorf("a late delete marker replaced offset 12: %+v", d)
		}
		again := document(r, "a", 0, 12)
		write(t, x, 0, 12, again) // the same record once more, with another vector
		if d, _ := read(t, x, "a"); !slices.Equal(d.Vector, again.Vector) {
			t.Error("the record that a document came from did not replace it")
		}
		write(t, x, 1, 3, document(r, "a", 1, 3)) // the document moved to another partition
		if d, _ := read(t, x, "a"); d.Partition != 1 || d.Offset != 3 {
			t.Errorf("a write from another partition did not replace: partition %d, offset %d", d.Partition, d.Offset)
		}
		// One guard for the whole batch: older points are replaced, newer ones stay.
		write(t, x, 2, 50, document(r, "old", 2, 1), document(r, "new", 2, 50))
		write(t, x, 2, 20, document(r, "old", 2, 19), document(r, "new", 2, 20))
		old, _ := read(t, x, "old")
		newer, _ := read(t, x, "new")
		if old.Offset != 19 || newer.Offset != 50 {
			t.Errorf("offsets %d and %d, want 19 and 50", old.Offset, newer.Offset)
		}
	})
}

func TestDeleteMarkers(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, r := open(t, config), random(t)
		a, b := document(r, "a", 0, 0), document(r, "b", 0, 1)
		write(t, x, 0, 1, a, b)
		write(t, x, 0, 2, marker("a", 0, 2))
		d, ok := read(t, x, "a")
		if !ok || !d.Deleted || d.Vector != nil || d.Text != "" || d.Title != "" || d.Offset != 2 {
			t.Errorf("marker reads back as %+v (found %v)", d, ok)
		}
		hits, err := x.Search(t.Context(), [][]float32{a.Vector}, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(hits[0].Documents) != 1 || hits[0].Documents[0].ID != "b" || !hits[0].Exhausted {
			t.Errorf("search found %+v, want b alone", hits[0])
		}
		if documents, queries, err := x.Counts(t.Context()); err != nil || documents != 1 || queries != 0 {
			t.Errorf("counts %d, %d, %v; want 1 document, 0 queries", documents, queries, err)
		}
		write(t, x, 0, 3, document(r, "a", 0, 3))
		if d, _ := read(t, x, "a"); d.Deleted || d.Vector == nil {
			t.Errorf("a document written after its delete: %+v", d)
		}
	})
}

func TestSearchIsExact(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, r := open(t, config), random(t)
		const n, queries = 700, 70 // more queries than a batch
		var docs []index.Document
		for i := range n {
			docs = append(docs, document(r, fmt.Sprintf("d%03d", i), 0, int64(i)))
		}
		write(t, x, 0, n, docs...)
		var probes [][]float32
		for range queries {
			probes = append(probes, unit(r, dimensions))
		}
		for _, limit := range []int{1, 10, 300, n, n + 1} {
			hits, err := x.Search(t.Context(), probes, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(hits) != queries {
				t.Fatalf("%d answers to %d queries", len(hits), queries)
			}
			for i, probe := range probes {
				checkHits(t, docs, probe, limit, hits[i])
			}
			rankings, err := x.Rank(t.Context(), probes, limit)
			if err != nil || len(rankings) != queries {
				t.Fatal(len(rankings), err)
			}
			first := rankings[0].Hits[0].Point
			read, err := x.DocumentsAt(t.Context(), []string{first, index.DocumentPointID("unknown")}, index.WithVector)
			if d := read[first]; err != nil || len(read) != 1 || d.ID != hits[0].Documents[0].ID || d.Vector == nil {
				t.Fatalf("the first of the ranking: %v, %v", read, err)
			}
			for q, ranking := range rankings {
				if ranking.Exhausted != hits[q].Exhausted || len(ranking.Hits) != len(hits[q].Documents) {
					t.Fatalf("limit %d: ranked %d, exhausted %v", limit, len(ranking.Hits), ranking.Exhausted)
				}
				for i, d := range hits[q].Documents {
					hit := ranking.Hits[i]
					if score := dot(probes[q], d.Vector); hit.Point != index.DocumentPointID(d.ID) || math.Abs(float64(hit.Score)-score) > mining.Slack {
						t.Fatalf("limit %d: rank %d is %s with %v, want %s with %v", limit, i, hit.Point, hit.Score, d.ID, score)
					}
				}
			}
		}
	})
}

// checkHits compares hits with a sort of all documents by cosines in float64.
func checkHits(t *testing.T, docs []index.Document, probe []float32, limit int, hits index.Hits) {
	t.Helper()
	byID := make(map[string]index.Document)
	var scores []float64
	for _, d := range docs {
		byID[d.ID] = d
		scores = append(scores, dot(probe, d.Vector))
	}
	slices.SortFunc(scores, func(a, b float64) int { return cmp.Compare(b, a) })
	if want := min(limit, len(docs)); len(hits.Documents) != want || hits.Exhausted != (len(docs) < limit) {
		t.Fatalf("limit %d: %d hits, exhausted %v; want %d", limit, len(hits.Documents), hits.Exhausted, want)
	}
	seen := make(map[string]bool)
	for rank, hit := range hits.Documents {
		d := byID[hit.ID]
		if seen[hit.ID] || hit.Hash != d.Hash || !slices.Equal(hit.Vector, d.Vector) {
			t.Fatalf("limit %d, rank %d: %q comes twice or with another hash or vector", limit, rank+1, hit.ID)
		}
		seen[hit.ID] = true
		if got := dot(probe, hit.Vector); math.Abs(got-scores[rank]) > 1e-6 {
			t.Fatalf("limit %d, rank %d: score %g, want %g", limit, rank+1, got, scores[rank])
		}
	}
}

// TestReadYourWrites has several writers at the same time. Each one looks for its own points after each
// write.
func TestReadYourWrites(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, seed := open(t, config), random(t).Uint64()
		var group sync.WaitGroup
		for writer := range int32(4) {
			group.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(writer)))
				for round := range int64(40) {
					d := document(r, fmt.Sprintf("w%d-%d", writer, round%7), writer, round)
					if err := x.WriteDocuments(t.Context(), []index.Document{d}, writer, round); err != nil {
						t.Error(err)
						return
					}
					hits, err := x.Search(t.Context(), [][]float32{d.Vector}, 1)
					if err != nil {
						t.Error(err)
						return
					}
					if len(hits[0].Documents) != 1 || hits[0].Documents[0].Hash != d.Hash || !slices.Equal(hits[0].Documents[0].Vector, d.Vector) {
						t.Errorf("writer %d, round %d: search right after the write found %+v", writer, round, hits[0].Documents)
						return
					}
				}
			})
		}
		group.Wait()
	})
}

func TestPaging(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, r := open(t, config), random(t)
		const n = 777
		var ids []string
		var docs []index.Document
		for i := range n {
			ids = append(ids, fmt.Sprintf("d%d", i))
			docs = append(docs, document(r, ids[i], 0, int64(i)))
		}
		write(t, x, 0, n, docs...)
		got, err := x.Documents(t.Context(), append(ids, "unknown"), index.WithText)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != n || got["d500"].Text != docs[500].Text || got["d500"].Vector != nil || got["d500"].Hash != docs[500].Hash {
			t.Errorf("%d documents by id, want %d; d500 is %+v", len(got), n, got["d500"])
		}
		seen := make(map[string]int)
		err = x.ScanDocuments(t.Context(), index.WithVector, func(d index.Document) error {
			seen[d.ID]++
			if d.Text != "" || len(d.Vector) != dimensions {
				t.Errorf("scan with vectors alone gave %+v", d)
			}
			return nil
		})
		if err != nil || len(seen) != n {
			t.Errorf("scan saw %d documents, %v; want %d", len(seen), err, n)
		}
		for id, times := range seen {
			if times != 1 {
				t.Errorf("scan saw %s %d times", id, times)
			}
		}
		stop := fmt.Errorf("enough")
		if err := x.ScanDocuments(t.Context(), 0, func(index.Document) error { return stop }); err != stop {
			t.Errorf("scan returned %v, want the error of its function", err)
		}
	})
}

func TestOpenAtOnce(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		c := dial(t, config)
		if generation, ok, err := c.Active(t.Context()); ok || err != nil {
			t.Fatalf("active before the first open: %q, %v, %v", generation, ok, err)
		}
		var group sync.WaitGroup
		for range 8 {
			client := dial(t, config)
			group.Go(func() {
				x, err := client.Open(t.Context(), "g1", dimensions)
				if err != nil {
					t.Error(err)
					return
				}
				if x.Generation() != "g1" || x.Dimensions() != dimensions {
					t.Errorf("generation %q, %d dimensions", x.Generation(), x.Dimensions())
				}
			})
		}
		group.Wait()
		if generation, ok, err := c.Active(t.Context()); generation != "g1" || !ok || err != nil {
			t.Errorf("active after open: %q, %v, %v", generation, ok, err)
		}
		// A second generation is created beside the active one, which stays active.
		if _, err := c.Open(t.Context(), "g2", 2*dimensions); err != nil {
			t.Error(err)
		}
		if generation, _, _ := c.Active(t.Context()); generation != "g1" {
			t.Errorf("active is %q after opening g2, want g1", generation)
		}
		_, err := c.Open(t.Context(), "g1", dimensions+1)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf(`"%sdocuments-g1" has 16 dimensions, want 17`, config.Prefix)) {
			t.Errorf("open with other dimensions: %v", err)
		}
		checkIndexes(t, config)
	})
}

// checkIndexes checks with another client that the payload indexes exist which strict mode requires.
func checkIndexes(t *testing.T, config index.Config) {
	client := raw(t, config.Address)
	for alias, want := range map[string][]string{"documents": {"deleted", "off", "src"}, "queries": {"deleted", "fingerprint", "token", "watch"}} {
		info, err := client.GetCollectionInfo(t.Context(), config.Prefix+alias)
		if err != nil {
			t.Fatal(err)
		}
		var fields []string
		for field := range info.GetPayloadSchema() {
			fields = append(fields, field)
		}
		slices.Sort(fields)
		if !slices.Equal(fields, want) {
			t.Errorf("%s has indexes on %v, want %v", alias, fields, want)
		}
	}
}

func TestAliasesThatDisagree(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		c := dial(t, config)
		for _, generation := range []string{"g1", "g2"} {
			if _, err := c.Open(t.Context(), generation, dimensions); err != nil {
				t.Fatal(err)
			}
		}
		if err := raw(t, config.Address).CreateAlias(t.Context(), config.Prefix+"queries", config.Prefix+"queries-g2"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Active(t.Context()); err == nil || !strings.Contains(err.Error(), "are not one generation") {
			t.Errorf("active with aliases of two generations: %v", err)
		}
	})
}

// The ids were computed by Python's uuid.uuid5(uuid.NAMESPACE_URL, name).
func TestPointIDs(t *testing.T) {
	if got := index.QueryPointID("how do i reset it?"); got != "717f704f-5f00-53ee-a701-e33206e76408" {
		t.Errorf("query: %s", got)
	}
	if got := index.DocumentPointID("a"); got != "25390a64-abb1-59dd-95d0-07f9b531c2c3" {
		t.Errorf("document: %s", got)
	}
}

func TestBadDocuments(t *testing.T) {
	each(t, func(t *testing.T, config index.Config) {
		x, r := open(t, config), random(t)
		change := func(f func(*index.Document)) []index.Document {
			d := document(r, "a", 0, 5)
			f(&d)
			return []index.Document{d}
		}
		for want, docs := range map[string][]index.Document{
			`document "": the id is empty`:                                                    change(func(d *index.Document) { d.ID = "" }),
			`document "a": the vector has 3 dimensions, the index 16`:                         change(func(d *index.Document) { d.Vector = d.Vector[:3] }),
			`document "a": the vector has 0 dimensions, the index 16`:                         change(func(d *index.Document) { d.Vector = nil }),
			`document "a": vector: element 2 is NaN, not a finite number`:                     change(func(d *index.Document) { d.Vector[2] = float32(math.NaN()) }),
			`document "a": text "\xff" is not UTF-8`:                                          change(func(d *index.Document) { d.Text = "\xff" }),
			`document "a": a delete marker has no vector and no text`:                         change(func(d *index.Document) { d.Deleted = true }),
			`document "a": metadata: json: cannot unmarshal array into Go value`:              change(func(d *index.Document) { d.Metadata = []byte(`[1]`) }),
			`document "a": metadata: null is no object`:                                       change(func(d *index.Document) { d.Metadata = []byte(`null`) }),
			`document "a" comes from partition 0, offset 9: not in a batch of partition 0 up`: change(func(d *index.Document) { d.Offset = 9 }),
			`document "a" comes from partition 3, offset 5: not in a batch of partition 0 up`: change(func(d *index.Document) { d.Partition = 3 }),
			`document "a" is twice in one write`:                                              {document(r, "a", 0, 5), document(r, "a", 0, 4)},
		} {
			if err := x.WriteDocuments(t.Context(), docs, 0, 5); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("error %v, want %s", err, want)
			}
			_, reason, itsOwn := strings.Cut(want, `": `)
			if strings.Contains(reason, "dimensions") {
				itsOwn = false
			}
			if err := index.CheckDocument(docs[0]); itsOwn != (err != nil) || err != nil && !strings.HasPrefix(err.Error(), reason) {
				t.Errorf("checked alone: %v, want %s: %v", err, reason, itsOwn)
			}
		}
		if _, err := x.Search(t.Context(), [][]float32{{1}}, 1); err == nil || err.Error() != "search: query 0: the vector has 1 dimensions, the index 16" {
			t.Errorf("search: %v", err)
		}
		if _, err := x.Search(t.Context(), nil, 0); err == nil || err.Error() != "search: limit 0: want a positive number" {
			t.Errorf("search: %v", err)
		}
		if _, err := x.Entering(t.Context(), [][]float32{{1}}); err == nil || err.Error() != "entering: document 0: the vector has 1 dimensions, the index 16" {
			t.Errorf("entering: %v", err)
		}
		if n, _, err := x.Counts(t.Context()); n != 0 || err != nil {
			t.Errorf("%d documents after refused writes, %v", n, err)
		}
	})
}
