// Package fault lets tests make the embedded servers fail on purpose, to test their clients.
//
// Each server asks the Plan in its Config once for each call from outside. It names the call: "Points/Upsert"
// for the index (gRPC service and method), "EndTxn" for the broker (name of the API key). A server without a
// plan checks nothing.
//
// internal/embedded/kafka and internal/embedded/qdrant use it, and the tests that run these servers.
package fault

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Fault says what happens to one call. The zero Fault changes nothing.
type Fault struct {
	// Delay is a pause before the server starts on the call; with After, a pause before it answers. An hour
	// simulates a server that hangs: the call ends when the client gives up or the server closes.
	Delay time.Duration

	// Err is returned instead of the real answer. The broker takes a *kerr.Error. The index takes a gRPC
	// status or an error of package embedded/qdrant.
	Err error

	// Cut closes the connection instead of answering. All other calls on that connection are lost, too.
	Cut bool

	// After lets the call take effect before Err or Cut, so that the client cannot know whether it did.
	// Without After, nothing has happened.
	After bool
}

// Rule injects a Fault into some calls.
type Rule struct {
	Calls []string               // names; empty means every call
	When  func(request any) bool // further condition on the decoded request, which it must not keep; nil means no condition
	Skip  int                    // this many matching calls pass first
	Times int                    // number of faults before the rule ends; 0 means no limit
	Rate  float64                // share of the matching calls that fail, drawn with the plan's seed; 0 means all
	Fault Fault

	seen, hit int
}

// Plan decides which calls fail. Several goroutines may call its methods.
type Plan struct {
	mu    sync.Mutex
	rng   *rand.Rand
	rules []Rule
	hits  map[string]int
	calls map[string]int
}

// New makes a plan. The seed determines the random numbers for Rate. Which call gets which number depends on
// the order in which the calls arrive.
func New(seed uint64, rules ...Rule) *Plan {
	p := &Plan{rng: rand.New(rand.NewPCG(seed, 0)), hits: map[string]int{}, calls: map[string]int{}}
	p.Set(rules...)
	return p
}

// Set replaces the rules. Without rules, calls are only counted. A fault that has already begun goes on.
func (p *Plan) Set(rules ...Rule) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = slices.Clone(rules)
}

// Next returns the fault for a call that has arrived. The servers call it. The first matching rule decides.
func (p *Plan) Next(call string, request any) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[call]++
	for i := range p.rules {
		r := &p.rules[i]
		if len(r.Calls) > 0 && !slices.Contains(r.Calls, call) || r.Times > 0 && r.hit >= r.Times || r.When != nil && !r.When(request) {
			continue
		}
		if r.seen++; r.seen <= r.Skip || r.Rate > 0 && p.rng.Float64() >= r.Rate {
			continue
		}
		r.hit++
		p.hits[call]++
		return r.Fault
	}
	return Fault{}
}

// Hits returns how many faults were injected since New, by call.
func (p *Plan) Hits() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.hits)
}

// Calls returns how many calls there were since New, by name.
func (p *Plan) Calls() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.calls)
}
