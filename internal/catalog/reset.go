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

// ResetOptions say what to reset.
type ResetOptions struct {
	Conn
	DataDir      string // the data directory whose cache goes too; empty: none
	KeepTriplets bool   // leave the triplets topic as it is
}

// ResetPlan lists everything that belongs to a view, except for its inputs, the topics of documents and queries.
type ResetPlan struct {
	Groups      []string `json:"groups"`
	Aliases     []string `json:"aliases"`
	Collections []string `json:"collections"`
	Topics      []string `json:"topics"`
	Folders     []string `json:"folders"`
	Running     []string `json:"running"` // why a reset cannot begin: groups that have members
}

// Empty reports whether there is nothing to delete.
func (p *ResetPlan) Empty() bool {
	return len(p.Groups)+len(p.Aliases)+len(p.Collections)+len(p.Topics)+len(p.Folders) == 0
}

// ErrRunning says that the stages of a view are running.
var ErrRunning = errors.New("the stages are running")

// ofGeneration matches the id of a generation.
const ofGeneration = `[0-9a-f]{16}(-[0-9]+)?`

// PlanReset lists what a reset deletes. It lists what exists now, so a reset after an interrupted one finds the rest.
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

func (p *ResetPlan) kafka(ctx context.Context, o ResetOptions) error {
	cfg := o.Config
	groups, err := o.Kafka.Groups(ctx)
	if err != nil {
		return err
	}
	ours := regexp.MustCompile(`^` + regexp.QuoteMeta(cfg.Name) + `-((` + ofGeneration + `-)?(` +
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
	refresh := regexp.MustCompile(`^` + regexp.QuoteMeta(cfg.Topics.Refresh) + `-` + ofGeneration + `$`)
	for _, topic := range topics {
		if topic == cfg.Topics.Documents || topic == cfg.Topics.Queries {
			continue // the inputs, whatever the configuration calls them
		}
		if slices.Contains(own, topic) || refresh.MatchString(topic) {
			p.Topics = append(p.Topics, topic)
		}
	}
	return nil
}

func (p *ResetPlan) qdrant(ctx context.Context, o ResetOptions) error {
	collections, err := o.Index.Collections(ctx)
	if err != nil {
		return err
	}
	generation := regexp.MustCompile(`^` + ofGeneration + `$`)
	for name, of := range collections {
		if generation.MatchString(name) { // others may have a collection documents-archive
			p.Collections = append(p.Collections, of...)
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

// Reset deletes what a plan lists. After an interruption it can be called again. While stages run it returns ErrRunning and
// deletes nothing. It deletes the groups first: if a stage has joined one meanwhile, everything else stays.
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
