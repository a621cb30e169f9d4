package fault

import (
	"errors"
	"maps"
	"testing"
	"time"
)

var errA, errB = errors.New("a"), errors.New("b")

func ofCall(p *Plan, call string, request any, n int) []error {
	var all []error
	for range n {
		all = append(all, p.Next(call, request).Err)
	}
	return all
}

func equal(t *testing.T, what string, got []error, want ...error) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: %v, want %v", what, got, want)
		}
	}
}

func TestRules(t *testing.T) {
	p := New(1, Rule{Calls: []string{"x"}, Skip: 1, Times: 2, Fault: Fault{Err: errA}}, Rule{Calls: []string{"x", "y"}, Fault: Fault{Err: errB}},
		Rule{When: func(request any) bool { return request == "this" }, Fault: Fault{Delay: time.Second}})
	equal(t, "skipped, twice, then the next rule", ofCall(p, "x", nil, 5), errB, errA, errA, errB, errB)
	equal(t, "by another name", ofCall(p, "y", nil, 1), errB)
	if f := p.Next("z", "that"); f != (Fault{}) {
		t.Errorf("a request that does not match: %+v", f)
	}
	if f := p.Next("z", "this"); f.Delay != time.Second {
		t.Errorf("a request that matches: %+v", f)
	}
	if want := map[string]int{"x": 5, "y": 1, "z": 1}; !maps.Equal(p.Hits(), want) {
		t.Errorf("hits %v, want %v", p.Hits(), want)
	}
	if want := map[string]int{"x": 5, "y": 1, "z": 2}; !maps.Equal(p.Calls(), want) {
		t.Errorf("calls %v, want %v", p.Calls(), want)
	}
	p.Set()
	equal(t, "without rules", ofCall(p, "x", nil, 1), nil)
}

func TestRateIsSeeded(t *testing.T) {
	draw := func(seed uint64) []error {
		return ofCall(New(seed, Rule{Rate: 0.3, Fault: Fault{Err: errA}}), "x", nil, 1000)
	}
	first := draw(7)
	equal(t, "the same seed", draw(7), first...)
	hits := 0
	for _, err := range first {
		if err != nil {
			hits++
		}
	}
	if hits < 230 || hits > 370 {
		t.Errorf("%d of 1000 at a rate of 0.3", hits)
	}
}
