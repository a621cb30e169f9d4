package pipelinetest

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Want is the oracle: it computes the view from the inputs. Like Got it returns negative and text by key. It
// is written from the documented rules and shares no code with the stages.
func (w *World) Want() map[string]string {
	cos := func(a, b []float32) float64 {
		var s float64
		for i := range a {
			s += float64(a[i]) * float64(b[i])
		}
		return float64(float32(s))
	}
	view := map[string]string{}
	for query, q := range w.Logged {
		vector := w.Vector[query]
		barred := func(id string, d Document) bool {
			for p := range q.Positives {
				if other, ok := w.Docs[p]; p == id || ok && (other.Text == d.Text || cos(other.Vector, d.Vector) >= 0.98) {
					return true
				}
			}
			return false
		}
		var order []string
		for id, d := range w.Docs {
			if !barred(id, d) {
				order = append(order, id)
			}
		}
		slices.SortFunc(order, func(a, b string) int {
			x, y := math.Round(cos(vector, w.Docs[a].Vector)*1e6), math.Round(cos(vector, w.Docs[b].Vector)*1e6)
			if x != y {
				return int(math.Copysign(1, y-x))
			}
			return strings.Compare(a, b)
		})
		for p := range q.Positives {
			positive, ok := w.Docs[p]
			if !ok {
				continue
			}
			qp := cos(vector, positive.Vector)
			var list []string
			texts := map[string]bool{}
			take := func(upto int, in func(qd, pd float64) bool) {
				for _, id := range order {
					d := w.Docs[id]
					if len(list) < upto && !texts[d.Text] && in(cos(vector, d.Vector), cos(positive.Vector, d.Vector)) {
						list, texts[d.Text] = append(list, id), true
					}
				}
			}
			take(1, func(qd, pd float64) bool { return qd > qp && qd > pd })
			take(Negatives, func(qd, _ float64) bool { return qd <= qp-Margin*math.Abs(qp) })
			for i, id := range list {
				view[fmt.Sprintf(`["%s","%s",%d]`, query, p, i+1)] = id + " " + w.Docs[id].Text
			}
		}
	}
	return view
}
