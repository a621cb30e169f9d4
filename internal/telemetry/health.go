package telemetry

import (
	"errors"
	"sync"
)

var errStarting = errors.New("starting")

// Health is what each component last said of itself; the zero Health knows of none. Its methods may be called from any goroutine.
type Health struct {
	mu         sync.Mutex
	components map[string]error
}

// NewHealth knows the components that must report before the process is ready; until then each counts as
// starting.
func NewHealth(components ...string) *Health {
	h := &Health{components: make(map[string]error, len(components))}
	for _, component := range components {
		h.components[component] = errStarting
	}
	return h
}

// Set notes how a component is: nil means that it runs. A component that was not known is added.
func (h *Health) Set(component string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.components == nil {
		h.components = make(map[string]error)
	}
	h.components[component] = err
}

// Ready lists the components that do not run, with the reason; it is empty when all do.
func (h *Health) Ready() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	missing := make(map[string]string)
	for component, err := range h.components {
		if err != nil {
			missing[component] = err.Error()
		}
	}
	return missing
}
