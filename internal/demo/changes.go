package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"hardneg/internal/records"
	"hardneg/internal/wait"
	"hardneg/stream"
)

// effect is the result of one change of a document or of the query log.
type effect struct {
	queries                    int // whose triplets were written again
	replaced, mined, retracted int
	kept                       int           // the same negative at the same rank, published again with its pair
	last                       time.Duration // from produce to the read_committed reader, for the last triplet
	examples                   []string
}

// step is one change: its description, and the record that makes it.
type step struct {
	verb, what string
	record     stream.Output
}

// changes edits, deletes and adds documents, one at a time, until the context ends.
func (d *demo) changes(ctx context.Context) error {
	d.heading("Changing documents while it runs")
	for n := 0; ; n++ {
		if err := wait.For(ctx, betweenChanges); err != nil {
			return err
		}
		for _, s := range d.round(n) {
			e, err := d.produceAndWait(ctx, s)
			if err != nil {
				return err
			}
			d.effects = append(d.effects, e)
			d.printEffect(s, e)
			if err := wait.For(ctx, betweenChanges); err != nil {
				return err
			}
		}
	}
}

// familiar lists packages that most readers know. The demo changes the triplets of these.
var familiar = wellKnown[:13]

// round returns a few changes around triplets of the view, different ones each time, and at the end their
// reversal.
func (d *demo) round(n int) []step {
	triplets := slices.DeleteFunc(d.view.snapshot(), func(t records.Triplet) bool {
		return t.Rank != 1 || !slices.ContainsFunc(familiar, func(p string) bool { return strings.HasPrefix(t.Positive.ID, p+".") })
	})
	if len(triplets) == 0 {
		return nil
	}
	pick := func(k int) records.Triplet { return triplets[(n*7919+k*104729+13)%len(triplets)] }
	edited, deleted, query, deletedPositive := pick(0).Negative.ID, pick(1).Negative.ID, pick(2).Query.Text, pick(3).Positive.ID
	question := fmt.Sprintf("demo/question-%d", n+1)
	return []step{
		{"edit", edited + " is now about something else", d.put(records.Document{
			ID: edited, Title: edited, Text: "This symbol was withdrawn. It is kept for old programs, and does nothing whatsoever when it is used.",
		})},
		{"delete", deleted, d.remove(deleted)},
		{"add", question + ", which repeats a query and answers nothing", d.put(records.Document{
			ID: question, Title: "A question somebody asked", Text: query + " That is what it says, but I could not make it work, and nobody replied.",
		})},
		{"delete", deletedPositive + ", and look at its own query", d.remove(deletedPositive)},
		{"restore", deletedPositive, d.restore(deletedPositive)},
		{"restore", deleted, d.restore(deleted)},
		{"delete", question, d.remove(question)},
		{"restore", edited, d.restore(edited)},
	}
}

// restore writes a document as it was loaded.
func (d *demo) restore(id string) stream.Output {
	for _, e := range d.entries {
		if e.Document.ID == id {
			return d.put(e.Document)
		}
	}
	return d.remove(id) // not one of the loaded documents, so delete it
}

func (d *demo) remove(id string) stream.Output {
	return stream.Output{Topic: d.cfg.Topics.Documents, Partition: stream.ByKey, Key: []byte(id)}
}

// produceAndWait produces a change and waits until all its effects have reached the reader.
func (d *demo) produceAndWait(ctx context.Context, s step) (effect, error) {
	d.view.watch()
	start := time.Now()
	if err := d.kafka.Produce(ctx, []stream.Output{s.record}); err != nil {
		return effect{}, err
	}
	for {
		done, _, err := d.settled(ctx)
		if err != nil {
			return effect{}, err
		}
		if done {
			return measure(d.view.eventsSinceWatch(), start), nil
		}
		if err := wait.For(ctx, 20*time.Millisecond); err != nil {
			return effect{}, err
		}
	}
}

// settled reports whether the stages have nothing left to do and the reader has seen everything. It also
// returns what is left.
func (d *demo) settled(ctx context.Context) (bool, lag, error) {
	left, err := d.lag(ctx)
	if err != nil || left.total() > 0 {
		return false, left, err
	}
	ends, err := d.kafka.Offsets(ctx, d.cfg.Topics.Triplets)
	if err != nil {
		return false, left, err
	}
	return !slices.ContainsFunc(ends, func(end stream.Offsets) bool { return !d.view.has(end) }), left, nil
}

// measure sums up what happened since a change was produced.
func measure(events []viewChange, start time.Time) effect {
	var e effect
	queries := map[string]bool{}
	for _, h := range events {
		if h.before == nil && h.after == nil {
			continue // an empty slot that stays empty
		}
		queries[h.query] = true
		e.last = h.at.Sub(start)
		switch {
		case h.after == nil:
			e.retracted++
			e.example(h, "retracted, it was "+h.before.Negative.ID)
		case h.before == nil:
			e.mined++
			e.example(h, "mined: "+h.after.Negative.ID)
		case h.before.Negative.ID != h.after.Negative.ID:
			e.replaced++
			e.example(h, h.before.Negative.ID+" → "+h.after.Negative.ID)
		default:
			e.kept++
		}
	}
	e.queries = len(queries)
	return e
}

// example keeps the first few examples.
func (e *effect) example(h viewChange, what string) {
	const most = 3
	if len(e.examples) == most {
		return
	}
	t := h.after
	if t == nil {
		t = h.before
	}
	e.examples = append(e.examples, fmt.Sprintf("%s  #%d  %s", quote(t.Query.Text, 48), h.rank, what))
}
