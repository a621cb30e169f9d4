package index

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/qdrant/go-client/qdrant"
)

// Names of payload fields. They are part of the contract, because users read them with any Qdrant client.
const (
	fieldDocument = "doc_id"
	fieldTitle    = "title"
	fieldText     = "text"
	fieldHash     = "hash"
	fieldUpdated  = "updated_at"
	fieldMetadata = "metadata"
	fieldDeleted  = "deleted" // for a query: it is forgotten
	fieldSource   = "src"
	fieldOffset   = "off"
	fieldMinHash  = "minhash"

	fieldQuery       = "query_id"
	fieldNewest      = "newest"
	fieldCarried     = "carried"
	fieldForgotten   = "forgotten"
	fieldPositives   = "positives"
	fieldPublished   = "published"
	fieldWatch       = "watch"
	fieldEntry       = "entry"
	fieldTau         = "tau"
	fieldEmbedded    = "embedded"
	fieldRevision    = "revision"
	fieldToken       = "token"
	fieldFingerprint = "fingerprint"
	fieldApplied     = "applied"
	fieldStored      = "stored_at"
)

// DocumentPointID returns the point id of a document: the UUIDv5 (RFC 9562, URL namespace) of
// "hardneg:document:" and the document's id.
func DocumentPointID(id string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("hardneg:document:"+id)).String()
}

// QueryPointID returns the point id of a query: the UUIDv5 (RFC 9562, URL namespace) of "hardneg:query:" and
// the query's id.
func QueryPointID(queryID string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("hardneg:query:"+queryID)).String()
}

// pointIDs applies pointID, which is DocumentPointID or QueryPointID, to all ids.
func pointIDs(ids []string, pointID func(string) string) []*qdrant.PointId {
	points := make([]*qdrant.PointId, len(ids))
	for i, id := range ids {
		points[i] = qdrant.NewIDUUID(pointID(id))
	}
	return points
}

type payload = map[string]*qdrant.Value

func text(s string) *qdrant.Value    { return qdrant.NewValueString(s) }
func integer(i int64) *qdrant.Value  { return qdrant.NewValueInt(i) }
func boolean(b bool) *qdrant.Value   { return qdrant.NewValueBool(b) }
func number(f float32) *qdrant.Value { return qdrant.NewValueDouble(float64(f)) }
func object(fields payload) *qdrant.Value {
	return qdrant.NewValueStruct(&qdrant.Struct{Fields: fields})
}

func list[T any](items []T, value func(T) *qdrant.Value) *qdrant.Value {
	values := make([]*qdrant.Value, len(items))
	for i, item := range items {
		values[i] = value(item)
	}
	return qdrant.NewValueList(&qdrant.ListValue{Values: values})
}

// items reads a list. An empty or missing list is nil.
func items[T any](v *qdrant.Value, item func(*qdrant.Value) T) []T {
	values := v.GetListValue().GetValues()
	if len(values) == 0 {
		return nil
	}
	out := make([]T, len(values))
	for i, value := range values {
		out[i] = item(value)
	}
	return out
}

func stringOf(v *qdrant.Value) string { return v.GetStringValue() }

// float32Of reads a number. A server that stores JSON may return a whole number as an integer.
func float32Of(v *qdrant.Value) float32 {
	if _, ok := v.GetKind().(*qdrant.Value_IntegerValue); ok {
		return float32(v.GetIntegerValue())
	}
	return float32(v.GetDoubleValue())
}

// bound encodes one end of an interval. An infinity becomes null, because JSON has no infinities.
func bound(f float32) *qdrant.Value {
	if math.IsInf(float64(f), 0) {
		return qdrant.NewValueNull()
	}
	return number(f)
}

func boundOf(v *qdrant.Value, unbounded float64) float32 {
	switch v.GetKind().(type) {
	case nil, *qdrant.Value_NullValue:
		return float32(unbounded)
	}
	return float32Of(v)
}

// encodeFloats returns a vector as base64 of little-endian float32, which is the form of vectors in Kafka
// records.
func encodeFloats(vector []float32) string {
	buf := make([]byte, 0, 4*len(vector))
	for _, f := range vector {
		buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(f))
	}
	return base64.StdEncoding.EncodeToString(buf)
}

func decodeFloats(s string) ([]float32, error) {
	buf, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, err
	}
	if len(buf)%4 != 0 {
		return nil, fmt.Errorf("%d bytes are no float32 values", len(buf))
	}
	vector := make([]float32, len(buf)/4)
	for i := range vector {
		vector[i] = math.Float32frombits(binary.LittleEndian.Uint32(buf[4*i:]))
	}
	return vector, nil
}

// objectFromJSON turns a JSON object into a Qdrant value. Integers within int64 stay exact, other numbers
// become float64.
func objectFromJSON(raw json.RawMessage) (*qdrant.Value, error) {
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.UseNumber()
	var fields map[string]any
	if err := decoder.Decode(&fields); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, fmt.Errorf("data after the object")
	}
	if fields == nil {
		return nil, fmt.Errorf("null is no object")
	}
	return valueFromJSON(fields)
}

func valueFromJSON(v any) (*qdrant.Value, error) {
	switch v := v.(type) {
	case nil:
		return qdrant.NewValueNull(), nil
	case bool:
		return boolean(v), nil
	case string:
		return text(v), nil
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return integer(i), nil
		}
		f, err := v.Float64()
		return qdrant.NewValueDouble(f), err
	case []any:
		values := make([]*qdrant.Value, len(v))
		for i, item := range v {
			value, err := valueFromJSON(item)
			if err != nil {
				return nil, err
			}
			values[i] = value
		}
		return qdrant.NewValueList(&qdrant.ListValue{Values: values}), nil
	case map[string]any:
		fields := make(payload, len(v))
		for name, item := range v {
			value, err := valueFromJSON(item)
			if err != nil {
				return nil, err
			}
			fields[name] = value
		}
		return object(fields), nil
	}
	return nil, fmt.Errorf("a %T is no JSON", v)
}

// jsonOf is the inverse of objectFromJSON. Keys are sorted. It returns nil if v is not an object.
func jsonOf(v *qdrant.Value) (json.RawMessage, error) {
	if v.GetStructValue() == nil {
		return nil, nil
	}
	return json.Marshal(anyOf(v))
}

func anyOf(v *qdrant.Value) any {
	switch kind := v.GetKind().(type) {
	case *qdrant.Value_BoolValue:
		return kind.BoolValue
	case *qdrant.Value_IntegerValue:
		return kind.IntegerValue
	case *qdrant.Value_DoubleValue:
		return kind.DoubleValue
	case *qdrant.Value_StringValue:
		return kind.StringValue
	case *qdrant.Value_ListValue:
		values := make([]any, len(kind.ListValue.GetValues()))
		for i, value := range kind.ListValue.GetValues() {
			values[i] = anyOf(value)
		}
		return values
	case *qdrant.Value_StructValue:
		fields := make(map[string]any, len(kind.StructValue.GetFields()))
		for name, value := range kind.StructValue.GetFields() {
			fields[name] = anyOf(value)
		}
		return fields
	}
	return nil
}

// denseOf returns the vector of an answer without a copy. Servers before 1.17 fill the older field.
func denseOf(v *qdrant.VectorsOutput) []float32 {
	if dense := v.GetVector().GetDense(); dense != nil {
		return dense.GetData()
	}
	//lint:ignore SA1019 the only field that older servers fill
	return v.GetVector().GetData()
}

func checkText(what, s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s %q is not UTF-8", what, s)
	}
	return nil
}

func checkFinite(what string, vector []float32) error {
	for i, f := range vector {
		if f-f != 0 {
			return fmt.Errorf("%s: element %d is %g, not a finite number", what, i, f)
		}
	}
	return nil
}
