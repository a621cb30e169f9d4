package config

import (
	"fmt"
	"math"
	"reflect"

	"github.com/goccy/go-yaml/ast"
)

// decodeFree writes a group with the user's own keys into a map. It replaces the previous group as a whole.
func (d *decoder) decodeFree(node ast.Node, key string, f Field, target reflect.Value) {
	mapping, ok := node.(ast.MapNode)
	if !ok {
		d.fail(d.at(node), key, "must be a group of keys")
		return
	}
	d.replace(key, d.at(node))
	target.Set(reflect.MakeMap(f.Type))
	d.pairs(mapping, key, func(name string, value ast.Node) {
		below := join(key, name)
		if f.Type.Elem().Kind() == reflect.String {
			if value = d.resolve(value, below); value == nil {
				return
			}
			if text, ok := d.text(value, below); ok {
				d.origins[below] = d.at(value)
				target.SetMapIndex(reflect.ValueOf(name), reflect.ValueOf(text).Convert(f.Type.Elem()))
			}
			return
		}
		if found, ok := d.decodeAny(value, below); ok {
			target.Interface().(map[string]any)[name] = found
		}
	})
}

func (d *decoder) pairs(mapping ast.MapNode, key string, use func(name string, value ast.Node)) {
	for pairs := mapping.MapRange(); pairs.Next(); {
		keyNode := pairs.Key()
		if keyNode.IsMergeKey() {
			d.fail(d.at(keyNode), key, "merge keys (<<) are not supported; an alias of the whole group is")
			continue
		}
		use(keyNode.GetToken().Value, pairs.Value())
	}
}

// decodeAny returns a value in its JSON form: nil, bool, int64, uint64, float64, string, []any or
// map[string]any.
func (d *decoder) decodeAny(node ast.Node, key string) (any, bool) {
	switch n := d.resolve(node, key).(type) {
	case nil:
		return nil, false
	case *ast.NullNode:
		return nil, true
	case *ast.BoolNode:
		return n.Value, true
	case *ast.IntegerNode:
		return n.Value, true
	case *ast.FloatNode:
		if math.IsInf(n.Value, 0) || math.IsNaN(n.Value) {
			d.fail(d.at(n), key, "must be a finite number")
			return nil, false
		}
		return n.Value, true
	case *ast.SequenceNode:
		list, good := make([]any, len(n.Values)), true
		for i, element := range n.Values {
			value, ok := d.decodeAny(element, fmt.Sprintf("%s[%d]", key, i))
			list[i], good = value, good && ok
		}
		return list, good
	case *ast.InfinityNode, *ast.NanNode:
		d.fail(d.at(n), key, "must be a finite number")
		return nil, false
	case ast.MapNode:
		if flow, ok := n.(*ast.MappingNode); ok {
			if _, plain := colonScalar(flow); plain {
				text, ok := d.text(flow, key)
				return text, ok
			}
		}
		group, good := map[string]any{}, true
		d.pairs(n, key, func(name string, value ast.Node) {
			found, ok := d.decodeAny(value, join(key, name))
			group[name], good = found, good && ok
		})
		return group, good
	default:
		text, ok := d.text(n, key)
		return text, ok
	}
}
