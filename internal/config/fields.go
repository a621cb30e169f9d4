package config

import (
	_ "embed"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
	"sync"
	"time"
)

//go:embed config.go
var source string

// Field is one key of the configuration, as the structs of this package define it.
type Field struct {
	Key      string // full key, such as kafka.brokers; an element of a list is tiers[]
	Name     string // last part of the key
	Doc      string // its meaning
	Default  string // YAML; empty means the zero value
	Enum     []string
	Min, Max string // as written in the tags; empty means no limit
	NonEmpty bool
	Of       string // the only type of the list's elements that has the key; empty means all
	Type     reflect.Type
	Fields   []Field // of a group, or of the elements of a list
	index    int     // index in its struct
}

var durationType = reflect.TypeFor[time.Duration]()

// Fields returns all keys, in the order of the structs.
func Fields() []Field { return fields() }

var fields = sync.OnceValue(func() []Field {
	return structFields(reflect.TypeFor[Config](), "", comments())
})

func structFields(t reflect.Type, prefix string, docs map[string]string) []Field {
	var list []Field
	for i := range t.NumField() {
		sf := t.Field(i)
		if !sf.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		f := Field{
			Key:      prefix + name,
			Name:     name,
			Doc:      docs[t.Name()+"."+sf.Name],
			Default:  sf.Tag.Get("default"),
			Min:      sf.Tag.Get("min"),
			Max:      sf.Tag.Get("max"),
			NonEmpty: sf.Tag.Get("nonempty") == "true",
			Of:       sf.Tag.Get("of"),
			Type:     sf.Type,
			index:    i,
		}
		if enum, ok := sf.Tag.Lookup("enum"); ok {
			f.Enum = strings.Split(enum, "|")
		}
		if element, group := f.group(); group {
			below := f.Key + "."
			if f.list() {
				below = f.Key + "[]."
			}
			f.Fields = structFields(element, below, docs)
		}
		list = append(list, f)
	}
	return list
}

// group reports whether the field, or each element of it, is a struct with further keys.
func (f Field) group() (reflect.Type, bool) {
	t := f.Type
	if f.list() {
		t = t.Elem()
	}
	return t, t.Kind() == reflect.Struct
}

func (f Field) list() bool { return f.Type.Kind() == reflect.Slice }

// hasUserKeys reports whether the value is a group with keys that the user chooses.
func (f Field) hasUserKeys() bool { return f.Type.Kind() == reflect.Map }

// Env returns the environment variable of the key. It is empty for a key inside a list, because a list is set
// as a whole.
func (f Field) Env() string {
	if strings.Contains(f.Key, "[]") {
		return ""
	}
	return "HARDNEG_" + strings.ToUpper(strings.ReplaceAll(f.Key, ".", "_"))
}

// comments returns the doc comments of the structs' fields in config.go, by Struct.Field. So readers of the
// code and readers of the reference page get the same text.
func comments() map[string]string {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", source, parser.ParseComments)
	if err != nil {
		panic(err) // cannot happen: the compiler has read the same file
	}
	docs := make(map[string]string)
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if t, ok := spec.Type.(*ast.StructType); ok {
			for _, field := range t.Fields.List {
				for _, name := range field.Names {
					docs[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
				}
			}
		}
		return false
	})
	return docs
}

// eachLeaf calls visit for every key that is set by itself: not for groups, and not for keys inside a list.
func eachLeaf(list []Field, visit func(Field)) {
	for _, f := range list {
		if len(f.Fields) > 0 && !f.list() {
			eachLeaf(f.Fields, visit)
			continue
		}
		visit(f)
	}
}

// eachSettable calls visit for every key that can be set from outside. This includes groups, but no keys inside
// a list.
func eachSettable(list []Field, visit func(Field)) {
	for _, f := range list {
		visit(f)
		if !f.list() {
			eachSettable(f.Fields, visit)
		}
	}
}
