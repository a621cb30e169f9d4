package rebuild

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"hardneg/index"
	"hardneg/internal/batches"
	"hardneg/internal/catalog"
	"hardneg/internal/embed"
	"hardneg/internal/records"
	"hardneg/internal/stages"
	"hardneg/stream"
)

const shownMissing = 5 // ids that an error names

// verify returns an error if the new generation lacks something. It must have everything that the live one
// has from records before the offsets that both have reached, in the same version or a newer one. The only
// exception are queries that its model refuses. Deletes count too: if a rebuild was interrupted or held for
// long, tombstones may have left the topic before the new indexer came to them.
func (r *rebuild) verify(ctx context.Context, reached map[string]map[int32]int64) error {
	var documents, queries []string
	err := batches.Each(seedTogether, func(add func(index.Document) error) error {
		return r.live.Collections.ScanDocuments(ctx, 0, func(d index.Document) error {
			if d.Offset >= reached[catalog.StageIndexer][d.Partition] {
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
	logs, err := r.Kafka.Offsets(ctx, r.Config.Topics.Queries)
	if err != nil {
		return err
	}
	err = eachKnown(ctx, r.live.Collections, func(known []index.Known) error {
		var due []index.Known // from records that both have read
		for _, k := range known {
			if k.Newest.Offset < reached[catalog.StageIntake][k.Newest.Partition] {
				due = append(due, k)
			}
		}
		lacking, err := r.lackingQueries(ctx, due)
		if err != nil {
			return err
		}
		queries = append(queries, lacking...)
		if lacking, err = r.lackingEvidence(ctx, due, logs); err != nil {
			return err
		}
		queries = append(queries, lacking...)
		return nil
	})
	if err != nil {
		return err
	}
	slices.Sort(queries)
	queries = slices.Compact(queries)
	if len(documents)+len(queries) == 0 {
		return nil
	}
	hint := "run rebuild again, and if they are still missing remove it with --abort"
	if r.record.FromTopics {
		hint = "their records may have left the topics: rebuild from the live collections, without --from-topics"
	}
	return fmt.Errorf("generation %s is not promoted, for it is not complete: %d documents%s and %d queries%s of the live one are missing or older; %s",
		r.record.ID, len(documents), firstIDs(documents), len(queries), firstIDs(queries), hint)
}

// forget repeats in the new generation the forgets of the sweep, which no topic holds. The live sweep has
// forgotten queries that nobody had asked for queries.retention; somebody may have asked them again since. In
// the new generation other queries may be too old.
func (r *rebuild) forget(ctx context.Context) error {
	if r.Config.Queries.Retention <= 0 {
		return nil
	}
	send := func(forgets []records.Refresh) error {
		outputs := make([]stream.Output, len(forgets))
		for i, f := range forgets {
			outputs[i] = r.next.Env.Refresh(f, nil)
		}
		return r.Kafka.Produce(ctx, outputs)
	}
	err := eachKnown(ctx, r.live.Collections, func(known []index.Known) error {
		ids := queryIDs(known)
		states, err := r.live.Collections.States(ctx, ids)
		if err != nil {
			return err
		}
		var again []records.Refresh
		for _, id := range ids {
			if f := states[id].Forgotten; f != nil && f.Partition == stages.NoPartition {
				again = append(again, stages.ForgetUpTo(id, f.Timestamp))
			}
		}
		return send(again)
	})
	if err != nil {
		return err
	}
	return eachKnown(ctx, r.next.Collections, func(known []index.Known) error {
		var aged []records.Refresh
		for _, k := range known {
			if f, old := stages.Aged(k, r.Config.Queries.Retention, time.Now()); old {
				aged = append(aged, f)
			}
		}
		return send(aged)
	})
}

// queryIDs returns the ids of queries.
func queryIDs(known []index.Known) []string {
	ids := make([]string, len(known))
	for i, k := range known {
		ids[i] = k.QueryID
	}
	return ids
}

// eachKnown calls use with the queries that are not forgotten, a page at a time.
func eachKnown(ctx context.Context, x *index.Index, use func([]index.Known) error) error {
	for at := ""; ; {
		known, next, err := x.Known(ctx, at, seedTogether, "")
		if err == nil {
			err = use(known)
		}
		if err != nil || next == "" {
			return err
		}
		at = next
	}
}

// firstIDs returns the first few ids for an error, in brackets; empty if there are none.
func firstIDs(ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	more := ""
	if len(ids) > shownMissing {
		ids, more = ids[:shownMissing], ", …"
	}
	return " (" + strings.Join(ids, ", ") + more + ")"
}

// lackingDocuments returns the ids of live documents that the new generation lacks, or has in an older
// version.
func (r *rebuild) lackingDocuments(ctx context.Context, live []index.Document) (lacking []string, err error) {
	next, err := r.next.Collections.Documents(ctx, documentIDs(live), 0)
	if err != nil {
		return nil, err
	}
	for _, d := range live {
		if n, ok := next[d.ID]; !ok && !d.Deleted || ok && n.Partition == d.Partition && n.Offset < d.Offset {
			lacking = append(lacking, d.ID)
		}
	}
	return lacking, nil
}

// lackingQueries returns the ids of live queries that the new generation lacks, or has in an older version.
func (r *rebuild) lackingQueries(ctx context.Context, live []index.Known) (lacking []string, err error) {
	next, err := r.next.Collections.States(ctx, queryIDs(live))
	if err != nil {
		return nil, err
	}
	for _, k := range live {
		n, ok := next[k.QueryID]
		if !ok || n.Forgotten == nil && n.Newest.Compare(k.Newest) < 0 {
			lacking = append(lacking, k.QueryID)
		}
	}
	if len(lacking) == 0 {
		return nil, nil
	}
	return r.accepted(ctx, lacking)
}

// lackingEvidence returns the ids of queries with evidence from records that have left the query log, if the
// new generation is made from the topics. logs holds the offsets of the query log.
func (r *rebuild) lackingEvidence(ctx context.Context, live []index.Known, logs []stream.Offsets) (lacking []string, err error) {
	if !r.record.FromTopics || !slices.ContainsFunc(logs, func(o stream.Offsets) bool { return o.Start > 0 }) {
		return nil, nil
	}
	ids := queryIDs(live)
	states, err := r.live.Collections.States(ctx, ids)
	if err != nil {
		return nil, err
	}
	gone := func(l index.Logged) bool {
		return int(l.Partition) < len(logs) && l.Offset < logs[l.Partition].Start
	}
	for _, id := range ids {
		if slices.ContainsFunc(states[id].Positives, func(p index.Positive) bool { return slices.ContainsFunc(p.Log, gone) }) {
			lacking = append(lacking, id)
		}
	}
	if len(lacking) == 0 {
		return nil, nil
	}
	return r.accepted(ctx, lacking)
}

// accepted returns the queries without those whose text the new model refuses, and without those that are
// forgotten by now.
func (r *rebuild) accepted(ctx context.Context, queries []string) (accepted []string, err error) {
	live, err := r.live.Collections.States(ctx, queries)
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
	_, refusals, err := r.next.Env.Vectors(ctx, embed.Query, items)
	for i, id := range ids {
		if err == nil && refusals[i] == nil {
			accepted = append(accepted, id)
		}
	}
	return accepted, err
}
