package audit

import (
	"context"
	"slices"

	"hardneg/index"
	"hardneg/mining"
)

// nearest keeps the first documents of a window.
type nearest struct {
	mining.Window
	kept []nearDocument
}

type nearDocument struct {
	mining.Document
	cosine float32
}

func (n *nearest) add(d mining.Document, cosine float32) {
	if float64(cosine) < n.Low || float64(cosine) > n.High {
		return
	}
	if n.kept = append(n.kept, nearDocument{d, cosine}); len(n.kept) >= 2*n.Most {
		slices.SortFunc(n.kept, func(a, b nearDocument) int { return mining.CompareRank(a.cosine, a.ID, b.cosine, b.ID) })
		n.kept = n.kept[:n.Most]
	}
}

// scan decides queries whose lists reach further down than a search of bearable size. It goes through all documents once, and
// keeps for each query the documents that the rules may look at.
func (a *recomputer) scan(ctx context.Context, inputs []mining.Input, all map[string]recomputed) error {
	windows := make([][]*nearest, len(inputs))
	for i, in := range inputs {
		for _, e := range in.Evidence {
			if !e.Positive || e.Document == nil {
				continue
			}
			for _, w := range a.mining.Windows(mining.Cosine(in.Query, e.Document.Vector)) {
				windows[i] = append(windows[i], &nearest{Window: w})
			}
		}
	}
	err := a.Collections.ScanDocuments(ctx, index.WithVector|index.WithMinHash, func(d index.Document) error {
		if d.Deleted {
			return nil
		}
		for i, in := range inputs {
			cosine := mining.Cosine(in.Query, d.Vector)
			for _, w := range windows[i] {
				w.add(d.Document, cosine)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, in := range inputs {
		seen := map[string]bool{}
		for _, w := range windows[i] {
			for _, d := range w.kept {
				if !seen[d.ID] {
					seen[d.ID] = true
					in.Candidates = append(in.Candidates, d.Document)
				}
			}
		}
		in.Exhausted = true // nothing that the rules may look at is missing
		r := all[in.QueryID]
		r.outcome = a.mine(in)
		all[in.QueryID] = r
	}
	return nil
}
