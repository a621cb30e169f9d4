package telemetry

import (
	"errors"
	"sync"
)

var errStarting = errors.New("starting")

// Health holds the last state that each component reported. The zero Health has no components. Several
// goroutines may call its methods.
type Health struct {
	mu         sync.Mutex
	components map[string]error
}

// NewHealth returns a Health with the components that must report before the process is ready. Until then
// each counts as starting.
func NewHealth(components ...string) *Health {
	h := &Health{components: make(map[string]error, len(components))}
	for _, component := range components {
		h.components[component] = errStarting
	}
	return h
}

// Set records the state of a component: nil means that it runs. It adds a component that is not known yet.
func (h *Health) Set(component string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.components == nil {
		h.components = make(map[string]error)
	}
	h.components[component] = err
}

// Ready returns the components that do not run, each with the reason. It is empty if all run.
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
