// Package demo shows what hardneg does, with the documentation of the Go standard library. It runs the whole
// service in this process, loads documents and queries, and shows a few mined triplets. Then it changes
// documents and shows what happens to the triplets, and how fast. cmd/hardneg runs it.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/dataset"
	"hardneg/internal/records"
	"hardneg/internal/service"
	"hardneg/internal/wait"
	"hardneg/stream"
)

// Settings are configuration values that keep the demonstration quick on a small machine.
var Settings = []string{
	"embedders=[{name: words, type: lexical-word, dimensions: 1024}, {name: chars, type: lexical-char, dimensions: 1024}]",
	"fit.sample=2000", "fit.minimum=500", "reduce.max_dimensions=256", "log.level=error", "http.address=127.0.0.1:0",
}

const (
	documentsLoaded = 2000
	betweenChanges  = 2 * time.Second
	tripletsShown   = 3
)

// wellKnown packages are loaded first.
var wellKnown = []string{
	"net/http", "strings", "os", "io", "bufio", "fmt", "errors", "time", "context", "sync", "encoding/json", "bytes", "strconv",
	"sort", "slices", "maps", "math", "math/rand", "path/filepath", "regexp", "net/url", "net", "log", "log/slog", "flag",
	"html/template", "text/template", "database/sql", "os/exec", "sync/atomic", "testing", "reflect", "io/fs", "encoding/csv",
}

// Options of a demonstration.
type Options struct {
	Config   *config.Config // with Settings
	Log      zerolog.Logger
	Out      io.Writer
	Terminal bool          // Out is a terminal: headings are highlighted
	Duration time.Duration // 0 means until the context ends
}

// Run runs the demonstration. It returns nil if its time is over or the context ended.
func Run(ctx context.Context, o Options) error {
	root, err := dataset.FindGOROOT(ctx)
	if err != nil {
		return err
	}
	if o.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Duration)
		defer cancel()
	}
	ctx, stop := context.WithCancelCause(ctx)
	started := make(chan service.Started, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		stop(service.Run(ctx, service.Options{
			Config: o.Config, Embedded: true, Log: o.Log, Started: func(s service.Started) { started <- s },
		}))
	}()
	d := &demo{printer: printer{o.Out, o.Terminal, time.Now()}, cfg: o.Config, view: newView()}
	d.introduce()
	select {
	case s := <-started:
		err = d.show(ctx, s, root)
	case <-ended:
	}
	if ctx.Err() != nil {
		err = nil // errors after the end are only consequences of the end
	}
	stop(err)
	<-ended
	d.summarise(errors.Is(context.Cause(ctx), context.DeadlineExceeded))
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}

// demo is a running demonstration.
type demo struct {
	printer
	cfg     *config.Config
	kafka   *stream.Client
	view    *view
	entries []dataset.GoEntry
	queries int
	effects []effect
}

func (d *demo) introduce() {
	d.heading("hardneg keeps hard negatives current")
	d.line("A re-ranker learns from triplets: a query, a document that answers it, and a hard negative, a document that")
	d.line("looks like the answer and is not. hardneg mines them from a stream of documents and a query log, and when a")
	d.line("document changes, exactly the triplets that it concerns change too.")
	d.line("")
	d.line("Documents here: Go's standard library. Queries: the first sentence of each symbol's documentation, taken out")
	d.line("of the text that is indexed.")
}

// show is the main part of the demonstration.
func (d *demo) show(ctx context.Context, s service.Started, root string) (err error) {
	d.heading("Everything runs in this process; outside clients can use it at")
	d.line("Kafka    %s   topics documents, queries, triplets, hardneg.dead-letters", s.Kafka)
	d.line("Qdrant   %s   gRPC, collections documents and queries", s.Qdrant)
	d.line("HTTP     http://%s   /metrics, /readyz", s.HTTP)
	if d.kafka, err = service.ConnectKafka(ctx, d.cfg, zerolog.Nop()); err != nil {
		return err
	}
	defer d.kafka.Close()
	if err := catalog.EnsureTopics(ctx, d.kafka, d.cfg, ""); err != nil {
		return err
	}
	following, stop := context.WithCancel(ctx)
	failed := make(chan error, 1)
	go func() { failed <- d.kafka.Tail(following, d.cfg.Topics.Triplets, true, d.view.apply) }()
	defer func() {
		stop()
		err = errors.Join(err, <-failed)
	}()
	if err := d.load(ctx, root); err != nil {
		return err
	}
	if err := d.awaitFirstLoad(ctx); err != nil {
		return err
	}
	d.showTriplets()
	return d.changes(ctx)
}

// load produces the documents, then the queries.
func (d *demo) load(ctx context.Context, root string) error {
	d.heading("Loading")
	var documents, queries []stream.Output
	for e, err := range dataset.GoDoc(root, wellKnown...) {
		if err != nil {
			return err
		}
		if len(documents) == documentsLoaded {
			break
		}
		d.entries = append(d.entries, e)
		documents = append(documents, d.put(e.Document))
		queries = append(queries, stream.Output{Topic: d.cfg.Topics.Queries, Partition: stream.ByKey, Key: []byte(e.Query.QueryID), Value: e.Query.Encode()})
	}
	d.queries = len(queries)
	for _, outputs := range [][]stream.Output{documents, queries} {
		if err := d.kafka.Produce(ctx, outputs); err != nil {
			return err
		}
	}
	d.line("%s documents and %s queries produced", count(len(documents)), count(len(queries)))
	return nil
}

func (d *demo) put(doc records.Document) stream.Output {
	key, value := doc.Encode()
	return stream.Output{Topic: d.cfg.Topics.Documents, Partition: stream.ByKey, Key: key, Value: value}
}

// awaitFirstLoad prints the progress of the stages until they have finished.
func (d *demo) awaitFirstLoad(ctx context.Context) error {
	printed := time.Time{}
	for {
		done, left, err := d.settled(ctx)
		if err != nil {
			return err
		}
		if done && d.view.size() > 0 {
			d.line("all of it indexed and mined: %s triplets", count(d.view.size()))
			return nil
		}
		if time.Since(printed) >= 2*time.Second {
			printed = time.Now()
			d.line("%s", left.String(len(d.entries), d.queries, d.view.size()))
		}
		if err := wait.For(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// lag is the number of records that each stage still has to read.
type lag struct{ indexer, intake, miner int64 }

func (l lag) total() int64 { return l.indexer + l.intake + l.miner }

func (l lag) String(documents, queries, triplets int) string {
	indexed, mined := documents-int(l.indexer), queries-int(max(l.miner, l.intake))
	switch {
	case indexed == 0:
		return "fitting the model on a sample of the documents"
	case l.indexer > 0:
		return fmt.Sprintf("%s of %s documents indexed", count(indexed), count(documents))
	}
	return fmt.Sprintf("all documents indexed, %s of %s queries mined, %s triplets", count(max(mined, 0)), count(queries), count(triplets))
}

// lag asks the stages in the order in which records pass through them, so that no record is missed between
// two stages.
func (d *demo) lag(ctx context.Context) (l lag, err error) {
	for _, s := range []struct {
		name, topic string
		markers     int64 // a transaction ends with a marker, which no stage reads
		into        *int64
	}{
		{catalog.StageIndexer, d.cfg.Topics.Documents, 0, &l.indexer},
		{catalog.StageIntake, d.cfg.Topics.Queries, 0, &l.intake},
		{catalog.StageMiner, d.cfg.Topics.Refresh, 1, &l.miner},
	} {
		ends, err := d.kafka.Offsets(ctx, s.topic)
		if err != nil {
			return l, err
		}
		committed, err := d.committed(ctx, catalog.NamesOf(d.cfg, "").Group(s.name), s.topic)
		if err != nil {
			return l, err
		}
		for _, end := range ends {
			*s.into += max(0, end.LastStable-s.markers-committed[end.Partition])
		}
	}
	return l, nil
}

// committed returns a group's offsets. It returns none while the group does not exist yet; Kafka then asks
// clients to wait.
func (d *demo) committed(ctx context.Context, group, topic string) (map[int32]int64, error) {
	soon, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	offsets, err := d.kafka.Committed(soon, group, topic)
	if err != nil && soon.Err() != nil {
		return nil, ctx.Err()
	}
	return offsets, err
}
