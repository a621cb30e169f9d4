package stream

import (
	"slices"
	"testing"
)

func TestPassThrough(t *testing.T) {
	c := testClient(t)
	in, out := testTopic(t, c, "in", 3), testTopic(t, c, "out", 2)
	const n = 2000
	if err := c.Produce(testContext(t), numbered(in, 0, n)); err != nil {
		t.Fatal(err)
	}
	w := &watch{t: t}
	s := stageOf(in, w, passOn(out))
	stop := runStage(t, c, s)
	eventually(t, "no lag", func() bool { return noLag(t, c, s.Group, in) })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if d := diff(numbers(n), values(readAll(t, out, true))); d != "" {
		t.Error(d)
	}
	if f := slices.Concat(w.all(Failed), w.all(Fenced)); len(f) > 0 {
		t.Errorf("events: %+v", f)
	}
}
