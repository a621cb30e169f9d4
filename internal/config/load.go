package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"hardneg/internal/records"

	"github.com/goccy/go-yaml/ast"
)

// Options are the sources of a configuration. Later sources override earlier ones: the defaults, the file,
// the environment, the settings of the command line.
type Options struct {
	File string   // path of a YAML file; empty means no file
	Env  []string // like os.Environ: HARDNEG_A_B=v sets a.b, and ${VAR} is looked up here
	Set  []string // a.b=v
}

// Default returns the configuration without any source.
func Default() *Config {
	c := &Config{origins: make(map[string]string)}
	defaults(Fields(), reflect.ValueOf(c).Elem())
	c.complete()
	return c
}

// Load reads the sources and validates the result. The error is an *Error with every problem, or an error of
// reading the file.
func Load(options Options) (*Config, error) {
	c := &Config{origins: make(map[string]string)}
	root := reflect.ValueOf(c).Elem()
	defaults(Fields(), root)
	environment := variables(options.Env)
	lookup := func(name string) (string, bool) {
		value, ok := environment[name]
		return value, ok
	}

	var problems []Problem
	if options.File != "" {
		text, err := os.ReadFile(options.File)
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		if err := records.CheckEncoding(text); err != nil {
			return nil, fmt.Errorf("configuration: %s %w", options.File, err)
		}
		text = bytes.TrimPrefix(text, []byte(records.ByteOrderMark))
		d := &decoder{source: filepath.Base(options.File), lines: true, variable: lookup, anchors: map[string]ast.Node{}, origins: c.origins}
		if body := d.parse("", string(text)); body != nil {
			d.decodeGroup(body, "", Fields(), root)
		}
		problems = append(problems, d.problems...)
	}
	eachSettable(Fields(), func(f Field) {
		if value, ok := environment[f.Env()]; ok {
			d := &decoder{source: f.Env(), anchors: map[string]ast.Node{}, origins: c.origins}
			d.setOne(value, f, root)
			problems = append(problems, d.problems...)
		}
	})
	for _, setting := range options.Set {
		key, value, ok := strings.Cut(setting, "=")
		key = strings.TrimSpace(key)
		d := &decoder{source: "command line", variable: lookup, anchors: map[string]ast.Node{}, origins: c.origins}
		if f, known := lookupKey(key); !ok {
			d.fail("command line", key, "has no value; write --set key=value")
		} else if !known {
			d.fail("command line", key, "%s", unknownFull(key))
		} else {
			d.setOne(value, f, root)
		}
		problems = append(problems, d.problems...)
	}

	problems = append(problems, c.check()...)
	if err := failure(problems); err != nil {
		return nil, err
	}
	c.complete()
	return c, nil
}

// setOne sets one value that does not come from the file. Groups and lists are YAML or JSON. A list of
// strings may also be separated by commas.
func (d *decoder) setOne(value string, f Field, root reflect.Value) {
	target := root
	known := Fields()
	for part := range strings.SplitSeq(f.Key, ".") {
		step, _ := find(known, part)
		target, known = target.Field(step.index), step.Fields
	}
	plain := !f.list() && len(f.Fields) == 0
	separated := f.list() && len(f.Fields) == 0 && !strings.HasPrefix(strings.TrimSpace(value), "[")
	if plain || separated {
		if d.variable != nil {
			var err error
			if value, err = expand(value, d.variable); err != nil {
				d.fail(d.source, f.Key, "%v", err)
				return
			}
		}
		d.set(d.source, f.Key, value, f, target)
		return
	}
	if body := d.parse(f.Key, value); body != nil {
		d.decode(body, f.Key, f, target)
	}
}

// defaults sets every field to its default.
func defaults(list []Field, target reflect.Value) {
	for _, f := range list {
		switch {
		case len(f.Fields) > 0 && !f.list():
			defaults(f.Fields, target.Field(f.index))
		case f.Default != "":
			d := &decoder{source: "default", anchors: map[string]ast.Node{}, origins: map[string]string{}}
			if body := d.parse(f.Key, f.Default); body != nil {
				d.decode(body, f.Key, f, target.Field(f.index))
			}
			if err := failure(d.problems); err != nil {
				panic(err) // a wrong tag in config.go
			}
		}
	}
}

// complete fills in values that are derived from other settings.
func (c *Config) complete() {
	for i, e := range c.Embedders {
		c.Embedders[i] = e.Complete()
	}
	for i := range c.Mining.Tiers {
		tier := &c.Mining.Tiers[i]
		if tier.UpTo == 0 || tier.UpTo > c.Mining.Negatives {
			tier.UpTo = c.Mining.Negatives
		}
		if tier.Depth == 0 {
			tier.Depth = c.Mining.Depth
		}
		if tier.Policy == "positive-aware" && tier.RelativeMargin == nil && tier.AbsoluteMargin == nil && tier.MaxScore == nil {
			margin := 0.05
			tier.RelativeMargin = &margin
		}
	}
}

func variables(environ []string) map[string]string {
	out := make(map[string]string, len(environ))
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			out[name] = value
		}
	}
	return out
}

func lookupKey(key string) (Field, bool) {
	var found Field
	eachSettable(Fields(), func(f Field) {
		if f.Key == key {
			found = f
		}
	})
	return found, found.Key != ""
}

func unknownFull(key string) string {
	if list, _, indexed := strings.Cut(key, "["); indexed {
		if f, ok := lookupKey(list); ok && f.list() {
			return "a list is set as a whole: --set '" + list + "=[…]'"
		}
	}
	var keys []string
	eachSettable(Fields(), func(f Field) { keys = append(keys, f.Key) })
	if guess := nearest(key, keys); guess != "" {
		return "unknown key; did you mean " + guess + "?"
	}
	return unknown(key[strings.LastIndex(key, ".")+1:], Fields())
}

// Misspelt returns environment variables that set nothing but differ by a letter or two from one that would;
// the value is that variable. Other variables with the same prefix are ignored: a Kubernetes service named
// hardneg creates a dozen.
func Misspelt(environ []string) map[string]string {
	var known []string
	eachSettable(Fields(), func(f Field) { known = append(known, f.Env()) })
	out := make(map[string]string)
	for name := range variables(environ) {
		if !strings.HasPrefix(name, "HARDNEG_") {
			continue
		}
		best, at := "", 3
		for _, k := range known {
			if d := distance(name, k); d < at {
				best, at = k, d
			}
		}
		if at > 0 && best != "" {
			out[name] = best
		}
	}
	return out
}
