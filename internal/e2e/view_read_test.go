package e2e

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/qdrant/go-client/qdrant"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"
)

// qdrantClient returns a plain client of the service's Qdrant.
func qdrantClient(t testing.TB, address string) *qdrant.Client {
	t.Helper()
	host, port, _ := strings.Cut(address, ":")
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatalf("address %q: %v", address, err)
	}
	client, err := qdrant.NewClient(&qdrant.Config{Host: host, Port: number, SkipCompatibilityCheck: true,
		GrpcOptions: []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20))}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// scroll reads all points of a collection with payloads and vectors.
func scroll(t testing.TB, client *qdrant.Client, collection string, each func(map[string]*qdrant.Value, []float32)) {
	t.Helper()
	if err := tryScroll(t, client, collection, each); err != nil {
		t.Fatal(err)
	}
}

func tryScroll(t testing.TB, client *qdrant.Client, collection string, each func(map[string]*qdrant.Value, []float32)) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var from *qdrant.PointId
	for {
		answer, err := client.GetPointsClient().Scroll(ctx, &qdrant.ScrollPoints{
			CollectionName: collection, Limit: qdrant.PtrOf(uint32(256)), Offset: from,
			WithPayload: qdrant.NewWithPayload(true), WithVectors: qdrant.NewWithVectors(true),
		})
		if err != nil {
			return fmt.Errorf("scroll %s: %w", collection, err)
		}
		for _, p := range answer.GetResult() {
			vector := p.GetVectors().GetVector().GetDense().GetData()
			if vector == nil {
				//lint:ignore SA1019 the only field that older servers fill
				vector = p.GetVectors().GetVector().GetData()
			}
			each(p.GetPayload(), vector)
		}
		if from = answer.GetNextPageOffset(); from == nil {
			return nil
		}
	}
}

func widen(v []float32) []float64 {
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = float64(x)
	}
	return out
}

// readCorpus reads the live documents.
func readCorpus(t testing.TB, client *qdrant.Client, prefix string) corpus {
	t.Helper()
	return readCorpusOf(t, client, prefix+"documents")
}

func readCorpusOf(t testing.TB, client *qdrant.Client, collection string) corpus {
	t.Helper()
	c, err := corpusOf(t, client, collection)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func corpusOf(t testing.TB, client *qdrant.Client, collection string) (corpus, error) {
	t.Helper()
	c := corpus{}
	err := tryScroll(t, client, collection, func(payload map[string]*qdrant.Value, vector []float32) {
		if payload["deleted"].GetBoolValue() {
			return
		}
		p := &point{id: payload["doc_id"].GetStringValue(), hash: payload["hash"].GetStringValue(), vector: widen(vector)}
		p.text = text{payload["title"].GetStringValue(), payload["text"].GetStringValue()}
		raw, err := base64.StdEncoding.DecodeString(payload["minhash"].GetStringValue())
		if err != nil {
			t.Fatalf("minhash of %q: %v", p.id, err)
		}
		for i := 0; i+1 < len(raw); i += 2 {
			p.minhash = append(p.minhash, binary.LittleEndian.Uint16(raw[i:]))
		}
		if c[p.id] != nil {
			t.Errorf("document %q has two points", p.id)
		}
		c[p.id] = p
	})
	return c, err
}

// readQueryVectors reads the vectors of the queries that are not deleted. The last component of a stored
// vector is the threshold of the look-up, and does not belong to the embedding.
func readQueryVectors(t testing.TB, client *qdrant.Client, prefix string) map[string][]float64 {
	t.Helper()
	return readQueryVectorsOf(t, client, prefix+"queries")
}

func readQueryVectorsOf(t testing.TB, client *qdrant.Client, collection string) map[string][]float64 {
	t.Helper()
	vectors := map[string][]float64{}
	scroll(t, client, collection, func(payload map[string]*qdrant.Value, vector []float32) {
		if !payload["deleted"].GetBoolValue() {
			vectors[payload["query_id"].GetStringValue()] = widen(vector[:len(vector)-1])
		}
	})
	return vectors
}

// triplet is a record of the triplets topic.
type triplet struct {
	Schema int    `json:"schema"`
	ID     string `json:"triplet_id"`
	Query  struct {
		ID        string `json:"id"`
		Text      string `json:"text"`
		Truncated bool   `json:"truncated"`
	} `json:"query"`
	Positive   tripletDocument `json:"positive"`
	Negative   tripletDocument `json:"negative"`
	Rank       int             `json:"rank"`
	Policy     string          `json:"policy"`
	Similarity struct {
		QueryPositive    float64 `json:"query_positive"`
		QueryNegative    float64 `json:"query_negative"`
		PositiveNegative float64 `json:"positive_negative"`
	} `json:"similarity"`
	Generation string `json:"generation"`
	Revision   int64  `json:"revision"`
	MinedAt    string `json:"mined_at"`
}

type tripletDocument struct {
	ID        string `json:"id"`
	Title     string `json:"title"`
	Text      string `json:"text"`
	Version   string `json:"version"`
	Truncated bool   `json:"truncated"`
}

// place is a slot of the view.
type place struct {
	query, positive string
	rank            int
}

// pair is a query and a positive.
type pair struct{ query, positive string }

// view is the triplets topic as a read_committed reader sees it.
type view struct {
	records []*kgo.Record     // all of them, in the order of their partitions
	live    map[place]triplet // compacted
}

func (p place) pair() pair { return pair{p.query, p.positive} }

// readView reads and compacts the triplets topic.
func readView(t testing.TB, k *kafka) view {
	t.Helper()
	v := view{records: k.readCommitted(k.triplets), live: map[place]triplet{}}
	for _, r := range v.records {
		at, err := parsePlace(r.Key)
		if err != nil {
			t.Fatalf("key %q at %s/%d/%d: %v", r.Key, r.Topic, r.Partition, r.Offset, err)
		}
		if r.Value == nil {
			delete(v.live, at)
			continue
		}
		var x triplet
		if err := json.Unmarshal(r.Value, &x); err != nil {
			t.Fatalf("value at %s/%d/%d: %v", r.Topic, r.Partition, r.Offset, err)
		}
		v.live[at] = x
	}
	return v
}

func parsePlace(key []byte) (place, error) {
	var p place
	err := json.Unmarshal(key, &[]any{&p.query, &p.positive, &p.rank})
	return p, err
}

// lists groups the live slots by pair, in the order of ranks. A gap between ranks is an error.
func (v view) lists(t testing.TB) map[pair][]slot {
	t.Helper()
	lists := map[pair][]slot{}
	for at := range v.live {
		if _, ok := lists[at.pair()]; ok {
			continue
		}
		var list []slot
		for rank := 1; ; rank++ {
			x, ok := v.live[place{at.query, at.positive, rank}]
			if !ok {
				break
			}
			list = append(list, slot{x.Negative.ID, x.Policy})
		}
		lists[at.pair()] = list
		if at.rank > len(list) {
			t.Errorf("pair %v has rank %d, but not all ranks before", at.pair(), at.rank)
		}
	}
	return lists
}
