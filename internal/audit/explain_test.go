package audit

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"hardneg/index"
	"hardneg/internal/pipelinetest"
	"hardneg/mining"
)

func explain(w *pipelinetest.World, query string, change func(*ExplainOptions)) *Explanation {
	w.T.Helper()
	o := ExplainOptions{Conn: w.Conn(), Query: query}
	if change != nil {
		change(&o)
	}
	e, err := Explain(w.T.Context(), o)
	if err != nil {
		w.T.Fatal(err)
	}
	return e
}

// TestExplain checks that the explained lists are the view, and that an explanation says where the stored
// list differs.
func TestExplain(t *testing.T) {
	t.Parallel()
	w := pipelinetest.Loaded(t, 41, 8)
	w.Write("d39", w.Docs["d0"].Vector) // a copy of evidence for q0
	stop := w.Instance()
	defer func() { stop() }()
	w.Settle()

	want := w.Want()
	lists := 0
	for query := range w.Logged {
		e := explain(w, query, nil)
		if e.Query != query || e.Text != query || len(e.Pairs) != 2 || len(e.Evidence) != 2 {
			t.Fatalf("%s: %+v", query, e)
		}
		for _, p := range e.Pairs {
			for i, negative := range p.Negatives {
				key := fmt.Sprintf(`["%s","%s",%d]`, query, p.Positive, i+1)
				if !strings.HasPrefix(want[key], negative+" ") || e.Titles[negative] != w.Docs[negative].Text {
					t.Errorf("%s is %q, %q, want %s", key, negative, e.Titles[negative], want[key])
				}
				delete(want, key)
				lists++
			}
			if len(p.Stored) > 0 {
				t.Errorf("%s %s: the stored list differs: %+v", query, p.Positive, p.Stored)
			}
		}
	}
	if len(want) > 0 || lists == 0 {
		t.Errorf("%d slots explained, not %v", lists, want)
	}

	// These ask for one document: evidence, a copy of evidence, a document that does not exist.
	one := func(query, document string) []ExplainedPair {
		return explain(w, query, func(o *ExplainOptions) { o.Positive, o.Document = "d0", document }).Pairs
	}
	for _, document := range []string{"d39", "d8", "d0", "nowhere"} {
		pairs := one("q0", document)
		if len(pairs) != 1 || pairs[0].Positive != "d0" || pairs[0].Document.Indexed != (document != "nowhere") {
			t.Fatalf("%s: %+v", document, pairs)
		}
		for i, verdict := range pairs[0].Document.Tiers {
			tier, c := pairs[0].Tiers[i], float64(pairs[0].Document.QueryDocument)
			in := c >= tier.Low && c <= tier.High && (c > tier.Low || tier.Policy != mining.PolicySemantic)
			reached := slices.ContainsFunc(tier.Decisions, func(d mining.Decision) bool { return d.Document == document })
			var wanted string
			switch {
			case document == "d0" || document == "d8":
				wanted = "is_evidence"
			case tier.End == mining.EndNot:
				wanted = mining.EndNot
			case !in:
				wanted = OutOfRange
			case !reached:
				wanted = Behind
			default:
				wanted = "near_duplicate"
			}
			if verdict != wanted {
				t.Errorf("%s, %s: %s, want %s", document, tier.Policy, verdict, wanted)
			}
		}
	}

	// A positive is deleted, a query is forgotten, and a query never existed.
	delete(w.Docs, "d0")
	w.Produce("documents", "d0", nil)
	w.Produce("queries", "q1", nil)
	w.Settle()
	e := explain(w, "q0", func(o *ExplainOptions) { o.Positive = "d0" })
	if len(e.Pairs) != 1 || e.Pairs[0].Reason != mining.ReasonPositiveMissing || len(e.Pairs[0].Tiers) > 0 || e.Evidence[0].Indexed || !e.Evidence[1].Indexed {
		t.Errorf("of a deleted positive: %+v", e)
	}
	if e := explain(w, "q1", nil); e.Text != "" || len(e.Pairs) > 0 || len(e.Evidence) > 0 {
		t.Errorf("of a forgotten query: %+v", e)
	}
	if _, err := Explain(t.Context(), ExplainOptions{Conn: w.Conn(), Query: "never"}); !errors.Is(err, ErrUnknownQuery) {
		t.Errorf("of an unknown query: %v", err)
	}

	live := w.Live()
	states, err := live.States(t.Context(), []string{"q2"})
	if err != nil {
		t.Fatal(err)
	}
	state := states["q2"]
	at := slices.IndexFunc(state.Positives, func(p index.Positive) bool { return len(p.Slots) > 0 })
	state.Positives[at].Slots = state.Positives[at].Slots[1:]
	if err := live.WriteStates(t.Context(), []index.State{state}, state.Token); err != nil {
		t.Fatal(err)
	}
	for _, p := range explain(w, "q2", nil).Pairs {
		if (len(p.Stored) > 0) != (p.Positive == state.Positives[at].Document) {
			t.Errorf("with a slot less of %s, %s differs by %+v", state.Positives[at].Document, p.Positive, p.Stored)
		}
	}
}
