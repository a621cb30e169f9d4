package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// report is the result of a comparison.
type report struct {
	pairs, triplets, tied, semantic int
}

func (r report) String() string {
	return fmt.Sprintf("%d pairs, %d triplets (%d semantic), %d pairs in tied order", r.pairs, r.triplets, r.semantic, r.tied)
}

// comparison holds both sides: what the service shows, and what the test has produced.
type comparison struct {
	t       testing.TB
	world   *world
	kafka   *kafka
	corpus  corpus
	vectors map[string][]float64
	view    view
}

// compare reads everything and checks it. The service must be quiet.
func compare(t testing.TB, s *service, k *kafka, w *world, prefix string) report {
	t.Helper()
	client := qdrantClient(t, s.Qdrant)
	c := comparison{t, w, k, readCorpus(t, client, prefix), readQueryVectors(t, client, prefix), readView(t, k)}
	c.checkCorpus()
	c.checkRecords()
	c.checkTriplets()
	c.checkRevisions()
	return c.checkLists()
}

// few reports the first errors of a kind and counts the rest.
type few struct {
	t     testing.TB
	count int
}

func (f *few) errorf(format string, args ...any) {
	f.t.Helper()
	if f.count++; f.count <= 8 {
		f.t.Errorf(format, args...)
	} else if f.count == 9 {
		f.t.Errorf("… and more of that kind")
	}
}

// checkCorpus compares the live documents of the index with the produced ones.
func (c comparison) checkCorpus() {
	errs := few{t: c.t}
	for id, want := range c.world.documents {
		got := c.corpus[id]
		switch {
		case got == nil:
			errs.errorf("document %q is not in the index", id)
		case got.text != want:
			errs.errorf("document %q is %.80q in the index, want %.80q", id, got.text, want)
		case got.hash != contentHash(want):
			errs.errorf("document %q has hash %s, want %s", id, got.hash, contentHash(want))
		case math.Abs(cosine(got.vector, got.vector)-1) > 1e-5:
			errs.errorf("document %q has a vector of squared length %v", id, cosine(got.vector, got.vector))
		}
	}
	for id := range c.corpus {
		if _, ok := c.world.documents[id]; !ok {
			errs.errorf("document %q is in the index, but was deleted or never produced", id)
		}
	}
}

func contentHash(d text) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(d.title+"\n"+d.text)))[:32]
}

var sourceForm = regexp.MustCompile(`^(.+)/(\d+)/(\d+)$`)

// checkRecords checks keys, partitions and headers of every record, retractions too.
func (c comparison) checkRecords() {
	errs := few{t: c.t}
	partitions, err := c.kafka.partitions(c.t.Context(), c.kafka.triplets)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, r := range c.view.records {
		at, _ := parsePlace(r.Key)
		if want := canonicalKey(at); !bytes.Equal(r.Key, want) {
			errs.errorf("key %s is not in RFC 8785 form, want %s", r.Key, want)
		}
		if want := murmur2Partition([]byte(at.query), len(partitions)); int(r.Partition) != want {
			errs.errorf("query %q lies in partition %d, its bare id belongs to %d", at.query, r.Partition, want)
		}
		headers := map[string]string{}
		for _, h := range r.Headers {
			headers[h.Key] = string(h.Value)
		}
		if headers["hardneg-schema"] != "1" || headers["hardneg-generation"] == "" {
			errs.errorf("headers %v at %d/%d", headers, r.Partition, r.Offset)
		}
		source := sourceForm.FindStringSubmatch(headers["hardneg-source"])
		if source == nil || !slices.Contains([]string{c.kafka.documents, c.kafka.queries, "rebuild", "sweep", "audit"}, source[1]) {
			errs.errorf("header hardneg-source %q at %d/%d names no record of documents or queries, and nothing of hardneg's own", headers["hardneg-source"], r.Partition, r.Offset)
		}
	}
}

// murmur2Partition returns the partition that Kafka's default partitioner gives a key. It is written after
// the description of MurmurHash2, with Kafka's seed.
func murmur2Partition(key []byte, partitions int) int {
	const m, seed = uint32(0x5bd1e995), uint32(0x9747b28c)
	h := seed ^ uint32(len(key))
	for ; len(key) >= 4; key = key[4:] {
		k := binary.LittleEndian.Uint32(key) * m
		h = h*m ^ (k^k>>24)*m
	}
	if len(key) > 0 {
		var tail [4]byte
		copy(tail[:], key)
		h = (h ^ binary.LittleEndian.Uint32(tail[:])) * m
	}
	h = (h ^ h>>13) * m
	return int((h^h>>15)&0x7fffffff) % partitions
}

// canonicalKey writes a key in RFC 8785 form. Ids in these tests contain no control characters.
func canonicalKey(at place) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode([]any{at.query, at.positive, at.rank}); err != nil {
		panic(err)
	}
	return bytes.TrimSpace(b.Bytes())
}

// checkTriplets compares the content of every live triplet with what was produced and what is stored.
func (c comparison) checkTriplets() {
	errs := few{t: c.t}
	for at, x := range c.view.live {
		if err := c.checkTriplet(at, x); err != nil {
			errs.errorf("triplet %v: %v", at, err)
		}
	}
}

func (c comparison) checkTriplet(at place, x triplet) error {
	q := c.world.queries[at.query]
	switch {
	case q == nil:
		return fmt.Errorf("its query is forgotten or was never logged")
	case x.Schema != 1 || x.Query.ID != at.query || x.Positive.ID != at.positive || x.Rank != at.rank:
		return fmt.Errorf("the value is about %q %q %d, schema %d", x.Query.ID, x.Positive.ID, x.Rank, x.Schema)
	case x.Query.Text != q.text:
		return fmt.Errorf("query text %q, want %q", x.Query.Text, q.text)
	case !positive(q.evidence[at.positive]):
		return fmt.Errorf("its positive has weight %v", q.evidence[at.positive])
	case q.evidence[x.Negative.ID] > 0:
		return fmt.Errorf("its negative %q is evidence of the query", x.Negative.ID)
	}
	name := fmt.Sprintf("hardneg:triplet:%s", bytes.TrimSpace(canonicalArray(at.query, at.positive, x.Negative.ID, x.Revision)))
	if x.ID != uuid5(name) {
		return fmt.Errorf("triplet_id %s, want %s", x.ID, uuid5(name))
	}
	if _, err := time.Parse(time.RFC3339, x.MinedAt); err != nil {
		return err
	}
	for _, d := range []tripletDocument{x.Positive, x.Negative} {
		if err := checkSide(d, c.world.documents); err != nil {
			return err
		}
	}
	return c.checkSimilarity(at, x)
}

func canonicalArray(elements ...any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(elements); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func checkSide(d tripletDocument, documents map[string]text) error {
	want, ok := documents[d.ID]
	switch {
	case !ok:
		return fmt.Errorf("document %q does not exist any more", d.ID)
	case d.Version != contentHash(want):
		return fmt.Errorf("document %q of version %s, want %s", d.ID, d.Version, contentHash(want))
	case d.Truncated && strings.HasPrefix(want.text, d.Text) && strings.HasPrefix(want.title, d.Title):
		const most = 64 << 10
		if size := len(canonicalArray(d.Text)) - len("[\"\"]\n"); size > most || size < most-6 {
			return fmt.Errorf("the text of document %q was cut at %d bytes", d.ID, size)
		}
	case d.Title != want.title || d.Text != want.text:
		return fmt.Errorf("document %q says %.60q %.60q", d.ID, d.Title, d.Text)
	}
	return nil
}

// checkSimilarity compares the three cosines with the stored vectors, and checks the policy's rules on them.
func (c comparison) checkSimilarity(at place, x triplet) error {
	q, p, n := c.vectors[at.query], c.corpus[at.positive], c.corpus[x.Negative.ID]
	if q == nil || p == nil || n == nil {
		return fmt.Errorf("the index lacks its query, positive or negative")
	}
	s := x.Similarity
	for _, pair := range [][2]float64{{s.QueryPositive, cosine(q, p.vector)}, {s.QueryNegative, cosine(q, n.vector)}, {s.PositiveNegative, cosine(p.vector, n.vector)}} {
		if math.Abs(pair[0]-pair[1]) > tied {
			return fmt.Errorf("cosines %+v, but one is %v by the stored vectors", s, pair[1])
		}
	}
	switch x.Policy {
	case "semantic": // both of the paper's conditions, as cosines: nearer is larger
		if !(s.QueryNegative > s.QueryPositive) || !(s.QueryNegative > s.PositiveNegative) {
			return fmt.Errorf("cosines %+v break the conditions of semantic", s)
		}
	case "positive-aware":
		if !c.world.below(s.QueryNegative, s.QueryPositive, 1e-6) {
			return fmt.Errorf("cosines %+v break the margin", s)
		}
	default:
		return fmt.Errorf("policy %q", x.Policy)
	}
	return nil
}

// checkRevisions checks that the revisions of a pair never go back, and that its live slots were published
// together.
func (c comparison) checkRevisions() {
	errs := few{t: c.t}
	newest := map[pair]int64{}
	for _, r := range c.view.records { // all records of a query are in one partition, in order
		var x triplet
		at, _ := parsePlace(r.Key)
		if r.Value == nil || json.Unmarshal(r.Value, &x) != nil {
			continue
		}
		if x.Revision < newest[at.pair()] {
			errs.errorf("pair %v goes back from revision %d to %d at %d/%d", at.pair(), newest[at.pair()], x.Revision, r.Partition, r.Offset)
		}
		newest[at.pair()] = x.Revision
	}
	for at, x := range c.view.live {
		if x.Revision != newest[at.pair()] {
			errs.errorf("slot %v is of revision %d, but its pair has %d", at, x.Revision, newest[at.pair()])
		}
	}
}

// oracleQueries limits the queries that the oracle mines. For each it takes a millisecond for every hundred
// documents.
const oracleQueries = 2000

// checkLists compares the lists with the oracle's, for all queries, or for a random choice if there are many.
func (c comparison) checkLists() report {
	got := c.view.lists(c.t)
	errs := few{t: c.t}
	var r report
	mined := 0
	for id, log := range c.world.queries { // in random order
		if mined++; mined > oracleQueries {
			for document := range log.evidence {
				delete(got, pair{id, document})
			}
			continue
		}
		q := question{c.vectors[id], map[string]bool{}, c.world.rules}
		if q.vector == nil {
			errs.errorf("query %q is not in the index", id)
			continue
		}
		for document, weight := range log.evidence {
			q.evidence[document] = positive(weight)
		}
		for document, want := range c.corpus.mine(q) {
			list := got[pair{id, document}]
			delete(got, pair{id, document})
			r.add(list)
			if reflect.DeepEqual(list, want) || len(list)+len(want) == 0 {
				continue
			}
			if err := c.corpus.justify(q, document, list); err != nil {
				errs.errorf("query %q, positive %q: got %v, want %v: %v", id, document, list, want, err)
			}
			r.tied++
		}
	}
	for at, list := range got {
		errs.errorf("pair %v has triplets %v, want none", at, list)
	}
	for id := range c.vectors {
		if c.world.queries[id] == nil {
			errs.errorf("query %q is in the index, but was forgotten or never logged", id)
		}
	}
	if r.tied > 2+r.pairs/100 {
		c.t.Errorf("%d of %d pairs differ by tied cosines, too many to be chance", r.tied, r.pairs)
	}
	return r
}

func (r *report) add(list []slot) {
	r.pairs++
	r.triplets += len(list)
	if slices.ContainsFunc(list, func(s slot) bool { return s.policy == "semantic" }) {
		r.semantic++
	}
}
