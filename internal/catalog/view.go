package catalog

import (
	"context"
	"errors"
	"fmt"

	"github.com/rs/zerolog"

	"hardneg/index"
	"hardneg/internal/config"
	"hardneg/internal/embed"
	"hardneg/internal/model"
	"hardneg/stream"
)

// Conn holds what all work on a view needs: its configuration, and clients of its servers.
type Conn struct {
	Config *config.Config
	Kafka  *stream.Client
	Index  *index.Client // nil where a command needs Kafka alone
	Log    zerolog.Logger
}

// Live says which generation is live.
type Live struct {
	Generation string      // empty: the view has none yet
	Record     *Generation // nil: it is the first generation, which rebuild did not make
}

// Live asks Qdrant which generation is live, and reads its record from the models topic.
func (c Conn) Live(ctx context.Context) (Live, error) {
	live, _, err := c.live(ctx)
	return live, err
}

func (c Conn) live(ctx context.Context) (Live, settings, error) {
	generation, _, err := c.Index.Active(ctx)
	if err != nil {
		return Live{}, settings{}, err
	}
	s, err := readSettings(ctx, c.Kafka, c.Config.Topics.Models)
	return Live{generation, s.generations[generation]}, s, err
}

// Publishing reports whether the generation was promoted and its triplets are not all published yet.
func (l Live) Publishing() bool { return l.Record != nil && l.Record.Phase != PhaseLive }

// View is the live generation of a view, opened for reading. Open makes it.
type View struct {
	Conn
	Live
	Names       Names
	Collections *index.Index
	Rules       Rules // the rules that a miner published last, or the configured ones if no miner has
}

// ErrNoView means that a view has no live generation yet.
var ErrNoView = errors.New("no live generation")

// noView is ErrNoView with a text that helps the user to find the cause.
type noView struct{ address, prefix string }

func (e noView) Error() string {
	return fmt.Sprintf("qdrant at %s has no collections with the prefix %q: is the service still waiting for documents or fitting its model (its log says so), or is qdrant.prefix another?",
		e.address, e.prefix)
}

func (noView) Is(target error) bool { return target == ErrNoView }

// Open opens the live generation for reading. It creates nothing. It returns ErrNoView if no generation is
// live.
func (c Conn) Open(ctx context.Context) (*View, error) {
	live, s, err := c.live(ctx)
	if err != nil {
		return nil, err
	}
	if live.Generation == "" {
		return nil, noView{c.Config.Qdrant.Address, c.Config.Qdrant.Prefix}
	}
	v := &View{Conn: c, Live: live, Names: NamesOf(c.Config, live.Generation), Rules: RulesOf(c.Config)}
	if v.Collections, err = c.Index.Existing(ctx, live.Generation); err != nil {
		return nil, err
	}
	for topic, n := range s.partitionsOf(c.Config, live) {
		c.Kafka.FixPartitions(topic, n)
	}
	if s.rules != nil {
		v.Rules = s.rules.completedBy(v.Rules)
	}
	return v, nil
}

// StillLive returns an error if another generation was promoted since Open. Then the results of a command
// that reads the view are out of date. work names the command.
func (v *View) StillLive(ctx context.Context, work string) error {
	live, _, err := v.Index.Active(ctx)
	if err == nil && live != v.Generation {
		err = fmt.Errorf("generation %s was promoted during the %s of %s: begin again", live, work, v.Generation)
	}
	return err
}

// Models returns a reader and writer of the view's models. The models' embedders use resources; it is nil if
// nobody embeds.
func (c Conn) Models(resources *embed.Resources) Models {
	return Models{Kafka: c.Kafka, Topic: c.Config.Topics.Models, Resources: resources, Log: c.Log}
}

// ModelOf reads the model of a generation that exists in Qdrant. It returns an error if the models topic does
// not have it.
func (c Conn) ModelOf(ctx context.Context, generation string, resources *embed.Resources) (*model.Model, error) {
	m, err := c.Models(resources).Read(ctx, ModelOf(generation))
	if err == nil && m == nil {
		err = fmt.Errorf("the live collections are of model %s, which topic %s does not have: was the topic deleted, or is qdrant.prefix that of another installation?",
			ModelOf(generation), c.Config.Topics.Models)
	}
	return m, err
}
