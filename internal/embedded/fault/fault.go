// Package fault makes the embedded servers fail on purpose, for the tests of what talks to them. A Plan in a server's
// Config is asked once for each call that comes from outside, by the call's name: "Points/Upsert" for the index (the
// gRPC service and method), "EndTxn" for the broker (the name of the API key). Without a plan nothing is looked at.
package fault

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Fault is what happens to one call. The zero Fault is none.
type Fault struct {
	// Delay comes before the call is taken up; with After, before its answer goes out. An hour is a server that hangs:
	// it ends when the client gives up, or when the server closes.
	Delay time.Duration

	// Err is answered in place of what the call gives: a *kerr.Error by the broker, a gRPC status, or an error of package
	// embedded/qdrant, by the index.
	Err error

	// Cut closes the connection in place of an answer. What else is under way on it is lost, too.
	Cut bool

	// After lets the call take effect before Err or Cut, so that the client cannot know; without it nothing happened.
	After bool
}

// Rule injects a Fault into some calls.
type Rule struct {
	Calls []string               // names; none: every call
	When  func(request any) bool // a further condition on the decoded request, which it must not keep; nil: none
	Skip  int                    // so many matching calls pass first
	Times int                    // faults before the rule is spent; 0: no end
	Rate  float64                // share of the matching calls that fail, drawn by the plan's seed; 0: all of them
	Fault Fault

	seen, hit int
}

// Plan decides which calls fail. Its methods may be called from any goroutine.
type Plan struct {
	mu    sync.Mutex
	rng   *rand.Rand
	rules []Rule
	hits  map[string]int
	calls map[string]int
}

// New makes a plan. The seed decides the draws of Rate; which call gets which draw depends on the order of arrival.
func New(seed uint64, rules ...Rule) *Plan {
	p := &Plan{rng: rand.New(rand.NewPCG(seed, 0)), hits: map[string]int{}, calls: map[string]int{}}
	p.Set(rules...)
	return p
}

// Set replaces the rules; with none, calls are only counted. Faults that are under way go on.
func (p *Plan) Set(rules ...Rule) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = slices.Clone(rules)
}

// Next is for the servers: what is to happen to a call that has arrived. The first rule that applies decides.
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
