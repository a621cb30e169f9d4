package config

import (
	"fmt"
	"net"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"hardneg/mining"
)

// Validate returns an error with every wrong value and its key. It does not require the two addresses: see
// CheckAddresses.
func (c *Config) Validate() error { return failure(c.check()) }

// CheckAddresses returns an error that lists the missing addresses among those without a default.
func (c *Config) CheckAddresses() error {
	v := &validation{config: c}
	if len(c.Kafka.Brokers) == 0 {
		v.fail("kafka.brokers", "missing: the address of Kafka, host:port")
	}
	if c.Qdrant.Address == "" {
		v.fail("qdrant.address", "missing: the address of Qdrant's gRPC interface, host:port")
	}
	return failure(v.problems)
}

func (c *Config) check() []Problem {
	v := &validation{config: c}
	v.limits(Fields(), "", reflect.ValueOf(c).Elem())
	v.addresses()
	v.tls("kafka.tls", c.Kafka.TLS)
	v.tls("qdrant.tls", c.Qdrant.TLS)
	v.sasl()
	v.names()
	v.embedders()
	v.mining()
	if c.Cache.MaxBytes > 0 && c.Cache.MaxBytes < smallestCache {
		v.fail("cache.max_bytes", "must be 0 or at least %d, is %d", smallestCache, c.Cache.MaxBytes)
	}
	if c.Reduce.Variance == 0 {
		v.fail("reduce.variance", "must be above 0")
	}
	if c.Queries.Retention > 0 && c.Sweep.Rate == 0 {
		v.fail("queries.retention", "needs the sweep, which forgets such queries; sweep.rate is 0")
	}
	if k := c.Kafka; k.AbandonAfter > 0 && k.AbandonAfter < k.StallAfter {
		v.fail("kafka.abandon_after", "is %v, below kafka.stall_after, %v", k.AbandonAfter, k.StallAfter)
	}
	if c.Fit.Minimum > c.Fit.Sample {
		v.fail("fit.minimum", "is %d, above fit.sample, %d", c.Fit.Minimum, c.Fit.Sample)
	}
	return v.problems
}

// smallestCache has room for a few of the longest vectors.
const smallestCache = 1 << 20

type validation struct {
	config   *Config
	problems []Problem
}

func (v *validation) fail(key, format string, args ...any) {
	v.problems = append(v.problems, Problem{v.origin(key), key, fmt.Sprintf(format, args...)})
}

// origin returns the origin of the value, or of the list or group that contains it.
func (v *validation) origin(key string) string {
	for key != "" {
		if origin, ok := v.config.origins[key]; ok {
			return origin
		}
		key = key[:max(strings.LastIndexByte(key, '.'), strings.LastIndexByte(key, '['), 0)]
	}
	return ""
}

// limits checks the limits in the tags.
func (v *validation) limits(list []Field, prefix string, target reflect.Value) {
	for _, f := range list {
		key, value := prefix+f.Name, target.Field(f.index)
		switch {
		case len(f.Fields) > 0 && f.list():
			for i := range value.Len() {
				v.limits(f.Fields, fmt.Sprintf("%s[%d].", key, i), value.Index(i))
			}
		case len(f.Fields) > 0:
			v.limits(f.Fields, key+".", value)
		case f.list():
			for i := range value.Len() {
				v.limit(f, fmt.Sprintf("%s[%d]", key, i), value.Index(i))
			}
		case value.Kind() != reflect.Pointer:
			v.limit(f, key, value)
		case !value.IsNil():
			v.limit(f, key, value.Elem())
		}
	}
}

func (v *validation) limit(f Field, key string, value reflect.Value) {
	if f.Enum != nil && !slices.Contains(f.Enum, value.String()) {
		known := slices.DeleteFunc(slices.Clone(f.Enum), func(name string) bool { return name == "" })
		if value.String() == "" {
			v.fail(key, "missing: one of %s", strings.Join(known, ", "))
		} else {
			v.fail(key, "%q is none of %s", value.String(), strings.Join(known, ", "))
		}
	}
	if f.NonEmpty && value.String() == "" {
		v.fail(key, "must not be empty")
	}
	if f.Min == "" && f.Max == "" {
		return
	}
	number, unit := measure(value)
	if low, ok := bound(f.Min, value.Type()); ok && number < low {
		v.fail(key, "must be at least %s, is %s", f.Min, unit)
	}
	if high, ok := bound(f.Max, value.Type()); ok && number > high {
		v.fail(key, "must be at most %s, is %s", f.Max, unit)
	}
}

// measure returns the value as a number, and as a user writes it.
func measure(value reflect.Value) (float64, string) {
	switch {
	case value.Type() == durationType:
		return float64(value.Int()), time.Duration(value.Int()).String()
	case value.CanInt():
		return float64(value.Int()), strconv.FormatInt(value.Int(), 10)
	default:
		return value.Float(), strconv.FormatFloat(value.Float(), 'g', -1, 64)
	}
}

func bound(text string, t reflect.Type) (float64, bool) {
	if text == "" {
		return 0, false
	}
	target := reflect.New(t).Elem()
	if err := setScalar(target, text); err != nil {
		panic(err) // a wrong tag in config.go
	}
	number, _ := measure(target)
	return number, true
}

func (v *validation) addresses() {
	c := v.config
	for i, broker := range c.Kafka.Brokers {
		v.address(fmt.Sprintf("kafka.brokers[%d]", i), broker, false)
	}
	if c.Qdrant.Address != "" {
		v.address("qdrant.address", c.Qdrant.Address, false)
	}
	if c.HTTP.Address != "" {
		v.address("http.address", c.HTTP.Address, true)
	}
}

func (v *validation) address(key, address string, listen bool) {
	host, port, err := net.SplitHostPort(address)
	number, notNumber := strconv.ParseUint(port, 10, 16)
	switch {
	case strings.Contains(address, "://"):
		v.fail(key, "%q is a URL; write host:port", address)
	case err != nil || notNumber != nil:
		v.fail(key, "%q is not host:port", address)
	case !listen && (host == "" || number == 0):
		v.fail(key, "%q names no host and port to connect to", address)
	}
}

func (v *validation) tls(key string, t TLS) {
	switch {
	case t.CertFile != "" && t.KeyFile == "":
		v.fail(key+".key_file", "missing, while cert_file is set")
	case t.KeyFile != "" && t.CertFile == "":
		v.fail(key+".cert_file", "missing, while key_file is set")
	}
	if !t.Enabled && (t.CAFile != "" || t.CertFile != "" || t.KeyFile != "" || t.ServerName != "" || t.Insecure) {
		v.fail(key+".enabled", "is false, while other keys of the group are set")
	}
}

func (v *validation) sasl() {
	sasl := v.config.Kafka.SASL
	if sasl.Mechanism == "" {
		if sasl.Username != "" || sasl.Password != "" {
			v.fail("kafka.sasl.mechanism", "missing, while a user or a password is set")
		}
		return
	}
	if sasl.Username == "" {
		v.fail("kafka.sasl.username", "missing for %s", sasl.Mechanism)
	}
	if sasl.Password == "" {
		v.fail("kafka.sasl.password", "missing for %s", sasl.Mechanism)
	}
}

// legalName matches the topic names that Kafka accepts.
var legalName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// legalPrefix matches prefixes that are legal in Qdrant's collection names and in URLs.
var legalPrefix = regexp.MustCompile(`^[a-zA-Z0-9._-]{0,100}$`)

func (v *validation) names() {
	c := v.config
	if !legalName.MatchString(c.Name) && c.Name != "" || len(c.Name) > 100 {
		v.fail("name", "%q: at most 100 letters, digits, and . _ -", c.Name)
	}
	if !legalPrefix.MatchString(c.Qdrant.Prefix) {
		v.fail("qdrant.prefix", "%q: at most 100 letters, digits, and . _ -", c.Qdrant.Prefix)
	}
	if len(c.Stages) == 0 {
		v.fail("stages", "names no stage")
	}
	for i, stage := range c.Stages {
		if slices.Contains(c.Stages[:i], stage) {
			v.fail(fmt.Sprintf("stages[%d]", i), "%s is there twice", stage)
		}
	}
	seen := make(map[string]string)
	topic := func(key, name string) {
		if name == "" {
			return
		}
		if !legalName.MatchString(name) || name == "." || name == ".." {
			v.fail(key, "%q is no name of a topic: letters, digits, and . _ -, at most 249", name)
		}
		// Kafka itself refuses names that only differ in . and _, because its metrics cannot distinguish
		// them.
		folded := strings.ReplaceAll(name, ".", "_")
		if other, taken := seen[folded]; taken {
			v.fail(key, "%q is the name of %s too", name, other)
		}
		seen[folded] = key
	}
	topic("topics.documents", c.Topics.Documents)
	topic("topics.queries", c.Topics.Queries)
	topic("topics.triplets", c.Topics.Triplets)
	topic("topics.dead_letters", c.Topics.DeadLetters)
	topic("topics.refresh", c.Topics.Refresh)
	topic("topics.models", c.Topics.Models)
	if c.Topics.ReplicationFactor == 0 {
		v.fail("topics.replication_factor", "must be -1 or at least 1, is 0")
	}
}

// mining asks package mining for the wrong rules. What a limit of a field refuses is reported already.
func (v *validation) mining() {
	upTo := 0
	for i, tier := range v.config.Mining.Tiers {
		if tier.UpTo != 0 && tier.UpTo < upTo {
			v.fail(fmt.Sprintf("mining.tiers[%d].upto", i), "is %d, below %d of the tier before: it counts the whole list", tier.UpTo, upTo)
		}
		upTo = max(upTo, tier.UpTo)
	}
	reported := map[string]bool{}
	for _, p := range v.problems {
		reported[p.Key] = true
	}
	for _, p := range v.config.Mining.Rules().Problems() {
		if key := "mining." + p.Key; !reported[key] {
			v.fail(key, "%s", p.Text)
		}
	}
}

// Rules returns the configuration in the terms of package mining.
func (m Mining) Rules() mining.Config {
	rules := mining.Config{Negatives: m.Negatives, NearDuplicate: m.NearDuplicate, NearText: m.NearText, Depth: m.Depth}
	for _, t := range m.Tiers {
		rules.Tiers = append(rules.Tiers, mining.Tier{
			Policy: t.Policy, UpTo: t.UpTo, RelativeMargin: t.RelativeMargin, AbsoluteMargin: t.AbsoluteMargin,
			MaxScore: t.MaxScore, MinScore: t.MinScore, Skip: t.Skip, Depth: t.Depth, Sampling: t.Sampling,
		})
	}
	return rules
}
