package config

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	yaml "github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// decoder writes the values of one source, a file or a single value, into a configuration.
type decoder struct {
	source   string                      // for messages
	lines    bool                        // the source has lines, so messages name them
	variable func(string) (string, bool) // looks up ${VAR}; nil means that values are taken literally
	anchors  map[string]ast.Node
	origins  map[string]string
	problems []Problem
}

func (d *decoder) fail(origin, key, format string, args ...any) {
	d.problems = append(d.problems, Problem{origin, key, fmt.Sprintf(format, args...)})
}

func (d *decoder) at(node ast.Node) string {
	if !d.lines {
		return d.source
	}
	at := node.GetToken()
	if mapping, ok := node.(*ast.MappingNode); ok && !mapping.IsFlowStyle && len(mapping.Values) > 0 {
		at = mapping.Values[0].Key.GetToken() // not the position of its colon
	}
	return fmt.Sprintf("%s:%d:%d", d.source, at.Position.Line, at.Position.Column)
}

// parse reads a YAML document. It returns nil for an empty document, and after a failure.
func (d *decoder) parse(key, text string) (body ast.Node) {
	defer func() {
		// The parser panics on some malformed inputs: its index runs past the tokens. It is enough for a user
		// to know that the input is malformed.
		if cause := recover(); cause != nil {
			d.fail(d.source, key, "not YAML")
			body = nil
		}
	}()
	file, err := parser.ParseBytes([]byte(text), 0)
	if err != nil {
		origin, message := d.source, err.Error()
		var syntax yaml.Error
		if errors.As(err, &syntax) {
			// Only the message, because the source line that the library prints may contain a password.
			message = syntax.GetMessage()
			if at := syntax.GetToken(); d.lines && at != nil {
				origin = fmt.Sprintf("%s:%d:%d", d.source, at.Position.Line, at.Position.Column)
			}
		}
		d.fail(origin, key, "not YAML: %s", message)
		return nil
	}
	for _, doc := range file.Docs {
		if _, comment := doc.Body.(*ast.CommentGroupNode); doc.Body == nil || comment {
			continue
		}
		if body != nil {
			d.fail(d.at(doc.Body), key, "a second YAML document; there can be one only")
			return nil
		}
		body = doc.Body
	}
	return body
}

// resolve follows anchors, aliases and tags to the value itself. It returns nil after a failure.
func (d *decoder) resolve(node ast.Node, key string) ast.Node {
	for {
		switch n := node.(type) {
		case *ast.AnchorNode:
			d.anchors[n.Name.GetToken().Value] = n.Value
			node = n.Value
		case *ast.AliasNode:
			name := n.Value.GetToken().Value
			target, ok := d.anchors[name]
			if !ok {
				d.fail(d.at(n), key, "*%s has no anchor &%s above it", name, name)
				return nil
			}
			delete(d.anchors, name) // an alias inside its own anchor would never end
			defer func() { d.anchors[name] = target }()
			node = target
		case *ast.TagNode:
			node = n.Value
		default:
			return node
		}
	}
}

// decodeGroup writes a mapping into a struct.
func (d *decoder) decodeGroup(node ast.Node, key string, known []Field, target reflect.Value) {
	node = d.resolve(node, key)
	switch node.(type) {
	case nil, *ast.NullNode:
		return
	}
	mapping, ok := node.(ast.MapNode)
	if !ok {
		d.fail(d.at(node), key, "must be a group of keys (%s)", strings.Join(names(known), ", "))
		return
	}
	if key != "" {
		d.origins[key] = d.at(node)
	}
	for pairs := mapping.MapRange(); pairs.Next(); {
		keyNode := pairs.Key()
		if keyNode.IsMergeKey() {
			d.fail(d.at(keyNode), key, "merge keys (<<) are not supported; an alias of the whole group is")
			continue
		}
		name := keyNode.GetToken().Value
		f, ok := find(known, name)
		if !ok {
			d.fail(d.at(keyNode), join(key, name), "%s", unknown(name, known))
			continue
		}
		d.decode(pairs.Value(), join(key, name), f, target.Field(f.index))
	}
}

// decode writes a value into the target.
func (d *decoder) decode(node ast.Node, key string, f Field, target reflect.Value) {
	if len(f.Fields) > 0 && !f.list() {
		d.decodeGroup(node, key, f.Fields, target)
		return
	}
	node = d.resolve(node, key)
	if node == nil {
		return
	}
	if _, null := node.(*ast.NullNode); null {
		return // no value is given: the present value stays
	}
	if f.hasUserKeys() {
		d.decodeFree(node, key, f, target)
		return
	}
	if sequence, ok := node.(*ast.SequenceNode); ok && f.list() {
		d.decodeList(sequence, key, f, target)
		return
	}
	text, ok := d.text(node, key)
	if ok {
		d.set(d.at(node), key, text, f, target)
	}
}

func (d *decoder) decodeList(sequence *ast.SequenceNode, key string, f Field, target reflect.Value) {
	d.replace(key, d.at(sequence))
	list := reflect.MakeSlice(f.Type, len(sequence.Values), len(sequence.Values))
	for i, node := range sequence.Values {
		element := fmt.Sprintf("%s[%d]", key, i)
		if len(f.Fields) > 0 {
			defaults(f.Fields, list.Index(i))
			d.decodeGroup(node, element, f.Fields, list.Index(i))
			continue
		}
		node = d.resolve(node, element)
		if node == nil {
			continue
		}
		if text, ok := d.text(node, element); ok {
			d.replace(element, d.at(node))
			list.Index(i).SetString(text)
		}
	}
	target.Set(list)
}

// text returns a scalar with its variables filled in.
func (d *decoder) text(node ast.Node, key string) (string, bool) {
	var text string
	switch n := node.(type) {
	case *ast.StringNode:
		text = n.Value
	case *ast.LiteralNode:
		text = n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		text = n.GetToken().Value
	case *ast.MappingNode:
		var plain bool
		if text, plain = colonScalar(n); plain {
			break
		}
		d.fail(d.at(node), key, "must be a value, not a group of keys")
		return "", false
	case *ast.SequenceNode:
		d.fail(d.at(node), key, "must be a single value, not a list")
		return "", false
	default:
		d.fail(d.at(node), key, "must be a value")
		return "", false
	}
	if d.variable == nil {
		return text, true
	}
	text, err := expand(text, d.variable)
	if err != nil {
		d.fail(d.at(node), key, "%v", err)
		return "", false
	}
	return text, true
}

// colonScalar returns the text of host:port in a list inside braces. By YAML's rules a colon is part of the
// value if no space follows it, but in this place the parser makes a group with one key of it.
func colonScalar(n *ast.MappingNode) (string, bool) {
	if n.IsFlowStyle || len(n.Values) != 1 {
		return "", false
	}
	key, colon, value := n.Values[0].Key.GetToken(), n.Values[0].Start, n.Values[0].Value.GetToken()
	adjacent := key.Indicator != token.QuotedScalarIndicator && value.Position.Line == colon.Position.Line &&
		value.Position.Column == colon.Position.Column+1
	if _, scalar := n.Values[0].Value.(ast.ScalarNode); !scalar || !adjacent {
		return "", false
	}
	return key.Value + ":" + value.Value, true
}

// set parses the text of a value.
func (d *decoder) set(origin, key, text string, f Field, target reflect.Value) {
	if f.list() {
		if len(f.Fields) > 0 {
			d.fail(origin, key, "must be a list")
			return
		}
		d.replace(key, origin)
		list := []string{}
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
		target.Set(reflect.ValueOf(list))
		return
	}
	if target.Kind() == reflect.Pointer {
		target.Set(reflect.New(f.Type.Elem()))
		target = target.Elem()
	}
	if err := setScalar(target, text); err != nil {
		d.fail(origin, key, "%v", err)
		return
	}
	d.replace(key, origin)
}

// replace records the new origin of the key's value.
func (d *decoder) replace(key, origin string) {
	for old := range d.origins {
		if strings.HasPrefix(old, key+"[") {
			delete(d.origins, old)
		}
	}
	d.origins[key] = origin
}

func setScalar(target reflect.Value, text string) error {
	switch {
	case target.Type() == durationType:
		value, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration, such as 500ms, 30s or 1h30m", text)
		}
		target.SetInt(int64(value))
	case target.Kind() == reflect.String:
		target.SetString(text)
	case target.Kind() == reflect.Bool:
		value := strings.ToLower(text)
		if value != "true" && value != "false" {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		target.SetBool(value == "true")
	case target.Kind() == reflect.Int:
		value, err := strconv.ParseInt(text, 10, 0)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		target.SetInt(value)
	case target.Kind() == reflect.Uint64:
		value, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not a whole number from 0", text)
		}
		target.SetUint(value)
	case target.Kind() == reflect.Float64:
		value, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(value) || math.IsInf(value, 0) {
			return fmt.Errorf("%q is not a number", text)
		}
		target.SetFloat(value)
	default:
		panic("config: no parser for " + target.Type().String())
	}
	return nil
}

// expand replaces ${VAR}, and ${VAR:default} if VAR is not set or empty. $${ stands for ${.
func expand(text string, variable func(string) (string, bool)) (string, error) {
	var out strings.Builder
	for {
		start := strings.Index(text, "${")
		if start < 0 {
			out.WriteString(text)
			return out.String(), nil
		}
		if start > 0 && text[start-1] == '$' {
			out.WriteString(text[:start-1] + "${")
			text = text[start+2:]
			continue
		}
		out.WriteString(text[:start])
		inside, rest, closed := strings.Cut(text[start+2:], "}")
		if !closed {
			return "", errors.New("${ without its }; write $${ for a literal ${")
		}
		text = rest
		name, fallback, hasDefault := strings.Cut(inside, ":")
		if name == "" {
			return "", errors.New("${} names no variable; write $${ for a literal ${")
		}
		value, set := variable(name)
		switch {
		case set && (value != "" || !hasDefault):
			out.WriteString(value)
		case hasDefault:
			out.WriteString(fallback)
		default:
			return "", fmt.Errorf("the environment variable %s is not set; ${%s:default} would give it a default", name, name)
		}
	}
}

// unknown returns the message for an unknown key, with the key that was probably meant.
func unknown(name string, siblings []Field) string {
	if guess := nearest(name, names(siblings)); guess != "" {
		return "unknown key; did you mean " + guess + "?"
	}
	var elsewhere string
	eachSettable(Fields(), func(f Field) {
		if elsewhere == "" && f.Name == name {
			elsewhere = f.Key
		}
	})
	if elsewhere != "" {
		return "unknown key; did you mean " + elsewhere + "?"
	}
	return "unknown key; known here: " + strings.Join(names(siblings), ", ")
}

func find(list []Field, name string) (Field, bool) {
	for _, f := range list {
		if f.Name == name {
			return f, true
		}
	}
	return Field{}, false
}

func names(list []Field) []string {
	out := make([]string, len(list))
	for i, f := range list {
		out[i] = f.Name
	}
	return out
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}
