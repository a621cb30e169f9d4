package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"hardneg/internal/catalog"
	"hardneg/stream"
)

// ErrSuperseded means that another generation was promoted than the one whose stages run here.
var ErrSuperseded = errors.New("another generation is live")

const watchEvery = time.Second

// checkLive returns ErrSuperseded if another generation is live than when the runner began. If none was live
// then, the first generation does not count as another one: this service or another instance makes it.
func (r *runner) checkLive(ctx context.Context) error {
	live, ok, err := r.Index.Active(ctx)
	if err != nil || !ok || live == r.live || r.live == "" && catalog.ModelOf(live) == live {
		return err
	}
	return fmt.Errorf("%w: %s", ErrSuperseded, live)
}

// watchLive returns ErrSuperseded when another generation is promoted, stream.ErrRepartitioned when a topic that
// must keep its partitions has grown, and nil when the context ends.
func (r *runner) watchLive(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-r.superseded:
			return err
		case <-tick.C:
		}
		if err := r.checkLive(ctx); errors.Is(err, ErrSuperseded) {
			return err
		}
		for _, topic := range []string{r.names.Topics.Refresh, r.names.Topics.Triplets} {
			if err := r.Kafka.CheckPartitions(ctx, topic); errors.Is(err, stream.ErrRepartitioned) {
				return err
			}
		}
	}
}

// owner wraps a stage's Processor and refuses to work once another generation has been promoted. Before its
// first batch it asks which generation is live. It asks after InitProducerId. So either it sees the
// promotion, or the fence that follows the promotion fences it. The stages of a generation that is being
// built also end when that generation becomes live: then their consumer group is the group of the live
// stages, and they would keep partitions without publishing their triplets.
type owner struct {
	stream.Processor
	runner  *runner
	checked bool
}

// Process checks the generation before the first batch.
func (o *owner) Process(ctx context.Context, batch []stream.Record) ([]stream.Output, error) {
	if !o.checked {
		if err := o.runner.checkLive(ctx); err != nil {
			if errors.Is(err, ErrSuperseded) {
				select {
				case o.runner.superseded <- err:
				default:
				}
			}
			return nil, err
		}
		o.checked = true
	}
	return o.Processor.Process(ctx, batch)
}

// Close closes the Processor, if it can be closed.
func (o *owner) Close() error {
	if closer, ok := o.Processor.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}
