package wire_test

import (
	"errors"
	"testing"

	"hardneg/stream/wire"
)

// TestCursorReadsWhatIsAppended checks that strings come back as they were written, and that null is empty.
func TestCursorReadsWhatIsAppended(t *testing.T) {
	b := wire.AppendString(nil, "topic")
	b = wire.AppendCompact(b, "group")
	b = append(b, 0xff, 0xff, 0) // null in both forms
	c := wire.NewCursor(b)
	if got := [4]string{c.Text(), c.Compact(), c.Text(), c.Compact()}; got != [4]string{"topic", "group"} {
		t.Errorf("read %q", got)
	}
	if c.Err != nil || c.Left() != 0 {
		t.Errorf("%d bytes left, error %v", c.Left(), c.Err)
	}
}

// TestCursorStaysFailed checks that lengths that promise more than there is are errors, take no memory, and that
// nothing is read after them.
func TestCursorStaysFailed(t *testing.T) {
	for name, read := range map[string]func(*wire.Cursor){
		"array":         func(c *wire.Cursor) { c.Length() },
		"large element": func(c *wire.Cursor) { c.Bounded(3); c.Take(-1) },
		"elements":      func(c *wire.Cursor) { c.Take(4); c.LengthOf(2) },
		"string":        func(c *wire.Cursor) { c.Text() },
		"number":        func(c *wire.Cursor) { c.Take(7); c.Int32() },
		"past the end":  func(c *wire.Cursor) { c.Take(10); c.Uvarint() },
	} {
		c := wire.NewCursor([]byte{0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 2, 8, 9})
		read(c)
		if !errors.Is(c.Err, wire.ErrCorrupt) {
			t.Errorf("%s: %v", name, c.Err)
		}
		if first := c.Err; c.Int8() != 0 || c.Varint() != 0 || c.Text() != "" || c.Length() != 0 || !errors.Is(c.Err, first) {
			t.Errorf("%s: it goes on after an error", name)
		}
	}
}
