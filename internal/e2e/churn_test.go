package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode"

	"github.com/twmb/franz-go/pkg/kgo"
)

// churn makes random changes: the kinds that a live system sees, and the kinds that are hard to get right.
type churn struct {
	*world
	*rand.Rand
	next    int
	removed map[string]text    // documents that may come back
	gone    map[string]*logged // queries that may be logged again

	plausible bool // clicks fall on documents that share words with their query, as a ranking would show them
}

func newChurn(w *world, r *rand.Rand) *churn {
	return &churn{world: w, Rand: r, removed: map[string]text{}, gone: map[string]*logged{}}
}

// pick returns a random key. It sorts the keys first, so that a seed gives the same run again.
func pick[V any](c *churn, of map[string]V) string {
	return slices.Sorted(maps.Keys(of))[c.IntN(len(of))]
}

// steps returns n changes as records.
func (c *churn) steps(n int) []*kgo.Record {
	var out []*kgo.Record
	for range n {
		out = append(out, c.step()...)
	}
	return out
}

func (c *churn) step() []*kgo.Record {
	if len(c.world.documents) < 10 || len(c.world.queries) < 5 {
		return []*kgo.Record{c.insert()}
	}
	c.next++
	switch c.IntN(14) {
	case 0, 1: // an edit
		id := pick(c, c.world.documents)
		return []*kgo.Record{c.put(id, c.edited(c.world.documents[id]))}
	case 2: // a delete
		return []*kgo.Record{c.drop(pick(c, c.world.documents))}
	case 3: // a delete of a positive
		return []*kgo.Record{c.drop(c.somePositive())}
	case 4: // an edit of a positive
		id := c.somePositive()
		return []*kgo.Record{c.put(id, c.edited(c.world.documents[id]))}
	case 5, 6:
		return []*kgo.Record{c.insert()}
	case 7: // a copy of a positive, exact or nearly so
		d := c.world.documents[c.somePositive()]
		if c.IntN(2) == 0 {
			d.text += " One more word."
		}
		return []*kgo.Record{c.put(fmt.Sprintf("copy-%d", c.next), d)}
	case 8: // a deleted document comes back, or a document is written again unchanged
		if len(c.removed) == 0 {
			id := pick(c, c.world.documents)
			return []*kgo.Record{c.put(id, c.world.documents[id])}
		}
		id := pick(c, c.removed)
		d := c.removed[id]
		delete(c.removed, id)
		return []*kgo.Record{c.put(id, d)}
	case 9: // a new query, sometimes before its positive exists
		id := fmt.Sprintf("new/%d \"é\"", c.next)
		d := pick(c, c.world.documents)
		query := c.words(c.world.documents[d].text, 8)
		if c.IntN(3) == 0 {
			later := fmt.Sprintf("later-%d", c.next)
			return []*kgo.Record{c.judge(id, query, later, d), c.put(later, c.edited(c.world.documents[d]))}
		}
		return []*kgo.Record{c.judge(id, " "+query+" ", d, "never-there")}
	case 10: // half the weight of a positive
		id := pick(c, c.world.queries)
		return []*kgo.Record{c.click(id, c.world.queries[id].text, c.clicked(c.world.queries[id].text), 0.5)}
	case 11: // the rest of it, or a click on evidence
		id := pick(c, c.world.queries)
		q := c.world.queries[id]
		if len(q.evidence) == 0 {
			return []*kgo.Record{c.judge(id, q.text, c.clicked(q.text))}
		}
		return []*kgo.Record{c.click(id, q.text, pick(c, q.evidence), 0.5)}
	case 12: // a query is deleted, or comes back
		if len(c.gone) > 0 && c.IntN(2) == 0 {
			id := pick(c, c.gone)
			q := c.gone[id]
			delete(c.gone, id)
			return []*kgo.Record{c.judge(id, q.text, slices.Sorted(maps.Keys(q.evidence))...)}
		}
		id := pick(c, c.world.queries)
		c.gone[id] = c.world.queries[id]
		return []*kgo.Record{c.forget(id)}
	default: // another wording under the same id
		id := pick(c, c.world.queries)
		d := c.world.documents[pick(c, c.world.documents)]
		return []*kgo.Record{c.judge(id, c.words(d.text, 6))}
	}
}

func (c *churn) drop(id string) *kgo.Record {
	c.removed[id] = c.world.documents[id]
	return c.remove(id)
}

func (c *churn) insert() *kgo.Record {
	c.next++
	a, b := c.world.documents[pick(c, c.world.documents)], c.world.documents[pick(c, c.world.documents)]
	return c.put(fmt.Sprintf("new-%d", c.next), text{a.title, c.words(a.text, 60) + " " + c.words(b.text, 60)})
}

// somePositive returns a live document that the log names, or any document.
func (c *churn) somePositive() string {
	for range 20 {
		q := c.world.queries[pick(c, c.world.queries)]
		if len(q.evidence) == 0 {
			continue
		}
		id := pick(c, q.evidence)
		if _, live := c.world.documents[id]; live {
			return id
		}
	}
	return pick(c, c.world.documents)
}

// clicked returns any document. If clicks are plausible, it returns the one of a hundred that shares most
// words with the query. A positive that ranks behind thousands of documents costs a thousand times as much as
// others, and no real ranking would show it.
func (c *churn) clicked(query string) string {
	if !c.plausible {
		return pick(c, c.world.documents)
	}
	words := strings.Fields(strings.ToLower(query))
	ids := slices.Sorted(maps.Keys(c.world.documents))
	best, most := "", -1
	for range 100 {
		id := ids[c.IntN(len(ids))]
		shared := 0
		for _, word := range words {
			if strings.Contains(strings.ToLower(c.world.documents[id].text), word) {
				shared++
			}
		}
		if shared > most {
			best, most = id, shared
		}
	}
	return best
}

// edited replaces a part of a document's words by another document's.
func (c *churn) edited(d text) text {
	other := c.world.documents[pick(c, c.world.documents)]
	words := strings.Fields(d.text)
	at := c.IntN(len(words) + 1)
	d.text = strings.TrimSpace(strings.Join(words[:at], " ") + " " + c.words(other.text, 1+c.IntN(40)))
	return d
}

// words takes up to n words from a random position. If these have neither letters nor digits, it returns
// "word", because such a text has no lexical embedding.
func (c *churn) words(s string, n int) string {
	words := strings.Fields(s)
	at := c.IntN(max(1, len(words)-n+1))
	some := strings.Join(words[at:min(at+n, len(words))], " ")
	if !strings.ContainsFunc(some, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }) {
		return "word"
	}
	return some
}
