package records

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// object is a JSON object whose members are decoded one by one. Names must match exactly; encoding/json would
// accept "Text" for "text". A name that appears twice is an error, because parsers differ in which one they
// use.
type object struct {
	path   string // path of the object inside the record: "", or ending in a dot
	fields map[string]json.RawMessage
}

// parseObject reads a whole record: valid UTF-8, with or without a byte order mark, one JSON object, nothing
// after it.
func parseObject(value []byte) (object, error) {
	if err := foreign(value); err != nil {
		return object{}, fmt.Errorf("the value %w", err)
	}
	if text := withoutMark(value); len(text) < len(value) {
		// JSON allows blanks here. With them, offsets in messages stay as they are in the record.
		value = append(bytes.Repeat([]byte(" "), len(ByteOrderMark)), text...)
	}
	if len(bytes.TrimSpace(value)) == 0 {
		return object{}, errors.New("the value is empty, want a JSON object")
	}
	if at := InvalidUTF8(value); at >= 0 {
		return object{}, fmt.Errorf("the value is not valid UTF-8 at byte %d", at)
	}
	var raw json.RawMessage
	if err := json.Unmarshal(value, &raw); err != nil {
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			return object{}, fmt.Errorf("invalid JSON at byte %d: %v", max(syntax.Offset-1, 0), err)
		}
		return object{}, fmt.Errorf("invalid JSON: %v", err)
	}
	return newObject("", value)
}

// newObject splits valid JSON into its members.
func newObject(path string, value []byte) (object, error) {
	o := object{path: path, fields: map[string]json.RawMessage{}}
	if k := kind(value); k != "an object" {
		if path == "" {
			return o, fmt.Errorf("the value must be a JSON object, not %s", k)
		}
		return o, fmt.Errorf("field %q must be an object, not %s", strings.TrimSuffix(path, "."), k)
	}
	decoder := json.NewDecoder(bytes.NewReader(value))
	if _, err := decoder.Token(); err != nil {
		return o, err
	}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return o, err
		}
		name := token.(string) // in valid JSON a member's name is a string
		at := decoder.InputOffset()
		var raw json.RawMessage
		if err := decoder.Decode(&raw); err != nil {
			return o, err
		}
		if _, twice := o.fields[name]; twice {
			return o, fmt.Errorf("field %q comes twice, the second time before byte %d", path+name, at)
		}
		o.fields[name] = raw
	}
	return o, nil
}

// field returns a member's JSON. A member that is null counts as absent.
func (o object) field(name string) (json.RawMessage, bool) {
	raw, ok := o.fields[name]
	return raw, ok && kind(raw) != "null"
}

func (o object) wrong(name, want string, raw []byte) error {
	return fmt.Errorf("field %q must be %s, not %s", o.path+name, want, kind(raw))
}

// text returns an optional string.
func (o object) text(name string) (string, error) {
	raw, ok := o.field(name)
	if !ok {
		return "", nil
	}
	return stringOf(o.path+name, raw)
}

// required returns a string that must be present and not blank.
func (o object) required(name string) (string, error) {
	if _, ok := o.field(name); !ok {
		return "", fmt.Errorf("field %q is missing", o.path+name)
	}
	s, err := o.text(name)
	if err == nil && strings.TrimSpace(s) == "" {
		return "", fmt.Errorf("field %q is empty", o.path+name)
	}
	return s, err
}

// unused returns a string or number as text. Nothing uses the field, so nothing in it is wrong: it returns "" for
// everything else.
func (o object) unused(name string) string {
	raw, ok := o.field(name)
	if !ok {
		return ""
	}
	if kind(raw) == "a number" {
		return string(raw)
	}
	s, err := stringOf(name, raw)
	if err != nil {
		return ""
	}
	return s
}

// id returns an optional id within its limits, or "" if it is absent.
func (o object) id(name string) (string, error) {
	raw, ok := o.field(name)
	if !ok {
		return "", nil
	}
	return idOf(o.path+name, raw)
}

// integer returns an optional whole number from 0 to 2^53.
func (o object) integer(name string) (int64, error) {
	v, ok, err := o.number(name)
	if err != nil || !ok {
		return 0, err
	}
	if v != math.Trunc(v) || v < 0 || v > 1<<53 {
		return 0, fmt.Errorf("field %q must be a whole number from 0 to 2^53, not %v", o.path+name, v)
	}
	return int64(v), nil
}

// number returns an optional number and whether it is present.
func (o object) number(name string) (float64, bool, error) {
	raw, ok := o.field(name)
	if !ok {
		return 0, false, nil
	}
	if kind(raw) != "a number" {
		return 0, false, o.wrong(name, "a number", raw)
	}
	var v float64
	if err := json.Unmarshal(raw, &v); err != nil {
		return 0, false, fmt.Errorf("field %q is out of range: %s", o.path+name, clip(raw))
	}
	return v, true, nil
}

// list returns the elements of an optional array.
func (o object) list(name string) ([]json.RawMessage, error) {
	raw, ok := o.field(name)
	if !ok {
		return nil, nil
	}
	if kind(raw) != "an array" {
		return nil, o.wrong(name, "an array", raw)
	}
	var elements []json.RawMessage
	err := json.Unmarshal(raw, &elements)
	return elements, err
}

// parseList parses the elements of an optional array. parse gets the path of each element, for messages.
func parseList[T any](o object, name string, parse func(path string, raw json.RawMessage) (T, error)) ([]T, error) {
	elements, err := o.list(name)
	if err != nil {
		return nil, err
	}
	var out []T
	for i, raw := range elements {
		element, err := parse(fmt.Sprintf("%s%s[%d]", o.path, name, i), raw)
		if err != nil {
			return nil, err
		}
		out = append(out, element)
	}
	return out, nil
}

// object returns an optional object. If it is absent, fields is nil.
func (o object) object(name string) (object, error) {
	raw, ok := o.field(name)
	if !ok {
		return object{path: o.path + name + "."}, nil
	}
	return newObject(o.path+name+".", raw)
}

// stringOf decodes a JSON string. It refuses an unpaired surrogate, which has no UTF-8 form: it would
// silently become U+FFFD, and two different ids could become equal.
func stringOf(path string, raw []byte) (string, error) {
	if kind(raw) != "a string" {
		return "", fmt.Errorf("field %q must be a string, not %s", path, kind(raw))
	}
	if err := pairedSurrogates(raw); err != nil {
		return "", fmt.Errorf("field %q %w", path, err)
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err
}

// idOf decodes an id within its limits.
func idOf(path string, raw json.RawMessage) (string, error) {
	s, err := stringOf(path, raw)
	if err != nil {
		return "", err
	}
	if err := checkID(s); err != nil {
		return "", fmt.Errorf("field %q %w", path, err)
	}
	return s, nil
}

// pairedSurrogates refuses valid JSON that has an unpaired surrogate among the \uXXXX escapes of its strings.
func pairedSurrogates(raw []byte) error {
	high := -1 // where the previous escape is, if it is a high surrogate
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' || i+1 >= len(raw) || raw[i+1] != 'u' {
			if high >= 0 {
				return unpaired(raw, high)
			}
			if raw[i] == '\\' {
				i++
			}
			continue
		}
		var code rune
		for _, c := range raw[i+2 : i+6] {
			code = code<<4 | rune(strings.IndexByte("0123456789abcdef", c|0x20))
		}
		low := utf16.IsSurrogate(code) && code >= 0xdc00
		switch {
		case high >= 0 && !low:
			return unpaired(raw, high)
		case high < 0 && low:
			return unpaired(raw, i)
		}
		if high = -1; utf16.IsSurrogate(code) && !low {
			high = i
		}
		i += 5
	}
	return nil
}

func unpaired(raw []byte, at int) error {
	return fmt.Errorf("holds an unpaired surrogate escape, %s at its byte %d, which is no character", raw[at:at+6], at)
}

// kind returns the type of a JSON value, from its first byte.
func kind(raw []byte) string {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	if len(raw) == 0 {
		return "nothing"
	}
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// InvalidUTF8 returns the offset of the first byte that is not UTF-8, or -1.
func InvalidUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	for at := 0; at < len(data); {
		r, size := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && size == 1 {
			return at
		}
		at += size
	}
	return -1
}

// clip shortens input for an error message.
func clip(data []byte) string {
	const most = 64
	if len(data) <= most {
		return string(data)
	}
	return strings.ToValidUTF8(string(data[:most]), "") + "…"
}
