package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"hardneg/stream"
)

// ResetOptions says what to reset.
type ResetOptions struct {
	Conn
	DataDir      string // the data directory whose cache is deleted too; empty: no cache
	KeepTriplets bool   // leave the triplets topic as it is
}

// ResetPlan lists what a reset deletes: everything that belongs to a view, except for its inputs, the topics
// of documents and queries.
type ResetPlan struct {
	Groups      []string `json:"groups"`
	Aliases     []string `json:"aliases"`
	Collections []string `json:"collections"`
	Topics      []string `json:"topics"`
	Folders     []string `json:"folders"`
	Running     []string `json:"running"` // why a reset cannot begin: one text for each group that has members
}

// Empty reports whether there is nothing to delete.
func (p *ResetPlan) Empty() bool {
	return len(p.Groups)+len(p.Aliases)+len(p.Collections)+len(p.Topics)+len(p.Folders) == 0
}

// ErrRunning means that stages of the view are running, so a reset deletes nothing.
var ErrRunning = errors.New("the stages are running")

// generationPattern is a regular expression for the id of a generation.
const generationPattern = `[0-9a-f]{16}(-[0-9]+)?`

// PlanReset returns what a reset would delete now. It lists only what exists, so a reset after an interrupted
// one finds the rest.
func PlanReset(ctx context.Context, o ResetOptions) (*ResetPlan, error) {
	p := &ResetPlan{Groups: []string{}, Aliases: []string{}, Collections: []string{}, Topics: []string{}, Folders: []string{}, Running: []string{}}
	if err := p.kafka(ctx, o); err != nil {
		return nil, err
	}
	if err := p.qdrant(ctx, o); err != nil {
		return nil, err
	}
	if o.DataDir != "" {
		folder := filepath.Join(o.DataDir, cacheFolder)
		if info, err := os.Stat(folder); err == nil && info.IsDir() {
			p.Folders = append(p.Folders, folder)
		}
	}
	return p, nil
}

// cacheFolder is the folder of a data directory that holds the vectors of texts.
const cacheFolder = "cache"

// kafka adds the groups and topics of the view, and notes groups that have members.
func (p *ResetPlan) kafka(ctx context.Context, o ResetOptions) error {
	cfg := o.Config
	groups, err := o.Kafka.Groups(ctx)
	if err != nil {
		return err
	}
	ours := regexp.MustCompile(`^` + regexp.QuoteMeta(cfg.Name) + `-((` + generationPattern + `-)?(` +
		strings.Join(Stages, "|") + `)|replay-[0-9a-f]{16}|` + strings.TrimPrefix(deadLettersSuffix, "-") + `)$`)
	for _, group := range groups {
		if !ours.MatchString(group) {
			continue
		}
		p.Groups = append(p.Groups, group)
		n, err := o.Kafka.Members(ctx, group)
		if err != nil {
			return err
		}
		if n > 0 {
			p.Running = append(p.Running, fmt.Sprintf("group %s has members: %d", group, n))
		}
	}
	topics, err := o.Kafka.Topics(ctx)
	if err != nil {
		return err
	}
	own := []string{cfg.Topics.Refresh, cfg.Topics.Models, cfg.Topics.DeadLetters}
	if !o.KeepTriplets {
		own = append(own, cfg.Topics.Triplets)
	}
	refresh := regexp.MustCompile(`^` + regexp.QuoteMeta(cfg.Topics.Refresh) + `-` + generationPattern + `$`)
	for _, topic := range topics {
		if topic == cfg.Topics.Documents || topic == cfg.Topics.Queries {
			continue // an input, even if its name looks like a topic of hardneg's own
		}
		if slices.Contains(own, topic) || refresh.MatchString(topic) {
			p.Topics = append(p.Topics, topic)
		}
	}
	return nil
}

// qdrant adds the collections of the view, and the aliases that point at them.
func (p *ResetPlan) qdrant(ctx context.Context, o ResetOptions) error {
	collections, err := o.Index.Collections(ctx)
	if err != nil {
		return err
	}
	generation := regexp.MustCompile(`^` + generationPattern + `$`)
	for id, names := range collections {
		if generation.MatchString(id) { // another program may have a collection documents-archive
			p.Collections = append(p.Collections, names...)
		}
	}
	slices.Sort(p.Collections)
	aliases, err := o.Index.Aliases(ctx)
	if err != nil {
		return err
	}
	for _, alias := range slices.Sorted(maps.Keys(aliases)) {
		if slices.Contains(p.Collections, aliases[alias]) {
			p.Aliases = append(p.Aliases, alias)
		}
	}
	return nil
}

// Reset deletes what a plan lists. After an interruption it can be called again. While stages run it returns
// ErrRunning and deletes nothing. It deletes the groups first, because Kafka refuses to delete a group that a
// stage has joined since the plan was made. Then everything else stays.
func Reset(ctx context.Context, o ResetOptions, p *ResetPlan) error {
	if len(p.Running) > 0 {
		return fmt.Errorf("%w: %s; end every instance of the service first (a member that was killed stays until its session time-out)",
			ErrRunning, strings.Join(p.Running, ", "))
	}
	for _, group := range p.Groups {
		if err := o.Kafka.DeleteGroup(ctx, group); err != nil {
			if errors.Is(err, stream.ErrGroupInUse) {
				err = fmt.Errorf("%w: %w", ErrRunning, err)
			}
			return err
		}
	}
	if err := o.Index.Remove(ctx, p.Aliases, p.Collections); err != nil {
		return err
	}
	if err := o.Kafka.DeleteTopics(ctx, p.Topics...); err != nil {
		return err
	}
	for _, folder := range p.Folders {
		if err := os.RemoveAll(folder); err != nil {
			return err
		}
	}
	return nil
}
