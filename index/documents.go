package index

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"hardneg/mining"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/protobuf/proto"
)

// Fields selects what a read returns in addition to id, hash, Deleted, Carried, Partition and Offset, which
// always come. Combine fields with |.
type Fields uint8

// The fields that a read may leave out.
const (
	WithVector Fields = 1 << iota
	WithText          // title and text
	WithMinHash
	WithMetadata // metadata and updated_at
)

const (
	maxPoints      = 256      // in one write or one read by id
	maxBatchBytes  = 5 << 20  // in one write
	maxSearches    = 64       // in one batch of searches
	maxAnswerBytes = 32 << 20 // estimated, of one batch of searches
)

// WriteDocuments upserts documents and delete markers that were read from one partition of the documents
// topic. highest is the highest offset of the batch. A point that a record of the same partition with a
// higher offset wrote stays as it is; that is no error. When the call returns, every later read sees the
// documents.
//
// It writes nothing and returns an error if an id occurs twice, if a document comes from another partition or
// from an offset above highest, or if CheckDocument or the length of a vector rules a document out. After an
// error of the server, some of the documents may be written.
func (x *Index) WriteDocuments(ctx context.Context, docs []Document, partition int32, highest int64) error {
	points := make([]*qdrant.PointStruct, len(docs))
	seen := make(map[string]bool, len(docs))
	for i := range docs {
		d := &docs[i]
		if seen[d.ID] {
			return fmt.Errorf("document %q is twice in one write", d.ID)
		}
		seen[d.ID] = true
		if d.Partition != partition || d.Offset > highest {
			return fmt.Errorf("document %q comes from partition %d, offset %d: not in a batch of partition %d up to offset %d",
				d.ID, d.Partition, d.Offset, partition, highest)
		}
		point, err := documentPoint(d, x.dimensions)
		if err != nil {
			return fmt.Errorf("document %q: %w", d.ID, err)
		}
		points[i] = point
	}
	newer := &qdrant.Filter{Must: []*qdrant.Condition{
		qdrant.NewMatchInt(fieldSource, int64(partition)),
		qdrant.NewRange(fieldOffset, &qdrant.Range{Gt: qdrant.PtrOf(float64(highest))}),
	}}
	return x.upsert(ctx, x.documents, points, &qdrant.Filter{MustNot: []*qdrant.Condition{qdrant.NewFilterAsCondition(newer)}})
}

// upsert writes points in batches of at most maxPoints and maxBatchBytes. guard is Qdrant's update_filter: an
// existing point that does not match it stays as it is.
func (x *Index) upsert(ctx context.Context, collection string, points []*qdrant.PointStruct, guard *qdrant.Filter) error {
	for len(points) > 0 {
		n, bytes := 0, 0
		for n < len(points) && n < maxPoints {
			bytes += proto.Size(points[n]) + 8
			if n > 0 && bytes > maxBatchBytes {
				break
			}
			n++
		}
		request := &qdrant.UpsertPoints{
			CollectionName: collection, Points: points[:n], UpdateFilter: guard, Ordering: x.ordering,
			Wait: qdrant.PtrOf(true), Timeout: qdrant.PtrOf(uint64(writeWait)),
		}
		_, err := call(ctx, x.client, "Upsert", collection, func(ctx context.Context) (*qdrant.UpdateResult, error) {
			return completed(x.client.connection.GetPointsClient().Upsert(ctx, request))
		})
		if err != nil {
			return err
		}
		points = points[n:]
	}
	return nil
}

// CheckDocument returns an error if no index can hold the document: an empty id, text that is not UTF-8, a
// vector with a NaN or an infinity, a delete marker with a text, or metadata that Qdrant cannot represent. It
// does not check the length of the vector, which depends on the index.
func CheckDocument(d Document) error {
	_, err := documentPoint(&d, len(d.Vector))
	return err
}

// documentPoint encodes a document. A delete marker gets a zero vector, because every point needs one; the
// filter notDeleted keeps it out of every search.
func documentPoint(d *Document, dimensions int) (*qdrant.PointStruct, error) {
	for _, field := range []struct{ name, value string }{{"id", d.ID}, {"hash", d.Hash}, {"title", d.Title}, {"text", d.Text}, {"updated_at", d.UpdatedAt}} {
		if err := checkText(field.name, field.value); err != nil {
			return nil, err
		}
	}
	if d.ID == "" {
		return nil, errors.New("the id is empty")
	}
	fields := payload{
		fieldDocument: text(d.ID), fieldHash: text(d.Hash), fieldDeleted: boolean(d.Deleted),
		fieldSource: integer(int64(d.Partition)), fieldOffset: integer(d.Offset),
	}
	vector := d.Vector
	if d.Deleted {
		if len(d.Vector) > 0 || d.Text != "" || d.Title != "" {
			return nil, errors.New("a delete marker has no vector and no text")
		}
		vector = make([]float32, dimensions)
	} else {
		if len(vector) != dimensions {
			return nil, fmt.Errorf("the vector has %d dimensions, the index %d", len(vector), dimensions)
		}
		if err := checkFinite("vector", vector); err != nil {
			return nil, err
		}
		fields[fieldTitle], fields[fieldText] = text(d.Title), text(d.Text)
	}
	if d.Carried {
		fields[fieldCarried] = boolean(true)
	}
	if d.UpdatedAt != "" {
		fields[fieldUpdated] = text(d.UpdatedAt)
	}
	if d.Metadata != nil {
		value, err := objectFromJSON(d.Metadata)
		if err != nil {
			return nil, fmt.Errorf("metadata: %w", err)
		}
		fields[fieldMetadata] = value
	}
	if d.MinHash != nil {
		fields[fieldMinHash] = text(base64.StdEncoding.EncodeToString(d.MinHash.Bytes()))
	}
	return &qdrant.PointStruct{Id: qdrant.NewIDUUID(DocumentPointID(d.ID)), Vectors: qdrant.NewVectorsDense(vector), Payload: fields}, nil
}

// documentFrom is the inverse of documentPoint. Fields that were not asked for stay empty.
func documentFrom(fields payload, vectors *qdrant.VectorsOutput) (Document, error) {
	d := Document{
		Title: stringOf(fields[fieldTitle]), Text: stringOf(fields[fieldText]), UpdatedAt: stringOf(fields[fieldUpdated]),
		Deleted: fields[fieldDeleted].GetBoolValue(), Carried: fields[fieldCarried].GetBoolValue(), Partition: int32(fields[fieldSource].GetIntegerValue()), Offset: fields[fieldOffset].GetIntegerValue(),
	}
	var err error
	if d.Document, err = minedFrom(fields, vectors); err != nil {
		return d, err
	}
	if d.Deleted {
		d.Vector = nil
	}
	if d.Metadata, err = jsonOf(fields[fieldMetadata]); err != nil {
		return d, fmt.Errorf("document %q: metadata: %w", d.ID, err)
	}
	return d, nil
}

// minedFrom reads the part of a document that package mining uses.
func minedFrom(fields payload, vectors *qdrant.VectorsOutput) (mining.Document, error) {
	d := mining.Document{ID: stringOf(fields[fieldDocument]), Hash: stringOf(fields[fieldHash]), Vector: denseOf(vectors)}
	if d.ID == "" {
		return d, errors.New("a point without doc_id: the collection was written by something else")
	}
	signature := stringOf(fields[fieldMinHash])
	if signature == "" {
		return d, nil
	}
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err == nil {
		d.MinHash, err = mining.MinHashFromBytes(raw)
	}
	if err != nil {
		return d, fmt.Errorf("document %q: minhash: %w", d.ID, err)
	}
	return d, nil
}

// selectors translates Fields into the selectors of a request.
func (want Fields) selectors() (*qdrant.WithPayloadSelector, *qdrant.WithVectorsSelector) {
	names := []string{fieldDocument, fieldHash, fieldDeleted, fieldCarried, fieldSource, fieldOffset}
	if want&WithText != 0 {
		names = append(names, fieldTitle, fieldText)
	}
	if want&WithMinHash != 0 {
		names = append(names, fieldMinHash)
	}
	if want&WithMetadata != 0 {
		names = append(names, fieldMetadata, fieldUpdated)
	}
	return qdrant.NewWithPayloadInclude(names...), qdrant.NewWithVectors(want&WithVector != 0)
}

// Documents returns the documents and delete markers with these ids, by id. Ids that the index does not know
// are not in the map.
func (x *Index) Documents(ctx context.Context, ids []string, want Fields) (map[string]Document, error) {
	documents := make(map[string]Document, len(ids))
	err := x.documentsOf(ctx, pointIDs(ids, DocumentPointID), want, func(_ string, d Document) { documents[d.ID] = d })
	return documents, err
}

// DocumentsAt is Documents by point id, as Rank returns them in Ranked.Point. The map has point ids as keys,
// too.
func (x *Index) DocumentsAt(ctx context.Context, points []string, want Fields) (map[string]Document, error) {
	documents := make(map[string]Document, len(points))
	err := x.documentsOf(ctx, pointIDs(points, func(point string) string { return point }), want, func(point string, d Document) { documents[point] = d })
	return documents, err
}

func (x *Index) documentsOf(ctx context.Context, points []*qdrant.PointId, want Fields, f func(point string, d Document)) error {
	withPayload, withVectors := want.selectors()
	return x.points(ctx, x.documents, points, withPayload, withVectors, func(p *qdrant.RetrievedPoint) error {
		d, err := documentFrom(p.GetPayload(), p.GetVectors())
		f(p.GetId().GetUuid(), d)
		return err
	})
}

// points reads points by id, in batches.
func (x *Index) points(ctx context.Context, collection string, ids []*qdrant.PointId, withPayload *qdrant.WithPayloadSelector, withVectors *qdrant.WithVectorsSelector, f func(*qdrant.RetrievedPoint) error) error {
	most := maxPoints
	for len(ids) > 0 {
		n := min(len(ids), most)
		answer, err := call(ctx, x.client, "Get", collection, func(ctx context.Context) (*qdrant.GetResponse, error) {
			return x.client.connection.GetPointsClient().Get(ctx, &qdrant.GetPoints{
				CollectionName: collection, Ids: ids[:n], WithPayload: withPayload, WithVectors: withVectors,
			})
		})
		if tooLarge(err) && n > 1 { // states of queries with much evidence are large
			most = n / 2
			continue
		}
		if err != nil {
			return err
		}
		for _, point := range answer.GetResult() {
			if err := f(point); err != nil {
				return x.client.describe("Get", collection, err)
			}
		}
		ids = ids[n:]
	}
	return nil
}

// ScanDocuments calls f for every document and delete marker, in the order of point ids. An error of f ends
// the scan and is returned. Points that are written during the scan may or may not be among them.
func (x *Index) ScanDocuments(ctx context.Context, want Fields, f func(Document) error) error {
	withPayload, withVectors := want.selectors()
	return x.scroll(ctx, x.documents, nil, maxPoints, withPayload, withVectors, func(p *qdrant.RetrievedPoint) error {
		d, err := documentFrom(p.GetPayload(), p.GetVectors())
		if err != nil {
			return x.client.describe("Scroll", x.documents, err)
		}
		return f(d)
	})
}

// scroll calls f for every point that matches, page by page. Pages are in the order of point ids, which never
// change, so no point moves from one page to another during the scan.
func (x *Index) scroll(ctx context.Context, collection string, filter *qdrant.Filter, page uint32, withPayload *qdrant.WithPayloadSelector, withVectors *qdrant.WithVectorsSelector, f func(*qdrant.RetrievedPoint) error) error {
	for offset := (*qdrant.PointId)(nil); ; {
		answer, err := call(ctx, x.client, "Scroll", collection, func(ctx context.Context) (*qdrant.ScrollResponse, error) {
			return x.client.connection.GetPointsClient().Scroll(ctx, &qdrant.ScrollPoints{
				CollectionName: collection, Filter: filter, Offset: offset, Limit: &page,
				WithPayload: withPayload, WithVectors: withVectors,
			})
		})
		if err != nil {
			return err
		}
		for _, point := range answer.GetResult() {
			if err := f(point); err != nil {
				return err
			}
		}
		if offset = answer.GetNextPageOffset(); offset == nil {
			return nil
		}
	}
}
