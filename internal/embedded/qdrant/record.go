package qdrant

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/google/uuid"
	pb "github.com/qdrant/go-client/qdrant"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// pointID is a point id in the form of a key: one byte for its kind, then a number (8 bytes) or a UUID (16
// bytes), big endian. The order of the bytes is Qdrant's order: numbers come before UUIDs.
type pointID [17]byte

const (
	numberKind = 0
	uuidKind   = 1
)

func parseID(id *pb.PointId) (pointID, error) {
	var key pointID
	switch option := id.GetPointIdOptions().(type) {
	case *pb.PointId_Num:
		binary.BigEndian.PutUint64(key[1:], option.Num)
		return key, nil
	case *pb.PointId_Uuid:
		parsed, err := uuid.Parse(option.Uuid)
		if err != nil {
			return key, wrongInput("Unable to parse UUID: %s", option.Uuid)
		}
		key[0] = uuidKind
		copy(key[1:], parsed[:])
		return key, nil
	}
	return key, wrongInput("a point without id")
}

func (key pointID) proto() *pb.PointId {
	if key[0] == numberKind {
		return pb.NewIDNum(binary.BigEndian.Uint64(key[1:]))
	}
	return pb.NewIDUUID(uuid.UUID(key[1:]).String())
}

func (key pointID) compare(other pointID) int { return bytes.Compare(key[:], other[:]) }

// record is a stored point: version (8 bytes), float32 values of the vector, payload. Numbers are little
// endian. The payload is encoded like the payload field of pb.RetrievedPoint and pb.ScoredPoint, which have
// the same encoding. So it goes into answers without being decoded.
type record []byte

// payloadField is the number of the payload field in both messages.
const payloadField = 2

func newRecord(version uint64, vector []float32, payload []byte) record {
	r := make(record, 0, 8+4*len(vector)+len(payload))
	r = binary.LittleEndian.AppendUint64(r, version)
	for _, f := range vector {
		r = binary.LittleEndian.AppendUint32(r, math.Float32bits(f))
	}
	return append(r, payload...)
}

func (r record) version() uint64 { return binary.LittleEndian.Uint64(r) }

func (r record) vector(dimensions int) []float32 {
	vector := make([]float32, dimensions)
	r.copyVector(vector)
	return vector
}

func (r record) copyVector(vector []float32) {
	raw := r[8 : 8+4*len(vector)]
	for i := range vector {
		vector[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
}

func (r record) payload(dimensions int) rawPayload { return rawPayload(r[8+4*dimensions:]) }

// check reports damage to a record of a point with the given number of dimensions.
func (r record) check(dimensions int) error {
	if len(r) < 8+4*dimensions {
		return fmt.Errorf("a record of %d bytes is too short for %d dimensions", len(r), dimensions)
	}
	return r.payload(dimensions).each(func(string, []byte, []byte) error { return nil })
}

// rawPayload is an encoded payload.
type rawPayload []byte

func encodePayload(payload map[string]*pb.Value) (rawPayload, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(&pb.RetrievedPoint{Payload: payload})
}

func (p rawPayload) decode() (map[string]*pb.Value, error) {
	var point pb.RetrievedPoint
	err := proto.Unmarshal(p, &point)
	return point.GetPayload(), err
}

// each calls f with each key, its encoded value and the whole entry.
func (p rawPayload) each(f func(key string, value, entry []byte) error) error {
	for rest := p; len(rest) > 0; {
		number, kind, n := protowire.ConsumeTag(rest)
		if n < 0 || number != payloadField || kind != protowire.BytesType {
			return fmt.Errorf("damaged payload")
		}
		body, m := protowire.ConsumeBytes(rest[n:])
		if m < 0 {
			return fmt.Errorf("damaged payload: %w", protowire.ParseError(m))
		}
		entry := rest[:n+m]
		rest = rest[n+m:]
		var key string
		var value []byte
		for len(body) > 0 {
			number, _, n := protowire.ConsumeTag(body)
			if n < 0 {
				return fmt.Errorf("damaged payload: %w", protowire.ParseError(n))
			}
			field, m := protowire.ConsumeBytes(body[n:])
			if m < 0 {
				return fmt.Errorf("damaged payload: %w", protowire.ParseError(m))
			}
			if number == 1 {
				key = string(field)
			} else {
				value = field
			}
			body = body[n+m:]
		}
		if err := f(key, value, entry); err != nil {
			return err
		}
	}
	return nil
}

// values returns the values at a path such as "watch", "metadata.lang" or "positives[].doc_id". A list at the
// end counts as its elements, as in Qdrant's filters.
func (p rawPayload) values(path string) ([]*pb.Value, error) {
	head, rest, _ := strings.Cut(path, ".")
	head, isList := strings.CutSuffix(head, "[]")
	var found []*pb.Value
	err := p.each(func(key string, encoded, _ []byte) error {
		if key != head {
			return nil
		}
		value := new(pb.Value)
		if err := proto.Unmarshal(encoded, value); err != nil {
			return err
		}
		found = follow(value, isList, rest)
		return nil
	})
	return found, err
}

func follow(value *pb.Value, isList bool, path string) []*pb.Value {
	if isList || path == "" {
		if l, ok := value.GetKind().(*pb.Value_ListValue); ok {
			var found []*pb.Value
			for _, item := range l.ListValue.GetValues() {
				if path == "" {
					found = append(found, item)
				} else {
					found = append(found, follow(item, false, path)...)
				}
			}
			return found
		}
		if path == "" {
			return []*pb.Value{value}
		}
		return nil
	}
	head, rest, _ := strings.Cut(path, ".")
	head, isList = strings.CutSuffix(head, "[]")
	if next, ok := value.GetStructValue().GetFields()[head]; ok {
		return follow(next, isList, rest)
	}
	return nil
}

// checkPath refuses the paths that values does not understand.
func checkPath(path string) error {
	plain := strings.ReplaceAll(path, "[]", "")
	if path == "" || strings.ContainsAny(plain, `[]"`) {
		return unimplemented("the payload key %q: want names, joined by dots, with [] behind a list", path)
	}
	return nil
}

// selector picks the requested fields from payloads.
type selector struct {
	all     bool
	include map[string]bool // nil: see exclude
	exclude map[string]bool
}

func newSelector(with *pb.WithPayloadSelector) (selector, error) {
	names := func(fields []string) (map[string]bool, error) {
		set := make(map[string]bool, len(fields))
		for _, field := range fields {
			if strings.ContainsAny(field, ".[]") {
				return nil, unimplemented("the nested payload field %q in a selector: ask for the whole top-level field", field)
			}
			set[field] = true
		}
		return set, nil
	}
	var s selector
	var err error
	switch option := with.GetSelectorOptions().(type) {
	case nil:
	case *pb.WithPayloadSelector_Enable:
		s.all = option.Enable
	case *pb.WithPayloadSelector_Include:
		s.include, err = names(option.Include.GetFields())
	case *pb.WithPayloadSelector_Exclude:
		s.exclude, err = names(option.Exclude.GetFields())
	default:
		err = unimplemented("the payload selector %T", option)
	}
	return s, err
}

// none reports whether no payload is requested.
func (s selector) none() bool { return !s.all && s.include == nil && s.exclude == nil }

// copySelected returns a copy of the selected entries, because p belongs to a transaction that ends before the
// answer is sent.
func (s selector) copySelected(p rawPayload) (rawPayload, error) {
	if s.none() {
		return nil, nil
	}
	if s.all {
		return bytes.Clone(p), nil
	}
	var taken rawPayload
	err := p.each(func(key string, _, entry []byte) error {
		if s.include != nil && s.include[key] || s.exclude != nil && !s.exclude[key] {
			taken = append(taken, entry...)
		}
		return nil
	})
	return taken, err
}
