package pipeline

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

	"hardneg/index"
	"hardneg/internal/config"
	"hardneg/stream"
)

// ResetOptions say what to reset.
type ResetOptions struct {
	Config       *config.Config
	Kafka        *stream.Client
	Index        *index.Client
	DataDir      string // whose caches go too; empty: none
	KeepTriplets bool   // leave the triplets topic as it is
}

// ResetPlan is all of a view that its inputs, the topics of documents and queries, do not need.
type ResetPlan struct {
	Groups      []string `json:"groups"`
	Aliases     []string `json:"aliases"`
	Collections []string `json:"collections"`
	Topics      []string `json:"topics"`
	Folders     []string `json:"folders"`
	Running     []string `json:"running"` // what holds a reset up: groups with members
}

// Empty tells whether there is nothing to delete.
func (p *ResetPlan) Empty() bool {
	return len(p.Groups)+len(p.Aliases)+len(p.Collections)+len(p.Topics)+len(p.Folders) == 0
}

// ErrRunning says that the stages of a view are running.
var ErrRunning = errors.New("the stages are running")

// ofGeneration is the form of a generation's name.
const ofGeneration = `[0-9a-f]{16}(-[0-9]+)?`

// PlanReset lists what a reset deletes. It goes by what is there, so that one that was interrupted finds the rest.
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

// cacheFolder holds vectors of texts, in a data directory.
const cacheFolder = "cache"

func (p *ResetPlan) kafka(ctx context.Context, o ResetOptions) error {
	cfg := o.Config
	groups, err := o.Kafka.Groups(ctx)
	if err != nil {
		return err
	}
	ours := regexp.MustCompile(`^` + regexp.QuoteMeta(cfg.Name) + `-((` + ofGeneration + `-)?(` +
		strings.Join([]string{StageIndexer, StageIntake, StageMiner}, "|") + `)|replay-[0-9a-f]{16}|` + lettersSuffix + `)$`)
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

// Reset deletes what a plan lists, and can be called again where it was interrupted. While stages run it is an
// ErrRunning, and nothing is deleted. Groups go first: one that got a member in between holds the rest up.
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
