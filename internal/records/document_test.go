package records

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"math"
	"reflect"
	"strings"
	"testing"
)

func floats(values ...float32) string {
	var raw []byte
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	return base64.StdEncoding.EncodeToString(raw)
}

// nested returns n objects, one inside the other.
func nested(n int) string { return strings.Repeat(`{"a":`, n-1) + "{}" + strings.Repeat("}", n-1) }

func TestParseDocument(t *testing.T) {
	long := strings.Repeat("x", MaxID+1)
	tests := []struct {
		name, key, value string // value "-" stands for null
		want             Document
		deleted          bool
		err              string // part of the error; the wanted ID then says which document counts as deleted
	}{
		{name: "smallest", key: "a", value: `{"text":"t"}`, want: Document{ID: "a", Text: "t"}},
		{name: "id without key", value: `{"id":"a","text":"t"}`, want: Document{ID: "a", Text: "t"}},
		{name: "all", key: "a", value: ` {"id":"a","title":"T","text":" t ","url":"u","updated_at":"2026-01-02T03:04:05.6+01:00","metadata":{"b":[1]},"embeddings":{"e":[1,-2.5],"f":"` + floats(0.5) + `"},"more":1}` + "\n",
			want: Document{ID: "a", Title: "T", Text: " t ", URL: "u", UpdatedAt: "2026-01-02T03:04:05.6+01:00", Metadata: []byte(`{"b":[1]}`), Embeddings: map[string][]float32{"e": {1, -2.5}, "f": {0.5}}}},
		{name: "nulls are absent", key: "a", value: `{"id":null,"title":null,"text":"t","url":null,"updated_at":null,"metadata":null,"embeddings":{"e":null}}`, want: Document{ID: "a", Text: "t"}},
		{name: "names are exact", key: "a", value: `{"text":"t","Title":5,"TEXT":6}`, want: Document{ID: "a", Text: "t"}},
		{name: "pairs of surrogates", key: "a", value: `{"text":"\ud83d\ude00\\ud800"}`, want: Document{ID: "a", Text: `😀\ud800`}},
		{name: "delete", key: "a", value: "-", want: Document{ID: "a"}, deleted: true},
		{name: "delete without key", value: "-", err: "needs the document's id as its key"},
		{name: "no id", value: `{"text":"t"}`, err: `field "id" is missing`},
		{name: "empty id", value: `{"id":"","text":"t"}`, err: `field "id" is empty`},
		{name: "long id", value: `{"id":"` + long + `","text":"t"}`, err: `is an id of 1025 bytes`},
		{name: "long key", key: long, value: `{"text":"t"}`, err: `the key is an id of 1025 bytes`},
		{name: "key contradicts", key: "a", value: `{"id":"b","text":"t"}`, want: Document{ID: "a"}, err: `the key "a" contradicts the id "b"`},
		{name: "broken key", key: "a\xff", value: `{"id":"a","text":"t"}`, err: "the key is not valid UTF-8 at byte 1"},
		{name: "broken key of a delete", key: "\xff", value: "-", err: "the key is not valid UTF-8 at byte 0"},
		{name: "no text", key: "a", value: `{"id":"a"}`, want: Document{ID: "a"}, err: `field "text" is missing`},
		{name: "no text, no key", value: `{"id":"a"}`, want: Document{ID: "a"}, err: `field "text" is missing`},
		{name: "null text", key: "a", value: `{"text":null}`, want: Document{ID: "a"}, err: `field "text" is empty, and so is "title"`},
		{name: "title without text", key: "a", value: `{"title":"T"}`, want: Document{ID: "a"}, err: `field "text" is missing`},
		{name: "title and empty text", key: "a", value: `{"title":"T","text":""}`, want: Document{ID: "a", Title: "T"}},
		{name: "title and null text", key: "a", value: `{"title":"T","text":null}`, want: Document{ID: "a", Title: "T"}},
		{name: "title and blank text", key: "a", value: `{"title":"T","text":" \n"}`, want: Document{ID: "a", Title: "T", Text: " \n"}},
		{name: "blank title and text", key: "a", value: `{"title":" ","text":""}`, want: Document{ID: "a"}, err: `field "text" is empty, and so is "title"`},
		{name: "blank text", key: "a", value: `{"text":" \n\u00a0"}`, want: Document{ID: "a"}, err: `field "text" is empty`},
		{name: "text of another type", key: "a", value: `{"text":["t"]}`, want: Document{ID: "a"}, err: `field "text" must be a string, not an array`},
		{name: "id of another type", key: "a", value: `{"id":7,"text":"t"}`, want: Document{ID: "a"}, err: `field "id" must be a string, not a number`},
		{name: "title of another type", key: "a", value: `{"text":"t","title":true}`, want: Document{ID: "a"}, err: `field "title" must be a string, not a boolean`},
		{name: "metadata of another type", key: "a", value: `{"text":"t","metadata":[]}`, want: Document{ID: "a"}, err: `field "metadata" must be an object, not an array`},
		{name: "any metadata", key: "a", value: `{"text":"t","metadata":{"s":"\ud83d\ude00 \u0000","n":[null,true,-9223372036854775808,18446744073709551616,1e308,1e-999,-0.0]}}`,
			want: Document{ID: "a", Text: "t", Metadata: []byte(`{"s":"\ud83d\ude00 \u0000","n":[null,true,-9223372036854775808,18446744073709551616,1e308,1e-999,-0.0]}`)}},
		{name: "metadata as deep as allowed", key: "a", value: `{"text":"t","metadata":` + nested(MaxMetadataDepth) + `}`, want: Document{ID: "a", Text: "t", Metadata: []byte(nested(MaxMetadataDepth))}},
		{name: "metadata too deep", key: "a", value: `{"text":"t","metadata":` + nested(MaxMetadataDepth+1) + `}`, want: Document{ID: "a"}, err: `field "metadata" is nested more than 16 deep at its byte 80`},
		{name: "metadata 5,100 deep", key: "a", value: `{"text":"t","metadata":` + nested(5100) + `}`, want: Document{ID: "a"}, err: `field "metadata" is nested more than 16 deep`},
		{name: "deep lists in metadata", key: "a", value: `{"text":"t","metadata":{"l":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}}`, want: Document{ID: "a"}, err: `nested more than 16 deep at its byte 20`},
		{name: "much side by side in metadata", key: "a", value: `{"text":"t","metadata":{"l":[` + strings.Repeat("{},", 99) + `[]]}}`, want: Document{ID: "a", Text: "t", Metadata: []byte(`{"l":[` + strings.Repeat("{},", 99) + `[]]}`)}},
		{name: "a number outside of float64 in metadata", key: "a", value: `{"text":"t","metadata":{"x":1e400}}`, want: Document{ID: "a"}, err: `field "metadata" has the number 1e400, which is outside of float64`},
		{name: "a whole number outside of float64 in metadata", key: "a", value: `{"text":"t","metadata":{"x":[{"y":-1` + strings.Repeat("0", 309) + `}]}}`, want: Document{ID: "a"}, err: `which is outside of float64`},
		{name: "an unpaired surrogate in metadata", key: "a", value: `{"text":"t","metadata":{"x":["a","\ud800"]}}`, want: Document{ID: "a"}, err: `field "metadata" holds an unpaired surrogate escape, \ud800 at its byte 11`},
		{name: "an unpaired surrogate in a name of metadata", key: "a", value: `{"text":"t","metadata":{"\ud800":"\udc00"}}`, want: Document{ID: "a"}, err: `field "metadata" holds an unpaired surrogate`},
		{name: "too much metadata", key: "a", value: `{"text":"t","metadata":{"x":"` + strings.Repeat("x", MaxMetadata-7) + `"}}`, want: Document{ID: "a"}, err: `field "metadata" has 1048577 bytes, at most 1048576 are allowed`},
		{name: "no time", key: "a", value: `{"text":"t","updated_at":"yesterday"}`, want: Document{ID: "a"}, err: `field "updated_at" is no time: "yesterday"; want one in RFC 3339 such as 2026-01-31T12:00:00Z`},
		{name: "time of another type", key: "a", value: `{"text":"t","updated_at":[]}`, want: Document{ID: "a"}, err: `field "updated_at" must be a string, not an array`},
		{name: "empty time", key: "a", value: `{"text":"t","updated_at":""}`, want: Document{ID: "a", Text: "t"}},
		{name: "time in milliseconds", key: "a", value: `{"text":"t","updated_at":1790000000000}`, want: Document{ID: "a", Text: "t", UpdatedAt: "2026-09-21T14:13:20Z"}},
		{name: "url of another type", key: "a", value: `{"text":"t","url":{"u":1}}`, want: Document{ID: "a", Text: "t"}},
		{name: "byte order mark", key: "a", value: "\ufeff" + `{"text":"t"}`, want: Document{ID: "a", Text: "t"}},
		{name: "byte after a byte order mark", key: "a", value: "\ufeff" + `{"text":x}`, want: Document{ID: "a"}, err: "invalid JSON at byte 11"},
		{name: "a byte order mark alone", key: "a", value: "\ufeff", want: Document{ID: "a"}, err: "the value is empty"},
		{name: "UTF-16, little-endian", key: "a", value: "\xff\xfe{\x00}\x00", want: Document{ID: "a"}, err: "begins with the byte order mark of UTF-16: write it in UTF-8"},
		{name: "UTF-16, big-endian", key: "a", value: "\xfe\xff\x00{\x00}", want: Document{ID: "a"}, err: "begins with the byte order mark of UTF-16"},
		{name: "UTF-16 without a mark", key: "a", value: "{\x00}\x00", want: Document{ID: "a"}, err: "is in UTF-16"},
		{name: "UTF-16 without a mark, big-endian", key: "a", value: "\x00{\x00\"\x00t\x00\"", want: Document{ID: "a"}, err: "is in UTF-16"},
		{name: "UTF-32", key: "a", value: "\xff\xfe\x00\x00{\x00\x00\x00", want: Document{ID: "a"}, err: "begins with the byte order mark of UTF-32"},
		{name: "Schema Registry", key: "a", value: "\x00\x00\x00\x01\x02" + `{"text":"t"}`, want: Document{ID: "a"}, err: "the value begins with Schema Registry's magic byte 0x00 and the schema id 258"},
		{name: "Schema Registry in the key", key: "\x00\x00\x00\x00\xffa", value: `{"text":"t"}`, err: "the key begins with Schema Registry's magic byte 0x00 and the schema id 255"},
		{name: "a delete by a key of Schema Registry", key: "\x00\x00\x00\x00\x01a", value: "-", err: "the key begins with Schema Registry's magic byte"},
		{name: "an id that begins like one of Schema Registry", value: `{"id":"\u0000","text":"t"}`, err: `field "id" is an id that begins with a zero byte`},
		{name: "quotes in the key", key: `"d1"`, value: `{"id":"d1","text":"t"}`, want: Document{ID: `"d1"`}, err: "the key is the id as a JSON string, in quotes"},
		{name: "quotes in key and id", key: `"d1"`, value: `{"id":"\"d1\"","text":"t"}`, want: Document{ID: `"d1"`, Text: "t"}},
		{name: "twice", key: "a", value: `{"text":"t","text":"u"}`, want: Document{ID: "a"}, err: `field "text" comes twice, the second time before byte 18`},
		{name: "twice, escaped", key: "a", value: `{"text":"t","t\u0065xt":"u"}`, want: Document{ID: "a"}, err: `field "text" comes twice`},
		{name: "unpaired surrogate", value: `{"id":"\ud800","text":"t"}`, err: `field "id" holds an unpaired surrogate escape, \ud800 at its byte 1`},
		{name: "reversed surrogates", key: "a", value: `{"text":"\ude00\ud83d"}`, want: Document{ID: "a"}, err: `unpaired surrogate`},
		{name: "not JSON", key: "a", value: `{"text":"t"`, want: Document{ID: "a"}, err: "invalid JSON at byte 10"},
		{name: "not JSON in the middle", key: "a", value: `{"text":x}`, want: Document{ID: "a"}, err: "invalid JSON at byte 8"},
		{name: "NaN", key: "a", value: `{"text":"t","embeddings":{"e":[NaN]}}`, want: Document{ID: "a"}, err: "invalid JSON at byte 31"},
		{name: "trailing garbage", key: "a", value: `{"text":"t"} x`, want: Document{ID: "a"}, err: "invalid JSON at byte 13"},
		{name: "two objects", key: "a", value: `{"text":"t"}{}`, want: Document{ID: "a"}, err: "invalid JSON at byte 12"},
		{name: "no object", key: "a", value: `"t"`, want: Document{ID: "a"}, err: "must be a JSON object, not a string"},
		{name: "the word null", key: "a", value: `null`, want: Document{ID: "a"}, err: "must be a JSON object, not null"},
		{name: "empty value", key: "a", value: ``, want: Document{ID: "a"}, err: "the value is empty"},
		{name: "broken UTF-8", key: "a", value: "{\"text\":\"t\xc3\"}", want: Document{ID: "a"}, err: "not valid UTF-8 at byte 10"},
		{name: "embeddings of another type", key: "a", value: `{"text":"t","embeddings":[1]}`, want: Document{ID: "a"}, err: `field "embeddings" must be an object, not an array`},
		{name: "a word in a vector", key: "a", value: `{"text":"t","embeddings":{"e":[1,"x"]}}`, want: Document{ID: "a"}, err: `embedder "e" must be an array of numbers`},
		{name: "a null in a vector", key: "a", value: `{"text":"t","embeddings":{"e":[1,null]}}`, want: Document{ID: "a"}, err: `embedder "e" has a null at index 1`},
		{name: "too large for float32", key: "a", value: `{"text":"t","embeddings":{"e":[1,2e39]}}`, want: Document{ID: "a"}, err: `embedder "e" has the value 2e+39 at index 1`},
		{name: "too large for float64", key: "a", value: `{"text":"t","embeddings":{"e":[1,2e399]}}`, want: Document{ID: "a"}, err: `embedder "e" must be an array of numbers`},
		{name: "empty vector", key: "a", value: `{"text":"t","embeddings":{"e":[]}}`, want: Document{ID: "a"}, err: `embedder "e" is empty`},
		{name: "NaN in base64", key: "a", value: `{"text":"t","embeddings":{"e":"` + floats(1, float32(math.NaN())) + `"}}`, want: Document{ID: "a"}, err: `embedder "e" has the value NaN at index 1`},
		{name: "infinity in base64", key: "a", value: `{"text":"t","embeddings":{"e":"` + floats(float32(math.Inf(-1))) + `"}}`, want: Document{ID: "a"}, err: `embedder "e" has the value -Inf at index 0`},
		{name: "not base64", key: "a", value: `{"text":"t","embeddings":{"e":"a-_="}}`, want: Document{ID: "a"}, err: `embedder "e" is not base64`},
		{name: "three bytes", key: "a", value: `{"text":"t","embeddings":{"e":"AAAA"}}`, want: Document{ID: "a"}, err: `embedder "e" has 3 bytes, not a multiple of 4`},
		{name: "vector of another type", key: "a", value: `{"text":"t","embeddings":{"e":1}}`, want: Document{ID: "a"}, err: `embedder "e" must be an array of numbers or a base64 string, not a number`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			value := []byte(test.value)
			if test.value == "-" {
				value = nil
			}
			got, deleted, err := ParseDocument([]byte(test.key), value)
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Fatalf("error %v, want one with %q", err, test.err)
			}
			if !reflect.DeepEqual(got, test.want) || deleted != test.deleted {
				t.Errorf("got %+v deleted %v\nwant %+v deleted %v", got, deleted, test.want, test.deleted)
			}
		})
	}
}

func FuzzParseDocument(f *testing.F) {
	f.Add([]byte("a"), []byte(`{"id":"a","title":"T","text":"t","updated_at":"2026-01-02T03:04:05Z","metadata":{"b":1},"embeddings":{"e":[1,2]}}`))
	f.Add([]byte(""), []byte(`{"id":"\ud83d\ude00","text":"\u0000 <&>","embeddings":{"e":"AACAPw=="}}`))
	f.Add([]byte("\xff"), []byte(`{"text":"t","text":"\ud800"}`))
	f.Add([]byte("a"), []byte("\ufeff"+`{"title":"T","text":null,"url":7,"updated_at":"2026-01-02 03:04:05+00"}`))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		d, deleted, err := ParseDocument(key, value)
		if err != nil || deleted {
			return
		}
		k, v := d.Encode()
		again, _, err := ParseDocument(k, v)
		if err != nil {
			t.Fatalf("encoded as %s: %v", v, err)
		}
		if !bytes.Equal(compact(d.Metadata), compact(again.Metadata)) {
			t.Fatalf("metadata %s became %s", d.Metadata, again.Metadata)
		}
		d.Metadata, again.Metadata = nil, nil
		if !reflect.DeepEqual(d, again) {
			t.Fatalf("%+v became %+v", d, again)
		}
	})
}

func TestContentHash(t *testing.T) {
	// Computed with printf 'T\nt' | sha256sum, printf '\nt' | sha256sum
	for _, test := range []struct{ title, text, want string }{
		{"T", "t", "e625310308ffa9f07cf9a787bebe499e"}, {"T", "", "678f81a714fbc72030f82f9980054d5c"}, {"", "t", "7aefdb613d76fbf9a5139e2dc6e35ede"},
	} {
		if got := ContentHash(test.title, test.text); got != test.want {
			t.Errorf("ContentHash(%q, %q) = %s, want %s", test.title, test.text, got, test.want)
		}
		if got := (Document{Title: test.title, Text: test.text}).Hash(); got != test.want {
			t.Errorf("Hash = %s, want %s", got, test.want)
		}
	}
	if EmbeddedText("T", "t") != "T\nt" || EmbeddedText("", "t") != "t" || EmbeddedText("T", "") != "T" {
		t.Error("EmbeddedText is not title, newline and text, or the one that there is")
	}
}
