package config

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	yaml "github.com/goccy/go-yaml"
)

// YAML returns the configuration as a file that Load can read. The secrets are masked, and so are the values in
// the bodies of embedders: some servers take their key there.
func (c *Config) YAML() ([]byte, error) {
	masked := *c
	masked.Embedders = slices.Clone(c.Embedders)
	for i := range masked.Embedders {
		e := &masked.Embedders[i]
		e.Body, e.QueryBody, e.PassageBody = maskValues(e.Body), maskValues(e.QueryBody), maskValues(e.PassageBody)
	}
	return yaml.MarshalWithOptions(masked, yaml.IndentSequence(true))
}

// maskValues keeps the keys.
func maskValues(body map[string]any) map[string]any {
	if body == nil {
		return nil
	}
	masked := make(map[string]any, len(body))
	for key := range body {
		masked[key] = mask
	}
	return masked
}

// JSON returns the configuration under its YAML keys. The secrets are masked.
func (c *Config) JSON() ([]byte, error) {
	text, err := c.YAML()
	if err != nil {
		return nil, err
	}
	return yaml.YAMLToJSON(text)
}

// String masks the secrets, like every other form.
func (c *Config) String() string {
	text, err := c.YAML()
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Reference writes the page that describes every key.
func Reference(w io.Writer) error {
	var out strings.Builder
	out.WriteString(referenceHead)
	out.WriteString("| key | default | |\n|---|---|---|\n")
	var nested []Field
	eachLeaf(Fields(), func(f Field) {
		row(&out, f.Key, f)
		if len(f.Fields) > 0 {
			nested = append(nested, f)
		}
	})
	for _, f := range nested {
		fmt.Fprintf(&out, "\n## Elements of `%s`\n\n%s\n\n| key | default | |\n|---|---|---|\n", f.Key, f.Doc)
		for _, key := range f.Fields {
			row(&out, key.Name, key)
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}

const referenceHead = `# Configuration

This page is generated from ` + "`internal/config/config.go`" + ` by ` + "`go generate ./internal/config`" + `.
` + "`hardneg config schema`" + ` prints a JSON Schema of the file for editors, ` + "`hardneg config print`" + ` what is
in force.

Settings come from four places, each over the one before: the defaults below, a YAML file
(` + "`--config FILE`" + `), the environment, and ` + "`--set key=value`" + `, which can be repeated.

- The variable of a key is ` + "`HARDNEG_`" + ` and the key in capitals, with ` + "`_`" + ` for ` + "`.`" + `: ` + "`kafka.max_batch`" + `
  is ` + "`HARDNEG_KAFKA_MAX_BATCH`" + `.
- Lists and groups are YAML or JSON there:
  ` + "`HARDNEG_EMBEDDERS='[{name: words, type: lexical-word}]'`" + `. A list of plain values can be written
  with commas: ` + "`--set kafka.brokers=a:9092,b:9092`" + `. A list replaces the one before as a whole.
- In the file and in ` + "`--set`, `${VAR}`" + ` stands for an environment variable, which must be set, and
  ` + "`${VAR:default}`" + ` has a default for one that is not set or empty. ` + "`$${`" + ` is a literal ` + "`${`" + `. Inside
  ` + "`{…}`" + ` and ` + "`[…]`" + ` put quotes around it.
- A duration has a unit: ` + "`500ms`, `30s`, `1h30m`" + `.
- Unknown keys are errors, with file, line and column. Every mistake is reported at once.
- Passwords and keys are masked wherever the configuration is printed.

## Keys

`

func row(out *strings.Builder, key string, f Field) {
	fmt.Fprintf(out, "| `%s` | %s | %s |\n", key, strings.ReplaceAll(shownDefault(f), "|", `\|`),
		strings.ReplaceAll(description(f), "|", `\|`))
}

func shownDefault(f Field) string {
	switch {
	case f.Default != "":
		return "`" + f.Default + "`"
	case f.Of != "":
		return "" // its doc comment says what an empty value means
	case f.Type == durationType:
		return "`0s`"
	case f.Type.Kind() == reflect.Int, f.Type.Kind() == reflect.Uint64, f.Type.Kind() == reflect.Float64:
		return "`0`"
	case f.Type.Kind() == reflect.Bool:
		return "`false`"
	}
	return ""
}

// description returns the doc comment, with the limits from the tags.
func description(f Field) string {
	parts := []string{strings.TrimSuffix(f.Doc, ".") + "."}
	if f.Enum != nil {
		var quoted []string
		for _, name := range f.Enum {
			if name != "" {
				quoted = append(quoted, "`"+name+"`")
			}
		}
		parts = append(parts, "One of "+strings.Join(quoted, ", ")+".")
		if f.list() {
			parts[1] = "Any of " + strings.Join(quoted, ", ") + "."
		}
	}
	if f.Of != "" {
		parts = append(parts, "Of "+f.Of+".")
	}
	switch {
	case f.Min != "" && f.Max != "" && f.Min != f.Max:
		parts = append(parts, "From "+f.Min+" to "+f.Max+".")
	case f.Min != "" && f.Max == "":
		parts = append(parts, "At least "+f.Min+".")
	}
	return strings.Join(parts, " ")
}

// Schema returns a JSON Schema (2020-12) of the file. A value that is no string may also be a string with a
// ${VAR}.
func Schema() ([]byte, error) {
	schema := groupSchema(Fields())
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = "hardneg configuration"
	return json.MarshalIndent(schema, "", "  ")
}

func groupSchema(list []Field) map[string]any {
	properties := make(map[string]any, len(list))
	for _, f := range list {
		property := valueSchema(f)
		if f.Doc != "" {
			property["description"] = f.Doc
		}
		if value := defaultValue(f); value != nil {
			property["default"] = value
		}
		properties[f.Name] = property
	}
	return map[string]any{"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false}
}

func valueSchema(f Field) map[string]any {
	switch {
	case f.list() && len(f.Fields) > 0:
		return map[string]any{"type": []string{"array", "null"}, "items": groupSchema(f.Fields)}
	case f.list():
		items := map[string]any{"type": "string"}
		if f.Enum != nil {
			items = orVariable(map[string]any{"enum": f.Enum})
		}
		return map[string]any{"anyOf": []any{map[string]any{"type": []string{"array", "null"}, "items": items}, map[string]any{"type": "string"}}}
	case len(f.Fields) > 0:
		return groupSchema(f.Fields)
	case f.hasUserKeys():
		var value any = true
		if f.Type.Elem().Kind() == reflect.String {
			value = map[string]any{"type": []string{"string", "number", "boolean"}}
		}
		return map[string]any{"type": []string{"object", "null"}, "additionalProperties": value}
	}
	return scalarSchema(f)
}

func scalarSchema(f Field) map[string]any {
	t := f.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case f.Enum != nil:
		return orVariable(map[string]any{"enum": f.Enum})
	case t == durationType:
		return map[string]any{"type": []string{"string", "integer", "null"}, "pattern": `^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+|.*\$\{.*)$`, "maximum": 0, "minimum": 0}
	case t.Kind() == reflect.String:
		return map[string]any{"type": []string{"string", "number", "boolean", "null"}}
	case t.Kind() == reflect.Bool:
		return orVariable(map[string]any{"type": "boolean"})
	}
	value := map[string]any{"type": "integer"}
	if t.Kind() == reflect.Float64 {
		value["type"] = "number"
	}
	if t.Kind() == reflect.Uint64 {
		value["minimum"] = 0
	}
	if low, ok := bound(f.Min, t); ok {
		value["minimum"] = low
	}
	if high, ok := bound(f.Max, t); ok {
		value["maximum"] = high
	}
	return orVariable(value)
}

func orVariable(value map[string]any) map[string]any {
	return map[string]any{"anyOf": []any{value, map[string]any{"type": "string", "pattern": `\$\{`}, map[string]any{"type": "null"}}}
}

// defaultValue returns the default in its JSON form, or nil if there is none.
func defaultValue(f Field) any {
	if f.Default == "" {
		return nil
	}
	var value any
	if f.Type.Kind() == reflect.String {
		return f.Default
	}
	if err := yaml.Unmarshal([]byte(f.Default), &value); err != nil {
		panic(err) // a wrong tag in config.go
	}
	return value
}
