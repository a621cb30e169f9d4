package pipeline

import (
	"context"
	"fmt"
	"strings"

	"hardneg/index"
	"hardneg/internal/embed"
)

const shownMissing = 5

// verify refuses a generation that lacks something. Whatever the live one has from records before the offsets that both
// have come to, the new one must have too, as new or newer, but for queries that its model refuses.
func (r *rebuild) verify(ctx context.Context, reached map[string]map[int32]int64) error {
	var documents, queries []string
	err := inBatches(seedTogether, func(add func(index.Document) error) error {
		return r.live.queries.ScanDocuments(ctx, 0, func(d index.Document) error {
			if d.Deleted || d.Offset >= reached[StageIndexer][d.Partition] {
				return nil
			}
			return add(d)
		})
	}, func(live []index.Document) error {
		lacking, err := r.lackingDocuments(ctx, live)
		documents = append(documents, lacking...)
		return err
	})
	if err != nil {
		return err
	}
	for next := ""; ; {
		known, after, err := r.live.queries.Known(ctx, next, seedTogether, "")
		if err != nil {
			return err
		}
		var due []index.Known
		for _, k := range known {
			if k.Newest.Offset < reached[StageIntake][k.Newest.Partition] {
				due = append(due, k)
			}
		}
		lacking, err := r.lackingQueries(ctx, due)
		if err != nil {
			return err
		}
		queries = append(queries, lacking...)
		if next = after; next == "" {
			break
		}
	}
	if len(documents)+len(queries) == 0 {
		return nil
	}
	hint := "run rebuild again, and if they are still missing remove it with --abort"
	if r.record.FromTopics {
		hint = "their records may have left the topics: rebuild from the live collections, without --from-topics"
	}
	return fmt.Errorf("generation %s is not promoted, for it is not complete: %d documents%s and %d queries%s of the live one are missing or older; %s",
		r.record.ID, len(documents), some(documents), len(queries), some(queries), hint)
}

func some(ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	more := ""
	if len(ids) > shownMissing {
		ids, more = ids[:shownMissing], ", …"
	}
	return " (" + strings.Join(ids, ", ") + more + ")"
}

func (r *rebuild) lackingDocuments(ctx context.Context, live []index.Document) (lacking []string, err error) {
	ids := make([]string, len(live))
	for i, d := range live {
		ids[i] = d.ID
	}
	next, err := r.next.queries.Documents(ctx, ids, 0)
	if err != nil {
		return nil, err
	}
	for _, d := range live {
		if n, ok := next[d.ID]; !ok || n.Partition == d.Partition && n.Offset < d.Offset {
			lacking = append(lacking, d.ID)
		}
	}
	return lacking, nil
}

func (r *rebuild) lackingQueries(ctx context.Context, live []index.Known) (lacking []string, err error) {
	ids := make([]string, len(live))
	for i, k := range live {
		ids[i] = k.QueryID
	}
	next, err := r.next.queries.States(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, k := range live {
		n, ok := next[k.QueryID]
		if !ok || n.Forgotten == nil && before(n.Newest, k.Newest) {
			lacking = append(lacking, k.QueryID)
		}
	}
	if len(lacking) == 0 {
		return nil, nil
	}
	return r.accepted(ctx, lacking)
}

// accepted leaves out queries whose text the new model refuses, or which are forgotten by now.
func (r *rebuild) accepted(ctx context.Context, queries []string) (accepted []string, err error) {
	live, err := r.live.queries.States(ctx, queries)
	if err != nil {
		return nil, err
	}
	var items []embed.Item
	var ids []string
	for _, id := range queries {
		if s := live[id]; s.Text != "" {
			items, ids = append(items, embed.Item{Text: s.Text, Carried: s.Carried}), append(ids, id)
		}
	}
	_, refusals, err := r.next.vectors(ctx, embed.Query, items)
	for i, id := range ids {
		if err == nil && refusals[i] == nil {
			accepted = append(accepted, id)
		}
	}
	return accepted, err
}
