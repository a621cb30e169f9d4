package stages

import (
	"strings"
	"testing"

	"hardneg/stream"
)

func TestTraceparent(t *testing.T) {
	const valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	header := func(key, value string) stream.Header { return stream.Header{Key: key, Value: []byte(value)} }
	for _, test := range []struct {
		name    string
		headers []stream.Header
		want    string // "": no traceparent
	}{
		{"none", nil, ""},
		{"valid", []stream.Header{header("a", "b"), header("traceparent", valid)}, valid},
		{"a later version", []stream.Header{header("traceparent", "cc"+valid[2:])}, "cc" + valid[2:]},
		{"a later version with more", []stream.Header{header("traceparent", "01"+valid[2:]+"-more")}, "01" + valid[2:] + "-more"},
		{"a later version of 128 bytes", []stream.Header{header("traceparent", "01"+valid[2:]+"-"+strings.Repeat("x", 72))}, "01" + valid[2:] + "-" + strings.Repeat("x", 72)},
		{"a later version of 129 bytes", []stream.Header{header("traceparent", "01"+valid[2:]+"-"+strings.Repeat("x", 73))}, ""},
		{"a later version that goes on without a dash", []stream.Header{header("traceparent", "01"+valid[2:]+"more")}, ""},
		{"a megabyte", []stream.Header{header("traceparent", strings.Repeat("x", 1<<20))}, ""},
		{"a megabyte that begins well", []stream.Header{header("traceparent", valid+strings.Repeat("0", 1<<20))}, ""},
		{"version 00 with more", []stream.Header{header("traceparent", valid+"-more")}, ""},
		{"version ff", []stream.Header{header("traceparent", "ff"+valid[2:])}, ""},
		{"upper case", []stream.Header{header("traceparent", strings.ToUpper(valid))}, ""},
		{"short", []stream.Header{header("traceparent", valid[:54])}, ""},
		{"a line break", []stream.Header{header("traceparent", valid+"\n")}, ""},
		{"empty", []stream.Header{header("traceparent", "")}, ""},
		{"another name", []stream.Header{header("Traceparent", valid)}, ""},
		{"the second is one", []stream.Header{header("traceparent", "no"), header("traceparent", valid)}, valid},
	} {
		got := ""
		for _, h := range Trace(test.headers) {
			got += h.Key + "=" + string(h.Value)
		}
		if test.want != "" {
			test.want = "traceparent=" + test.want
		}
		if got != test.want {
			t.Errorf("%s: handed on %.200q, want %q", test.name, got, test.want)
		}
	}
}
