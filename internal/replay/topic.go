package replay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/window"
	"hardneg/stream"
)

// topicOutput is the Output of a replay into a topic. The replay has a consumer group of its own. Plan and
// progress are the group's offsets in the query log, which the transactions of the triplets commit. The
// offset of a partition says where the window begins there, the note beside it says where the window ends,
// and the note of partition 0 holds the rest.
type topicOutput struct {
	kafka *stream.Client
	cfg   *config.Config
	name  string
	id    string // group and transactional id

	ledger *stream.Ledger // Resume sets it
	plan   Plan           // Resume or Begin sets it
}

// firstNote is the note of partition 0.
type firstNote struct {
	Revision   int64    `json:"revision"`
	Generation string   `json:"generation"`
	Rules      string   `json:"rules"`
	To         string   `json:"to"` // end of the window in partition 0
	Progress   Progress `json:"progress"`
}

// outside is the note beside a partition that the window does not contain.
const outside = "-"

// NewTopic returns an output into a topic. A missing topic is created with the settings of the triplets
// topic. The arguments name the replay: a replay with other arguments does not go on with its progress.
func NewTopic(kafka *stream.Client, cfg *config.Config, name, arguments string) (Output, error) {
	for _, t := range catalog.Topics(cfg, "") {
		if t.Name == name {
			return nil, fmt.Errorf("topic %s belongs to the live view: write into another one", name)
		}
	}
	if strings.HasPrefix(name, cfg.Topics.Refresh+"-") {
		return nil, fmt.Errorf("topic %s has the name of a generation's: write into another one", name)
	}
	if err := checkTopicName(name); err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(name + "\n" + arguments))
	return &topicOutput{kafka: kafka, cfg: cfg, name: name, id: catalog.ReplayGroups(cfg) + hex.EncodeToString(sum[:8])}, nil
}

// checkTopicName returns an error for a name that Kafka refuses, and for Kafka's own topics.
func checkTopicName(name string) error {
	legal := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)
	}
	switch {
	case name == "" || name == "." || name == ".." || len(name) > 249 || strings.ContainsFunc(name, func(r rune) bool { return !legal(r) }):
		return fmt.Errorf("%q is no name of a topic: want up to 249 letters, digits, dots, underscores and hyphens", name)
	case strings.HasPrefix(name, "__"):
		return fmt.Errorf("topic %s is Kafka's own", name)
	}
	return nil
}

// Resume implements Output. It also fences other replays with the same arguments.
func (o *topicOutput) Resume(ctx context.Context, anew bool) (*Plan, Progress, error) {
	var none Progress
	ledger, marks, err := o.kafka.OpenLedger(ctx, o.id, o.id, o.cfg.Topics.Queries, o.cfg.Kafka.TransactionTimeout)
	if err != nil {
		return nil, none, err
	}
	o.ledger = ledger
	first, ok := marks[0]
	if !ok || anew {
		return nil, none, nil
	}
	var note firstNote
	if err := json.Unmarshal([]byte(first.Note), &note); err != nil {
		return nil, none, fmt.Errorf("group %s: the note beside its offset is none of a replay: %w", o.id, err)
	}
	plan := Plan{Revision: note.Revision, Generation: note.Generation, Rules: note.Rules}
	for partition, m := range marks {
		to := m.Note
		if partition == 0 {
			to = note.To
		}
		if to == outside {
			continue
		}
		end, err := strconv.ParseInt(to, 10, 64)
		if err != nil {
			return nil, none, fmt.Errorf("group %s: the note beside the offset of partition %d is none of a replay: %w", o.id, partition, err)
		}
		plan.Window = append(plan.Window, window.Span{Partition: partition, From: m.Offset, To: end})
	}
	slices.SortFunc(plan.Window, func(a, b window.Span) int { return int(a.Partition - b.Partition) })
	topics, err := o.kafka.Topics(ctx)
	if err != nil {
		return nil, none, err
	}
	if note.Progress.After != "" && !slices.Contains(topics, o.name) {
		return nil, none, fmt.Errorf("topic %s, into which a replay with these arguments wrote, is gone: --restart begins it anew", o.name)
	}
	o.plan = plan
	return &plan, note.Progress, o.ensure(ctx)
}

// ensure creates the topic if it is missing. It gets as many partitions as the triplets topic, so a query
// lies in the same partition of both.
func (o *topicOutput) ensure(ctx context.Context) error {
	topics := catalog.Topics(o.cfg, "")
	t := topics[slices.IndexFunc(topics, func(t stream.Topic) bool { return t.Name == o.cfg.Topics.Triplets })]
	n, err := o.kafka.Partitions(ctx, t.Name)
	if err != nil && !errors.Is(err, stream.ErrUnknownTopic) {
		return err
	}
	if err == nil {
		t.Partitions = n
	}
	t.Name = o.name
	return o.kafka.EnsureTopics(ctx, t)
}

// Begin implements Output.
func (o *topicOutput) Begin(ctx context.Context, plan Plan) error {
	if err := o.ensure(ctx); err != nil {
		return err
	}
	n, err := o.kafka.Partitions(ctx, o.cfg.Topics.Queries)
	if err != nil {
		return err
	}
	marks := make(map[int32]stream.Mark, n)
	for p := range int32(n) {
		marks[p] = stream.Mark{Note: outside}
	}
	for _, s := range plan.Window {
		marks[s.Partition] = stream.Mark{Offset: s.From, Note: strconv.FormatInt(s.To, 10)}
	}
	o.plan = plan
	marks[0] = o.firstMark(Progress{})
	return o.commit(ctx, marks, nil)
}

// firstMark returns the mark of partition 0.
func (o *topicOutput) firstMark(progress Progress) stream.Mark {
	note := firstNote{Revision: o.plan.Revision, Generation: o.plan.Generation, Rules: o.plan.Rules, To: outside, Progress: progress}
	from := int64(0)
	for _, s := range o.plan.Window {
		if s.Partition == 0 {
			from, note.To = s.From, strconv.FormatInt(s.To, 10)
		}
	}
	text, err := json.Marshal(note)
	if err != nil { // impossible: it holds numbers and texts
		panic(fmt.Sprintf("replay: a replay's progress without a JSON form: %v", err))
	}
	return stream.Mark{Offset: from, Note: string(text)}
}

// Write implements Output.
func (o *topicOutput) Write(ctx context.Context, outputs []stream.Output, progress Progress) error {
	for i := range outputs {
		outputs[i].Topic = o.name
	}
	return o.commit(ctx, map[int32]stream.Mark{0: o.firstMark(progress)}, outputs)
}

// commit commits marks and outputs in one transaction.
func (o *topicOutput) commit(ctx context.Context, marks map[int32]stream.Mark, outputs []stream.Output) error {
	err := o.ledger.Commit(ctx, marks, outputs)
	if errors.Is(err, stream.ErrFenced) {
		return fmt.Errorf("another replay with the same arguments has taken over: %w", err)
	}
	return err
}

// Forget implements Output: it deletes the group.
func (o *topicOutput) Forget(ctx context.Context) error { return o.kafka.DeleteGroup(ctx, o.id) }
