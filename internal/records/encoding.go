package records

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// ByteOrderMark may stand at the beginning of a file or of a record in UTF-8. It is no part of the content.
const ByteOrderMark = "\ufeff"

// CheckEncoding refuses text whose first bytes say that it is in UTF-16 or UTF-32. Without this, the message would
// only name the first byte that is not UTF-8.
func CheckEncoding(start []byte) error {
	for _, e := range []struct{ mark, name string }{
		{"\xff\xfe\x00\x00", "UTF-32"}, {"\x00\x00\xfe\xff", "UTF-32"}, {"\xff\xfe", "UTF-16"}, {"\xfe\xff", "UTF-16"},
	} {
		if bytes.HasPrefix(start, []byte(e.mark)) {
			return fmt.Errorf("begins with the byte order mark of %s: write it in UTF-8", e.name)
		}
	}
	if bytes.HasPrefix(start, []byte("{\x00")) || bytes.HasPrefix(start, []byte("\x00{\x00")) {
		return errors.New("is in UTF-16: write it in UTF-8")
	}
	return nil
}

// withoutMark returns a value without its byte order mark, which encoding/json does not accept.
func withoutMark(value []byte) []byte { return bytes.TrimPrefix(value, []byte(ByteOrderMark)) }

// foreign refuses a record that is clearly something else than JSON in UTF-8, and says what it is.
func foreign(value []byte) error {
	if err := CheckEncoding(value); err != nil {
		return err
	}
	if schema, ok := registered(value); ok {
		return errors.New(schemaRegistry(schema, "value.serializer"))
	}
	return nil
}

// registered reports whether data begins like the output of a serializer of Schema Registry: a zero byte, and the
// id of a schema in 4 bytes, big-endian. Neither JSON nor a usual id begins so.
func registered(data []byte) (schema uint32, ok bool) {
	if len(data) < 6 || data[0] != 0 {
		return 0, false
	}
	return binary.BigEndian.Uint32(data[1:5]), true
}

func schemaRegistry(schema uint32, setting string) string {
	return fmt.Sprintf("begins with Schema Registry's magic byte 0x00 and the schema id %d, but hardneg reads no registered schemas: "+
		"let the producer write plain text with a StringSerializer (its setting %s; in Kafka Connect, a JsonConverter or StringConverter)", schema, setting)
}

// contradiction explains a key that differs from the id, if it is the id in another form. It returns "" if not.
func contradiction(key, id string) string {
	var unquoted string
	if json.Unmarshal([]byte(key), &unquoted) == nil && unquoted == id {
		return ": the key is the id as a JSON string, in quotes; let the producer write the bare id (a StringSerializer for keys; in Kafka Connect, a StringConverter)"
	}
	return ""
}
