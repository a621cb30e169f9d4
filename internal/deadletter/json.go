package deadletter

import (
	"encoding/json"
	"time"
	"unicode/utf8"

	"hardneg/stream"
)

// JSON is a dead letter in the JSON form that commands print.
type JSON struct {
	At       string     `json:"letter"`  // partition/offset of the dead letter
	Written  string     `json:"written"` // RFC 3339
	Stage    string     `json:"stage"`
	Error    string     `json:"error"`
	Replayed bool       `json:"replayed"` // the record was sent again
	Record   JSONRecord `json:"record"`
}

// JSONRecord is the record that the stage could not use.
type JSONRecord struct {
	Topic     string       `json:"topic"`
	Partition int32        `json:"partition"`
	Offset    int64        `json:"offset"`
	Timestamp string       `json:"timestamp"`
	Key       JSONBytes    `json:"key"`
	Value     JSONBytes    `json:"value"`
	Headers   []JSONHeader `json:"headers,omitempty"`
}

// JSONHeader is a header of that record.
type JSONHeader struct {
	Key   string    `json:"key"`
	Value JSONBytes `json:"value"`
}

// JSONBytes becomes null, a string, or {"base64": "…"} if the bytes are not UTF-8.
type JSONBytes []byte

// MarshalJSON implements json.Marshaler.
func (b JSONBytes) MarshalJSON() ([]byte, error) {
	switch {
	case b == nil:
		return []byte("null"), nil
	case utf8.Valid(b):
		return json.Marshal(string(b))
	}
	return json.Marshal(map[string][]byte{"base64": b})
}

// ToJSON returns the JSON form of a dead letter.
func ToJSON(l stream.DeadLetter, replayed bool) JSON {
	r := l.Record
	j := JSON{
		At: l.At(), Written: TimeText(l.Time), Stage: l.Stage, Error: l.Reason, Replayed: replayed,
		Record: JSONRecord{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: TimeText(r.Time), Key: r.Key, Value: r.Value},
	}
	for _, h := range r.Headers {
		j.Record.Headers = append(j.Record.Headers, JSONHeader{h.Key, h.Value})
	}
	return j
}

// TimeText returns a time in UTC, in RFC 3339 form. It takes any time that a record may have: json.Marshal
// refuses years above 9999.
func TimeText(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
